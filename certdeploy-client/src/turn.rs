//! One turn of updates: which lineages' users are to be told, telling them, writing down what came of it, and going
//! back where an entry says so. Beside [`pipeline`](crate::pipeline) the only file that knows deployments and updates.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use certdeploy_common::cert::Lineage;
use certdeploy_common::wire::Update;

use crate::clock;
use crate::config::Settings;
use crate::deploy::State;
use crate::deploy::rollback::{Cause, Restored, RollbackError, rollback};
use crate::deploy::state::lineage_directory;
use crate::dir::Dir;
use crate::pipeline::{BUSY, retention};
use crate::update::ledger::{self, Word};
use crate::update::{self, Batch, Due, Failure};

/// Which lineages' users are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// Those that have not been told, or were told in vain.
    Owed,
    /// Those that were told in vain.
    Failed,
    /// All.
    All,
    /// Those of one lineage.
    Of(Lineage),
}

/// Without anything to update nothing is owed.
#[must_use]
pub fn owed(settings: &Settings, update: Update) -> Update {
    if settings.updates.is_empty() { Update::Done } else { update }
}

/// The lineages whose users are to be told, and when that is due at the latest.
///
/// # Errors
/// `destination` cannot be read.
pub fn due(settings: &Settings, which: &Which) -> io::Result<(Batch, Option<i64>)> {
    let mut lineages = BTreeMap::new();
    let mut latest = None;
    for lineage in State::lineages(&settings.destination)? {
        let directory = lineage_directory(&settings.destination, &lineage);
        let Some(current) = State::read(&directory)?.current else { continue };
        // A generation without a record is what the Python program left: its own updates have run.
        let Some(record) = current.record else { continue };
        let word = ledger::read(&directory, current.number);
        let (at, entries) = match (owed(settings, word.update), which) {
            (_, Which::All) => (0, None),
            (_, Which::Of(one)) if *one == lineage => (0, None),
            (Update::Pending { due }, Which::Owed) => (due, None),
            // Nothing of a rollback that went well is to be done again.
            (Update::Failed { .. }, Which::Owed | Which::Failed) if !word.failed.is_empty() => (0, Some(word.failed)),
            (Update::Done | Update::Pending { .. } | Update::Failed { .. }, _) => continue,
        };
        latest = latest.max(Some(at));
        lineages.insert(lineage, Due { generation: current.number, names: record.names, entries });
    }
    Ok((Batch { destination: settings.destination.clone(), lineages }, latest))
}

/// Tells the users of a batch and writes down what came of it. Returns what failed.
pub async fn run(settings: &Arc<Settings>, batch: &Batch) -> Vec<Failure> {
    let mut failures = update::run(&settings.updates, batch, settings.fail_fast).await;
    let unwanted: BTreeSet<&Lineage> =
        failures.iter().filter(|failure| failure.rollback).flat_map(|failure| &failure.lineages).collect();
    let mut again = Batch { destination: batch.destination.clone(), lineages: BTreeMap::new() };
    let mut notes = BTreeMap::new();
    for lineage in unwanted {
        let Some(failed) = batch.lineages.get(lineage) else { continue };
        match go_back(settings, lineage, Cause::Failed(failed.generation)) {
            Ok(restored) => {
                let serial = &restored.record.serial;
                let note = format!("rolled back to the files of generation {} (serial {serial})", restored.from);
                tracing::warn!("Lineage {lineage} is {note}, now generation {}", restored.number);
                notes.insert(lineage.clone(), format!("{}; {note}", reasons(lineage, &failures)));
                let due = Due { generation: restored.number, names: restored.record.names, entries: None };
                again.lineages.insert(lineage.clone(), due);
            }
            Err(error) => tracing::error!("Not rolled back: {error}"),
        }
    }
    settle(settings, batch, &failures, &BTreeMap::new());
    if !again.lineages.is_empty() {
        let more = update::run(&settings.updates, &again, settings.fail_fast).await;
        settle(settings, &again, &more, &notes);
        failures.extend(more);
    }
    failures
}

/// Puts the generation before back. Blocks, for a short time.
///
/// # Errors
/// See [`RollbackError`].
pub fn go_back(settings: &Settings, lineage: &Lineage, cause: Cause) -> Result<Restored, RollbackError> {
    let unreadable = |error| RollbackError::Unreadable(lineage.clone(), error);
    let held = Dir::open(&settings.destination).map_err(unreadable)?;
    held.lock(BUSY).map_err(unreadable)?;
    let directory = lineage_directory(&settings.destination, lineage);
    let restored = rollback(&directory, lineage, cause, &settings.permissions, retention(settings), clock::now())?;
    let word = Word { generation: restored.number, update: Update::Pending { due: 0 }, failed: BTreeSet::new() };
    if let Err(error) = ledger::write(&directory, &word) {
        // Without a word the update counts as owed, so nothing is lost.
        tracing::warn!("Cannot write down the pending update of {lineage}: {error}");
    }
    Ok(restored)
}

fn reasons(lineage: &Lineage, failures: &[Failure]) -> String {
    let own = failures.iter().filter(|failure| failure.lineages.contains(lineage));
    own.map(|failure| failure.reason.as_str()).collect::<Vec<_>>().join("; ")
}

/// Writes down how the updates of a batch ended. A generation that came meanwhile keeps its own word. A note says why
/// a lineage is not as it was sent, although its updates went well.
fn settle(settings: &Settings, batch: &Batch, failures: &[Failure], notes: &BTreeMap<Lineage, String>) {
    for (lineage, due) in &batch.lineages {
        let own = failures.iter().filter(|failure| failure.lineages.contains(lineage));
        let mut said: Vec<String> = notes.get(lineage).into_iter().cloned().collect();
        said.extend(Some(reasons(lineage, failures)).filter(|reasons| !reasons.is_empty()));
        let word = Word {
            generation: due.generation,
            update: if said.is_empty() { Update::Done } else { Update::Failed { reason: said.join("; ") } },
            failed: own.map(|failure| failure.entry.clone()).collect(),
        };
        let directory = lineage_directory(&settings.destination, lineage);
        let current = State::read(&directory).ok().and_then(|state| state.current);
        if current.is_some_and(|current| current.number == due.generation)
            && let Err(error) = ledger::write(&directory, &word)
        {
            // It will run once more after a restart, which is the safe side.
            tracing::error!("Cannot write down the update of {lineage}: {error}");
        }
    }
}
