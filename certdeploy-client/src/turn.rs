//! One turn of updates: which lineages' users are to be told, telling them, writing down what came of it, and going
//! back where an entry says so. Beside [`pipeline`](crate::pipeline) the only file that knows deployments and updates.

mod alone;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use certdeploy_common::cert::Lineage;
use certdeploy_common::daemon::shutdown::Orders;
use certdeploy_common::wire::Update;

use crate::clock;
use crate::config::Settings;
use crate::deploy::rollback::{Cause, Restored, RollbackError, rollback};
use crate::deploy::state::{current_number, generation_name, lineage_directory};
use crate::deploy::{Record, State};
use crate::dir::Dir;
use crate::pipeline::BUSY;
use crate::place::retention;
use crate::update::ledger::{self, Word};
use crate::update::{self, Batch, Due, Entry, Failure, Updater};

pub use alone::{Alone, Leaves, alone, leave, take_left};

/// Which lineages' users are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// Those that have not been told, or were told in vain.
    Owed,
    /// The same, of these lineages.
    OwedOf(BTreeSet<Lineage>),
    /// Those that were told in vain.
    Failed,
    /// The same, and those that a command which was killed has left.
    Undone,
    /// All.
    All,
    /// Those that were told, as far as somebody may have undone that since: swarm secrets.
    Secrets,
    /// Those of one lineage.
    Of(Lineage),
}

/// Without anything to update nothing is owed.
#[must_use]
pub fn owed(settings: &Settings, update: Update) -> Update {
    if settings.updates.is_empty() { Update::Done } else { update }
}

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Duties {
    /// Whose users are to be told.
    pub batch: Batch,
    /// By which word each of them is due.
    pub words: BTreeMap<Lineage, Word>,
    /// When that is due for those that have not been told yet, in Unix seconds: the latest of all.
    pub pending: Option<i64>,
    /// Whether some of them were told in vain.
    pub failed: bool,
    /// Whether every lineage could be read.
    pub whole: bool,
    /// Those whose current generation is gone: nobody can be told of them.
    pub lost: BTreeSet<Lineage>,
}

impl Duties {
    /// What of it concerns these.
    #[must_use]
    pub fn of(mut self, lineages: &BTreeSet<Lineage>) -> Self {
        self.batch.lineages.retain(|lineage, _| lineages.contains(lineage));
        self.words.retain(|lineage, _| lineages.contains(lineage));
        self
    }
}

/// The lineages whose users are to be told. One that cannot be read is logged and left out.
///
/// # Errors
/// `destination` cannot be read.
pub fn due(settings: &Settings, which: &Which) -> io::Result<Duties> {
    let batch = Batch { destination: settings.destination.clone(), lineages: BTreeMap::new() };
    let mut duties =
        Duties { batch, words: BTreeMap::new(), pending: None, failed: false, whole: true, lost: BTreeSet::new() };
    let delay = i64::try_from(settings.update_delay.as_secs()).unwrap_or(i64::MAX);
    let soonest = clock::now().saturating_add(delay);
    let lineages = match which {
        Which::OwedOf(some) => some.iter().cloned().collect(),
        Which::Owed | Which::Failed | Which::Undone | Which::All | Which::Secrets | Which::Of(_) => {
            State::lineages(&settings.destination)?
        }
    };
    for lineage in lineages {
        let directory = lineage_directory(&settings.destination, &lineage);
        // Most have nothing to do, and to read what they hold would cost more than all else.
        let word = current_number(&directory).map(|number| ledger::read(&directory, number));
        if matches!(which, Which::Owed | Which::OwedOf(_) | Which::Failed | Which::Undone)
            && word.is_some_and(|word| is_settled(settings, &word))
        {
            continue;
        }
        let state = match State::read(&directory) {
            Ok(state) => state,
            Err(error) => {
                tracing::error!("Cannot read `{}`, so nobody is told of it: {error}", directory.display());
                duties.whole = false;
                continue;
            }
        };
        let damage = state.damage();
        let Some(current) = state.current else {
            duties.lost.extend(damage.map(|_| lineage));
            continue;
        };
        // A generation without a record is what the Python program left: its own updates have run.
        let Some(record) = current.record else { continue };
        let word = ledger::read(&directory, current.number);
        let entries = match (owed(settings, word.update.clone()), which) {
            (_, Which::All) => None,
            (Update::Done, Which::Secrets) => Some(secrets(settings)),
            (_, Which::Of(one)) if *one == lineage => None,
            (Update::Pending { due }, Which::Owed | Which::OwedOf(_)) => {
                // A delay that became shorter holds for what waits already.
                duties.pending = duties.pending.max(Some(due.min(soonest)));
                left_over(&word)
            }
            (Update::Pending { .. }, Which::Failed | Which::Undone) if left_over(&word).is_some() => left_over(&word),
            (Update::Pending { due }, Which::Undone) if due <= clock::now() => None,
            (Update::Failed { .. }, Which::Owed | Which::OwedOf(_) | Which::Failed | Which::Undone)
                if !is_settled(settings, &word) =>
            {
                duties.failed = true;
                Some(word.failed.clone())
            }
            (Update::Done | Update::Pending { .. } | Update::Failed { .. }, _) => continue,
        };
        duties.batch.lineages.insert(lineage.clone(), due_of(record, &word, entries));
        duties.words.insert(lineage, word);
    }
    Ok(duties)
}

/// The entries that a run which was told to end has left; `None`: all.
fn left_over(word: &Word) -> Option<BTreeSet<String>> {
    Some(&word.failed).filter(|left| !left.is_empty()).cloned()
}

/// Writes down that all of this is to be done, before it begins: if it is cut off, it is still owed.
pub fn order(settings: &Settings, duties: &mut Duties) {
    for (lineage, word) in &mut duties.words {
        let directory = lineage_directory(&settings.destination, lineage);
        if current_number(&directory) != Some(word.generation)
            || ledger::read(&directory, word.generation).order != word.order
        {
            // What came meanwhile has a word of its own.
            continue;
        }
        let owed = word.clone().owed(clock::now());
        match ledger::write(&directory, &owed) {
            Ok(()) => *word = owed,
            Err(error) => {
                tracing::warn!(
                    "Cannot write down that {lineage} is updated; if this is cut off, run it again: {error}"
                );
            }
        }
    }
}

/// The entries whose effect others can undo.
fn secrets(settings: &Settings) -> BTreeSet<String> {
    let secrets = settings.updates.iter().filter(|entry| matches!(entry.updater, Updater::Secret(_)));
    secrets.map(Entry::id).collect()
}

/// Whether nothing is to be done about it, now or later.
fn is_settled(settings: &Settings, word: &Word) -> bool {
    match owed(settings, word.update.clone()) {
        Update::Done => true,
        // Nothing of a rollback that went well is to be done again.
        Update::Failed { .. } => word.failed.is_empty(),
        Update::Pending { .. } => false,
    }
}

fn due_of(record: Record, word: &Word, entries: Option<BTreeSet<String>>) -> Due {
    let folder = generation_name(word.generation);
    let parts = if entries.is_some() { word.parts.clone() } else { BTreeMap::new() };
    let Record { serial, names, .. } = record;
    Due { generation: word.generation, folder, serial, names, entries, parts, fallen: word.down() }
}

/// How a turn ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use]
pub struct Told {
    /// Whether something failed.
    pub failed: bool,
    /// Whether some of that is to be run again.
    pub again: bool,
    /// Whether some of that was only left to the next run.
    pub left: bool,
    /// Whether it could not be written down: the next run does not know.
    pub unwritten: bool,
}

/// Tells the users of a batch and writes down what came of it. After `stop` no entry begins any more.
pub async fn run(settings: &Arc<Settings>, duties: &Duties, orders: &Orders) -> Told {
    let Duties { batch, words, .. } = duties;
    let failures = update::run(&settings.updates, batch, settings.fail_fast, orders).await;
    // Before anything is put back: what fell is to be told of the old files too.
    let mut written = settle(settings, words, &failures, &BTreeMap::new());
    let mut restored = Batch { destination: batch.destination.clone(), lineages: BTreeMap::new() };
    let (mut theirs, mut notes, mut stayed) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let unwanted: BTreeSet<&Lineage> =
        failures.iter().filter(|failure| failure.rollback).flat_map(|failure| &failure.lineages).collect();
    for lineage in unwanted {
        let Some(word) = words.get(lineage) else { continue };
        match back(settings, lineage, word).await {
            Ok((put_back, word)) => {
                let serial = &put_back.record.serial;
                let note = format!("rolled back to the files of generation {} (serial {serial})", put_back.from);
                tracing::warn!(
                    "Lineage {lineage} is {note}, now generation {}; what was sent is taken again only with --force, or when \
                     this one has expired",
                    put_back.number
                );
                notes.insert(lineage.clone(), format!("{note}; {}", reasons(lineage, &failures)));
                restored.lineages.insert(lineage.clone(), due_of(put_back.record, &word, None));
                theirs.insert(lineage.clone(), word);
            }
            Err(why) => {
                tracing::error!("Not rolled back: {why}");
                stayed.insert(lineage.clone(), format!("not rolled back: {why}"));
            }
        }
    }
    if !stayed.is_empty() {
        written &= settle(settings, words, &failures, &stayed);
    }
    let gone_back = |failure: &Failure| failure.lineages.iter().all(|lineage| theirs.contains_key(lineage));
    let is_left = |failure: &Failure| failure.left;
    let mut told = Told {
        failed: !failures.iter().all(is_left),
        again: !failures.iter().all(gone_back),
        left: failures.iter().any(is_left),
        unwritten: !written,
    };
    if !restored.lineages.is_empty() {
        let more = update::run(&settings.updates, &restored, settings.fail_fast, orders).await;
        told.unwritten |= !settle(settings, &theirs, &more, &notes);
        told.again |= !more.is_empty();
        told.left |= more.iter().any(is_left);
    }
    told
}

/// Puts the generation before back, unless this one has served already: then its files are not to blame.
async fn back(settings: &Arc<Settings>, lineage: &Lineage, failed: &Word) -> Result<(Restored, Word), String> {
    if failed.is_proven() {
        return Err(format!("the updates of lineage {lineage} went well with these files before; they stay"));
    }
    go_back(settings, lineage, Cause::Failed(failed.generation)).await.map_err(|error| error.to_string())
}

/// Puts the generation before back; its users are to be told. Others go on meanwhile: one of them may have the lock that
/// is waited for.
///
/// # Errors
/// See [`RollbackError`].
pub async fn go_back(
    settings: &Arc<Settings>,
    lineage: &Lineage,
    cause: Cause,
) -> Result<(Restored, Word), RollbackError> {
    let (settings, own) = (Arc::clone(settings), lineage.clone());
    let done = tokio::task::spawn_blocking(move || put_back(&settings, &own, cause)).await;
    done.unwrap_or_else(|error| Err(RollbackError::Unreadable(lineage.clone(), io::Error::other(error))))
}

fn put_back(settings: &Settings, lineage: &Lineage, cause: Cause) -> Result<(Restored, Word), RollbackError> {
    let unreadable = |error| RollbackError::Unreadable(lineage.clone(), error);
    let held = Dir::open(&settings.destination).map_err(unreadable)?;
    held.lock(BUSY).map_err(unreadable)?;
    let directory = lineage_directory(&settings.destination, lineage);
    let restored = rollback(&directory, lineage, cause, &settings.permissions, retention(settings), clock::now())?;
    let word = ledger::read(&directory, restored.number).owed(0);
    if let Err(error) = ledger::write(&directory, &word) {
        // Without a word the update counts as owed, so nothing is lost.
        tracing::warn!("Cannot write down the pending update of {lineage}: {error}");
    }
    Ok((restored, word))
}

fn reasons(lineage: &Lineage, failures: &[Failure]) -> String {
    let own = failures.iter().filter(|failure| failure.lineages.contains(lineage));
    own.map(|failure| failure.reason.as_str()).collect::<Vec<_>>().join("; ")
}

/// Writes down how the updates of those that were due by these words ended. A generation that came meanwhile keeps its
/// own word, and so does one that was ordered again. A note says more than the failures do, or why a lineage is not as it
/// was sent although its updates went well. `false`: some of it could not be written.
fn settle(
    settings: &Settings,
    words: &BTreeMap<Lineage, Word>,
    failures: &[Failure],
    notes: &BTreeMap<Lineage, String>,
) -> bool {
    let mut written = true;
    for (lineage, due) in words {
        let own: Vec<&Failure> = failures.iter().filter(|failure| failure.lineages.contains(lineage)).collect();
        // First what became of it: whoever repeats this may cut its end.
        let mut said: Vec<String> = notes.get(lineage).into_iter().cloned().collect();
        said.extend(Some(reasons(lineage, failures)).filter(|reasons| !reasons.is_empty()));
        let only_left = !own.is_empty() && own.iter().all(|failure| failure.left) && !notes.contains_key(lineage);
        let update = match said.is_empty() {
            true => Update::Done,
            false if only_left => match &due.update {
                // Nothing new is known of what failed before.
                Update::Failed { reason } => Update::Failed { reason: reason.clone() },
                Update::Done | Update::Pending { .. } => Update::Pending { due: clock::now() },
            },
            false => Update::Failed { reason: said.join("; ") },
        };
        let parts = own.iter().filter(|failure| !failure.parts.is_empty());
        let failed: BTreeSet<String> = own.iter().map(|failure| failure.entry.clone()).collect();
        let parts: BTreeMap<_, _> = parts.map(|failure| (failure.entry.clone(), failure.parts.clone())).collect();
        // Of an entry that did not get so far nothing new is known.
        let unknown = |entry: &String| failed.contains(entry) && !parts.contains_key(entry);
        let word = Word {
            generation: due.generation,
            fallen: due.down().into_iter().filter(|(entry, _)| unknown(entry)).collect(),
            failed,
            parts,
            order: due.order,
            proven: due.is_proven() || update == Update::Done,
            update,
        };
        let directory = lineage_directory(&settings.destination, lineage);
        let current = match State::read(&directory) {
            Ok(state) => state.current,
            Err(error) => {
                tracing::error!("Cannot read `{}`: {error}", directory.display());
                written = false;
                continue;
            }
        };
        let is_current = current.is_some_and(|current| current.number == due.generation);
        if is_current
            && ledger::read(&directory, due.generation).order == due.order
            && let Err(error) = ledger::write(&directory, &word)
        {
            // What was owed before runs once more, which is the safe side.
            tracing::error!(
                "Cannot write down the update of {lineage}: {error}; once that is mended, run `certdeploy-client update`"
            );
            written = false;
        }
    }
    written
}
