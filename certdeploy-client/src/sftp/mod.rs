//! The receiver: the only part that talks to peers. Owns the accept loop (the library's own ends at the first error)
//! and the limits; hands complete uploads to the applier and knows nothing of what becomes of them.

pub mod auth;
pub mod connection;
pub mod cut;
pub mod gate;
pub mod guard;
pub mod pump;
pub mod refusals;
pub mod shared;
pub mod status;
pub mod verbs;

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::link::handover::{self, Handover};
use crate::link::{self, Setup, ToApplier, ToReceiver};
use gate::{Gate, Place};
use shared::Shared;

/// How long the accept loop rests when the system has no descriptors left.
const BREATHER: Duration = Duration::from_millis(100);

/// How long connections may take to be over once they are cut; the applier waits no more than twice as long.
const CUT: Duration = Duration::from_secs(1);

/// How often it is said that peers are turned away.
const SAY: Duration = Duration::from_secs(1);

/// Everything after the line has spoken its first words: serves until told to drain or until the applier is gone.
/// `begin` is called once, with what the applier said and gave, before any peer's byte is read and any thread starts.
///
/// # Errors
/// The applier says nothing sensible, or is gone.
pub async fn serve(line: UnixStream, begin: fn(&Setup, &Handover) -> io::Result<()>) -> io::Result<()> {
    let handed = handover::receive(&line)?;
    line.set_nonblocking(true)?;
    let (sender, mut receiver) = link::split(tokio::net::UnixStream::from_std(line)?);
    let mut pending = Vec::new();
    let Some(ToReceiver::Setup(setup)) = receiver.next(&mut pending).await? else {
        return Err(io::Error::other("the applier did not begin with the set-up"));
    };
    begin(&setup, &handed)?;
    let (words, spoken) = mpsc::channel(64);
    let config = Arc::new(connection::config(&setup)?);
    let drain_timeout = setup.limits.drain_timeout;
    let shared = Arc::new(Shared::new(handed.incoming, &setup, words).map_err(io::Error::other)?);
    let draining = CancellationToken::new();
    let cutting = CancellationToken::new();
    let listeners = handed.listeners.into_iter().map(nonblocking).collect::<io::Result<Vec<_>>>()?;
    let mut accepting = JoinSet::new();
    let gate = Arc::new(Gate::new(&setup.limits, descriptors()));
    for listener in listeners {
        let door = Door { gate: Arc::clone(&gate), shared: Arc::clone(&shared), config: Arc::clone(&config) };
        accepting.spawn(accept(listener, door, draining.clone(), cutting.clone()));
    }
    // Beside the reading, never within it: an applier that is busy writing reads nothing meanwhile.
    let (pong, last) = (Notify::new(), CancellationToken::new());
    let speaking = speak(sender, spoken, &pong, &last);
    let overdue = async {
        cutting.cancelled().await;
        tokio::time::sleep(CUT).await;
    };
    tokio::pin!(speaking, overdue);
    loop {
        tokio::select! {
            message = receiver.next(&mut pending) => match message? {
                Some(ToReceiver::Receipt(receipt)) => shared.answer(receipt),
                Some(ToReceiver::Holdings(holdings)) => shared.hold(holdings),
                Some(ToReceiver::Ping) => pong.notify_one(),
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
            spoken = &mut speaking => return spoken,
            ended = accepting.join_next(), if !last.is_cancelled() => match ended {
                Some(Ok(())) => {}
                Some(Err(error)) => return Err(io::Error::other(error)),
                None => last.cancel(),
            },
            () = &mut overdue, if !last.is_cancelled() => last.cancel(),
        }
    }
}

/// Says what the connections have to say; ends when all is said that there was before `last`.
async fn speak(
    mut sender: link::Sender,
    mut spoken: mpsc::Receiver<ToApplier>,
    pong: &Notify,
    last: &CancellationToken,
) -> io::Result<()> {
    loop {
        let word = tokio::select! {
            () = pong.notified() => Some(ToApplier::Pong),
            word = spoken.recv() => word,
            () = last.cancelled(), if !spoken.is_closed() => {
                spoken.close();
                continue;
            }
        };
        match word {
            Some(word) => sender.send(&word).await?,
            None => return Ok(()),
        }
    }
}

/// How many descriptors this process may have.
fn descriptors() -> usize {
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX)
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
    let (mut failures, mut failed) = (0_u64, said);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = draining.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let cut = cutting.child_token();
                let place = door.gate.enter(peer.ip(), cut.clone());
                let (shared, config) = (Arc::clone(&door.shared), Arc::clone(&door.config));
                connections.spawn(greet(stream, peer, shared, config, cut, place));
                // A flood must not flood the log.
                if said.elapsed() >= SAY
                    && let away @ 1.. = door.gate.turned_away()
                {
                    said = tokio::time::Instant::now();
                    tracing::warn!("Too many connections: turned away {away}, {} the last one", show(peer));
                }
                // Whoever was let in gets a turn before others may push it out, and whoever was pushed out leaves: a
                // crowd that waits would be let in all at once.
                tokio::task::yield_now().await;
            }
            Err(error) => {
                // ECONNABORTED is the peer's business; EMFILE and the like pass when others leave. One is made to.
                door.gate.make_room();
                failures += 1;
                if failures == 1 || failed.elapsed() >= SAY {
                    failed = tokio::time::Instant::now();
                    tracing::warn!("Cannot accept a connection: {error} ({failures} times so far)");
                }
                tokio::time::sleep(BREATHER).await;
            }
        }
    }
    // Whoever comes now is refused at once instead of being kept waiting for nothing.
    drop(listener);
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

#[cfg(test)]
mod tests {
    use certdeploy_common::daemon::logging::Handed;
    use serde_json::json;

    use super::*;
    use crate::dir::Dir;

    fn setup(folder: &std::path::Path) -> Setup {
        let path = folder.join("host_key");
        certdeploy_common::ssh::key::generate(&path, "host").unwrap();
        let second = json!({"secs": 1, "nanos": 0});
        let limits = json!({
            "login_grace_time": second, "idle_timeout": second, "session_timeout": second, "max_connections": 1,
            "max_startups": 1, "max_startups_per_address": 1, "pusher_addresses": [], "max_handles": 1,
            "max_lineages": 1, "max_upload": 1, "max_packet": 1, "receipt_wait": second, "drain_timeout": second,
        });
        let log = json!({"level": "Info", "format": "Text", "library_level": "Error"});
        let host_key = std::fs::read_to_string(path).unwrap();
        let setup = json!({"host_key": host_key, "pushers": [], "source": "/", "limits": limits, "log": log});
        serde_json::from_value(setup).unwrap()
    }

    #[tokio::test]
    async fn it_reads_on_while_nobody_reads_what_it_says_and_says_all_at_its_end() {
        let temp = tempfile::tempdir().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        handover::send(&ours, &Dir::open(temp.path()).unwrap(), &[listener], &Handed::default()).unwrap();
        let serving = tokio::spawn(serve(theirs, |_, _| Ok(())));
        ours.set_nonblocking(true).unwrap();
        let (mut sender, mut receiver) = link::split(tokio::net::UnixStream::from_std(ours).unwrap());
        let talk = async {
            sender.send(&ToReceiver::Setup(Box::new(setup(temp.path())))).await.unwrap();
            for _ in 0..5000 {
                sender.send(&ToReceiver::Ping).await.unwrap();
                sender.send(&ToReceiver::Holdings(certdeploy_common::wire::Holdings::default())).await.unwrap();
            }
            sender.send(&ToReceiver::Drain).await.unwrap();
        };
        tokio::time::timeout(Duration::from_secs(20), talk).await.expect("it reads");
        let (mut pending, mut pongs) = (Vec::new(), 0);
        while let Some(ToApplier::Pong) = receiver.next(&mut pending).await.unwrap() {
            pongs += 1;
        }
        assert!(pongs > 0);
        serving.await.unwrap().unwrap();
    }
}
