//! OpenSSH's client against a target: just to log in, or as a pipe into the subsystem sftp that takes any packet, for
//! what no client would ever send.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use crate::process::command;
use crate::wait::PATIENCE;

/// The kinds of SFTP's packets that tests use.
pub mod kind {
    /// The first of a session.
    pub const INIT: u8 = 1;
    /// Opens a file.
    pub const OPEN: u8 = 3;
    /// Closes a handle.
    pub const CLOSE: u8 = 4;
    /// Reads from a file.
    pub const READ: u8 = 5;
    /// Writes into a file.
    pub const WRITE: u8 = 6;
    /// Makes a directory.
    pub const MKDIR: u8 = 14;
    /// Renames.
    pub const RENAME: u8 = 18;
    /// How it went.
    pub const STATUS: u8 = 101;
    /// A handle.
    pub const HANDLE: u8 = 102;
    /// Bytes of a file.
    pub const DATA: u8 = 103;
}

/// `ssh` to a port of loopback with these keys; what follows the destination is the caller's.
#[must_use]
pub fn client(user: &str, port: u16, keys: &[&Path]) -> Command {
    let mut ssh = command("/usr/bin/ssh");
    for option in [
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "GlobalKnownHostsFile=/dev/null",
        "LogLevel=ERROR",
        "IdentitiesOnly=yes",
        "BatchMode=yes",
        "PreferredAuthentications=publickey",
    ] {
        ssh.arg("-o").arg(option);
    }
    ssh.args(["-F", "none", "-p", &port.to_string(), "-l", user]);
    for key in keys {
        ssh.arg("-i").arg(key);
    }
    ssh
}

/// The same from another address of loopback.
#[must_use]
pub fn client_from(from: Ipv4Addr, user: &str, port: u16, keys: &[&Path]) -> Command {
    let mut ssh = client(user, port, keys);
    ssh.arg("-b").arg(from.to_string());
    ssh
}

/// A packet that came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Its kind.
    pub kind: u8,
    /// The request that it answers.
    pub id: u32,
    /// What follows.
    pub body: Vec<u8>,
}

impl Reply {
    /// The code of a status; `None` for anything else.
    #[must_use]
    pub fn code(&self) -> Option<u32> {
        let code: [u8; 4] = self.body.get(..4)?.try_into().ok()?;
        (self.kind == kind::STATUS).then(|| u32::from_be_bytes(code))
    }

    /// The words of a status, the bytes of data, the name of a handle.
    #[must_use]
    pub fn words(&self) -> String {
        let from = if self.kind == kind::STATUS { 4 } else { 0 };
        let text = self.body.get(from + 4..).unwrap_or_default();
        let length =
            self.body.get(from..from + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes);
        String::from_utf8_lossy(text.get(..length as usize).unwrap_or_default()).into_owned()
    }
}

/// A session of SFTP, packet by packet. Ends with this value, without a good-bye.
#[derive(Debug)]
pub struct Sftp {
    child: Child,
    input: Option<ChildStdin>,
    replies: Receiver<Reply>,
    next: u32,
}

impl Sftp {
    /// Opens one by `ssh`, which comes from [`client`].
    ///
    /// # Panics
    /// It is not let in.
    #[must_use]
    pub fn open(mut ssh: Command) -> Self {
        ssh.args(["-s", "127.0.0.1", "sftp"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = ssh.spawn().expect("ssh");
        let (input, mut output) = (child.stdin.take(), child.stdout.take().expect("a pipe"));
        let (sender, replies) = channel();
        std::thread::spawn(move || {
            while let Some(reply) = packet(&mut output) {
                if sender.send(reply).is_err() {
                    return;
                }
            }
        });
        let mut sftp = Self { child, input, replies, next: 0 };
        sftp.raw(&[0, 0, 0, 5, kind::INIT, 0, 0, 0, 3]);
        let version = sftp.reply();
        assert_eq!((version.kind, version.id), (2, 3), "{version:?}");
        sftp
    }

    /// Sends bytes as they are. That nobody listens any more is not said here.
    pub fn raw(&mut self, bytes: &[u8]) {
        if let Some(input) = &mut self.input {
            let _ = input.write_all(bytes);
        }
    }

    /// Sends a request; its id.
    ///
    /// # Panics
    /// It is larger than 4 GiB.
    pub fn send(&mut self, kind: u8, body: &[u8]) -> u32 {
        self.next += 1;
        let length = u32::try_from(body.len() + 5).expect("a length");
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.push(kind);
        bytes.extend(self.next.to_be_bytes());
        bytes.extend(body);
        self.raw(&bytes);
        self.next
    }

    /// The next answer; `None`: the session has ended.
    ///
    /// # Panics
    /// Nothing comes for long.
    pub fn answer(&mut self) -> Option<Reply> {
        use std::sync::mpsc::RecvTimeoutError;
        match self.replies.recv_timeout(PATIENCE) {
            Ok(reply) => Some(reply),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("no answer within {PATIENCE:?}"),
        }
    }

    /// The next answer.
    ///
    /// # Panics
    /// The session has ended, or nothing comes for long.
    pub fn reply(&mut self) -> Reply {
        self.answer().expect("the session goes on")
    }

    /// One request and its answer.
    pub fn ask(&mut self, kind: u8, body: &[u8]) -> Reply {
        let id = self.send(kind, body);
        let reply = self.reply();
        assert_eq!(reply.id, id, "{reply:?}");
        reply
    }

    /// `OPEN` with these flags: the handle, or the refusal.
    ///
    /// # Errors
    /// It was refused.
    pub fn open_file(&mut self, path: &str, flags: u32) -> Result<String, Reply> {
        let body = [text(path.as_bytes()), flags.to_be_bytes().to_vec(), vec![0; 4]].concat();
        let reply = self.ask(kind::OPEN, &body);
        if reply.kind == kind::HANDLE { Ok(reply.words()) } else { Err(reply) }
    }

    /// `MKDIR`.
    pub fn make_directory(&mut self, path: &str) -> Reply {
        self.ask(kind::MKDIR, &[text(path.as_bytes()), vec![0; 4]].concat())
    }

    /// `WRITE`.
    pub fn write(&mut self, handle: &str, offset: u64, bytes: &[u8]) -> Reply {
        self.ask(kind::WRITE, &[text(handle.as_bytes()), offset.to_be_bytes().to_vec(), text(bytes)].concat())
    }

    /// `CLOSE`.
    pub fn close(&mut self, handle: &str) -> Reply {
        self.ask(kind::CLOSE, &text(handle.as_bytes()))
    }

    /// Opens, writes and closes one file.
    ///
    /// # Errors
    /// The first refusal.
    pub fn put(&mut self, path: &str, flags: u32, bytes: &[u8]) -> Result<(), Reply> {
        let handle = self.open_file(path, flags)?;
        for (offset, piece) in (0..).step_by(8192).zip(bytes.chunks(8192)) {
            let reply = self.write(&handle, offset, piece);
            if reply.code() != Some(0) {
                return Err(reply);
            }
        }
        let reply = self.close(&handle);
        if reply.code() == Some(0) { Ok(()) } else { Err(reply) }
    }

    /// The whole of a file that can be read, in one piece of at most 32 KiB.
    ///
    /// # Errors
    /// The refusal.
    pub fn get(&mut self, path: &str) -> Result<String, Reply> {
        let handle = self.open_file(path, flags::READ)?;
        let body = [text(handle.as_bytes()), vec![0; 8], 32_768_u32.to_be_bytes().to_vec()].concat();
        let reply = self.ask(kind::READ, &body);
        let _ = self.close(&handle);
        if reply.kind == kind::DATA { Ok(reply.words()) } else { Err(reply) }
    }

    /// Ends the session cleanly, as `sftp` does.
    ///
    /// # Panics
    /// It does not end.
    pub fn bye(mut self) {
        drop(self.input.take());
        while self.answer().is_some() {}
        let _ = self.child.wait();
    }
}

impl Sftp {
    /// Ends as `lftp` does: its `ssh` is told to end, and says good-bye for the whole connection.
    ///
    /// # Panics
    /// It does not end.
    pub fn terminate(mut self) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("a signal");
        while self.answer().is_some() {}
        let _ = self.child.wait();
    }
}

impl Drop for Sftp {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The flags of `OPEN`.
pub mod flags {
    /// For reading.
    pub const READ: u32 = 1;
    /// For writing.
    pub const WRITE: u32 = 2;
    /// Each write goes to the end.
    pub const APPEND: u32 = 4;
    /// Made if it is not there.
    pub const CREATE: u32 = 8;
    /// Emptied.
    pub const TRUNCATE: u32 = 16;
    /// Must not be there.
    pub const EXCLUSIVE: u32 = 32;
}

/// Bytes behind their length.
///
/// # Panics
/// More than 4 GiB.
#[must_use]
pub fn text(bytes: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(bytes.len()).expect("a length").to_be_bytes().to_vec();
    out.extend(bytes);
    out
}

fn packet(from: &mut impl Read) -> Option<Reply> {
    let mut length = [0; 4];
    from.read_exact(&mut length).ok()?;
    let mut bytes = vec![0; u32::from_be_bytes(length) as usize];
    from.read_exact(&mut bytes).ok()?;
    let id = u32::from_be_bytes(bytes.get(1..5)?.try_into().ok()?);
    Some(Reply { kind: *bytes.first()?, id, body: bytes.split_off(5) })
}
