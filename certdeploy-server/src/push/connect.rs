//! A target -> a logged-in SFTP session with the host whose key is pinned. Every step has its own limit. It must not
//! know what is sent.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use certdeploy_common::ssh::key;
use certdeploy_common::wire::layout;

use russh::client::{self, AuthResult, Handle};
use russh::keys::{Algorithm, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{ChannelMsg, Disconnect};
use russh_sftp::client::RawSftpSession;
use russh_sftp::protocol::Version;
use tokio::net::TcpStream;

use super::error::{Error, Step, within};
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
struct Cut(OwnedFd);

impl Cut {
    fn of(stream: &TcpStream) -> Result<Self, Error> {
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
    pub(super) async fn open(target: &Target, key: &Arc<PrivateKey>, timeouts: &Timeouts) -> Result<Self, Error> {
        let stream = connect(target, timeouts.connect).await?;
        let cut = Cut::of(&stream)?;
        let pin = Pin { host: target.address.clone(), keys: target.pins.clone() };
        let config =
            Arc::new(client::Config { preferred: preferred(&target.pins), nodelay: true, ..client::Config::default() });
        let mut handle =
            within(Step::Handshake, timeouts.handshake, client::connect_stream(config, stream, pin)).await?;
        within(Step::Login, timeouts.login, login(&mut handle, target, key)).await?;
        let opened = within(Step::Operation, timeouts.operation, sftp(&handle)).await;
        let (sftp, version) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let _ = handle.disconnect(Disconnect::ByApplication, "", "").await;
                return Err(error);
            }
        };
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

async fn connect(target: &Target, limit: Option<Duration>) -> Result<TcpStream, Error> {
    let host = target.address.as_str();
    let resolve = async {
        let found = tokio::net::lookup_host((host, target.port)).await;
        let unknown = |cause: String| Error::Resolve { host: host.to_owned(), cause };
        let addresses: Vec<SocketAddr> = found.map_err(|error| unknown(error.to_string()))?.collect();
        if addresses.is_empty() { Err(unknown("it has no address".to_owned())) } else { Ok(addresses) }
    };
    let addresses = within(Step::Connect, limit, resolve).await?;
    let mut tried = Vec::with_capacity(addresses.len());
    for address in addresses {
        let attempt = async { TcpStream::connect(address).await.map_err(|error| Error::Ssh(error.to_string())) };
        match within(Step::Connect, limit, attempt).await {
            Ok(stream) => {
                // 84 ms instead of 3 for a small push without it; if it cannot be set, the push is only slower.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(Error::Ssh(cause)) => tried.push(format!("{} ({cause})", address.ip())),
            Err(timeout) => tried.push(format!("{} ({timeout})", address.ip())),
        }
    }
    Err(Error::Unreachable { port: target.port, tried: tried.join(", ") })
}

async fn login(handle: &mut Handle<Pin>, target: &Target, key: &Arc<PrivateKey>) -> Result<(), Error> {
    let hash = matches!(key.algorithm(), Algorithm::Rsa { .. }).then_some(HashAlg::Sha512);
    let with = PrivateKeyWithHashAlg::new(Arc::clone(key), hash);
    match handle.authenticate_publickey(&target.username, with).await {
        Ok(AuthResult::Success) => Ok(()),
        Ok(AuthResult::Failure { .. }) => {
            let _ = handle.disconnect(Disconnect::ByApplication, "", "").await;
            Err(Error::Login { user: target.username.clone(), key: key::fingerprint(key.public_key()) })
        }
        Err(error) => Err(Error::Ssh(format!("while logging in: {error}"))),
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

/// Our algorithms, the pinned key's kind first, so that a host with several keys shows that one.
fn preferred(pins: &[PublicKey]) -> russh::Preferred {
    let mut preferred = key::preferred();
    let mut kinds: Vec<Algorithm> = preferred.key.to_vec();
    let is_pinned = |kind: &Algorithm| {
        pins.iter().any(|pin| match (kind, pin.algorithm()) {
            (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }) => true,
            (kind, pinned) => *kind == pinned,
        })
    };
    kinds.sort_by_key(|kind| !is_pinned(kind));
    preferred.key = Cow::Owned(kinds);
    preferred
}

/// Lets through the one host key that is pinned.
pub(super) struct Pin {
    host: String,
    keys: Vec<PublicKey>,
}

impl client::Handler for Pin {
    type Error = Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Error> {
        let got = match shown {
            PublicKeyOrCertificate::PublicKey { key, .. }
                if self.keys.iter().any(|pin| pin.key_data() == key.key_data()) =>
            {
                return Ok(true);
            }
            PublicKeyOrCertificate::PublicKey { key, .. } => key::fingerprint(key),
            PublicKeyOrCertificate::Certificate(_) => "a certificate".to_owned(),
        };
        let pinned = self.keys.iter().map(key::fingerprint).collect::<Vec<_>>().join("' or '");
        Err(Error::HostKey { host: self.host.clone(), got, pinned })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pinned_kind_is_asked_for_first() {
        let ecdsa = "AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBEmKSENjQEezOmxkZMy7opKgwFB9nkt5YRrYMjNuG5N87uRgg6CLrbo5wAdT/y6v0mKV0U2w0WZ2YB/++Tpockg=";
        let pin = key::parse_public(ecdsa).unwrap();
        assert_eq!(preferred(std::slice::from_ref(&pin)).key.first(), Some(&pin.algorithm()));
        assert!(preferred(&[pin]).key.len() > 1);
    }

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
