//! Poking what uses the files. Knows that lineages changed, not how; must not name deployment, staging or SFTP.

pub mod command;
pub mod delay;
pub mod ledger;
pub mod script;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use certdeploy_common::cert::{Domain, Lineage};

use crate::config::Script;

/// One thing that is updated. A closed set, one file each.
#[derive(Debug, Clone)]
pub enum Updater {
    /// An executable of the user's.
    Script(Script),
}

/// The lineages that changed since the last updates.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// The directory the lineages are in.
    pub destination: PathBuf,
    /// Each lineage with its current generation and the names of its certificate.
    pub lineages: BTreeMap<Lineage, (u64, BTreeSet<Domain>)>,
}

/// Why an update failed.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// A script.
    #[error("ScriptError: Script {} failed to update: {source}", path.display())]
    Script {
        /// The executable.
        path: PathBuf,
        /// Why.
        source: command::CommandError,
    },
}

/// Runs all updaters in the order of the config, each once for the whole batch; stops at the first failure only
/// with `fail_fast`. Returns the failures.
pub async fn run(updaters: &[Updater], batch: &Batch, fail_fast: bool) -> Vec<UpdateError> {
    tracing::debug!("Updating services");
    let mut failures = Vec::new();
    for updater in updaters {
        let outcome = match updater {
            Updater::Script(script) => script::run(script, batch).await,
        };
        if let Err(error) = outcome {
            tracing::error!("{error}");
            failures.push(error);
            if fail_fast {
                break;
            }
        }
    }
    if failures.is_empty() {
        tracing::info!("Updated services");
    }
    failures
}
