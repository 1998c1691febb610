//! The order of the steps, and nobody else knows it: take in, validate, decide, deploy, write down what is owed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use certdeploy_common::cert::{FileName, Lineage};
use certdeploy_common::wire::{Held, Holdings, Update, Verdict};

use crate::clock;
use crate::config::Settings;
use crate::deploy::apply::Content;
use crate::deploy::plan::{Retention, Wish};
use crate::deploy::state::{Current, lineage_directory};
use crate::deploy::{Decision, Record, State, apply, decide, plan};
use crate::update::ledger::{self, Word};
use crate::update::{Batch, Due, Failure};
use crate::validate::process::Validator;
use crate::validate::{Origin, Rejection, Upload, ValidBundle};

/// The steps with what they need.
#[derive(Debug)]
pub struct Pipeline {
    settings: Arc<Settings>,
    validator: Validator,
}

/// What became of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// The files are in place; `new` says whether anything changed, `update` whether users are to be told.
    InPlace {
        /// The lineage.
        lineage: Lineage,
        /// Whether there is a new generation.
        new: bool,
        /// Whether its users are to be told.
        update: bool,
    },
    /// Some files are still missing; the upload is to be kept.
    Waiting {
        /// The lineage.
        lineage: Lineage,
        /// What is missing.
        missing: Vec<FileName>,
    },
    /// Refused for good.
    Refused {
        /// Why.
        rejection: Rejection,
    },
    /// Not possible now; the upload is to be kept.
    Failed {
        /// Why.
        reason: String,
    },
}

impl Outcome {
    /// The same in the words of a receipt.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::InPlace { new: true, .. } => Verdict::Deployed,
            Self::InPlace { new: false, .. } => Verdict::Unchanged,
            Self::Waiting { .. } => Verdict::Staged,
            Self::Refused { rejection } => Verdict::Refused { reason: rejection.reason.clone() },
            Self::Failed { reason } => Verdict::Failed { reason: reason.clone() },
        }
    }
}

impl Pipeline {
    /// The steps for these settings.
    #[must_use]
    pub fn new(settings: Arc<Settings>, validator: Validator) -> Self {
        Self { settings, validator }
    }

    /// Brings an upload as far as it goes. `due` is when the updates of a new generation will run.
    pub async fn take(&self, upload: Upload, expected: Option<&Lineage>, due: i64) -> Outcome {
        let plain = matches!(upload.origin, Origin::Plain { .. });
        let valid = match self.validator.validate(upload, clock::now()).await {
            Ok(Ok(valid)) => valid,
            Ok(Err(rejection)) => return Outcome::Refused { rejection },
            Err(error) => return Outcome::Failed { reason: format!("cannot check the upload: {error}") },
        };
        if expected.is_some_and(|expected| expected != valid.lineage()) {
            let reason = format!("the manifest is of {}, not of this lineage", valid.lineage());
            return Outcome::Refused { rejection: Rejection::final_because(reason) };
        }
        for warning in valid.warnings() {
            tracing::warn!("Lineage {}: {warning}", valid.lineage());
        }
        let settings = Arc::clone(&self.settings);
        let deployed = tokio::task::spawn_blocking(move || deploy(&settings, &valid, plain, due)).await;
        deployed.unwrap_or_else(|error| Outcome::Failed { reason: format!("the deployment broke off: {error}") })
    }

    /// What is held of every lineage.
    ///
    /// # Errors
    /// `destination` cannot be read.
    pub fn holdings(&self) -> io::Result<Holdings> {
        let mut holdings = Holdings::default();
        for lineage in State::lineages(&self.settings.destination)? {
            let held = self.held(&lineage)?;
            holdings.lineages.extend(held.map(|held| (lineage, held)));
        }
        Ok(holdings)
    }

    /// What is held of one lineage.
    ///
    /// # Errors
    /// Its directory cannot be read.
    pub fn held(&self, lineage: &Lineage) -> io::Result<Option<Held>> {
        let directory = lineage_directory(&self.settings.destination, lineage);
        let current = State::read(&directory)?.current;
        Ok(current.and_then(|Current { number, record, .. }| {
            let record = record?;
            let update = self.owed(ledger::read(&directory, number).update);
            let Record { digest, serial, not_after, .. } = record;
            Some(Held { digest, generation: number, serial, not_after, update })
        }))
    }

    /// Without anything to update nothing is owed.
    fn owed(&self, update: Update) -> Update {
        if self.settings.updates.is_empty() { Update::Done } else { update }
    }

    /// The lineages whose users are to be told, and when that is due at the latest.
    ///
    /// # Errors
    /// `destination` cannot be read.
    pub fn due(&self, which: Which) -> io::Result<(Batch, Option<i64>)> {
        let mut lineages = BTreeMap::new();
        let mut latest = None;
        for lineage in State::lineages(&self.settings.destination)? {
            let directory = lineage_directory(&self.settings.destination, &lineage);
            let Some(current) = State::read(&directory)?.current else { continue };
            // A generation without a record is what the Python program left: its own updates have run.
            let Some(record) = current.record else { continue };
            let word = ledger::read(&directory, current.number);
            let (at, entries) = match (self.owed(word.update), which) {
                (Update::Done, Which::Owed | Which::Failed) | (Update::Pending { .. }, Which::Failed) => continue,
                (Update::Pending { due }, Which::Owed) => (due, None),
                (Update::Failed { .. }, Which::Owed | Which::Failed) => {
                    (0, Some(word.failed).filter(|failed| !failed.is_empty()))
                }
                (_, Which::All) => (0, None),
            };
            latest = latest.max(Some(at));
            lineages.insert(lineage, Due { generation: current.number, names: record.names, entries });
        }
        Ok((Batch { destination: self.settings.destination.clone(), lineages }, latest))
    }

    /// Writes down how the updates of a batch ended. A generation that came meanwhile keeps its own word.
    pub fn settle(&self, batch: &Batch, failures: &[Failure]) {
        for (lineage, due) in &batch.lineages {
            let own = || failures.iter().filter(|failure| failure.lineages.contains(lineage));
            let reasons: Vec<&str> = own().map(|failure| failure.reason.as_str()).collect();
            let word = Word {
                generation: due.generation,
                update: match reasons.as_slice() {
                    [] => Update::Done,
                    reasons => Update::Failed { reason: reasons.join("; ") },
                },
                failed: own().map(|failure| failure.entry.clone()).collect(),
            };
            let directory = lineage_directory(&self.settings.destination, lineage);
            let current = State::read(&directory).ok().and_then(|state| state.current);
            if current.is_some_and(|current| current.number == due.generation)
                && let Err(error) = ledger::write(&directory, &word)
            {
                // It will run once more after a restart, which is the safe side.
                tracing::error!("Cannot write down the update of {lineage}: {error}");
            }
        }
    }
}

/// Which lineages' users are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Those that have not been told, or were told in vain.
    Owed,
    /// Those that were told in vain.
    Failed,
    /// All.
    All,
}

fn deploy(settings: &Settings, valid: &ValidBundle, plain: bool, due: i64) -> Outcome {
    let lineage = valid.lineage().clone();
    let directory = lineage_directory(&settings.destination, &lineage);
    let state = match State::read(&directory) {
        Ok(state) => state,
        Err(error) => return Outcome::Failed { reason: format!("cannot read `{}`: {error}", directory.display()) },
    };
    let record = record(valid);
    let wish = Wish { record: &record, force: valid.force(), plain };
    let (number, new) = match decide(&state, wish) {
        Decision::Hold(missing) => return Outcome::Waiting { lineage, missing },
        Decision::Refuse(reason) => return Outcome::Refused { rejection: Rejection::final_because(reason) },
        Decision::Unchanged => return Outcome::InPlace { lineage, new: false, update: false },
        Decision::UpdateAgain => (state.current.map(|current| current.number).unwrap_or_default(), false),
        Decision::Deploy => {
            let files = valid.files();
            let retention = Retention {
                keep: settings.keep_generations,
                min_age: i64::try_from(settings.generation_min_age.as_secs()).unwrap_or(i64::MAX),
            };
            let (number, steps) = plan(&state, &files.names(), retention, clock::now());
            let content = Content { files: &files, record: &record };
            if let Err(error) = apply(&directory, &steps, &content, &settings.permissions) {
                return Outcome::Failed { reason: error.to_string() };
            }
            tracing::info!("Deployed lineage {lineage} serial {} as generation {number}", record.serial);
            (number, true)
        }
    };
    let word = Word { generation: number, update: Update::Pending { due }, failed: BTreeSet::new() };
    if let Err(error) = ledger::write(&directory, &word) {
        // Without a word the update counts as owed, so nothing is lost.
        tracing::warn!("Cannot write down the pending update of {lineage}: {error}");
    }
    Outcome::InPlace { lineage, new, update: true }
}

fn record(valid: &ValidBundle) -> Record {
    let facts = valid.facts();
    Record {
        digest: valid.bundle().digest(),
        files: valid.bundle().names(),
        serial: facts.map(|facts| facts.serial.clone()).unwrap_or_default(),
        not_before: facts.map(|facts| facts.not_before).unwrap_or_default(),
        not_after: facts.map(|facts| facts.not_after).unwrap_or_default(),
        names: facts.map(|facts| facts.names.clone()).unwrap_or_default(),
    }
}
