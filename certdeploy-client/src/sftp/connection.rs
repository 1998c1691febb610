//! One SSH connection: public keys only, one channel, the subsystem sftp and nothing else. Callbacks are translated
//! and every request that is not ours is answered with a failure, or the peer would hang.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use certdeploy_common::ssh::key;
use russh::server::{Auth, ChannelOpenHandle, Config, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, MethodKind, MethodSet, Pty};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::cut::Cuttable;
use super::gate::Place;
use super::refusals::{self, Refusals};
use super::shared::Shared;
use super::{auth, pump, show};
use crate::config::pushers::Scope;
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
        // As OpenSSH: the question for the methods counts, and an agent may offer several keys before the right one.
        max_auth_attempts: 6,
        keys: vec![host_key],
        preferred: key::preferred(),
        inactivity_timeout: Some(setup.limits.idle_timeout),
        nodelay: true,
        ..Config::default()
    })
}

/// The task that serves the one channel of a connection, once there is one.
type Pump = Arc<Mutex<Option<JoinHandle<()>>>>;

/// The one channel of a connection, until somebody serves it.
type Waiting = Arc<Mutex<Option<Channel<Msg>>>>;

/// How long the library may take to end a connection that is cut.
const CUT: Duration = Duration::from_secs(2);

/// Serves one connection until its end, or until a limit is reached; returns when what it brought is taken care of.
pub async fn run(
    stream: TcpStream,
    peer: SocketAddr,
    shared: Arc<Shared>,
    config: Arc<Config>,
    cut: CancellationToken,
    place: Place,
) {
    let known = CancellationToken::new();
    let refused = Arc::new(Refusals::default());
    let (part, parted) = watch::channel(None);
    let limits = shared.limits.clone();
    let (pump, channel) = (Pump::default(), Waiting::default());
    let place = Arc::new(place);
    let handler = Peer {
        shared,
        address: show(peer),
        peer,
        // The library may be slow to let go of the handler; the place is free when we are done.
        place: Arc::downgrade(&place),
        known: known.clone(),
        refused: Arc::clone(&refused),
        pusher: None,
        cut: cut.clone(),
        parted,
        channel: Arc::clone(&channel),
        opened: false,
        pump: Arc::clone(&pump),
    };
    let entered = Arc::downgrade(&place);
    let stream = Cuttable::new(stream, cut.clone(), move || _ = entered.upgrade().map(|place| place.begun()));
    let serving = async {
        match russh::server::run_stream(config, stream, handler).await {
            Ok(running) => running.await,
            Err(error) => Err(error),
        }
    };
    let late = AtomicBool::new(false);
    let watching = async {
        if tokio::time::timeout(limits.login_grace_time, known.cancelled()).await.is_err() {
            late.store(true, Ordering::Relaxed);
            cut.cancel();
        }
        tokio::time::sleep(limits.session_timeout).await;
        tracing::warn!("Ended connection with {}: it lasted {} s", show(peer), limits.session_timeout.as_secs());
        cut.cancel();
        std::future::pending::<std::convert::Infallible>().await
    };
    let ended = tokio::select! {
        ended = serving => ended,
        never = watching => match never {},
        () = cut_off(&cut, &channel) => {
            tracing::warn!("The connection with {} is given up: it does not end by itself", show(peer));
            Err(russh::Error::Disconnect)
        }
    };
    part.send_replace(Some(ended.is_ok() && !cut.is_cancelled()));
    if let Err(error) = ended {
        tracing::debug!("Connection with {} ended: {error}", show(peer));
    }
    if !known.is_cancelled() {
        stranger(peer, &refused, late.load(Ordering::Relaxed).then_some(limits.login_grace_time));
    }
    finished(&pump, peer).await;
}

/// Returns when a connection that was cut has had its time to end.
async fn cut_off(cut: &CancellationToken, channel: &Waiting) {
    cut.cancelled().await;
    // The library stands still while it has something for a channel that nobody reads.
    drop(lock(channel).take());
    tokio::time::sleep(CUT).await;
}

/// One line about each stranger at most, whatever he tried; `late` is how long he had.
fn stranger(peer: SocketAddr, refused: &Refusals, late: Option<Duration>) {
    match (refused.told(), late) {
        (Some(first), _) => tracing::info!("Refused {} {first}", show(peer)),
        (None, Some(limit)) => {
            tracing::info!("Ended connection with {}: not authenticated in {} s", show(peer), limit.as_secs());
        }
        (None, None) => tracing::debug!("{} left without authenticating", show(peer)),
    }
}

/// Who leaves by a word for the whole connection leaves before the uploads are taken over: waits for that.
async fn finished(pump: &Pump, peer: SocketAddr) {
    let pumping = lock(pump).take();
    if let Some(Err(error)) = async { Some(pumping?.await) }.await {
        tracing::error!("Cannot finish what {} has uploaded: {error}", show(peer));
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Peer {
    shared: Arc<Shared>,
    address: String,
    peer: SocketAddr,
    place: Weak<Place>,
    known: CancellationToken,
    refused: Arc<Refusals>,
    /// Which pusher it is, and what that may upload, once it has proved who it is.
    pusher: Option<(usize, Scope)>,
    cut: CancellationToken,
    parted: watch::Receiver<Option<bool>>,
    channel: Waiting,
    opened: bool,
    pump: Pump,
}

impl Handler for Peer {
    type Error = russh::Error;

    async fn auth_publickey_offered(&mut self, user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, Self::Error> {
        let allowed = auth::find(user, offer.public_key, &self.shared.pushers).is_some();
        if !allowed {
            self.refused.note(|| {
                let (user, key) = (refusals::cut(user), key::fingerprint(offer.public_key));
                format!("as `{user}` with key {key}: not a pusher's name and key")
            });
        }
        Ok(auth::verdict(allowed))
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        let found = auth::find(user, key.public_key, &self.shared.pushers);
        self.pusher = found.map(|(which, pusher)| (which, pusher.scope.clone()));
        Ok(auth::verdict(self.pusher.is_some()))
    }

    async fn auth_succeeded(&mut self, _: &mut Session) -> Result<(), Self::Error> {
        tracing::info!("Got connection from ('{}', {})", self.peer.ip().to_canonical(), self.peer.port());
        if let (Some(place), Some((which, _))) = (self.place.upgrade(), &self.pusher) {
            place.authenticated(*which);
        }
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
        *lock(&self.channel) = Some(channel);
        reply.accept().await;
        Ok(())
    }

    async fn subsystem_request(&mut self, id: ChannelId, name: &str, session: &mut Session) -> Result<(), Self::Error> {
        let wanted = name == "sftp" && self.known.is_cancelled();
        let channel = lock(&self.channel).take_if(|channel| wanted && channel.id() == id);
        match (channel, self.pusher.clone()) {
            (Some(channel), Some((_, scope))) => {
                session.channel_success(id)?;
                let (address, cut, parted) = (self.address.clone(), self.cut.clone(), self.parted.clone());
                let peer = pump::Peer { address, scope, cut, parted };
                let pumping = tokio::spawn(pump::run(channel, session.handle(), Arc::clone(&self.shared), peer));
                *lock(&self.pump) = Some(pumping);
            }
            _ => session.channel_failure(id)?,
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
