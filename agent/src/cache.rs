//! Model files on disk, by digest, least recently used out first.
//!
//! in → verified files · out → paths that stay while they are held ([`Pinned`]) · invariant: a file named by a digest was
//! verified before it got that name; files and downloads together stay under the cap; a pinned file is never deleted.

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

#[derive(Debug)]
struct Entry {
    size: u64,
    last_used: u64,
    pins: usize,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<Digest, Entry>,
    reserved: u64,
    clock: u64,
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
    /// Where it is.
    pub path: PathBuf,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Some(entry) = self.cache.lock().entries.get_mut(&self.digest) {
            entry.pins = entry.pins.saturating_sub(1);
        }
    }
}

/// Room for a download; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    cache: Arc<Cache>,
    size: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut inner = self.cache.lock();
        inner.reserved = inner.reserved.saturating_sub(self.size);
    }
}

impl Cache {
    /// Lists what is there; `cap` is the most it may take of the disk.
    pub fn open(dir: &Path, cap: Bytes) -> io::Result<Arc<Self>> {
        files::private_dir(dir)?;
        let mut found: Vec<(SystemTime, Digest, u64)> = Vec::new();
        for file in fs::read_dir(dir)? {
            let file = file?;
            let (path, meta) = (file.path(), file.metadata()?);
            let modified = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            if path.extension().is_some_and(|e| e == PART) {
                if modified.elapsed().is_ok_and(|age| age > PART_LIFE) {
                    fs::remove_file(&path)?;
                }
            } else if let Some(digest) = path.file_name().and_then(|n| n.to_str()).and_then(from_name) {
                found.push((modified, digest, meta.len()));
            }
        }
        found.sort();
        let mut inner = Inner::default();
        for (_, digest, size) in found {
            inner.clock += 1;
            inner.entries.insert(digest, Entry { size, last_used: inner.clock, pins: 0 });
        }
        let cache = Self { dir: dir.into(), cap, inner: Mutex::new(inner) };
        cache.shrink(0);
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
        let entry = inner.entries.get_mut(digest)?;
        if fs::metadata(&path).is_err() {
            inner.entries.remove(digest); // somebody deleted it by hand
            return None;
        }
        entry.last_used = clock;
        entry.pins += 1;
        drop(inner);
        // The order of use survives a restart, roughly.
        let _ = fs::File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Some(Pinned { cache: self.clone(), digest: *digest, path })
    }

    /// Room for a download, made by deleting what was not used for longest.
    pub fn reserve(self: &Arc<Self>, size: Bytes) -> Result<Reservation, NoRoom> {
        self.shrink(size.0);
        let mut inner = self.lock();
        let used = inner.entries.values().map(|entry| entry.size).sum::<u64>() + inner.reserved;
        if used.saturating_add(size.0) > self.cap.0 {
            return Err(NoRoom { size, cap: self.cap, used: Bytes(used) });
        }
        inner.reserved += size.0;
        Ok(Reservation { cache: self.clone(), size: size.0 })
    }

    /// Gives a verified, synced download its name.
    pub fn insert(self: &Arc<Self>, digest: &Digest, room: Reservation) -> io::Result<Pinned> {
        let path = self.path(digest);
        fs::rename(self.part(digest), &path)?;
        files::sync_parent(&path)?;
        let size = fs::metadata(&path)?.len();
        drop(room);
        let mut inner = self.lock();
        inner.clock += 1;
        let last_used = inner.clock;
        inner.entries.insert(*digest, Entry { size, last_used, pins: 1 });
        Ok(Pinned { cache: self.clone(), digest: *digest, path })
    }

    /// Deletes a file that is not what its name says; those who have it open keep what they have.
    pub fn discard(&self, digest: &Digest) {
        warn!(%digest, "a cached model is damaged and was deleted");
        self.lock().entries.remove(digest);
        let _ = fs::remove_file(self.path(digest));
    }

    fn shrink(&self, size: u64) {
        let mut inner = self.lock();
        loop {
            let used = inner.entries.values().map(|entry| entry.size).sum::<u64>() + inner.reserved;
            if used.saturating_add(size) <= self.cap.0 {
                return;
            }
            let unused = inner.entries.iter().filter(|(_, entry)| entry.pins == 0);
            let Some(digest) = unused.min_by_key(|(_, entry)| entry.last_used).map(|(digest, _)| *digest) else {
                return;
            };
            inner.entries.remove(&digest);
            match fs::remove_file(self.path(&digest)) {
                Ok(()) => info!(%digest, "a model was deleted from the cache to make room"),
                Err(error) => warn!(%digest, %error, "a model could not be deleted from the cache"),
            }
        }
    }

    /// What is there, most recently used first.
    pub fn list(&self) -> Vec<Digest> {
        let inner = self.lock();
        let mut list: Vec<(u64, Digest)> = inner.entries.iter().map(|(digest, e)| (e.last_used, *digest)).collect();
        list.sort_unstable_by(|a, b| b.cmp(a));
        list.into_iter().map(|(_, digest)| digest).collect()
    }

    /// Bytes of the files.
    pub fn size(&self) -> Bytes {
        Bytes(self.lock().entries.values().map(|entry| entry.size).sum())
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
        let room = cache.reserve(Bytes(size as u64))?;
        fs::write(cache.part(&digest), vec![n; size]).unwrap();
        Ok(cache.insert(&digest, room).unwrap())
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
        assert_eq!(cache.lock().reserved, 0);
    }

    #[test]
    fn a_restart_finds_files_and_ignores_halves() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), Bytes(100)).unwrap();
        drop(add(&cache, 1, 40).unwrap());
        fs::write(cache.part(&Digest([2; 32])), b"half").unwrap();
        let again = Cache::open(dir.path(), Bytes(100)).unwrap();
        assert_eq!(again.list(), [Digest([1; 32])]);
        again.discard(&Digest([1; 32]));
        assert!(again.get(&Digest([1; 32])).is_none());
        assert!(Cache::open(dir.path(), Bytes(10)).unwrap().list().is_empty());
    }
}
