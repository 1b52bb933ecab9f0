//! The blob store: content-addressed files in a folder, each readable by the namespaces it was granted to.
//!
//! in → streams of bytes · out → digests, files · invariant: a file under `sha256/` holds what its name says (written
//! beside, hashed, synced, renamed); knowing a digest grants nothing. A blob's modification time is when it was last put or
//! asked for, which is what [`collect`] goes by.

pub mod collect;

use nightshift_types::{Bytes, Digest, InputRef};
use sha2::{Digest as _, Sha256};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};
use thiserror::Error;
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt;

/// Half-written files this old are nobody's any more: no transfer takes so long.
const STAGING_AGE: Duration = Duration::from_secs(24 * 3600);

/// Grants to this name reach every namespace: models the operator seeded or pushed with `--public`.
pub const EVERYONE: &str = "_public";

/// Why a blob could not be stored or read.
#[derive(Debug, Error)]
pub enum BlobError {
    /// Larger than the limit it was written under.
    #[error("larger than the limit of {}", .0.human())]
    TooLarge(Bytes),
    /// The bytes are others than promised.
    #[error("the bytes have digest {found}, expected {expected}")]
    Mismatch {
        /// What was promised.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// The disk's words.
    #[error("blob store: {0}")]
    Io(#[from] io::Error),
}

/// A folder of blobs.
#[derive(Debug)]
pub struct BlobStore {
    root: PathBuf,
    /// This process's own folder of half-written files.
    staging: PathBuf,
    staged: AtomicU64,
    /// Whoever says that it uses a blob reads it, whoever removes one writes it: neither is in the midst of the other.
    uses: Arc<RwLock<()>>,
}

impl BlobStore {
    /// Opens or makes the folder. Another scheduler may have it open too.
    pub fn open(root: &Path) -> io::Result<Self> {
        let staging = root.join("staging").join(hex::encode(rand::random::<[u8; 8]>()));
        for folder in [root.join("sha256"), root.join("grants"), root.join("unused"), staging.clone()] {
            std::fs::create_dir_all(folder)?;
        }
        Ok(Self { root: root.into(), staging, staged: AtomicU64::new(0), uses: Arc::default() })
    }

    /// Removes what earlier leaders left half-written. For the leader alone.
    pub fn clear_staging(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(self.root.join("staging"))? {
            let path = entry?.path();
            // A folder that was touched just now may be a standby's that seeds.
            let old = path.metadata().and_then(|meta| meta.modified()).ok().and_then(|at| at.elapsed().ok());
            if path != self.staging && old.is_some_and(|age| age > STAGING_AGE) {
                std::fs::remove_dir_all(path)?;
            }
        }
        // An earlier leader did the same to ours.
        std::fs::create_dir_all(&self.staging)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join("sha256").join(digest.hex())
    }

    fn grant_path(&self, namespace: &str, digest: &Digest) -> PathBuf {
        self.root.join("grants").join(namespace).join(digest.hex())
    }

    /// Begins a blob of at most `limit` bytes.
    pub async fn writer(&self, limit: Bytes) -> Result<BlobWriter, BlobError> {
        let number = self.staged.fetch_add(1, Ordering::Relaxed);
        let path = self.staging.join(number.to_string());
        let file = File::create(&path).await?;
        Ok(BlobWriter { file, staged: Staged(path), hasher: Sha256::new(), written: 0, limit })
    }

    /// Ends a blob: synced, checked against `expected`, in place under its digest and granted to `namespace`.
    pub async fn finish(
        &self,
        writer: BlobWriter,
        namespace: &str,
        expected: Option<Digest>,
    ) -> Result<InputRef, BlobError> {
        let BlobWriter { mut file, staged, hasher, written, .. } = writer;
        let found = Digest(hasher.finalize().into());
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(BlobError::Mismatch { expected, found });
        }
        file.flush().await?;
        file.sync_all().await?;
        fs::rename(&staged.0, self.path(&found)).await?;
        sync_folder(&self.root.join("sha256")).await?;
        self.grant(namespace, &found).await?;
        Ok(InputRef { digest: found, size: Bytes(written) })
    }

    /// Stores bytes that are in memory.
    pub async fn put(&self, namespace: &str, bytes: &[u8]) -> Result<InputRef, BlobError> {
        let digest = Digest(Sha256::digest(bytes).into());
        if let Some(known) = self.used(&digest).await {
            self.grant(namespace, &digest).await?;
            return Ok(InputRef { digest, size: known });
        }
        let mut writer = self.writer(Bytes(bytes.len() as u64)).await?;
        writer.write(bytes).await?;
        self.finish(writer, namespace, Some(digest)).await
    }

    /// Stores a file of this machine, by streaming it.
    pub async fn put_file(&self, namespace: &str, path: &Path, limit: Bytes) -> Result<InputRef, BlobError> {
        use tokio::io::AsyncReadExt;
        let mut source = File::open(path).await?;
        let mut writer = self.writer(limit).await?;
        let mut buffer = vec![0u8; 1 << 18];
        loop {
            let n = source.read(&mut buffer).await?;
            if n == 0 {
                return self.finish(writer, namespace, None).await;
            }
            writer.write(&buffer[..n]).await?;
        }
    }

    /// Lets `namespace` use a blob that is here.
    pub async fn grant(&self, namespace: &str, digest: &Digest) -> Result<(), BlobError> {
        let path = self.grant_path(namespace, digest);
        if self.touch(path.clone()).await.is_some() {
            return Ok(());
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).await?;
        }
        File::create(&path).await?.sync_all().await?;
        Ok(())
    }

    /// Takes back every grant of a name; the bytes stay for whom else they were granted to.
    pub async fn revoke_all(&self, namespace: &str) -> Result<(), BlobError> {
        match fs::remove_dir_all(self.root.join("grants").join(namespace)).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// The blob, if it was granted to just this name.
    pub async fn granted(&self, namespace: &str, digest: &Digest) -> Option<InputRef> {
        self.touch(self.grant_path(namespace, digest)).await?;
        self.used(digest).await.map(|size| InputRef { digest: *digest, size })
    }

    /// The blob's size, if it is here. From now on it stays for the grace of [`collect`].
    async fn used(&self, digest: &Digest) -> Option<Bytes> {
        self.touch(self.path(digest)).await
    }

    /// Says that a file is used now; its size, if it is there.
    async fn touch(&self, path: PathBuf) -> Option<Bytes> {
        let uses = self.uses.clone();
        let touch = move || {
            let _one = uses.read().unwrap_or_else(PoisonError::into_inner);
            let file = std::fs::File::open(&path)?;
            file.set_modified(SystemTime::now())?;
            // Another scheduler may have taken it away just before; after this moment none does.
            std::fs::metadata(&path).map(|meta| Bytes(meta.len()))
        };
        tokio::task::spawn_blocking(touch).await.ok().and_then(io::Result::ok)
    }

    /// The blob, if it is here and `namespace` may use it.
    pub async fn stat(&self, namespace: &str, digest: &Digest) -> Option<InputRef> {
        match self.granted(namespace, digest).await {
            Some(blob) => Some(blob),
            None => self.granted(EVERYONE, digest).await,
        }
    }

    /// The file's path; the caller has checked who asks.
    pub fn file(&self, digest: &Digest) -> PathBuf {
        self.path(digest)
    }

    /// The blob's bytes, at most `limit`; the caller has checked who asks.
    pub async fn read(&self, digest: &Digest, limit: Bytes) -> Result<Vec<u8>, BlobError> {
        let path = self.path(digest);
        if fs::metadata(&path).await?.len() > limit.0 {
            return Err(BlobError::TooLarge(limit));
        }
        Ok(fs::read(path).await?)
    }
}

/// A renamed file survives a power cut only when its folder is synced too.
async fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder).await?.sync_all().await
}

/// A half-written file: gone when nobody finishes it, however the writing ended.
#[derive(Debug)]
struct Staged(PathBuf);

impl Drop for Staged {
    fn drop(&mut self) {
        // After a finish the name is another; one unlink is short enough for an async caller.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A blob being written.
#[derive(Debug)]
pub struct BlobWriter {
    file: File,
    staged: Staged,
    hasher: Sha256,
    written: u64,
    limit: Bytes,
}

impl BlobWriter {
    /// Appends bytes.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        self.written += bytes.len() as u64;
        if self.written > self.limit.0 {
            return Err(BlobError::TooLarge(self.limit));
        }
        self.hasher.update(bytes);
        self.file.write_all(bytes).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn namespaces_do_not_share() {
        let folder = tempfile::tempdir().unwrap();
        let store = BlobStore::open(folder.path()).unwrap();
        let blob = store.put("a", b"hello").await.unwrap();
        assert_eq!(store.stat("a", &blob.digest).await, Some(blob));
        assert_eq!(store.stat("b", &blob.digest).await, None);
        assert_eq!(store.put("b", b"hello").await.unwrap(), blob);
        assert_eq!(store.stat("b", &blob.digest).await, Some(blob));
        assert_eq!(store.read(&blob.digest, Bytes(5)).await.unwrap(), b"hello");
        assert!(matches!(store.read(&blob.digest, Bytes(4)).await, Err(BlobError::TooLarge(_))));
        let public = store.put(EVERYONE, b"model").await.unwrap();
        assert_eq!(store.stat("b", &public.digest).await, Some(public));
    }

    #[tokio::test]
    async fn limits_and_mismatches_leave_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let store = BlobStore::open(folder.path()).unwrap();
        let mut writer = store.writer(Bytes(3)).await.unwrap();
        assert!(matches!(writer.write(b"four").await, Err(BlobError::TooLarge(_))));
        drop(writer);
        drop(store.writer(Bytes(9)).await.unwrap());
        let mut writer = store.writer(Bytes(9)).await.unwrap();
        writer.write(b"four").await.unwrap();
        let wrong = store.finish(writer, "a", Some(Digest([0; 32]))).await;
        assert!(matches!(wrong, Err(BlobError::Mismatch { .. })));
        assert_eq!(std::fs::read_dir(&store.staging).unwrap().count(), 0);
        // Of two schedulers on one folder the leader clears what is old, and takes nothing from the other.
        let other = BlobStore::open(folder.path()).unwrap();
        let left = folder.path().join("staging/left");
        std::fs::create_dir_all(&left).unwrap();
        std::fs::File::open(&left).unwrap().set_modified(std::time::SystemTime::now() - 2 * STAGING_AGE).unwrap();
        other.clear_staging().unwrap();
        assert!(!left.exists() && store.staging.exists());
        assert!(store.put("a", b"later").await.is_ok());
    }
}
