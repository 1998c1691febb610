//! One process at a time runs updates, and what one of them leaves is seen by a daemon beside it. Must not look at what is
//! owed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use certdeploy_common::fs::lock::{self, Lock};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

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
    /// Goes on trying to get it, so that others see that this one is at work once the one before has ended.
    _later: Option<AbortOnDropHandle<()>>,
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
            Ok(Some(lock)) => return Alone { _lock: Some(lock), _later: None, waited },
            Ok(None) if begun.elapsed() < settings.update_wait => {}
            Ok(None) => {
                tracing::warn!(
                    "Another certdeploy-client runs updates for {} s; this one waits no more",
                    settings.update_wait.as_secs()
                );
                let later = AbortOnDropHandle::new(tokio::spawn(held(path)));
                return Alone { _lock: None, _later: Some(later), waited };
            }
            Err(error) => {
                tracing::warn!("Cannot lock `{}`, so updates may run twice at once: {error}", path.display());
                return Alone { _lock: None, _later: None, waited };
            }
        }
        if !std::mem::replace(&mut waited, true) {
            tracing::info!("Another certdeploy-client runs updates; this one waits for their end");
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = stop.cancelled() => return Alone { _lock: None, _later: None, waited },
        }
    }
}

/// Takes the lock when it falls free, and holds it for as long as this is not dropped.
async fn held(path: PathBuf) {
    loop {
        match lock::try_lock(&path) {
            Ok(Some(_lock)) => std::future::pending().await,
            Ok(None) => tokio::time::sleep(LOOK).await,
            Err(_) => return,
        }
    }
}

/// What a command leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaves {
    /// Something that nobody has begun, or that was cut.
    Undone,
    /// What has failed, and what is owed for other reasons.
    Failed,
    /// Nothing.
    Nothing,
}

/// What [`Leaves::Failed`] writes.
const FAILED: &[u8] = b"failed\n";

/// A command says what it leaves, or will have left if it is killed: a daemon beside it takes that up.
pub fn leave(settings: &Settings, what: Leaves) {
    if settings.updates.is_empty() {
        return;
    }
    let destination = &settings.destination;
    let held = Dir::open(destination);
    let said = held.and_then(|held| match what {
        Leaves::Undone => held.replace(LEFT, b""),
        Leaves::Failed => held.replace(LEFT, FAILED),
        Leaves::Nothing => held.remove_file(LEFT),
    });
    if let Err(error) = said {
        let path = destination.join(LEFT);
        tracing::warn!(
            "Cannot write `{}`, so a daemon beside this does not know what is left: {error}",
            path.display()
        );
    }
}

/// What a command that has ended has left. That is said once.
#[must_use]
pub fn take_left(destination: &Path) -> Leaves {
    if destination.join(LEFT).symlink_metadata().is_err() {
        return Leaves::Nothing;
    }
    // While it is at work nothing is left yet.
    if matches!(lock::try_lock(&destination.join(ALONE)), Ok(None)) {
        return Leaves::Nothing;
    }
    let Ok(held) = Dir::open(destination) else { return Leaves::Nothing };
    let failed = held.deployed(LEFT, 64).is_ok_and(|text| text.as_slice() == FAILED);
    match held.remove_file(LEFT) {
        Ok(()) if failed => Leaves::Failed,
        Ok(()) => Leaves::Undone,
        Err(_) => Leaves::Nothing,
    }
}
