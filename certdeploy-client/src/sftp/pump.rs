//! Between an SSH channel and the SFTP library: guards the framing, knows a clean end from a broken one, and says
//! good-bye in the order that `scp` and `sftp` need.

use std::sync::Arc;
use std::time::Duration;

use russh::server::{Handle, Msg};
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Disconnect};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::guard::Guard;
use super::shared::Shared;
use super::verbs::Verbs;
use crate::link::Commit;
use crate::staging::session::Session;

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

/// Bytes between channel and library at once.
const BUFFER: usize = 64 * 1024;

/// Serves SFTP on `channel` until its end, then ends the connection.
pub async fn run(channel: Channel<Msg>, handle: Handle, shared: Arc<Shared>, peer: String, cut: CancellationToken) {
    let limits = &shared.limits;
    let session = match Session::new(Arc::clone(&shared.incoming), limits.max_handles, limits.max_lineages) {
        Ok(session) => session,
        Err(error) => {
            tracing::error!("Cannot serve {peer}: {error}");
            cut.cancel();
            return;
        }
    };
    let (read, write) = channel.split();
    let (near, far) = tokio::io::duplex(BUFFER);
    let (from_library, mut to_library) = tokio::io::split(near);
    let (back, mut ended) = oneshot::channel();
    let config = russh_sftp::server::Config { max_client_packet_len: limits.max_packet };
    russh_sftp::server::run_with_config(far, Verbs::new(Arc::clone(&shared), session, back), config).await;
    let end = async {
        let end = inbound(read, &mut to_library, &shared).await;
        // The library must see the end, or it would wait for the next request.
        let _ = to_library.shutdown().await;
        if let End::Expelled(reason) = &end {
            tracing::warn!("Ended connection with {peer}: {reason}");
            cut.cancel();
        }
        end
    };
    let (end, ()) = tokio::join!(end, outbound(from_library, &write));
    if let Ok(session) = (&mut ended).await {
        let clean = end == End::Clean;
        let finished = tokio::task::spawn_blocking(move || session.finish(clean)).await;
        for lineage in finished.unwrap_or_default() {
            shared.commit(Commit::Plain(lineage)).await;
        }
    }
    // Without the exit status before the end, `scp` calls a good upload a failure. A peer that is gone hears nothing.
    let _ = write.exit_status(0).await;
    let _ = write.eof().await;
    let _ = write.close().await;
    // `scp` calls it a failure when the connection ends under it; those that never end it are ended a moment later.
    tokio::time::sleep(PARTING).await;
    let _ = handle.disconnect(Disconnect::ByApplication, String::new(), String::new()).await;
}

async fn inbound(mut read: ChannelReadHalf, to: &mut (impl AsyncWrite + Unpin), shared: &Shared) -> End {
    let mut guard = Guard::new(shared.limits.max_packet);
    loop {
        let message = match tokio::time::timeout(shared.limits.idle_timeout, read.wait()).await {
            Ok(Some(message)) => message,
            Ok(None) => return End::Broken,
            Err(_) => return End::Expelled(format!("silent for {} s", shared.limits.idle_timeout.as_secs())),
        };
        if matches!(message, ChannelMsg::Eof | ChannelMsg::Close) {
            return End::Clean;
        }
        // Everything else on a channel is a request, and the connection has answered it.
        let ChannelMsg::Data { data } = message else { continue };
        if let Err(violation) = guard.check(&data) {
            return End::Expelled(violation.to_string());
        }
        if to.write_all(&data).await.is_err() {
            return End::Broken;
        }
    }
}

async fn outbound(mut from: impl AsyncRead + Unpin, write: &ChannelWriteHalf<Msg>) {
    let mut buffer = vec![0; 32 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let piece: Vec<u8> = buffer.iter().take(length).copied().collect();
        if write.data_bytes(piece).await.is_err() {
            return;
        }
    }
}
