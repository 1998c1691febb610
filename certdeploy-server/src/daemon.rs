//! The daemon: one for each `queue_dir`, pushing and renewing side by side until it is told to stop. It only puts the
//! parts together.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use certdeploy_common::daemon::shutdown;
use certdeploy_common::fs::lock::{self, Lock};
use tokio_util::sync::CancellationToken;

use crate::clock::{self, Millis};
use crate::config::Settings;
use crate::dispatch::wake::Wake;
use crate::dispatch::{Dispatcher, Ended, Mode};
use crate::push::Ssh;
use crate::queue::{Check, Queue, QueueError};
use crate::renew::certbot;
use crate::renew::schedule::Schedule;

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

/// The note that says when certbot last ran to its end.
const RENEWED_AT: &str = "renewed_at";
/// How often the schedule is asked.
const TICK: Duration = Duration::from_secs(1);
/// A clock that was set back further than this starts the schedule anew.
const SET_BACK: Duration = Duration::from_secs(60);

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
    let renewing = Renewing { settings, config: config.to_owned(), stop: stop.clone() };
    let renewals = tokio::spawn(renewing.run());
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

/// How the renewals ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Renewed {
    Quietly,
    FailedFast,
}

/// certbot by schedule, beside the pushing.
struct Renewing {
    settings: Arc<Settings>,
    config: PathBuf,
    stop: CancellationToken,
}

impl Renewing {
    async fn run(self) -> Renewed {
        let policy = &self.settings.renew;
        if certbot::program(policy).is_none() {
            tracing::warn!("There is no `certbot` in PATH and no `renew_exec`: this daemon only pushes");
            return Renewed::Quietly;
        }
        let mut schedule = Schedule::new(policy.interval);
        let mut due = policy.interval.overdue(self.last(), clock::now());
        let mut before = clock::now();
        while !self.stop.is_cancelled() {
            if due && self.renew().await == Renewed::FailedFast {
                self.stop.cancel();
                return Renewed::FailedFast;
            }
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep(TICK) => {}
            }
            let now = clock::now();
            if now.after(SET_BACK) < before {
                tracing::info!("The clock was set back; the renewal schedule starts anew");
                schedule = Schedule::new(policy.interval);
            }
            before = now;
            due = schedule.due();
        }
        Renewed::Quietly
    }

    async fn renew(&self) -> Renewed {
        match certbot::run(&self.settings.renew, &self.config, &self.stop).await {
            Ok(()) => self.remember(),
            Err(certbot::RenewError::Stopped { program }) => tracing::info!("Ended `{program}`"),
            Err(error) if self.settings.fail_fast => {
                tracing::error!("CertDeployError: Failed to run: {error}");
                return Renewed::FailedFast;
            }
            Err(error) => tracing::error!("Failed to renew or check for renewable certificates. {error}"),
        }
        Renewed::Quietly
    }

    fn last(&self) -> Option<Millis> {
        let mut queue = Queue::open(&self.settings.queue_dir, Check::Opening, clock::now()).ok()?;
        queue.note(RENEWED_AT).ok()??.parse().ok().map(Millis)
    }

    fn remember(&self) {
        let now = clock::now();
        let written = Queue::open(&self.settings.queue_dir, Check::Opening, now)
            .and_then(|mut queue| queue.write_note(RENEWED_AT, &now.0.to_string()));
        if let Err(error) = written {
            tracing::warn!("The time of this renewal could not be written down: {error}");
        }
    }
}
