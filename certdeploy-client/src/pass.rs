//! One pass: what lies in `source` goes in place, then the updates run, at once. For cron, timers, and hosts where a
//! plain sshd receives. Must not listen to anybody.

use std::sync::Arc;

use certdeploy_common::cert::Lineage;
use certdeploy_common::daemon::exit::Exit;
use certdeploy_common::fs::lock::{self, Lock};
use certdeploy_common::wire::PushId;

use crate::config::Settings;
use crate::deploy::rollback::{Cause, Restored};
use crate::dir::Dir;
use crate::link::Commit;
use crate::pipeline::{Outcome, Pipeline};
use crate::staging::{INCOMING, sweep};
use crate::turn::{self, Which};
use crate::{account, clock, intake};

/// How long files that make no valid upload may still be on their way, in seconds.
const PATIENCE: i64 = 60;

/// Runs one pass.
pub async fn run(settings: Arc<Settings>) -> Exit {
    tracing::debug!("Running one off deploy");
    let _lock = match lock(&settings) {
        Ok(Some(lock)) => lock,
        Ok(None) => {
            tracing::warn!("Another certdeploy-client is at work on `{}`; nothing done", settings.source.display());
            return Exit::Done;
        }
        Err(exit) => return exit,
    };
    let validator = crate::daemon::validator(&settings);
    let pipeline = Pipeline::new(Arc::clone(&settings), validator);
    let mut invalid = !leftovers(&settings, &pipeline).await;
    invalid |= !staged(&settings, &pipeline).await;
    let updated = updates(&settings, &Which::Owed).await;
    if invalid { Exit::Failed } else { updated }
}

/// `update`: runs the updates of what is in place, without a new deployment.
pub async fn update(settings: Arc<Settings>, which: Which) -> Exit {
    updates(&settings, &which).await
}

/// `rollback`: puts the generation before back and tells its users.
pub async fn rollback(settings: Arc<Settings>, lineage: Lineage) -> Exit {
    match turn::go_back(&settings, &lineage, Cause::Hand) {
        Ok(Restored { number, from, record }) => {
            tracing::info!(
                "Lineage {lineage} has the files of generation {from} again (serial {}), as generation {number}",
                record.serial
            );
            updates(&settings, &Which::Of(lineage)).await
        }
        Err(error) => {
            tracing::error!("{error}");
            Exit::Failed
        }
    }
}

async fn updates(settings: &Arc<Settings>, which: &Which) -> Exit {
    let batch = match turn::due(settings, which) {
        Ok((batch, _)) => batch,
        Err(error) => {
            tracing::error!("Cannot read `{}`: {error}", settings.destination.display());
            return Exit::Failed;
        }
    };
    if batch.lineages.is_empty() || settings.updates.is_empty() {
        return Exit::Done;
    }
    match turn::run(settings, &batch).await.is_empty() {
        true => Exit::Done,
        false if settings.fail_fast => Exit::Failed,
        false => Exit::Owed,
    }
}

/// The lock on `source`; `None` when somebody else has it.
///
/// # Errors
/// It cannot be taken, which is said.
pub fn lock(settings: &Settings) -> Result<Option<Lock>, Exit> {
    let path = settings.source.join(".lock");
    lock::try_lock(&path).map_err(|error| {
        tracing::error!("Cannot lock `{}`: {error}", path.display());
        Exit::Failed
    })
}

/// Complete uploads that a daemon received and did not get to. False: one of them is invalid.
pub async fn leftovers(settings: &Settings, pipeline: &Pipeline) -> bool {
    let Ok(incoming) = Dir::open(&settings.source).and_then(|source| source.child(INCOMING)) else { return true };
    let commits = match sweep::sweep(&incoming) {
        Ok(commits) => commits,
        Err(error) => {
            tracing::error!("Cannot read `{}`: {error}", settings.source.join(INCOMING).display());
            return false;
        }
    };
    let mut valid = true;
    for commit in commits {
        let outcome = match &commit {
            Commit::Push(push) => receive_push(&incoming, push, pipeline, clock::now()).await,
            Commit::Plain(lineage) => receive_plain(&incoming, lineage, pipeline, clock::now()).await,
        };
        valid &= !matches!(outcome, Outcome::Refused { .. } | Outcome::Failed { .. });
    }
    valid
}

/// Takes a complete push through the pipeline; it leaves staging unless it could not be placed now.
pub async fn receive_push(incoming: &Dir, push: &PushId, pipeline: &Pipeline, due: i64) -> Outcome {
    let outcome = match intake::push(incoming, push, &owners(incoming)) {
        Ok(upload) => pipeline.take(upload, None, due).await,
        Err(error) => Outcome::Refused { rejection: crate::validate::Rejection::final_because(error.to_string()) },
    };
    report(&format!("push {push}"), &outcome);
    // A pusher tries again by itself, with a new push.
    discard(incoming, &push.directory());
    outcome
}

/// Takes what plain peers put of a lineage through the pipeline; it stays in staging while it waits for more.
pub async fn receive_plain(incoming: &Dir, lineage: &Lineage, pipeline: &Pipeline, due: i64) -> Outcome {
    let (outcome, directories) = match intake::plain(incoming, lineage, &owners(incoming)) {
        Ok((upload, directories)) if upload.bundle.is_empty() => {
            (Outcome::InPlace { lineage: lineage.clone(), new: false, update: false }, directories)
        }
        Ok((upload, directories)) => (pipeline.take(upload, Some(lineage), due).await, directories),
        Err(error) => (Outcome::Failed { reason: error.to_string() }, Vec::new()),
    };
    report(&format!("lineage {lineage}"), &outcome);
    let keep = match &outcome {
        Outcome::InPlace { .. } | Outcome::Refused { .. } => 0,
        // The last few are enough to complete each other.
        Outcome::Waiting { .. } | Outcome::Failed { .. } => 4,
    };
    for name in directories.iter().rev().skip(keep) {
        discard(incoming, name);
    }
    outcome
}

/// Whose files are taken: the receiver's, whose directory it is, and our own.
fn owners(incoming: &Dir) -> Vec<u32> {
    let mut owners = vec![rustix::process::geteuid().as_raw()];
    owners.extend(incoming.owner());
    owners
}

fn discard(incoming: &Dir, name: &str) {
    if let Err(error) = incoming.remove_tree(name) {
        tracing::warn!("Cannot remove `{name}` from staging: {error}");
    }
}

fn report(what: &str, outcome: &Outcome) {
    match outcome {
        Outcome::InPlace { lineage, new: false, .. } => tracing::debug!("Lineage {lineage} is in place already"),
        Outcome::InPlace { .. } => {}
        Outcome::Waiting { lineage, missing } => {
            let missing: Vec<&str> = missing.iter().map(|name| name.as_str()).collect();
            // For a person: nothing else says that this certificate will run out here.
            tracing::error!(
                "Lineage {lineage} is not deployed yet: it waits for {}, which the deployed one has; put all its files",
                missing.join(" and ")
            );
        }
        Outcome::Refused { rejection } => tracing::error!("CertDeployError: Refused {what}: {rejection}"),
        Outcome::Failed { reason } => tracing::error!("CertDeployError: {what} cannot be deployed now: {reason}"),
    }
}

/// What a plain sshd put into `source`. False: one lineage of it is invalid. None stops another.
pub async fn staged(settings: &Settings, pipeline: &Pipeline) -> bool {
    let lineages = match intake::lineages(&settings.source) {
        Ok(lineages) => lineages,
        Err(error) => {
            tracing::error!("Cannot read `{}`: {error}", settings.source.display());
            return false;
        }
    };
    let mut valid = true;
    for lineage in lineages {
        valid &= one(settings, &lineage, pipeline).await;
    }
    valid
}

async fn one(settings: &Settings, lineage: &Lineage, pipeline: &Pipeline) -> bool {
    let place = settings.source.join(lineage.as_str());
    let found = match intake::source(&settings.source, lineage) {
        Ok(Some(found)) => found,
        Ok(None) => return true,
        Err(error) => {
            tracing::error!("InvalidKey: Invalid key {}: {error}", place.display());
            return false;
        }
    };
    tracing::debug!("Deploying new certs");
    let outcome = pipeline.take(found.upload, Some(lineage), clock::now()).await;
    match &outcome {
        Outcome::Refused { rejection } if rejection.incomplete && clock::now() - found.youngest < PATIENCE => {
            tracing::info!("Lineage {lineage} is still arriving ({rejection}); it waits for the next pass");
            true
        }
        Outcome::Refused { rejection } => {
            // The files stay: a person must see them, and a new upload replaces them.
            tracing::error!("InvalidKey: Invalid key {}: {rejection}", place.display());
            false
        }
        Outcome::InPlace { .. } => {
            report(lineage.as_str(), &outcome);
            if let Err(error) = intake::remove(&settings.source, lineage, &found.read) {
                tracing::warn!("Cannot remove the deployed files from `{}`: {error}", place.display());
            }
            true
        }
        Outcome::Waiting { .. } => {
            report(lineage.as_str(), &outcome);
            true
        }
        Outcome::Failed { .. } => {
            report(lineage.as_str(), &outcome);
            false
        }
    }
}

/// Says when privileges are not dropped for want of the configured account.
pub fn note_account(wanted: &str, found: &account::Account) {
    if found.name != wanted {
        tracing::warn!(
            "There is no user `{wanted}`; running without privileges as `{}` instead. Make one with: useradd --system --shell /usr/sbin/nologin {wanted}",
            found.name
        );
    }
}
