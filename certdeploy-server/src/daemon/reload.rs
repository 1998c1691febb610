//! SIGHUP: config, key and log files anew, all of it or nothing. Reading happens beside the daemon's loop, which may
//! not wait for a file system. It must not touch the queue.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::cli::Invocation;
use crate::config::{self, Settings};
use crate::log::{self, Need};
use crate::push::Ssh;

/// New settings and the way to log in with their key; or what is wrong, one line for each thing.
pub(super) type Loaded = Result<(Settings, Ssh), String>;

/// A config that is being read, and until when.
#[derive(Debug)]
pub(super) struct Loading {
    task: JoinHandle<Loaded>,
    until: tokio::time::Instant,
    /// When nobody waits for it any more, it may not take effect.
    _given_up: DropGuard,
}

/// How long reading a config may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Begins to read the config anew.
pub(super) fn begin(old: &Arc<Settings>, invocation: &Arc<Invocation>) -> Loading {
    let (old, invocation) = (Arc::clone(old), Arc::clone(invocation));
    let given_up = CancellationToken::new();
    let guard = given_up.clone().drop_guard();
    let task = tokio::task::spawn_blocking(move || {
        let loaded = load(&old, &invocation, &given_up);
        if loaded.is_err() && !given_up.is_cancelled() {
            // Whoever rotates logs says so by SIGHUP too, whatever the config has become.
            let _ = log::begin(&invocation.log, &old, Need::FilesIfPossible);
        }
        loaded
    });
    Loading { task, until: tokio::time::Instant::now() + LIMIT, _given_up: guard }
}

/// Waits for it.
pub(super) async fn finished(loading: &mut Option<Loading>) -> Loaded {
    let Some(Loading { task, until, .. }) = loading else { return std::future::pending().await };
    let ended = tokio::time::timeout_at(*until, task).await;
    *loading = None;
    match ended {
        Ok(Ok(loaded)) => loaded,
        Ok(Err(error)) => Err(format!("reading the config broke off: {error}")),
        Err(_) => Err(format!("the config could not be read within {} seconds", LIMIT.as_secs())),
    }
}

fn load(old: &Settings, invocation: &Invocation, given_up: &CancellationToken) -> Loaded {
    let (settings, warnings) = config::load(&invocation.config).map_err(|error| error.to_string())?;
    if settings.queue_dir != old.queue_dir {
        return Err(format!(
            "{}: `queue_dir` was `{}` and would be `{}`; that needs a restart of the daemon",
            invocation.config.display(),
            old.queue_dir.display(),
            settings.queue_dir.display()
        ));
    }
    let ssh = crate::ssh(&settings).map_err(|error| error.to_string())?;
    if given_up.is_cancelled() {
        return Err("too late".to_owned());
    }
    // Last, because it is what takes effect.
    log::begin(&invocation.log, &settings, Need::Files).map_err(|error| error.to_string())?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    Ok((settings, ssh))
}
