//! SIGHUP: the config anew, all of it or nothing. Reading happens beside the loop, which may not wait for a file system.
//! Must not touch what the loop has.

use std::sync::Arc;
use std::time::Duration;

use certdeploy_common::setting::place::ConfigWarning;
use tokio::task::JoinHandle;

use crate::cli::Options;
use crate::config::{self, Demand, Settings};
use crate::log;

/// New settings with their warnings; or what is wrong, one line for each thing.
pub(super) type Loaded = Result<(Settings, Vec<ConfigWarning>), String>;

/// A config that is being read, and until when.
#[derive(Debug)]
pub(super) struct Loading {
    task: JoinHandle<Loaded>,
    until: tokio::time::Instant,
}

/// How long reading a config may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Begins to read the config anew.
pub(super) fn begin(old: &Arc<Settings>, options: &Arc<Options>) -> Loading {
    let (old, options) = (Arc::clone(old), Arc::clone(options));
    let task = tokio::task::spawn_blocking(move || load(&old, &options));
    Loading { task, until: tokio::time::Instant::now() + LIMIT }
}

/// Waits for it.
pub(super) async fn finished(loading: &mut Option<Loading>) -> Loaded {
    let Some(Loading { task, until }) = loading else { return std::future::pending().await };
    let ended = tokio::time::timeout_at(*until, task).await;
    *loading = None;
    match ended {
        Ok(Ok(loaded)) => loaded,
        Ok(Err(error)) => Err(format!("reading the config broke off: {error}")),
        Err(_) => Err(format!("the config could not be read within {} seconds", LIMIT.as_secs())),
    }
}

fn load(old: &Settings, options: &Options) -> Loaded {
    let (settings, warnings) = config::load(&options.config, Demand::Daemon).map_err(|error| error.to_string())?;
    let file = options.config.display();
    if settings.source != old.source {
        let (was, would) = (old.source.display(), settings.source.display());
        return Err(format!("{file}: `source` was `{was}` and would be `{would}`; that needs a restart of the daemon"));
    }
    match (&old.sftpd, &settings.sftpd, &settings.no_sftpd) {
        (_, None, Some(complaint)) => Err(complaint.about(&options.config)),
        (Some(old), Some(new), _) if old.user != new.user => Err(format!(
            "{file}: `user` was `{}` and would be `{}`; that needs a restart of the daemon",
            old.user, new.user
        )),
        _ => {
            let log = log::policy(options, &settings.log);
            Ok((Settings { log, ..settings }, warnings))
        }
    }
}
