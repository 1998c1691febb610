//! Handing open descriptors to the other process: the incoming directory and the listening sockets (SCM_RIGHTS).

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use certdeploy_common::daemon::logging::Handed;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

use crate::dir::Dir;

/// The most descriptors handed over at once: the directory and the sockets.
const MOST: usize = 64;

/// What the receiver gets to hold.
#[derive(Debug)]
pub struct Handover {
    /// Where uploads are staged.
    pub incoming: Dir,
    /// Where peers connect.
    pub listeners: Vec<TcpListener>,
    /// Where lines of the log go, besides the stream.
    pub logs: Handed,
}

/// What the one byte says: which log files come behind the directory.
const NONE: u8 = b'0';
const OWN: u8 = 1;
const LIBRARY: u8 = 2;

/// Sends the descriptors, before any message.
///
/// # Errors
/// As `sendmsg(2)`, or too many.
pub fn send(socket: &UnixStream, incoming: &Dir, listeners: &[TcpListener], logs: &Handed) -> io::Result<()> {
    let mut fds: Vec<BorrowedFd<'_>> = vec![incoming.as_fd()];
    let mut which = NONE;
    for (bit, file) in [(OWN, &logs.own), (LIBRARY, &logs.library)] {
        if let Some(file) = file {
            which |= bit;
            fds.push(file.as_fd());
        }
    }
    fds.extend(listeners.iter().map(AsFd::as_fd));
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if fds.len() > MOST || !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::other(format!("more than {MOST} listening sockets")));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(&[which])], &mut ancillary, SendFlags::empty())?;
    Ok(())
}

/// Receives the descriptors.
///
/// # Errors
/// As `recvmsg(2)`, or the other side sent something else.
pub fn receive(socket: &UnixStream) -> io::Result<Handover> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds: Vec<OwnedFd> = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    let mut fds = fds.into_iter();
    let incoming = fds.next().ok_or_else(|| io::Error::other("no descriptors came"))?;
    let mut log = |bit: u8| if byte[0] & bit != 0 { fds.next().map(|fd| Arc::new(File::from(fd))) } else { None };
    let logs = Handed { own: log(OWN), library: log(LIBRARY) };
    Ok(Handover { incoming: Dir::from_fd(incoming), listeners: fds.map(TcpListener::from).collect(), logs })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_and_sockets_arrive_and_work() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("mark"), "").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (one, other) = UnixStream::pair().unwrap();
        let log = std::fs::File::create(temp.path().join("log")).unwrap();
        let logs = Handed { own: None, library: Some(Arc::new(log)) };
        send(&one, &Dir::open(temp.path()).unwrap(), &[listener], &logs).unwrap();
        let got = receive(&other).unwrap();
        assert!(got.logs.own.is_none());
        std::io::Write::write_all(&mut got.logs.library.as_deref().unwrap(), b"line").unwrap();
        assert_eq!(std::fs::read(temp.path().join("log")).unwrap(), b"line");
        assert!(got.incoming.has("mark"));
        assert_eq!(got.listeners[0].local_addr().unwrap(), address);
    }
}
