//! Frames on the control socket between the engine and a worker: a length, that many bytes, and maybe descriptors.
//!
//! *In*: a frame of at most [`MAX_FRAME`] bytes and [`MAX_FDS`] descriptors. *Out*: the same. *Invariant*: a length is
//! checked before memory is taken for it, and every descriptor received is owned at once, so none leaks.

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Largest frame, without its length.
pub const MAX_FRAME: usize = 256 << 10;
/// Most descriptors with one frame.
pub const MAX_FDS: usize = 4;

/// Puts the length before a frame.
pub fn framed(body: &[u8]) -> io::Result<Vec<u8>> {
    if body.len() > MAX_FRAME {
        return Err(io::Error::other(format!("a control frame of {} bytes: at most {MAX_FRAME}", body.len())));
    }
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
    frame.extend_from_slice(body);
    Ok(frame)
}

/// The length that a frame's first four bytes announce.
pub fn frame_length(head: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(head) as usize;
    if length > MAX_FRAME {
        return Err(io::Error::other(format!("a control frame of {length} bytes: at most {MAX_FRAME}")));
    }
    Ok(length)
}

/// Sends what fits of `bytes`, the descriptors with the first of them; answers how many bytes went.
pub fn send(socket: RawFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    Ok(sendmsg::<()>(socket, &[IoSlice::new(bytes)], control, no_signal(), None)?)
}

/// Receives up to `buffer.len()` bytes and the descriptors that came with them; 0 bytes: the other side is gone.
pub fn receive(socket: RawFd, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = cmsg_space!([RawFd; MAX_FDS]);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(socket, &mut slices, Some(&mut space), close_on_exec())?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            for fd in received {
                // SAFETY: the kernel just made this descriptor for us and nobody else knows its number.
                fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
    }
    Ok(message.bytes)
}

#[cfg(target_os = "linux")]
fn no_signal() -> MsgFlags {
    MsgFlags::MSG_NOSIGNAL
}
#[cfg(not(target_os = "linux"))]
fn no_signal() -> MsgFlags {
    MsgFlags::empty()
}

#[cfg(target_os = "linux")]
fn close_on_exec() -> MsgFlags {
    MsgFlags::MSG_CMSG_CLOEXEC
}
#[cfg(not(target_os = "linux"))]
fn close_on_exec() -> MsgFlags {
    MsgFlags::empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn descriptors_travel_with_the_bytes() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut a, b) = UnixStream::pair().unwrap();
        assert_eq!(send(here.as_raw_fd(), b"x", &[b.as_fd()]).unwrap(), 1);
        drop(b);
        let (mut buffer, mut fds) = ([0; 8], Vec::new());
        assert_eq!(receive(there.as_raw_fd(), &mut buffer, &mut fds).unwrap(), 1);
        assert_eq!(fds.len(), 1);
        a.write_all(b"y").unwrap();
        let passed = UnixStream::from(fds.pop().unwrap());
        assert_eq!(receive(passed.as_raw_fd(), &mut buffer, &mut fds).unwrap(), 1);
        assert_eq!(buffer[0], b'y');
    }

    #[test]
    fn lengths_are_bounded() {
        assert!(framed(&vec![0; MAX_FRAME + 1]).is_err());
        assert!(frame_length(u32::MAX.to_le_bytes()).is_err());
        assert_eq!(frame_length(framed(b"abc").unwrap()[..4].try_into().unwrap()).unwrap(), 3);
    }
}
