//! A target -> a logged-in SFTP session with the host whose key is pinned. Every step has its own limit. It must not
//! know what is sent.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use certdeploy_common::wire::layout;

use russh::client::{self, Handle};
use russh::{ChannelMsg, Disconnect};
use russh_sftp::client::RawSftpSession;
use russh_sftp::protocol::Version;
use tokio::net::TcpStream;

use super::dial::dial;
use super::error::{Error, Step, within};
use super::host_key::{Pin, preferred};
use super::login::login;
use crate::config::identity::Identity;
use crate::config::{Target, Timeouts};

/// What a peer turned out to be, by the extensions of its VERSION reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// A certdeploy-client of ours.
    Ours,
    /// Anything else.
    Plain(Plain),
}

/// What a plain peer can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plain {
    /// `posix-rename@openssh.com`: files can be replaced at once.
    pub(super) rename: bool,
    /// `fsync@openssh.com`.
    pub(super) fsync: bool,
}

impl Peer {
    fn of(version: &Version) -> Self {
        let has = |name: &str| version.extensions.contains_key(name);
        if version.extensions.get(layout::EXTENSION).is_some_and(|version| version == layout::VERSION) {
            Self::Ours
        } else {
            Self::Plain(Plain { rename: has("posix-rename@openssh.com"), fsync: has("fsync@openssh.com") })
        }
    }
}

/// A logged-in SFTP session.
pub(super) struct Session {
    pub(super) sftp: RawSftpSession,
    pub(super) peer: Peer,
    pub(super) operation: Option<Duration>,
    handle: Handle<Pin>,
    cut: Cut,
}

/// Shuts the connection down when dropped: whatever a library's task still waits for ends now.
pub(super) struct Cut(OwnedFd);

impl Cut {
    pub(super) fn of(stream: &TcpStream) -> Result<Self, Error> {
        stream.as_fd().try_clone_to_owned().map(Self).map_err(|error| Error::Ssh(error.to_string()))
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        // It may be closed already.
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Both);
    }
}

/// How long the goodbye may take.
const GOODBYE: Duration = Duration::from_secs(2);

impl Session {
    /// Connects, compares the host key, logs in, starts SFTP.
    pub(super) async fn open(target: &Target, identity: &Identity, timeouts: &Timeouts) -> Result<Self, Error> {
        let stream = dial(&target.address, target.port, timeouts.connect).await?;
        let cut = Cut::of(&stream)?;
        let pin = Pin::new(&target.address, target.port, &target.pins);
        let config =
            Arc::new(client::Config { preferred: preferred(&target.pins), nodelay: true, ..client::Config::default() });
        let handshake = async {
            let shaken = client::connect_stream(config, stream, pin.clone()).await;
            shaken.map_err(|ended| pin.judge(ended))
        };
        let mut handle = within(Step::Handshake, timeouts.handshake, handshake).await?;
        within(Step::Login, timeouts.login, login(&mut handle, &target.username, identity)).await?;
        let (sftp, version) = within(Step::Operation, timeouts.operation, sftp(&handle)).await?;
        Ok(Self { sftp, peer: Peer::of(&version), operation: timeouts.operation, handle, cut })
    }

    /// Gives one SFTP operation on `path` its limit, and its error the path.
    pub(super) async fn operation<T>(
        &self,
        path: &str,
        work: impl Future<Output = Result<T, russh_sftp::client::error::Error>>,
    ) -> Result<T, Error> {
        within(Step::Operation, self.operation, async { work.await.map_err(|error| Error::sftp(path, error)) }).await
    }

    /// Ends the session and the connection: some peers act only then.
    pub(super) async fn end(self) {
        let Self { sftp, handle, cut, .. } = self;
        let _ = sftp.close_session();
        let goodbye = async {
            let _ = handle.disconnect(Disconnect::ByApplication, "", "").await;
            let _ = handle.await;
        };
        let _ = tokio::time::timeout(GOODBYE, goodbye).await;
        drop(cut);
    }
}

async fn sftp(handle: &Handle<Pin>) -> Result<(RawSftpSession, Version), Error> {
    let no = |cause: &dyn std::fmt::Display| Error::NoSftp(cause.to_string());
    let mut channel = handle.channel_open_session().await.map_err(|error| no(&error))?;
    channel.request_subsystem(true, "sftp").await.map_err(|error| no(&error))?;
    loop {
        match channel.wait().await {
            Some(ChannelMsg::Success) => break,
            Some(ChannelMsg::WindowAdjusted { .. }) => {}
            Some(ChannelMsg::Failure) => return Err(no(&"it refuses the subsystem")),
            Some(_) | None => return Err(no(&"it closed the channel")),
        }
    }
    let sftp = RawSftpSession::new(channel.into_stream());
    // Our own limits are finer than its whole seconds.
    sftp.set_timeout(u64::from(u32::MAX));
    let version = sftp.init().await.map_err(|error| no(&error))?;
    Ok((sftp, version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_is_told_by_its_extensions() {
        let of = |pairs: &[(&str, &str)]| {
            let extensions = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            Peer::of(&Version { version: 3, extensions })
        };
        assert_eq!(of(&[("push@certdeploy", "1")]), Peer::Ours);
        assert_eq!(of(&[("push@certdeploy", "2")]), Peer::Plain(Plain { rename: false, fsync: false }));
        let sshd = [("posix-rename@openssh.com", "1"), ("fsync@openssh.com", "1")];
        assert_eq!(of(&sshd), Peer::Plain(Plain { rename: true, fsync: true }));
        assert_eq!(of(&[("check-file", "md5,sha1")]), Peer::Plain(Plain { rename: false, fsync: false }));
    }
}
