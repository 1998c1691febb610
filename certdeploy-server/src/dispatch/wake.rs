//! How a hook wakes a daemon: a datagram socket in `queue_dir`. Best effort: the queue itself is what counts, and the
//! daemon looks into it from time to time anyway.

use std::io;
use std::path::{Path, PathBuf};

use tokio::net::UnixDatagram;

const SOCKET: &str = "wake.sock";

/// The daemon's end.
#[derive(Debug)]
pub struct Wake {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Wake {
    /// Listens in `queue_dir`. The caller holds the daemon's lock, so what is there is left over.
    pub fn bind(queue_dir: &Path) -> io::Result<Self> {
        let path = queue_dir.join(SOCKET);
        let _ = std::fs::remove_file(&path);
        Ok(Self { socket: UnixDatagram::bind(&path)?, path })
    }

    /// Returns when somebody rang; several rings are one.
    pub async fn rung(&self) {
        let mut byte = [0; 8];
        // An error here would make the daemon spin: it waits for its other events instead.
        if self.socket.recv(&mut byte).await.is_err() {
            std::future::pending::<()>().await;
        }
        while self.socket.try_recv(&mut byte).is_ok() {}
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
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
