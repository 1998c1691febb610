//! certbot by schedule, beside the pushing, until the daemon ends. It must not know of targets or pushes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::certbot;
use super::schedule::Schedule;
use crate::clock::{self, Millis};
use crate::config::Settings;
use crate::queue::{Check, Queue};

/// The note that says when certbot last ran to its end.
const RENEWED_AT: &str = "renewed_at";
/// How often the schedule is asked.
const TICK: Duration = Duration::from_secs(1);
/// A clock that was set back further than this starts the schedule anew.
const SET_BACK: Duration = Duration::from_secs(60);

/// How the renewals ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewed {
    /// Because they were told to.
    Quietly,
    /// One failed and `fail_fast` is set; `stop` is cancelled.
    FailedFast,
}

/// Runs certbot by schedule until `stop`. Settings that are sent change the schedule and the next run, not a run under
/// way. `config` is what the hook that certbot calls will read.
pub async fn run(settings: watch::Receiver<Arc<Settings>>, config: PathBuf, stop: CancellationToken) -> Renewed {
    Renewing { settings, config, stop }.run().await
}

struct Renewing {
    settings: watch::Receiver<Arc<Settings>>,
    config: PathBuf,
    stop: CancellationToken,
}

impl Renewing {
    async fn run(mut self) -> Renewed {
        let mut settings = self.newest();
        warn_without_program(&settings);
        let mut schedule = Schedule::new(settings.renew.interval);
        let mut due = settings.renew.interval.overdue(last(&settings.queue_dir), clock::now());
        let mut before = clock::now();
        while !self.stop.is_cancelled() {
            if due && self.renew(&settings).await == Renewed::FailedFast {
                self.stop.cancel();
                return Renewed::FailedFast;
            }
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep(TICK) => {}
            }
            let now = clock::now();
            let newest = self.newest();
            if newest.renew.interval != settings.renew.interval {
                schedule = Schedule::new(newest.renew.interval);
            }
            if !Arc::ptr_eq(&newest, &settings) {
                warn_without_program(&newest);
            }
            settings = newest;
            if now.after(SET_BACK) < before {
                tracing::info!("The clock was set back; the renewal schedule starts anew");
                schedule = Schedule::new(settings.renew.interval);
            }
            before = now;
            due = schedule.due() && certbot::program(&settings.renew).is_some();
        }
        Renewed::Quietly
    }

    fn newest(&mut self) -> Arc<Settings> {
        Arc::clone(&self.settings.borrow_and_update())
    }

    async fn renew(&self, settings: &Settings) -> Renewed {
        match certbot::run(&settings.renew, &self.config, &self.stop).await {
            Ok(()) => remember(&settings.queue_dir),
            Err(certbot::RenewError::Stopped { program }) => tracing::info!("Ended `{program}`"),
            Err(certbot::RenewError::NoProgram) => {}
            Err(error) if settings.fail_fast => {
                tracing::error!("CertDeployError: Failed to run: {error}");
                return Renewed::FailedFast;
            }
            Err(error) => tracing::error!("Failed to renew or check for renewable certificates. {error}"),
        }
        Renewed::Quietly
    }
}

fn warn_without_program(settings: &Settings) {
    if certbot::program(&settings.renew).is_none() {
        tracing::warn!("There is no `certbot` in PATH and no `renew_exec`: this daemon only pushes");
    }
}

fn last(queue_dir: &Path) -> Option<Millis> {
    let mut queue = Queue::open(queue_dir, Check::Opening, clock::now()).ok()?;
    queue.note(RENEWED_AT).ok()??.parse().ok().map(Millis)
}

fn remember(queue_dir: &Path) {
    let now = clock::now();
    let written = Queue::open(queue_dir, Check::Opening, now)
        .and_then(|mut queue| queue.write_note(RENEWED_AT, &now.0.to_string()));
    if let Err(error) = written {
        tracing::warn!("The time of this renewal could not be written down: {error}");
    }
}
