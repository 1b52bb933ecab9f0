//! Starting worker processes so that they die with the agent.
//!
//! *In*: a command and the worker's end of the control socket. *Out*: a child that has the socket as [`CONTROL_FD`] and no
//! other descriptor of ours. *Invariant*: on Linux the kernel kills the child when the thread that started it ends, so
//! workers are started from a thread that lives as long as the engine; elsewhere the socket's end tells it.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// Where a worker finds its control socket.
pub const CONTROL_FD: RawFd = 3;

/// Starts `command` in a process group of its own, with `control` as [`CONTROL_FD`].
pub fn spawn(mut command: Command, control: OwnedFd) -> io::Result<Child> {
    let parent = std::process::id();
    let fd = control.as_raw_fd();
    command.process_group(0);
    // SAFETY: between fork and exec only async-signal-safe calls are made: prctl, getppid, dup2, fcntl, close_range.
    unsafe { command.pre_exec(move || prepare_child(parent, fd)) };
    command.spawn()
}

fn prepare_child(parent: u32, control: RawFd) -> io::Result<()> {
    die_with(parent)?;
    // SAFETY: plain system calls on numbers; dup2 onto itself would keep close-on-exec, so it is cleared by hand.
    let moved = unsafe {
        if control == CONTROL_FD { libc::fcntl(CONTROL_FD, libc::F_SETFD, 0) } else { libc::dup2(control, CONTROL_FD) }
    };
    if moved < 0 {
        return Err(io::Error::last_os_error());
    }
    close_the_rest_on_exec();
    Ok(())
}

#[cfg(target_os = "linux")]
fn die_with(parent: u32) -> io::Result<()> {
    // SAFETY: plain system calls.
    unsafe {
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) < 0 {
            return Err(io::Error::last_os_error());
        }
        // The parent may have died before prctl.
        if libc::getppid() as u32 != parent {
            libc::_exit(1);
        }
    }
    Ok(())
}
#[cfg(not(target_os = "linux"))]
fn die_with(_parent: u32) -> io::Result<()> {
    Ok(())
}

/// Rust opens everything close-on-exec; this is for descriptors that a C library, or whoever started us, left open.
#[cfg(target_os = "linux")]
fn close_the_rest_on_exec() {
    // SAFETY: a plain system call; a kernel without it (before 5.11) answers ENOSYS and nothing is lost.
    unsafe { libc::syscall(libc::SYS_close_range, CONTROL_FD + 1, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}
#[cfg(not(target_os = "linux"))]
fn close_the_rest_on_exec() {}

/// Closes every descriptor beside the standard three: whoever started us may have left one open. Before anything else is
/// opened, because whatever was would be closed with the rest.
#[cfg(target_os = "linux")]
pub fn close_inherited() {
    // SAFETY: a plain system call; the caller has opened nothing yet. Kernels before 5.9 answer ENOSYS.
    unsafe { libc::syscall(libc::SYS_close_range, libc::STDERR_FILENO + 1, libc::c_uint::MAX, 0) };
}
/// Elsewhere programs are trusted to open everything close-on-exec, as Rust's do.
#[cfg(not(target_os = "linux"))]
pub fn close_inherited() {}

/// Takes over the control socket that `spawn` put in place. Once per process: the descriptor is owned from then on.
pub fn inherited_control(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fstat and fcntl on a number are harmless; below we own the descriptor that our parent made for us.
    unsafe {
        let mut stat = std::mem::zeroed::<libc::stat>();
        if libc::fstat(fd, &raw mut stat) < 0 || stat.st_mode & libc::S_IFMT != libc::S_IFSOCK {
            return Err(io::Error::other(format!(
                "descriptor {fd} is no socket: `worker` is started by the agent only"
            )));
        }
        if libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}
