//! Memory that the engine and one worker share, for a task's bytes.
//!
//! *In*: a size. *Out*: a [`Segment`] and a descriptor to hand over. *Invariant*: a segment's size never changes: on Linux
//! it is sealed, on macOS the system does not allow it. So the other side cannot make an access here fault. The bytes are
//! only ever copied in and out as a whole: the other side may write at any time.

use memmap2::{MmapOptions, MmapRaw};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Largest segment, against nonsense from the other side.
pub const MAX_SEGMENT: usize = 4 << 30;

/// A fixed number of shared bytes, unmapped and closed when dropped; it has no name to be left behind.
#[derive(Debug)]
pub struct Segment {
    fd: OwnedFd,
    map: MmapRaw,
    len: usize,
}

impl Segment {
    /// New zeroed memory; `len` is at least 1 and at most [`MAX_SEGMENT`].
    pub fn create(len: usize) -> io::Result<Self> {
        if len == 0 || len > MAX_SEGMENT {
            return Err(io::Error::other(format!("a shared segment of {len} bytes")));
        }
        Self::map(sized_memory(len)?, len)
    }

    /// Maps a segment that the other side created; its size must be `len`.
    pub fn open(fd: OwnedFd, len: usize) -> io::Result<Self> {
        let found = nix::sys::stat::fstat(&fd)?.st_size;
        // macOS rounds up to whole pages.
        if len == 0 || len > MAX_SEGMENT || usize::try_from(found).is_ok_and(|found| found < len) {
            return Err(io::Error::other(format!("a shared segment of {found} bytes instead of {len}")));
        }
        Self::map(fd, len)
    }

    fn map(fd: OwnedFd, len: usize) -> io::Result<Self> {
        let map = MmapOptions::new().len(len).map_raw(&fd)?;
        Ok(Self { fd, map, len })
    }

    /// Its size in bytes; never zero.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The descriptor to hand over.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Copies `bytes` to `offset`; false if they do not fit.
    #[must_use]
    pub fn write(&self, offset: usize, bytes: &[u8]) -> bool {
        if offset.checked_add(bytes.len()).is_none_or(|end| end > self.len) {
            return false;
        }
        // SAFETY: the map is `self.len` writable bytes and the range is within; ordinary memory overlaps no shared map.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.map.as_mut_ptr().add(offset), bytes.len()) };
        true
    }

    /// Appends `count` bytes from `offset` to `to`; false if there are fewer, or no memory for the copy.
    #[must_use]
    pub fn read(&self, offset: usize, count: usize, to: &mut Vec<u8>) -> bool {
        if offset.checked_add(count).is_none_or(|end| end > self.len) || to.try_reserve(count).is_err() {
            return false;
        }
        let old = to.len();
        // SAFETY: the range is within the map, the vector has room for `count` more, and each of them is initialised.
        unsafe {
            std::ptr::copy_nonoverlapping(self.map.as_ptr().add(offset), to.as_mut_ptr().add(old), count);
            to.set_len(old + count);
        }
        true
    }

    /// Runs `read` on the first `len` bytes without copying them. For the worker alone: its engine writes nothing while a
    /// task runs. `None` if there are fewer.
    pub fn with<T>(&self, len: usize, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        if len > self.len {
            return None;
        }
        // SAFETY: the map is `self.len` readable bytes; the engine, the only writer, waits for this task's answer.
        let bytes = unsafe { std::slice::from_raw_parts(self.map.as_ptr(), len) };
        Some(read(bytes))
    }
}

#[cfg(target_os = "linux")]
fn sized_memory(len: usize) -> io::Result<OwnedFd> {
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    use nix::sys::memfd::{MFdFlags, memfd_create};
    let fd = memfd_create(c"nightshift", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    nix::unistd::ftruncate(&fd, len as i64)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(fd)
}

#[cfg(not(target_os = "linux"))]
fn sized_memory(len: usize) -> io::Result<OwnedFd> {
    use nix::fcntl::OFlag;
    use nix::sys::{mman, stat::Mode};
    // The name lives only until the next line; macOS allows 31 characters.
    let name = format!("/nightshift-{:016x}", rand::random::<u64>());
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDWR;
    let fd = mman::shm_open(name.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
    mman::shm_unlink(name.as_str())?;
    nix::unistd::ftruncate(&fd, len as i64)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_see_the_bytes() {
        let here = Segment::create(100).unwrap();
        assert!(here.write(0, b"hello"));
        let there = Segment::open(here.fd().try_clone_to_owned().unwrap(), 100).unwrap();
        let mut seen = b">".to_vec();
        assert!(there.read(1, 4, &mut seen));
        assert_eq!(seen, b">ello");
        assert!(there.write(1, b"EL"));
        assert_eq!(here.with(5, <[u8]>::to_vec).unwrap(), b"hELlo");
    }

    #[test]
    fn sizes_are_checked() {
        assert!(Segment::create(0).is_err());
        let segment = Segment::create(10).unwrap();
        assert!(!segment.write(0, &[0; 11]));
        assert!(!segment.write(usize::MAX, &[0; 2]));
        assert!(!segment.read(5, 6, &mut Vec::new()));
        assert!(segment.with(11, <[u8]>::len).is_none());
        assert!(Segment::open(segment.fd().try_clone_to_owned().unwrap(), 20_000_000).is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_other_side_cannot_shrink_it() {
        let segment = Segment::create(10_000).unwrap();
        assert!(nix::unistd::ftruncate(segment.fd(), 0).is_err());
        assert!(nix::unistd::ftruncate(segment.fd(), 1 << 40).is_err());
    }
}
