//! One process at a time runs updates, and what one of them leaves is seen by a daemon beside it. Must not look at what is
//! owed.

use std::path::Path;
use std::time::Duration;

use certdeploy_common::fs::lock::{self, Lock};
use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::dir::Dir;

/// The lock in `destination` of whoever runs updates.
const ALONE: &str = ".updating";
/// The file in `destination` that says that a command has something to do, or has left it.
const LEFT: &str = ".updates-left";
/// How often the lock is tried.
const LOOK: Duration = Duration::from_millis(100);

/// The lock, and what it has cost.
#[derive(Debug)]
pub struct Alone {
    _lock: Option<Lock>,
    /// Whether another one was waited for: what was owed before may be done.
    pub waited: bool,
}

/// Waits until no other process of ours runs updates here, or until `stop`: a script that runs twice at once is in its
/// own way. Where that cannot be told, or takes too long, the updates run all the same.
pub async fn alone(settings: &Settings, stop: &CancellationToken) -> Alone {
    let path = settings.destination.join(ALONE);
    let begun = tokio::time::Instant::now();
    let mut waited = false;
    loop {
        match lock::try_lock(&path) {
            Ok(Some(lock)) => return Alone { _lock: Some(lock), waited },
            Ok(None) if begun.elapsed() < settings.update_wait => {}
            Ok(None) => {
                tracing::warn!(
                    "Another certdeploy-client runs updates for {} s; this one waits no more",
                    settings.update_wait.as_secs()
                );
                return Alone { _lock: None, waited };
            }
            Err(error) => {
                tracing::debug!("Cannot lock `{}`: {error}", path.display());
                return Alone { _lock: None, waited };
            }
        }
        if !std::mem::replace(&mut waited, true) {
            tracing::info!("Another certdeploy-client runs updates; this one waits for their end");
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = stop.cancelled() => return Alone { _lock: None, waited },
        }
    }
}

/// A command says whether it has something to do, or has left something: a daemon beside it takes that up.
pub fn leave(settings: &Settings, something: bool) {
    let destination = &settings.destination;
    if settings.updates.is_empty() {
        return;
    }
    let held = Dir::open(destination);
    let said = held.and_then(|held| if something { held.replace(LEFT, b"") } else { held.remove_file(LEFT) });
    if let Err(error) = said {
        tracing::debug!("Cannot write `{}`: {error}", destination.join(LEFT).display());
    }
}

/// Whether a command that has ended has left something. That is said once.
#[must_use]
pub fn take_left(destination: &Path) -> bool {
    let left = destination.join(LEFT).symlink_metadata().is_ok();
    // While it is at work nothing is left yet.
    let over = left && !matches!(lock::try_lock(&destination.join(ALONE)), Ok(None));
    over && Dir::open(destination).and_then(|held| held.remove_file(LEFT)).is_ok()
}
