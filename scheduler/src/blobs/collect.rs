//! Removal of blobs that nothing refers to any more.
//!
//! in → what lives, a moment · out → files removed, bytes counted · invariant: a blob goes only if it was found unused
//! before that moment, nobody put it or asked for it since then, and nothing that lives refers to it now. Whatever the
//! collector lives through, also if it sleeps for a day between two of its steps, nothing else goes.
//!
//! | | |
//! |---|---|
//! | `unused/HEX` | since when nothing refers to a blob: its modification time. So the grace outlives a leader |
//! | `staging/…/collected` | a blob on its way out; a crash leaves it there, where half-written files are cleared too |

use super::BlobStore;
use nightshift_types::Digest;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::PoisonError;
use std::time::SystemTime;

/// What the folders of staged results begin with.
pub const STAGING_GRANT: &str = "_staging.";

/// What must stay.
#[derive(Debug, Default)]
pub struct Live {
    /// Models, inputs and results of every job and model there is.
    pub blobs: HashSet<Digest>,
    /// Grants under which running attempts put their results: see `edge::service::staging`.
    pub staged: HashSet<String>,
}

/// What there is, and what went.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Collected {
    /// Blobs removed.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that something refers to.
    pub live_bytes: u64,
    /// Bytes that nothing refers to, and whose grace is not over.
    pub unused_bytes: u64,
    /// Blobs that stay.
    pub held: u64,
}

impl BlobStore {
    /// Removes what was unused before `before`. Blocks: for a thread of its own. For the leader alone, and `before` must
    /// not be later than the moment, less the grace, at which `live` was known to be all: who refers to a blob later has
    /// put it or asked for it after `before`.
    ///
    /// # Errors
    /// Folders that cannot be read. What could not be removed is tried again the next time.
    pub fn collect(&self, live: &Live, before: SystemTime) -> io::Result<Collected> {
        self.clear_staging()?;
        let mut kept = live.blobs.clone();
        self.superseded(live, before, &mut kept)?;
        let unused = self.unused()?;
        let mut collected = Collected::default();
        let mut there = HashSet::new();
        for entry in fs::read_dir(self.root.join("sha256"))? {
            let entry = entry?;
            let Some(digest) = digest_of(&entry.file_name()) else { continue };
            let Ok(meta) = entry.metadata() else { continue };
            there.insert(digest);
            let marker = self.marker(&digest);
            let keep = if kept.contains(&digest) {
                if unused.contains_key(&digest) {
                    remove(&marker)?;
                }
                collected.live_bytes += meta.len();
                true
            } else {
                let since = unused.get(&digest);
                if since.is_none() {
                    fs::File::create(&marker)?;
                }
                let over = since.is_some_and(|since| *since < before) && self.take_out(&digest, before)?;
                collected.unused_bytes += if over { 0 } else { meta.len() };
                !over
            };
            collected.held += u64::from(keep);
            collected.blobs += u64::from(!keep);
            collected.bytes += if keep { 0 } else { meta.len() };
        }
        self.orphans(&there, unused.keys(), before)?;
        Ok(collected)
    }

    fn marker(&self, digest: &Digest) -> std::path::PathBuf {
        self.root.join("unused").join(digest.hex())
    }

    /// Forgets results that were put for attempts which are over; those of running ones are kept.
    fn superseded(&self, live: &Live, before: SystemTime, kept: &mut HashSet<Digest>) -> io::Result<()> {
        for entry in fs::read_dir(self.root.join("grants"))? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| name.starts_with(STAGING_GRANT)) else { continue };
            if live.staged.contains(name) {
                kept.extend(
                    fs::read_dir(entry.path())
                        .into_iter()
                        .flatten()
                        .flatten()
                        .filter_map(|one| digest_of(&one.file_name())),
                );
            } else if modified(&entry.path()).is_some_and(|at| at < before) {
                remove_folder(&entry.path())?;
            }
        }
        Ok(())
    }

    fn unused(&self) -> io::Result<HashMap<Digest, SystemTime>> {
        let mut unused = HashMap::new();
        for entry in fs::read_dir(self.root.join("unused"))? {
            let entry = entry?;
            if let (Some(digest), Some(at)) = (digest_of(&entry.file_name()), modified(&entry.path())) {
                unused.insert(digest, at);
            }
        }
        Ok(unused)
    }

    /// Removes one blob, unless somebody used it since `before`. Another scheduler on the same folder, one that was
    /// deposed or that sleeps, may do so at any moment: it is taken away first and looked at then, and put back if so.
    fn take_out(&self, digest: &Digest, before: SystemTime) -> io::Result<bool> {
        let _alone = self.uses.write().unwrap_or_else(PoisonError::into_inner);
        let away = self.staging.join("collected");
        if !take_away(&self.path(digest), &away, before)? {
            return Ok(false);
        }
        let grant_away = self.staging.join("collected-grant");
        for namespace in fs::read_dir(self.root.join("grants"))? {
            if take_away(&namespace?.path().join(digest.hex()), &grant_away, before)? {
                remove(&grant_away)?;
            }
        }
        remove(&self.marker(digest))?;
        remove(&away)?;
        Ok(true)
    }

    /// What a crash in the midst of a removal left: grants and markers of blobs that are gone.
    fn orphans<'a>(
        &self,
        there: &HashSet<Digest>,
        unused: impl Iterator<Item = &'a Digest>,
        before: SystemTime,
    ) -> io::Result<()> {
        for digest in unused.filter(|digest| !there.contains(*digest)) {
            remove(&self.marker(digest))?;
        }
        for namespace in fs::read_dir(self.root.join("grants"))? {
            let namespace = namespace?.path();
            for grant in fs::read_dir(&namespace).into_iter().flatten().flatten() {
                let gone = digest_of(&grant.file_name()).is_some_and(|digest| !there.contains(&digest));
                if gone && modified(&grant.path()).is_some_and(|at| at < before) {
                    remove(&grant.path())?;
                }
            }
        }
        Ok(())
    }
}

/// Moves a file that was last used before `before`; one that was used meanwhile is put back.
fn take_away(path: &Path, away: &Path, before: SystemTime) -> io::Result<bool> {
    let old = |path: &Path| modified(path).is_some_and(|at| at < before);
    if !old(path) {
        return Ok(false);
    }
    match fs::rename(path, away) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        other => other?,
    }
    if !old(away) {
        fs::rename(away, path)?;
        return Ok(false);
    }
    Ok(true)
}

fn digest_of(name: &std::ffi::OsStr) -> Option<Digest> {
    format!("sha256:{}", name.to_str()?).parse().ok()
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blobs::EVERYONE;
    use nightshift_types::Bytes;
    use std::time::Duration;

    const DAY: Duration = Duration::from_secs(86_400);

    /// A moment before which everything of this test was done.
    fn later() -> SystemTime {
        SystemTime::now() + DAY
    }

    fn live(blobs: &[Digest]) -> Live {
        Live { blobs: blobs.iter().copied().collect(), staged: HashSet::new() }
    }

    #[tokio::test]
    async fn what_nothing_refers_to_goes_after_its_grace_and_what_lives_stays() {
        let folder = tempfile::tempdir().unwrap();
        let store = BlobStore::open(folder.path()).unwrap();
        let kept = store.put("a", b"kept").await.unwrap().digest;
        let gone = store.put("a", b"gone").await.unwrap().digest;
        store.grant("b", &gone).await.unwrap();
        let all = live(&[kept]);
        // Within the grace nothing goes, however often it is looked at.
        for _ in 0..2 {
            let seen = store.collect(&all, SystemTime::now() - DAY).unwrap();
            assert_eq!((seen.blobs, seen.held, seen.live_bytes, seen.unused_bytes), (0, 2, 4, 4));
        }
        // It is needed again: its time begins anew.
        store.collect(&live(&[kept, gone]), later()).unwrap();
        assert_eq!(store.collect(&all, later()).unwrap().blobs, 0, "it is unused only since now");
        let seen = store.collect(&all, later()).unwrap();
        assert_eq!(seen, Collected { blobs: 1, bytes: 4, live_bytes: 4, unused_bytes: 0, held: 1 });
        assert_eq!(store.stat("a", &gone).await, None);
        assert!(store.stat("a", &kept).await.is_some());
        // Its grants went with it: who puts it again shares it with nobody.
        store.put("a", b"gone").await.unwrap();
        assert_eq!(store.stat("b", &gone).await, None);
        assert_eq!(fs::read_dir(folder.path().join("unused")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_was_just_put_or_asked_for_stays() {
        let folder = tempfile::tempdir().unwrap();
        let store = BlobStore::open(folder.path()).unwrap();
        let blobs = [store.put("a", b"pushed again").await.unwrap(), store.put(EVERYONE, b"asked for").await.unwrap()];
        store.collect(&live(&[]), later()).unwrap();
        for blob in &blobs {
            for path in [store.path(&blob.digest), store.marker(&blob.digest)] {
                fs::File::open(path).unwrap().set_modified(SystemTime::now() - 2 * DAY).unwrap();
            }
        }
        let before = SystemTime::now() - DAY;
        store.put("a", b"pushed again").await.unwrap();
        assert!(store.stat("c", &blobs[1].digest).await.is_some());
        assert_eq!(store.collect(&live(&[]), before).unwrap().blobs, 0);
        assert_eq!(store.read(&blobs[0].digest, Bytes(99)).await.unwrap(), b"pushed again");
    }

    #[tokio::test]
    async fn a_reader_that_has_begun_reads_to_the_end() {
        use std::io::Read;
        let folder = tempfile::tempdir().unwrap();
        let store = BlobStore::open(folder.path()).unwrap();
        let blob = store.put("a", b"a fetch in flight").await.unwrap();
        let mut file = fs::File::open(store.file(&blob.digest)).unwrap();
        for _ in 0..2 {
            store.collect(&live(&[]), later()).unwrap();
        }
        assert!(!store.file(&blob.digest).exists());
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "a fetch in flight");
    }

    #[tokio::test]
    async fn staged_results_live_with_their_attempts() {
        let folder = tempfile::tempdir().unwrap();
        let store = BlobStore::open(folder.path()).unwrap();
        let running = store.put("_staging.c.j.0.2", b"of a running attempt").await.unwrap().digest;
        let over = store.put("_staging.c.j.0.1", b"of a superseded one").await.unwrap().digest;
        let all = Live { blobs: HashSet::new(), staged: HashSet::from(["_staging.c.j.0.2".into()]) };
        for _ in 0..2 {
            store.collect(&all, later()).unwrap();
        }
        assert!(store.granted("_staging.c.j.0.2", &running).await.is_some());
        assert!(!store.file(&over).exists() && !folder.path().join("grants/_staging.c.j.0.1").exists());
    }

    #[tokio::test]
    async fn a_crash_in_the_midst_leaves_nothing_that_stays() {
        let folder = tempfile::tempdir().unwrap();
        let store = BlobStore::open(folder.path()).unwrap();
        let blob = store.put("a", b"half gone").await.unwrap();
        store.collect(&live(&[]), later()).unwrap();
        // Killed after the rename: the blob is in the staging folder of a process that is no more.
        fs::rename(store.path(&blob.digest), store.staging.join("collected")).unwrap();
        fs::File::open(&store.staging).unwrap().set_modified(SystemTime::now() - 3 * DAY).unwrap();
        let next = BlobStore::open(folder.path()).unwrap();
        next.collect(&live(&[]), later()).unwrap();
        assert!(!store.staging.exists());
        assert!(!next.grant_path("a", &blob.digest).exists() && !next.marker(&blob.digest).exists());
        assert_eq!(next.put("b", b"half gone").await.unwrap(), blob);
        assert_eq!(next.stat("a", &blob.digest).await, None);
    }

    /// One that was deposed may be at any step of a removal: what another scheduler's clients put meanwhile stays.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn two_schedulers_on_one_folder_lose_nothing_that_is_put() {
        let folder = tempfile::tempdir().unwrap();
        let deposed = std::sync::Arc::new(BlobStore::open(folder.path()).unwrap());
        let leader = BlobStore::open(folder.path()).unwrap();
        let mut removed = 0;
        for round in 0..200 {
            let blob = leader.put("a", b"the same bytes").await.unwrap();
            deposed.collect(&live(&[]), SystemTime::now() - DAY).unwrap();
            for path in [leader.path(&blob.digest), leader.marker(&blob.digest), leader.grant_path("a", &blob.digest)] {
                fs::File::open(path).unwrap().set_modified(SystemTime::now() - 2 * DAY).unwrap();
            }
            let other = deposed.clone();
            let collecting = std::thread::spawn(move || other.collect(&live(&[]), SystemTime::now() - DAY).unwrap());
            let again = leader.put("a", b"the same bytes").await.unwrap();
            removed += collecting.join().unwrap().blobs;
            assert_eq!(leader.stat("a", &again.digest).await, Some(blob), "round {round}");
            assert_eq!(leader.read(&again.digest, Bytes(99)).await.unwrap(), b"the same bytes", "round {round}");
        }
        println!("{removed} of 200 rounds removed it before it was put again");
    }
}
