//! Model files on disk, by digest, least recently used out first.
//!
//! in → verified files · out → paths that stay while they are held ([`Pinned`]) · invariant: a file named by a digest was
//! verified before it got that name; files, downloads and what is left of broken downloads together stay under the cap,
//! across a kill at any instruction too; a pinned file is never deleted.

use crate::files;
use nightshift_types::{Bytes, Digest};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use std::{fs, io};
use thiserror::Error;
use tracing::{info, warn};

const PART: &str = "part";
/// A download that nobody resumed for so long is deleted at start.
const PART_LIFE: Duration = Duration::from_secs(24 * 3600);

/// A file for which there is no room.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the model has {}, the cache may hold {} and {} of that are in use: raise --cache-disk", size.human(), cap.human(), used.human())]
pub struct NoRoom {
    size: Bytes,
    cap: Bytes,
    used: Bytes,
}

/// What the cache has of a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The verified file.
    Whole,
    /// A download under way, with the room it needs in the end.
    Coming,
    /// What a download left that broke off: the next one goes on there.
    Half,
}

#[derive(Debug)]
struct Entry {
    kind: Kind,
    /// Bytes it may take.
    size: u64,
    last_used: u64,
    pins: usize,
    /// Of two files of one digest, one after the other, this tells which a pin is of.
    number: u64,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<Digest, Entry>,
    clock: u64,
}

impl Inner {
    fn put(&mut self, digest: Digest, kind: Kind, size: u64, pins: usize) -> u64 {
        self.clock += 1;
        let (last_used, number) = (self.clock, self.clock);
        self.entries.insert(digest, Entry { kind, size, last_used, pins, number });
        number
    }

    fn used(&self) -> u64 {
        self.entries.values().fold(0, |sum, entry| sum.saturating_add(entry.size))
    }
}

/// The cache; share it in an [`Arc`].
#[derive(Debug)]
pub struct Cache {
    dir: PathBuf,
    cap: Bytes,
    inner: Mutex<Inner>,
}

/// A file that stays while this lives.
#[derive(Debug)]
pub struct Pinned {
    cache: Arc<Cache>,
    digest: Digest,
    number: u64,
    /// Where it is.
    pub path: PathBuf,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut inner = self.cache.lock();
        if let Some(entry) = inner.entries.get_mut(&self.digest).filter(|entry| entry.number == self.number) {
            entry.pins = entry.pins.saturating_sub(1);
        }
    }
}

/// Room for a download; given back when dropped, but for what the download left on disk.
#[derive(Debug)]
pub struct Reservation {
    cache: Arc<Cache>,
    digest: Digest,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let left = fs::metadata(self.cache.part(&self.digest)).map_or(0, |meta| meta.len());
        let mut inner = self.cache.lock();
        if inner.entries.get(&self.digest).is_some_and(|entry| entry.kind == Kind::Coming) {
            inner.entries.remove(&self.digest);
            if left > 0 {
                inner.put(self.digest, Kind::Half, left, 0);
            }
        }
    }
}

impl Cache {
    /// Lists what is there; `cap` is the most it may take of the disk.
    pub fn open(dir: &Path, cap: Bytes) -> io::Result<Arc<Self>> {
        files::private_dir(dir)?;
        let mut found: Vec<(SystemTime, Digest, Kind, u64)> = Vec::new();
        for file in fs::read_dir(dir)? {
            let file = file?;
            let (path, meta) = (file.path(), file.metadata()?);
            let modified = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let half = path.extension().is_some_and(|e| e == PART);
            let name = if half { path.file_stem() } else { path.file_name() };
            let Some(digest) = name.and_then(|n| n.to_str()).and_then(from_name) else { continue };
            let old = modified.elapsed().is_ok_and(|age| age > PART_LIFE);
            if half && (old || path.with_extension("").exists()) {
                fs::remove_file(&path)?;
            } else {
                found.push((modified, digest, if half { Kind::Half } else { Kind::Whole }, meta.len()));
            }
        }
        found.sort_by_key(|(modified, digest, ..)| (*modified, *digest));
        let mut inner = Inner::default();
        for (_, digest, kind, size) in found {
            inner.put(digest, kind, size, 0);
        }
        let cache = Self { dir: dir.into(), cap, inner: Mutex::new(inner) };
        cache.shrink(&mut cache.lock(), 0);
        Ok(Arc::new(cache))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    /// Where a download goes; only whoever holds the digest's flight writes there.
    pub fn part(&self, digest: &Digest) -> PathBuf {
        self.path(digest).with_extension(PART)
    }

    /// A file, if it is there.
    pub fn get(self: &Arc<Self>, digest: &Digest) -> Option<Pinned> {
        let path = self.path(digest);
        let mut inner = self.lock();
        inner.clock += 1;
        let clock = inner.clock;
        let entry = inner.entries.get_mut(digest).filter(|entry| entry.kind == Kind::Whole)?;
        if fs::metadata(&path).is_err() {
            inner.entries.remove(digest); // somebody deleted it by hand
            return None;
        }
        entry.last_used = clock;
        entry.pins += 1;
        let number = entry.number;
        drop(inner);
        // The order of use survives a restart, roughly.
        let _ = fs::File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Some(Pinned { cache: self.clone(), digest: *digest, number, path })
    }

    /// Room for a download, made by deleting what was not used for longest. What is there of it already counts as its own.
    pub fn reserve(self: &Arc<Self>, digest: &Digest, size: Bytes) -> Result<Reservation, NoRoom> {
        let mut inner = self.lock();
        let half = inner.entries.remove(digest);
        self.shrink(&mut inner, size.0);
        let used = inner.used();
        if used.saturating_add(size.0) > self.cap.0 {
            if let Some(half) = half {
                inner.entries.insert(*digest, half);
            }
            return Err(NoRoom { size, cap: self.cap, used: Bytes(used) });
        }
        // A longer half is of no file of this size.
        let part = self.part(digest);
        if fs::metadata(&part).is_ok_and(|meta| meta.len() > size.0) {
            let _ = fs::remove_file(part);
        }
        inner.put(*digest, Kind::Coming, size.0, 1);
        Ok(Reservation { cache: self.clone(), digest: *digest })
    }

    /// Gives a verified, synced download its name.
    pub fn insert(self: &Arc<Self>, room: Reservation) -> io::Result<Pinned> {
        let digest = room.digest;
        let path = self.path(&digest);
        fs::rename(self.part(&digest), &path)?;
        let size = fs::metadata(&path)?.len();
        // One change of the books: there is no moment at which the file counts for nothing.
        let number = self.lock().put(digest, Kind::Whole, size, 1);
        let pinned = Pinned { cache: self.clone(), digest, number, path };
        drop(room);
        files::sync_parent(&pinned.path)?;
        Ok(pinned)
    }

    /// Deletes a file that is not what its name says; those who have it open keep what they have.
    pub fn discard(&self, damaged: Pinned) {
        let digest = damaged.digest;
        let mut inner = self.lock();
        // Another attempt may have seen to it already: a new copy stays.
        if inner.entries.get(&digest).is_some_and(|entry| entry.number == damaged.number) {
            warn!(%digest, "a cached model is damaged and was deleted");
            inner.entries.remove(&digest);
            let _ = fs::remove_file(self.path(&digest));
        }
        drop(inner); // before the pin takes the lock itself
    }

    /// Deletes until `size` more fit, as far as that is possible.
    fn shrink(&self, inner: &mut Inner, size: u64) {
        let mut stuck = Vec::new();
        while inner.used().saturating_add(size) > self.cap.0 {
            let unused = inner.entries.iter().filter(|(digest, entry)| entry.pins == 0 && !stuck.contains(*digest));
            let oldest = unused.min_by_key(|(_, entry)| entry.last_used).map(|(digest, entry)| (*digest, entry.kind));
            let Some((digest, kind)) = oldest else { return };
            let path = if kind == Kind::Half { self.part(&digest) } else { self.path(&digest) };
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    warn!(%digest, %error, "a model could not be deleted from the cache");
                    stuck.push(digest); // it still takes its room
                }
                _ => {
                    info!(%digest, "a model was deleted from the cache to make room");
                    inner.entries.remove(&digest);
                }
            }
        }
    }

    /// What is there, most recently used first.
    pub fn list(&self) -> Vec<Digest> {
        let inner = self.lock();
        let whole = inner.entries.iter().filter(|(_, entry)| entry.kind == Kind::Whole);
        let mut list: Vec<(u64, Digest)> = whole.map(|(digest, entry)| (entry.last_used, *digest)).collect();
        list.sort_unstable_by(|a, b| b.cmp(a));
        list.into_iter().map(|(_, digest)| digest).collect()
    }

    /// Bytes that files take, halves included, and downloads under way will.
    pub fn size(&self) -> Bytes {
        Bytes(self.lock().used())
    }

    /// The most it may take.
    pub fn cap(&self) -> Bytes {
        self.cap
    }
}

fn from_name(name: &str) -> Option<Digest> {
    format!("sha256:{name}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(cache: &Arc<Cache>, n: u8, size: usize) -> Result<Pinned, NoRoom> {
        let digest = Digest([n; 32]);
        let room = cache.reserve(&digest, Bytes(size as u64))?;
        fs::write(cache.part(&digest), vec![n; size]).unwrap();
        Ok(cache.insert(room).unwrap())
    }

    fn on_disk(cache: &Cache) -> u64 {
        fs::read_dir(&cache.dir).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum()
    }

    #[test]
    fn the_least_recently_used_goes_first_and_a_pinned_one_never() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), Bytes(100)).unwrap();
        drop(add(&cache, 1, 40).unwrap());
        drop(add(&cache, 2, 40).unwrap());
        let pinned = cache.get(&Digest([1; 32])).unwrap();
        drop(add(&cache, 3, 40).unwrap());
        assert_eq!(cache.list(), [Digest([3; 32]), Digest([1; 32])]);
        let refused = add(&cache, 4, 70).unwrap_err();
        assert_eq!(
            refused.to_string().split(':').next().unwrap(),
            "the model has 70, the cache may hold 100 and 40 of that are in use"
        );
        drop(pinned);
        drop(add(&cache, 4, 70).unwrap());
        assert_eq!((cache.list(), cache.size()), (vec![Digest([4; 32])], Bytes(70)));
    }

    #[test]
    fn a_restart_finds_files_and_knows_halves_for_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), Bytes(100)).unwrap();
        drop(add(&cache, 1, 40).unwrap());
        fs::write(cache.part(&Digest([2; 32])), b"half").unwrap();
        fs::write(cache.part(&Digest([1; 32])), b"of what is whole").unwrap();
        let again = Cache::open(dir.path(), Bytes(100)).unwrap();
        assert_eq!((again.list(), again.size()), (vec![Digest([1; 32])], Bytes(44)));
        assert!(again.get(&Digest([2; 32])).is_none(), "a half is no file");
        again.discard(again.get(&Digest([1; 32])).unwrap());
        assert!(again.get(&Digest([1; 32])).is_none());
        assert_eq!(on_disk(&again), 4);
        let small = Cache::open(dir.path(), Bytes(3)).unwrap();
        assert_eq!((small.list(), on_disk(&small)), (vec![], 0));
    }

    #[test]
    fn what_broken_downloads_leave_counts_and_makes_room() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), Bytes(100)).unwrap();
        let (half, other) = (Digest([1; 32]), Digest([2; 32]));
        let room = cache.reserve(&half, Bytes(60)).unwrap();
        assert_eq!(cache.size(), Bytes(60), "what it will take counts from the start");
        fs::write(cache.part(&half), [0; 50]).unwrap();
        drop(room);
        assert_eq!(cache.size(), Bytes(50), "and what it left, when it breaks off");
        // It goes on: its own half is no obstacle. With too little room for another, that one waits its turn.
        let room = cache.reserve(&half, Bytes(100)).unwrap();
        assert!(cache.reserve(&other, Bytes(1)).is_err());
        drop(room);
        drop(add(&cache, 2, 60).unwrap());
        assert_eq!((cache.list(), on_disk(&cache)), (vec![other], 60));
        // A half that is longer than the file is no half of it.
        fs::write(cache.part(&half), [0; 30]).unwrap();
        let _room = cache.reserve(&half, Bytes(20)).unwrap();
        assert!(!cache.part(&half).exists());
    }

    #[test]
    fn a_pin_is_of_one_copy_not_of_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), Bytes(100)).unwrap();
        let (first, second) = (add(&cache, 1, 40).unwrap(), cache.get(&Digest([1; 32])).unwrap());
        cache.discard(first);
        let _new = add(&cache, 1, 40).unwrap();
        cache.discard(second);
        assert_eq!(cache.list(), [Digest([1; 32])], "the damaged one was gone already");
        assert!(add(&cache, 2, 70).is_err(), "and the new one is still held");
    }
}
