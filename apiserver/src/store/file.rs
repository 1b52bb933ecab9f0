//! In: redb's reads and writes → out: those of one file → invariant: space the database grows into is written with zeros at
//! once. A commit then syncs blocks the file already owns; otherwise each would also wait for the file system's journal (here:
//! 3.8 ms against 0.14 ms). The file is locked for this process.

use redb::StorageBackend;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const ZEROS: &[u8] = &[0; 1 << 20];

#[derive(Debug)]
pub(super) struct ZeroedFile(File);

impl ZeroedFile {
    pub fn open(path: &Path) -> io::Result<ZeroedFile> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        file.try_lock().map_err(|_| io::Error::other("the database is in use by another process"))?;
        Ok(ZeroedFile(file))
    }
}

impl StorageBackend for ZeroedFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut at = self.0.metadata()?.len();
        self.0.set_len(len)?;
        while at < len {
            let n = usize::try_from(len - at).map_or(ZEROS.len(), |n| n.min(ZEROS.len()));
            self.0.write_all_at(&ZEROS[..n], at)?;
            at += n as u64;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}
