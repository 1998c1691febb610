//! certbot by schedule, beside the pushing, until the daemon ends; and one run of it. It must not know of targets or
//! pushes.

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use certdeploy_common::fs::lock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::certbot::{self, RenewError};
use super::civil::Zone;
use super::record::{self, Record};
use super::waiting::Waiting;
use crate::clock;
use crate::config::Settings;
use crate::queue::QueueError;

/// How often the clock is looked at. A longer sleep would be cut short by nothing when the host was suspended, its clock
/// was set or its time zone changed: sleeping does not go by the clock on the wall.
const TICK: Duration = Duration::from_secs(1);
/// Held while certbot runs: one at a time, whoever starts it. certbot's own lock would make the second one fail.
const LOCK: &str = "renew.lock";

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
pub async fn run(mut settings: watch::Receiver<Arc<Settings>>, config: PathBuf, stop: CancellationToken) -> Renewed {
    let mut current = Arc::clone(&settings.borrow_and_update());
    warn_without_program(&current);
    if let Some(unknown) = Zone::unknown() {
        tracing::warn!("`renew_at`: {unknown}");
    }
    let found = begin(&current).await;
    let seed = RandomState::new().hash_one(());
    let mut waiting = Waiting::start(&current.renew, &found, seed, clock::now(), &Zone::local());
    while !stop.is_cancelled() {
        let now = clock::now();
        if waiting.look(now) {
            tracing::info!("The clock was set back; the renewal schedule starts anew");
        }
        let ready = waiting.is_due(&current.renew, now, &Zone::local()) && certbot::program(&current.renew).is_some();
        if ready {
            let ended = once(&current, &config, &stop).await;
            waiting.ran(clock::now());
            if report(ended, current.fail_fast) == Renewed::FailedFast {
                stop.cancel();
                return Renewed::FailedFast;
            }
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(TICK) => {}
        }
        if settings.has_changed().unwrap_or(false) {
            current = Arc::clone(&settings.borrow_and_update());
            warn_without_program(&current);
        }
    }
    Renewed::Quietly
}

/// Runs certbot once, unless another process does, and writes down how it went.
///
/// # Errors
/// See [`RenewError`].
pub async fn once(settings: &Settings, config: &Path, stop: &CancellationToken) -> Result<(), RenewError> {
    let place = &settings.queue_dir;
    // The first use of a new queue makes its directory, which the lock is in. Without it there is still certbot's lock.
    let before = remembered(place).await.unwrap_or_else(|error| {
        tracing::warn!("The history of renewals cannot be read: {error}");
        Record::new(clock::now())
    });
    let _held = match lock::try_lock(&place.join(LOCK)) {
        Ok(Some(held)) => Some(held),
        Ok(None) => return Err(RenewError::Elsewhere(place.clone())),
        Err(error) => {
            tracing::warn!("`{}` cannot be locked, certbot runs all the same: {error}", place.join(LOCK).display());
            None
        }
    };
    let begun = before.begun(clock::now());
    write_down(place, &begun).await;
    let ended = certbot::run(&settings.renew, config, stop).await;
    let after = match &ended {
        Ok(()) => begun.ended(None, clock::now()),
        // It did not come to its end: the next start makes it up.
        Err(RenewError::Stopped { .. }) => before,
        Err(error) => begun.ended(Some(error.to_string()), clock::now()),
    };
    write_down(place, &after).await;
    ended
}

fn report(ended: Result<(), RenewError>, fail_fast: bool) -> Renewed {
    match ended {
        Ok(()) => {}
        Err(error @ (RenewError::Stopped { .. } | RenewError::Elsewhere(_))) => tracing::info!("No renewal: {error}"),
        Err(error) => {
            tracing::error!("{}", error.complaint(fail_fast));
            if fail_fast {
                return Renewed::FailedFast;
            }
        }
    }
    Renewed::Quietly
}

/// The history as it is at a daemon's start. Nothing is in it the first time, so that is written down: a schedule that
/// began anew at each start might never come to a run.
async fn begin(settings: &Settings) -> Record {
    let now = clock::now();
    let place = &settings.queue_dir;
    let before = remembered(place).await.unwrap_or_else(|_| Record::new(now));
    let elsewhere = matches!(lock::try_lock(&place.join(LOCK)), Ok(None));
    let found = if elsewhere { before } else { before.found(now) };
    if certbot::program(&settings.renew).is_some() {
        write_down(place, &found).await;
    }
    found
}

fn warn_without_program(settings: &Settings) {
    if certbot::program(&settings.renew).is_none() {
        tracing::warn!("There is no `certbot` in PATH and no `renew_exec`: this daemon only pushes");
    }
}

async fn remembered(queue_dir: &Path) -> Result<Record, QueueError> {
    let found = on_disk(queue_dir, record::load).await?;
    Ok(found.unwrap_or_else(|| Record::new(clock::now())))
}

async fn write_down(queue_dir: &Path, record: &Record) {
    let record = record.clone();
    if let Err(error) = on_disk(queue_dir, move |place| record::save(place, &record)).await {
        tracing::warn!("The time of this renewal could not be written down: {error}");
    }
}

/// The database may be busy for seconds; pushing is not held up by that.
async fn on_disk<T: Send + 'static>(
    queue_dir: &Path,
    work: impl FnOnce(&Path) -> Result<T, QueueError> + Send + 'static,
) -> Result<T, QueueError> {
    let place = queue_dir.to_owned();
    match tokio::task::spawn_blocking(move || work(&place)).await {
        Ok(done) => done,
        Err(ended) => std::panic::resume_unwind(ended.into_panic()),
    }
}
