//! The system's file cache.
//!
//! *In*: an open file. *Out*: the same file, to be read from the disk. *Invariant*: advice only: what is written stays.

use std::fs::File;

/// Asks the system not to answer the next reads of this file from memory.
#[cfg(target_os = "linux")]
pub fn forget_cached(file: &File) {
    use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
    let _ = posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
}

/// Asks the system not to answer the next reads of this file from memory.
#[cfg(target_os = "macos")]
pub fn forget_cached(file: &File) {
    use std::os::fd::AsRawFd;
    // SAFETY: a plain system call on an open descriptor.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_NOCACHE, 1) };
}

/// Elsewhere there is no such advice.
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
pub fn forget_cached(_file: &File) {}
