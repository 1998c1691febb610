//! How a hook wakes a daemon: a datagram socket in `queue_dir`. Best effort: the queue itself is what counts, and the
//! daemon looks into it from time to time anyway. Beside it the socket at which the daemon is asked whether it works: what
//! waits for one answers at the other.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use certdeploy_common::daemon::health::{self, Answerer, NoAnswer};
use tokio::net::UnixDatagram;

const SOCKET: &str = "wake.sock";
const HEALTH: &str = "health.sock";
const HEALTHY: &str = "healthy\n";

/// The daemon's end.
#[derive(Debug)]
pub struct Wake {
    socket: UnixDatagram,
    path: PathBuf,
    health: Option<Answerer>,
}

impl Wake {
    /// Listens in `queue_dir`. The caller holds the daemon's lock, so what is there is left over.
    pub fn bind(queue_dir: &Path) -> io::Result<Self> {
        let path = queue_dir.join(SOCKET);
        let _ = std::fs::remove_file(&path);
        let health = Answerer::bind(queue_dir, HEALTH);
        if let Err(error) = &health {
            tracing::warn!("`healthcheck` cannot ask this daemon at `{}`: {error}", queue_dir.join(HEALTH).display());
        }
        Ok(Self { socket: UnixDatagram::bind(&path)?, path, health: health.ok() })
    }

    /// Returns when somebody rang; several rings are one. Whoever asks meanwhile is told that the loop turns.
    pub async fn rung(&self) {
        let mut byte = [0; 8];
        let answering = async {
            match &self.health {
                Some(health) => match health.answer(HEALTHY).await {},
                None => std::future::pending::<()>().await,
            }
        };
        tokio::pin!(answering);
        tokio::select! {
            // An error here would make the daemon spin: it waits for its other events instead.
            rung = self.socket.recv(&mut byte) => if rung.is_err() {
                answering.await;
            },
            () = &mut answering => {}
        }
        while self.socket.try_recv(&mut byte).is_ok() {}
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Asks the daemon of `queue_dir` whether its loop turns, and waits for at most `limit`.
///
/// # Errors
/// See [`NoAnswer`].
pub async fn ask(queue_dir: &Path, limit: Duration) -> Result<(), NoAnswer> {
    health::ask(queue_dir, HEALTH, limit).await.map(drop)
}

/// Wakes the daemon of `queue_dir`, if there is one; never waits.
pub fn ring(queue_dir: &Path) {
    let rung = std::os::unix::net::UnixDatagram::unbound()
        .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
        .and_then(|socket| socket.send_to(&[1], queue_dir.join(SOCKET)));
    if let Err(error) = rung {
        tracing::debug!("No daemon was woken: {error}");
    }
}
