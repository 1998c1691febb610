//! The order of the steps, and nobody else knows it: take in, validate, decide, deploy, write down what is owed.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use certdeploy_common::cert::{FileName, Lineage};
use certdeploy_common::wire::{Held, Holdings, Update, Verdict};

use crate::config::Settings;
use crate::deploy::apply::Content;
use crate::deploy::plan::{Retention, Wish};
use crate::deploy::state::{Current, lineage_directory};
use crate::deploy::{Decision, Record, State, apply, decide, plan};
use crate::dir::Dir;
use crate::update::ledger::{self, Word};
use crate::validate::process::Validator;
use crate::validate::{Origin, Rejection, Upload, ValidBundle};
use crate::{clock, turn};

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
            let update = turn::owed(&self.settings, ledger::read(&directory, number).update);
            let Record { digest, serial, not_after, .. } = record;
            Some(Held { digest, generation: number, serial, not_after, update })
        }))
    }
}

/// How long another process of ours may be at work on `destination`.
pub const BUSY: Duration = Duration::from_secs(10);

fn deploy(settings: &Settings, valid: &ValidBundle, plain: bool, due: i64) -> Outcome {
    let lineage = valid.lineage().clone();
    let directory = lineage_directory(&settings.destination, &lineage);
    let locked = Dir::open(&settings.destination).and_then(|held| held.lock(BUSY).map(|()| held));
    let _held = match locked {
        Ok(held) => held,
        Err(error) => {
            let reason = format!("cannot lock `{}`: {error}", settings.destination.display());
            return Outcome::Failed { reason };
        }
    };
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
            let (number, steps) = plan(&state, &files.names(), retention(settings), clock::now());
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

/// How long generations are kept, as the config says.
#[must_use]
pub fn retention(settings: &Settings) -> Retention {
    Retention {
        keep: settings.keep_generations,
        min_age: i64::try_from(settings.generation_min_age.as_secs()).unwrap_or(i64::MAX),
    }
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
        instead: None,
    }
}
