//! The daemon: one for each `queue_dir`, pushing and renewing side by side until it is told to stop. It only puts the
//! parts together.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use certdeploy_common::daemon::shutdown;
use certdeploy_common::fs::lock::{self, Lock};
use tokio::sync::watch;

use crate::clock;
use crate::config::Settings;
use crate::dispatch::wake::Wake;
use crate::dispatch::{Dispatcher, Ended, Mode};
use crate::push::Ssh;
use crate::queue::{Check, Queue, QueueError};
use crate::renew::{self, Renewed};

/// Why there is no daemon.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// There is one already.
    #[error("another certdeploy-server daemon is running with queue_dir `{}`", .0.display())]
    Second(PathBuf),
    /// The queue.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The system.
    #[error("the daemon cannot start: {0}")]
    System(#[from] std::io::Error),
}

/// Runs until SIGTERM or SIGINT, or until something fails and `fail_fast` is set.
///
/// # Errors
/// See [`DaemonError`].
pub async fn run(settings: Arc<Settings>, ssh: Ssh, config: &Path) -> Result<Ended, DaemonError> {
    tracing::debug!("Running daemon");
    let stop = shutdown::on_signal()?;
    let queue = Queue::open(&settings.queue_dir, Check::Whole, clock::now())?;
    let _lock = only_one(&settings.queue_dir)?;
    warn_of_tmpfs(&settings.queue_dir);
    let wake = Wake::bind(&settings.queue_dir);
    if let Err(error) = &wake {
        tracing::warn!("Hooks cannot wake this daemon, it looks every 10 seconds: {error}");
    }
    tracing::info!(
        "Serving {} targets, queue in `{}`, lineages in `{}`",
        settings.targets.len(),
        settings.queue_dir.display(),
        settings.live_directory.display()
    );
    let dispatcher = Dispatcher::new(Arc::clone(&settings), queue, ssh, Mode::Daemon, clock::now);
    let (_settings, current) = watch::channel(settings);
    let renewals = tokio::spawn(renew::run(current, config.to_owned(), stop.clone()));
    let ended = dispatcher.run(stop.clone(), wake.as_ref().ok()).await;
    stop.cancel();
    let failed = renewals.await.unwrap_or(Renewed::Quietly) == Renewed::FailedFast;
    Ok(if failed { Ended::FailedFast } else { ended? })
}

fn only_one(queue_dir: &Path) -> Result<Lock, DaemonError> {
    lock::try_lock(&queue_dir.join("daemon.lock"))?.ok_or_else(|| DaemonError::Second(queue_dir.to_owned()))
}

fn warn_of_tmpfs(queue_dir: &Path) {
    const TMPFS: u64 = 0x0102_1994;
    let kind = rustix::fs::statfs(queue_dir).ok().and_then(|fs| u64::try_from(fs.f_type).ok());
    if kind == Some(TMPFS) {
        tracing::warn!(
            "queue_dir `{}` is on a tmpfs: a restart of the host forgets it. Set `queue_dir` to a directory on a disk",
            queue_dir.display()
        );
    }
}
