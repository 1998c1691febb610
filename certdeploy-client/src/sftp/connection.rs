//! One SSH connection: public keys only, one channel, the subsystem sftp and nothing else. Callbacks are translated
//! and every request that is not ours is answered with a failure, or the peer would hang.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use certdeploy_common::ssh::key;
use russh::keys::PublicKey;
use russh::server::{Auth, ChannelOpenHandle, Config, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, MethodKind, MethodSet, Pty};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::cut::Cuttable;
use super::gate::Place;
use super::shared::Shared;
use super::{auth, pump, show};
use crate::link::Setup;

/// The library's set-up.
///
/// # Errors
/// The host key is not one; does not happen, the applier has read it.
pub fn config(setup: &Setup) -> io::Result<Config> {
    let host_key = key::parse_private(&setup.host_key, "the host key").map_err(io::Error::other)?;
    Ok(Config {
        methods: MethodSet::from([MethodKind::PublicKey].as_slice()),
        auth_rejection_time: Duration::from_secs(1),
        auth_rejection_time_initial: Some(Duration::ZERO),
        max_auth_attempts: 3,
        keys: vec![host_key],
        preferred: key::preferred(),
        inactivity_timeout: Some(setup.limits.idle_timeout),
        nodelay: true,
        ..Config::default()
    })
}

/// Serves one connection until its end, or until a limit is reached.
pub async fn run(
    stream: TcpStream,
    peer: SocketAddr,
    shared: Arc<Shared>,
    config: Arc<Config>,
    cut: CancellationToken,
    place: Place,
) {
    let known = CancellationToken::new();
    let limits = shared.limits.clone();
    let handler = Peer {
        shared,
        address: show(peer),
        place,
        known: known.clone(),
        cut: cut.clone(),
        channel: None,
        opened: false,
    };
    let stream = Cuttable::new(stream, cut.clone());
    let serving = async {
        match russh::server::run_stream(config, stream, handler).await {
            Ok(running) => running.await,
            Err(error) => Err(error),
        }
    };
    let watching = async {
        if tokio::time::timeout(limits.login_grace_time, known.cancelled()).await.is_err() {
            tracing::info!(
                "Ended connection with {}: not authenticated in {} s",
                show(peer),
                limits.login_grace_time.as_secs()
            );
            cut.cancel();
        }
        tokio::time::sleep(limits.session_timeout).await;
        tracing::warn!("Ended connection with {}: it lasted {} s", show(peer), limits.session_timeout.as_secs());
        cut.cancel();
    };
    tokio::pin!(serving, watching);
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = &mut watching => serving.await,
    };
    if let Err(error) = ended {
        tracing::debug!("Connection with {} ended: {error}", show(peer));
    }
    if !known.is_cancelled() {
        tracing::debug!("{} left without authenticating", show(peer));
    }
}

struct Peer {
    shared: Arc<Shared>,
    address: String,
    place: Place,
    known: CancellationToken,
    cut: CancellationToken,
    channel: Option<Channel<Msg>>,
    opened: bool,
}

impl Peer {
    fn is_pusher(&self, user: &str, key: &PublicKey) -> bool {
        auth::is_pusher(user, key, &self.shared.username, &self.shared.pusher)
    }
}

impl Handler for Peer {
    type Error = russh::Error;

    async fn auth_publickey_offered(&mut self, user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, Self::Error> {
        let allowed = self.is_pusher(user, offer.public_key);
        if !allowed {
            let fingerprint = key::fingerprint(offer.public_key);
            tracing::info!(
                "Refused {} as `{user}` with key {fingerprint}: not the pusher's name and key",
                self.address
            );
        }
        Ok(auth::verdict(allowed))
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        Ok(auth::verdict(self.is_pusher(user, key.public_key)))
    }

    async fn auth_succeeded(&mut self, _: &mut Session) -> Result<(), Self::Error> {
        self.place.authenticated();
        self.known.cancel();
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        if self.opened || !self.known.is_cancelled() {
            reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
            return Ok(());
        }
        self.opened = true;
        self.channel = Some(channel);
        reply.accept().await;
        Ok(())
    }

    async fn subsystem_request(&mut self, id: ChannelId, name: &str, session: &mut Session) -> Result<(), Self::Error> {
        let wanted = name == "sftp" && self.known.is_cancelled();
        match self.channel.take_if(|channel| wanted && channel.id() == id) {
            Some(channel) => {
                session.channel_success(id)?;
                let (shared, address) = (Arc::clone(&self.shared), self.address.clone());
                tokio::spawn(pump::run(channel, session.handle(), shared, address, self.cut.clone()));
            }
            None => session.channel_failure(id)?,
        }
        Ok(())
    }

    async fn exec_request(&mut self, id: ChannelId, _: &[u8], session: &mut Session) -> Result<(), Self::Error> {
        session.channel_failure(id)
    }

    async fn shell_request(&mut self, id: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        session.channel_failure(id)
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        _: &str,
        _: u32,
        _: u32,
        _: u32,
        _: u32,
        _: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(id)
    }

    async fn env_request(&mut self, id: ChannelId, _: &str, _: &str, session: &mut Session) -> Result<(), Self::Error> {
        session.channel_failure(id)
    }

    async fn x11_request(
        &mut self,
        id: ChannelId,
        _: bool,
        _: &str,
        _: &str,
        _: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(id)
    }
}
