//! Between an SSH channel and the SFTP library: guards the framing, knows a clean end from a broken one, and says
//! good-bye in the order that `scp` and `sftp` need.

use std::sync::Arc;
use std::time::Duration;

use certdeploy_common::cert::Lineage;
use russh::server::{Handle, Msg};
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Disconnect};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{oneshot, watch};
use tokio::time::error::Elapsed;
use tokio_util::sync::CancellationToken;

use super::guard::Guard;
use super::refusals::Refusals;
use super::shared::Shared;
use super::verbs::Verbs;
use crate::config::pushers::Scope;
use crate::link::Commit;
use crate::staging::session::{Most, Session};

/// The peer, as far as its channel must know it.
pub struct Peer {
    /// Its address, as log lines show it.
    pub address: String,
    /// What it may upload.
    pub scope: Scope,
    /// Ends its connection.
    pub cut: CancellationToken,
    /// How its connection ended: whether it said good-bye.
    pub parted: watch::Receiver<Option<bool>>,
}

/// How a channel ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The peer said that it is done.
    Clean,
    /// The connection broke.
    Broken,
    /// The peer must go; the reason is logged.
    Expelled(String),
}

/// How long a peer that is done has to end the connection by itself.
const PARTING: Duration = Duration::from_millis(500);

/// How long a peer that has left may take to close its end.
const LEAVE: Duration = Duration::from_secs(2);

/// Bytes between channel and library at once.
const BUFFER: usize = 64 * 1024;

/// Serves SFTP on `channel` until its end, then ends the connection.
pub async fn run(channel: Channel<Msg>, handle: Handle, shared: Arc<Shared>, peer: Peer) {
    let limits = &shared.limits;
    let Peer { address, scope, cut, mut parted } = peer;
    let most = Most { handles: limits.max_handles, lineages: limits.max_lineages, bytes: limits.max_upload };
    let session = match Session::new(Arc::clone(&shared.incoming), most, scope.clone()) {
        Ok(session) => session,
        Err(error) => {
            tracing::error!("Cannot serve {address}: {error}");
            cut.cancel();
            return;
        }
    };
    let refusals = Arc::new(Refusals::default());
    let (read, write) = channel.split();
    let (near, far) = tokio::io::duplex(BUFFER);
    let (from_library, mut to_library) = tokio::io::split(near);
    let (back, mut ended) = oneshot::channel();
    let config = russh_sftp::server::Config { max_client_packet_len: limits.max_packet };
    let verbs = Verbs::new(Arc::clone(&shared), session, scope, Arc::clone(&refusals), back);
    russh_sftp::server::run_with_config(far, verbs, config).await;
    // The library knows no limit for a peer that reads nothing; and while its answers wait, nobody reads the channel,
    // and the connection itself stands still behind that.
    let over = over(cut.clone(), parted.clone());
    let end = async {
        let mut end = tokio::select! {
            end = inbound(read, &mut to_library, limits.max_packet, limits.idle_timeout) => end,
            () = cut.cancelled() => End::Broken,
        };
        if end == End::Broken && said_goodbye(&mut parted).await {
            end = End::Clean;
        }
        // The library must see the end, or it would wait for the next request.
        let _ = to_library.shutdown().await;
        if let End::Expelled(reason) = &end {
            tracing::warn!("Ended connection with {address}: {reason}");
            cut.cancel();
        }
        end
    };
    let outward = async {
        tokio::select! {
            taken = outbound(from_library, &write, limits.idle_timeout) => taken,
            () = over => Ok(()),
        }
        .unwrap_or_else(|_| {
            tracing::warn!("Ended connection with {address}: it took nothing for {} s", limits.idle_timeout.as_secs());
            cut.cancel();
        });
    };
    let (end, ()) = tokio::join!(end, outward);
    // Whatever the library still has to say, nobody hears it.
    drop(to_library);
    let complete = match (&mut ended).await {
        Ok(session) => tokio::task::spawn_blocking(move || session.finish(end == End::Clean)).await.unwrap_or_default(),
        Err(_) => Vec::new(),
    };
    if let Some(first) = refusals.told() {
        tracing::warn!("Refused {address} {first}");
    }
    // What is durable counts: the peer need not wait until the applier has time for many lineages.
    tokio::join!(hand_over(complete, &shared), part_from(&write, &handle, &mut parted));
}

async fn hand_over(complete: Vec<Lineage>, shared: &Shared) {
    for lineage in complete {
        shared.commit(Commit::Plain(lineage)).await;
    }
}

async fn part_from(write: &ChannelWriteHalf<Msg>, handle: &Handle, parted: &mut watch::Receiver<Option<bool>>) {
    // Without the exit status before the end, `scp` calls a good upload a failure. A peer that is gone hears nothing.
    let _ = write.exit_status(0).await;
    let _ = write.eof().await;
    let _ = write.close().await;
    // `scp` calls it a failure when the connection ends under it; those that never end it are ended a moment later.
    let _ = tokio::time::timeout(PARTING, parted.wait_for(Option::is_some)).await;
    let _ = handle.disconnect(Disconnect::ByApplication, String::new(), String::new()).await;
}

/// Whether the peer ended the whole connection in words (`SSH_MSG_DISCONNECT`) instead of its channel: so does `ssh` when
/// it is told to end by a signal, which is how `lftp` takes its leave. A connection that broke has no words.
async fn said_goodbye(parted: &mut watch::Receiver<Option<bool>>) -> bool {
    let parted = tokio::time::timeout(LEAVE, parted.wait_for(Option::is_some)).await;
    matches!(parted, Ok(Ok(said)) if *said == Some(true))
}

/// Returns when the connection is over: no answer can be sent any more.
async fn over(cut: CancellationToken, mut parted: watch::Receiver<Option<bool>>) {
    tokio::select! {
        () = cut.cancelled() => {}
        _ = parted.wait_for(Option::is_some) => {}
    }
}

async fn inbound(
    mut read: ChannelReadHalf,
    to: &mut (impl AsyncWrite + Unpin),
    most: u32,
    idle_timeout: Duration,
) -> End {
    let mut guard = Guard::new(most);
    loop {
        let message = match tokio::time::timeout(idle_timeout, read.wait()).await {
            Ok(Some(message)) => message,
            Ok(None) => return End::Broken,
            Err(_) => return End::Expelled(format!("silent for {} s", idle_timeout.as_secs())),
        };
        if matches!(message, ChannelMsg::Eof | ChannelMsg::Close) {
            return End::Clean;
        }
        // Everything else on a channel is a request, and the connection has answered it.
        let ChannelMsg::Data { data } = message else { continue };
        if let Err(violation) = guard.check(&data) {
            return End::Expelled(violation.to_string());
        }
        match tokio::time::timeout(idle_timeout, to.write_all(&data)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return End::Broken,
            Err(_) => return End::Expelled(format!("it took no answer for {} s", idle_timeout.as_secs())),
        }
    }
}

/// Passes on what the library says until that has ended, or the connection has.
///
/// # Errors
/// The peer took nothing for so long.
async fn outbound(
    mut from: impl AsyncRead + Unpin,
    write: &ChannelWriteHalf<Msg>,
    idle_timeout: Duration,
) -> Result<(), Elapsed> {
    let mut buffer = vec![0; 32 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let piece: Vec<u8> = buffer.iter().take(length).copied().collect();
        if tokio::time::timeout(idle_timeout, write.data_bytes(piece)).await?.is_err() {
            break;
        }
    }
    Ok(())
}
