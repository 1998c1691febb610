//! The receiver: the only part that talks to peers. Owns the accept loop (the library's own ends at the first error)
//! and the limits; hands complete uploads to the applier and knows nothing of what becomes of them.

pub mod auth;
pub mod connection;
pub mod cut;
pub mod gate;
pub mod guard;
pub mod pump;
pub mod shared;
pub mod status;
pub mod verbs;

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use certdeploy_common::daemon::logging::Handed;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::link::{self, Setup, ToReceiver, handover};
use gate::{Gate, Place};
use shared::Shared;

/// How long the accept loop rests when the system has no descriptors left.
const BREATHER: Duration = Duration::from_millis(100);

/// How often it is said that peers are turned away.
const SAY: Duration = Duration::from_secs(1);

/// Everything after the line has spoken its first words: serves until told to drain or until the applier is gone.
///
/// # Errors
/// The applier says nothing sensible, or is gone.
pub async fn serve(line: UnixStream, start_log: fn(&Setup, Handed)) -> io::Result<()> {
    let handed = handover::receive(&line)?;
    line.set_nonblocking(true)?;
    let (mut sender, mut receiver) = link::split(tokio::net::UnixStream::from_std(line)?);
    let mut pending = Vec::new();
    let Some(ToReceiver::Setup(setup)) = receiver.next(&mut pending).await? else {
        return Err(io::Error::other("the applier did not begin with the set-up"));
    };
    start_log(&setup, handed.logs);
    let (words, mut spoken) = mpsc::channel(64);
    let config = Arc::new(connection::config(&setup)?);
    let drain_timeout = setup.limits.drain_timeout;
    let shared = Arc::new(Shared::new(handed.incoming, &setup, words).map_err(io::Error::other)?);
    let draining = CancellationToken::new();
    let cutting = CancellationToken::new();
    let listeners = handed.listeners.into_iter().map(nonblocking).collect::<io::Result<Vec<_>>>()?;
    let mut accepting = JoinSet::new();
    let gate = Arc::new(Gate::new(&setup.limits));
    for listener in listeners {
        let door = Door { gate: Arc::clone(&gate), shared: Arc::clone(&shared), config: Arc::clone(&config) };
        accepting.spawn(accept(listener, door, draining.clone(), cutting.clone()));
    }
    loop {
        tokio::select! {
            message = receiver.next(&mut pending) => match message? {
                Some(ToReceiver::Receipt(receipt)) => shared.answer(receipt),
                Some(ToReceiver::Holdings(holdings)) => shared.hold(holdings),
                Some(ToReceiver::Drain) => {
                    draining.cancel();
                    let cutting = cutting.clone();
                    tokio::spawn(async move {
                        tokio::time::sleep(drain_timeout).await;
                        cutting.cancel();
                    });
                }
                Some(ToReceiver::Setup(_)) => return Err(io::Error::other("a second set-up")),
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the applier is gone")),
            },
            Some(word) = spoken.recv() => sender.send(&word).await?,
            ended = accepting.join_next() => match ended {
                Some(Ok(())) => {}
                Some(Err(error)) => return Err(io::Error::other(error)),
                None => return Ok(()),
            },
        }
    }
}

fn nonblocking(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// What every new connection needs.
struct Door {
    gate: Arc<Gate>,
    shared: Arc<Shared>,
    config: Arc<russh::server::Config>,
}

/// Accepts until drained, then waits for the connections that are open.
async fn accept(listener: TcpListener, door: Door, draining: CancellationToken, cutting: CancellationToken) {
    let mut connections = JoinSet::new();
    let mut said = tokio::time::Instant::now();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = draining.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let cut = cutting.child_token();
                if let Ok(place) = door.gate.enter(peer.ip(), cut.clone()) {
                    let (shared, config) = (Arc::clone(&door.shared), Arc::clone(&door.config));
                    connections.spawn(greet(stream, peer, shared, config, cut, place));
                }
                // A flood must not flood the log.
                if said.elapsed() >= SAY
                    && let away @ 1.. = door.gate.turned_away()
                {
                    said = tokio::time::Instant::now();
                    tracing::warn!("Too many connections: turned away {away}, {} the last one", show(peer));
                }
            }
            Err(error) => {
                // ECONNABORTED is the peer's business; EMFILE and the like pass when others leave.
                tracing::warn!("Cannot accept a connection: {error}");
                tokio::time::sleep(BREATHER).await;
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

async fn greet(
    stream: TcpStream,
    peer: SocketAddr,
    shared: Arc<Shared>,
    config: Arc<russh::server::Config>,
    cut: CancellationToken,
    place: Place,
) {
    tracing::info!("Got connection from ('{}', {})", peer.ip(), peer.port());
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("No TCP_NODELAY for {}: {error}", show(peer));
    }
    connection::run(stream, peer, shared, config, cut, place).await;
}

/// An address as log lines show it.
#[must_use]
pub fn show(peer: SocketAddr) -> String {
    format!("{}:{}", peer.ip().to_canonical(), peer.port())
}
