//! The line between applier and receiver: typed messages over a socketpair, one JSON object a line. In one process
//! (not started by root) the same line leads from one task to another.

pub mod handover;
pub mod listen;
pub mod outbox;
pub mod spawn;

use std::io;
use std::path::PathBuf;

use certdeploy_common::cert::Lineage;
use certdeploy_common::daemon::logging::{self, LogFormat, LogLevel};
use certdeploy_common::wire::{Holdings, PushId, Receipt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use zeroize::Zeroizing;

use crate::config::pushers::Scope;
use crate::config::settings::LogPolicy;
use crate::config::sftpd::Limits;

/// What the applier says.
#[derive(Serialize, Deserialize)]
pub enum ToReceiver {
    /// The first message: everything the receiver needs to know.
    Setup(Box<Setup>),
    /// The verdict on a push.
    Receipt(Receipt),
    /// What is held has changed.
    Holdings(Holdings),
    /// Are you there?
    Ping,
    /// Take no new connections, end the open ones, then end.
    Drain,
}

/// What the receiver says.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToApplier {
    /// An upload is complete and durable.
    Committed(Commit),
    /// Somebody asks what is held now.
    Ask,
    /// Yes: the answer to a ping.
    Pong,
}

/// An upload that is complete and durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Commit {
    /// A push of one of ours; it wants a receipt.
    Push(PushId),
    /// Files of a lineage from a peer that only puts files.
    Plain(Lineage),
}

/// What the receiver works by. Holds the host key, hence no `Debug`.
#[derive(Serialize, Deserialize)]
pub struct Setup {
    /// The host key, in OpenSSH form.
    pub host_key: Zeroizing<String>,
    /// Who may push.
    pub pushers: Vec<PusherLine>,
    /// What peers may call the root by: the `source` of the config.
    pub source: String,
    /// Limits of connections.
    pub limits: Limits,
    /// What is logged, and how.
    pub log: Log,
}

/// Somebody who may push.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PusherLine {
    /// The name it logs in with.
    pub username: String,
    /// Its public key, as one line.
    pub key: String,
    /// What it may upload.
    pub scope: Scope,
}

/// The receiver's log. Its files come as descriptors; what is named here are streams.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Log {
    level: LogLevel,
    format: LogFormat,
    file: Option<PathBuf>,
    library_level: LogLevel,
    library_file: Option<PathBuf>,
}

impl Log {
    /// Of what the config says.
    #[must_use]
    pub fn of(policy: &LogPolicy) -> Self {
        let stream = |file: &Option<PathBuf>| file.clone().filter(|path| logging::is_stream(path));
        Self {
            level: policy.level,
            format: policy.format,
            file: stream(&policy.file),
            library_level: policy.library_level,
            library_file: stream(&policy.library_file),
        }
    }

    /// The same as the config would say it.
    #[must_use]
    pub fn policy(&self) -> LogPolicy {
        LogPolicy {
            level: self.level,
            format: self.format,
            file: self.file.clone(),
            library_level: self.library_level,
            library_file: self.library_file.clone(),
        }
    }
}

/// The longest message, in bytes. Holdings of 10,000 lineages fit.
const MESSAGE_LIMIT: u64 = 8 * 1024 * 1024;

/// The sending end.
#[derive(Debug)]
pub struct Sender(OwnedWriteHalf);

/// The receiving end.
#[derive(Debug)]
pub struct Receiver(BufReader<OwnedReadHalf>);

/// Makes the two ends of this side's socket.
#[must_use]
pub fn split(socket: UnixStream) -> (Sender, Receiver) {
    let (read, write) = socket.into_split();
    (Sender(write), Receiver(BufReader::new(read)))
}

/// A message as it goes over the line, its end included.
pub type Line = Zeroizing<Vec<u8>>;

/// A message that the other side would not read.
#[derive(Debug, thiserror::Error)]
#[error("a message of {0} bytes is too long, {MESSAGE_LIMIT} are the most")]
pub struct TooLong(usize);

impl TooLong {
    /// Whether this is what is wrong.
    #[must_use]
    pub fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Self>())
    }
}

/// Makes a message ready.
///
/// # Errors
/// [`TooLong`].
pub fn line(message: &impl Serialize) -> io::Result<Line> {
    let mut line = Zeroizing::new(serde_json::to_vec(message)?);
    line.push(b'\n');
    match u64::try_from(line.len()) {
        Ok(..=MESSAGE_LIMIT) => Ok(line),
        _ => Err(io::Error::other(TooLong(line.len()))),
    }
}

impl Sender {
    /// Sends one message.
    ///
    /// # Errors
    /// The other side has ended, or the message is too long.
    pub async fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        self.write(&line(message)?).await
    }

    async fn write(&mut self, line: &Line) -> io::Result<()> {
        self.0.write_all(line).await
    }
}

impl Receiver {
    /// The next message; `None` when the other side has ended. May be dropped and called again: no byte is lost.
    ///
    /// # Errors
    /// Not a message, or one that is too long.
    pub async fn next<T: DeserializeOwned>(&mut self, pending: &mut Vec<u8>) -> io::Result<Option<T>> {
        let room = MESSAGE_LIMIT.saturating_sub(u64::try_from(pending.len()).unwrap_or(u64::MAX));
        (&mut self.0).take(room).read_until(b'\n', pending).await?;
        if pending.last() != Some(&b'\n') {
            return if pending.is_empty() { Ok(None) } else { Err(io::Error::other("a message was cut or too long")) };
        }
        let message = serde_json::from_slice(pending)?;
        pending.clear();
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_arrive_whole_and_the_end_is_seen() {
        let (one, other) = UnixStream::pair().unwrap();
        let (mut send, _keep) = split(one);
        let (_, mut receive) = split(other);
        let commit = Commit::Plain("a.example".parse().unwrap());
        send.send(&ToApplier::Committed(commit.clone())).await.unwrap();
        let mut pending = Vec::new();
        let got = receive.next(&mut pending).await.unwrap();
        assert!(matches!(got, Some(ToApplier::Committed(got)) if got == commit));
        drop((send, _keep));
        assert!(receive.next::<ToApplier>(&mut pending).await.unwrap().is_none());
    }
}
