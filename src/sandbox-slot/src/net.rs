//! Packets with descriptors over a `SOCK_SEQPACKET` socket. Used on both sides.

use crate::wire::{BODY_MAX, FDS_MAX, INLINE_MAX};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;

/// A memfd with this content, at offset 0.
///
/// # Errors
/// The kernel has no memfd, memory or descriptor to give.
pub fn memfd(name: &std::ffi::CStr, data: &[u8], flags: MFdFlags) -> io::Result<OwnedFd> {
    let fd = memfd_create(name, flags | MFdFlags::MFD_CLOEXEC)?;
    let file = File::from(fd);
    file.write_all_at(data, 0)?;
    Ok(file.into())
}

/// Sends one packet. A large body goes in a memfd behind the given descriptors.
///
/// # Errors
/// The peer is gone, or the body is larger than [`BODY_MAX`].
pub fn send(socket: RawFd, body: &[u8], fds: &[RawFd]) -> io::Result<()> {
    if body.len() > BODY_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a message of {} bytes; the most is {BODY_MAX}", body.len()),
        ));
    }
    if body.len() <= INLINE_MAX {
        return packet(socket, &[0], body, fds);
    }
    let held = memfd(c"body", body, MFdFlags::empty())?;
    let mut all = fds.to_vec();
    all.push(held.as_raw_fd());
    packet(socket, &[1], &[], &all)
}

/// Answers with a body that, when it is large, goes into a memfd that the other side has sent for this: process 1 may
/// not make any itself, since its filter is that of the programs.
///
/// # Errors
/// The peer is gone, or a large body has no memfd to go to.
pub fn answer(socket: RawFd, body: &[u8], spare: Option<&OwnedFd>) -> io::Result<()> {
    if body.len() <= INLINE_MAX {
        return packet(socket, &[0], body, &[]);
    }
    let spare = spare.ok_or_else(|| io::Error::other("a large answer and no memfd for it"))?;
    File::from(spare.try_clone()?).write_all_at(body, 0)?;
    packet(socket, &[2], &(body.len() as u64).to_le_bytes(), &[])
}

fn packet(socket: RawFd, tag: &[u8], body: &[u8], fds: &[RawFd]) -> io::Result<()> {
    let iov = [IoSlice::new(tag), IoSlice::new(body)];
    let rights = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() { &rights[..0] } else { &rights[..] };
    loop {
        match sendmsg::<()>(socket, &iov, control, MsgFlags::MSG_NOSIGNAL, None) {
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// A body, and the descriptors that came with it.
pub type Packet = (Vec<u8>, Vec<OwnedFd>);

/// Receives one packet; `buf` is reused between calls. `None`: the peer closed its end.
///
/// # Errors
/// The peer sent something that is no packet of ours, or the kernel refused.
pub fn receive(socket: RawFd, buf: &mut Vec<u8>) -> io::Result<Option<Packet>> {
    receive_answer(socket, buf, None)
}

/// As [`receive`], where the body may also lie in a memfd that we have given for it ([`answer`]).
///
/// # Errors
/// As [`receive`].
pub fn receive_answer(
    socket: RawFd,
    buf: &mut Vec<u8>,
    spare: Option<&OwnedFd>,
) -> io::Result<Option<Packet>> {
    buf.resize(INLINE_MAX + 1, 0);
    let mut space = nix::cmsg_space!([RawFd; FDS_MAX]);
    let (n, mut fds) = loop {
        let mut iov = [IoSliceMut::new(buf.as_mut_slice())];
        match recvmsg::<()>(socket, &mut iov, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
            Ok(m) => {
                let mut fds = Vec::new();
                for c in m.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(got) = c {
                        // SAFETY: the kernel has just made these descriptors for us; nobody else owns them.
                        fds.extend(got.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                    }
                }
                if m.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "a packet was cut"));
                }
                break (m.bytes, fds);
            }
            Err(nix::errno::Errno::EINTR) => {}
            Err(nix::errno::Errno::ECONNRESET) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
    };
    if n == 0 {
        return Ok(None);
    }
    let body = match buf[0] {
        0 => buf[1..n].to_vec(),
        1 => {
            let held = fds
                .pop()
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a body without its memfd"))?;
            let file = File::from(held);
            let len = file.metadata()?.len();
            read_body(&file, len)?
        }
        2 if n == 9 => {
            let len = u64::from_le_bytes([buf[1], buf[2], buf[3], buf[4], buf[5], buf[6], buf[7], buf[8]]);
            let spare = spare.ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "a body in a memfd that we never gave")
            })?;
            read_body(&File::from(spare.try_clone()?), len)?
        }
        _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "an unknown kind of packet")),
    };
    Ok(Some((body, fds)))
}

fn read_body(file: &File, len: u64) -> io::Result<Vec<u8>> {
    let len = usize::try_from(len).ok().filter(|n| *n <= BODY_MAX);
    let len = len.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a body that is too large"))?;
    if file.metadata()?.len() < len as u64 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a memfd shorter than its body"));
    }
    let mut body = vec![0; len];
    file.read_exact_at(&mut body, 0)?;
    Ok(body)
}
