//! Files that survive a crash at any instruction.
//!
//! in → bytes and a path · out → the file, whole and durable, or the one before · invariant: a reader never sees half a
//! file; what we write is readable by its owner alone.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Ending of files that are being written; whoever finds one at start deletes it.
pub const TEMPORARY: &str = "tmp";

/// Makes a folder and its parents, for its owner alone (0700).
pub fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes beside `path`, makes it durable, renames it to `path` (0600), and makes the name durable.
pub fn write_atomic(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let temporary = path.with_extension(TEMPORARY);
    let written = write_synced(&temporary, parts).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_parent(path)
}

fn write_synced(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_all()
}

/// Makes the names in a file's folder durable.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// A file's text, or `None` if there is no such file.
pub fn read_optional(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn whole_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        private_dir(&folder).unwrap();
        let path = folder.join("f.json");
        assert_eq!(read_optional(&path).unwrap(), None);
        write_atomic(&path, &[b"old"]).unwrap();
        write_atomic(&path, &[b"ne", b"w"]).unwrap();
        assert_eq!(read_optional(&path).unwrap().unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }
}
