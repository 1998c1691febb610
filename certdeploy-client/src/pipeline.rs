//! The order of the steps, and nobody else knows it: take in, validate, decide, deploy, write down what is owed.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use certdeploy_common::cert::{Bundle, FileName, Lineage};
use certdeploy_common::wire::{Held, Holdings, Verdict};

use crate::config::Settings;
use crate::config::pushers::Scope;
use crate::deploy::plan::Wish;
use crate::deploy::state::{Current, lineage_directory};
use crate::deploy::{Decision, Record, State, decide};
use crate::place::{self, Place};
use crate::staging::scope;
use crate::update::ledger;
use crate::validate::process::Validator;
use crate::validate::{Origin, Rejection, Upload, ValidBundle};
use crate::{clock, turn};

/// The steps with what they need.
#[derive(Debug)]
pub struct Pipeline {
    /// What it goes by.
    pub(crate) settings: Arc<Settings>,
    validator: Validator,
    /// What was mended because nothing else was taken, and nobody was told of yet.
    mended: Mutex<BTreeSet<Lineage>>,
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
        /// Why the deployed ones are not kept in their place.
        why: String,
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

/// Which lineage an upload may be of.
#[derive(Debug, Clone, Copy)]
pub enum May<'a> {
    /// The one whose place it came to.
    Be(&'a Lineage),
    /// Those that its pusher may upload.
    Of(&'a Scope),
}

impl May<'_> {
    fn refuses(&self, lineage: &Lineage) -> Option<String> {
        match self {
            Self::Be(expected) if *expected == lineage => None,
            Self::Be(_) => Some(format!("the manifest is of {lineage}, not of this lineage")),
            Self::Of(scope) if scope.allows(lineage) => None,
            Self::Of(_) => Some(scope::refusal(lineage)),
        }
    }
}

/// How an upload came.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// Of which lineage it may be.
    pub may: May<'a>,
    /// Whether its files were written so lately that more of them may follow.
    pub growing: bool,
    /// When the updates of a new generation will run, in Unix seconds.
    pub due: i64,
}

impl Pipeline {
    /// The steps for these settings.
    #[must_use]
    pub fn new(settings: Arc<Settings>, validator: Validator) -> Self {
        Self { settings, validator, mended: Mutex::default() }
    }

    /// What was mended since this was last asked: its users are to be told.
    pub fn mended(&self) -> BTreeSet<Lineage> {
        std::mem::take(&mut self.mended.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Brings an upload as far as it goes.
    pub async fn take(&self, upload: Upload, arrival: Arrival<'_>) -> Outcome {
        let plain = matches!(upload.origin, Origin::Plain { .. });
        let valid = match self.check(upload).await {
            Ok(valid) => valid,
            Err(outcome) => return outcome,
        };
        if let Some(reason) = arrival.may.refuses(valid.lineage()) {
            return Outcome::Refused { rejection: Rejection::final_because(reason) };
        }
        let lineage = valid.lineage().clone();
        let outcome = self.place(valid, plain, &arrival).await;
        if matches!(&outcome, Outcome::Refused { rejection } if !rejection.incomplete) {
            self.mend(&lineage).await;
        }
        outcome
    }

    /// What is there instead of what was refused is to be whole: nothing else may come for long.
    async fn mend(&self, lineage: &Lineage) {
        let Ok(place) = self.hold(lineage).await else { return };
        match place.mend(&self.settings, clock::now()) {
            Ok(None) => {}
            Ok(Some(words)) => {
                tracing::warn!("Lineage {lineage}: {words}");
                self.mended.lock().unwrap_or_else(PoisonError::into_inner).insert(lineage.clone());
            }
            Err(reason) => tracing::error!("Lineage {lineage}: {reason}"),
        }
    }

    async fn place(&self, valid: ValidBundle, plain: bool, arrival: &Arrival<'_>) -> Outcome {
        let place = match self.hold(valid.lineage()).await {
            Ok(place) => place,
            Err(reason) => return Outcome::Failed { reason },
        };
        let valid = match self.complete(valid, &place, plain, arrival.growing).await {
            Ok(valid) => valid,
            Err(outcome) => return outcome,
        };
        for warning in valid.warnings() {
            tracing::warn!("Lineage {}: {warning}", valid.lineage());
        }
        let kept = self.kept(&place).await;
        let settings = Arc::clone(&self.settings);
        let due = arrival.due;
        let deploy = move || deploy(&settings, &place, &valid, kept.as_ref(), plain, due);
        let deployed = tokio::task::spawn_blocking(deploy).await;
        deployed.unwrap_or_else(|error| Outcome::Failed { reason: format!("the deployment broke off: {error}") })
    }

    /// Has an upload examined.
    pub(crate) async fn check(&self, upload: Upload) -> Result<ValidBundle, Outcome> {
        match self.validator.validate(upload, clock::now()).await {
            Ok(Ok(valid)) => Ok(valid),
            Ok(Err(rejection)) => Err(Outcome::Refused { rejection }),
            Err(error) => Err(Outcome::Failed { reason: format!("cannot check the upload: {error}") }),
        }
    }

    /// The place of a lineage, locked.
    ///
    /// # Errors
    /// A sentence, see [`Place::hold`].
    pub async fn hold(&self, lineage: &Lineage) -> Result<Place, String> {
        let (settings, lineage) = (Arc::clone(&self.settings), lineage.clone());
        let held = tokio::task::spawn_blocking(move || Place::hold(&settings, &lineage)).await;
        held.unwrap_or_else(|error| Err(format!("looking at it broke off: {error}")))
    }

    /// With the files that are there, did not come, and belong to what came. Without them there would be a file of
    /// another certificate beside the new ones, or none where there was one.
    async fn complete(
        &self,
        valid: ValidBundle,
        place: &Place,
        plain: bool,
        growing: bool,
    ) -> Result<ValidBundle, Outcome> {
        let there = |names: &[FileName]| place.there(names).map_err(|reason| Outcome::Failed { reason });
        if plain && growing && is_shorter(valid.bundle(), &there(&[FileName::Fullchain])?) {
            let reason = "fullchain.pem has fewer certificates than the deployed one".to_owned();
            return Err(Outcome::Refused { rejection: Rejection { reason, incomplete: true } });
        }
        if !place.state.foreign.is_empty() {
            // All of it will be kept as a generation, or nothing is done.
            there(&place.state.names())?;
        }
        let there = there(&valid.lacks(&place.state.names()))?;
        if there.is_empty() {
            return Ok(valid);
        }
        let came = place::record(&self.settings, &valid, valid.bundle(), plain);
        let wish = Wish { record: &came, force: valid.force(), now: clock::now() };
        if let Decision::Refuse(reason) = decide(&place.state, wish) {
            return Err(Outcome::Refused { rejection: Rejection::final_because(reason) });
        }
        match self.check(valid.beside(&there)).await {
            Ok(joined) => Ok(valid.completed(joined)),
            Err(Outcome::Refused { rejection }) => Err(unfit(place, &there, rejection.reason, plain)),
            Err(other) => Err(other),
        }
    }

    /// What is to be known of plain files that are there, so that they can be gone back to; nothing if they make no set.
    async fn kept(&self, place: &Place) -> Option<Record> {
        if place.state.foreign.is_empty() {
            return None;
        }
        let bundle = place.there(&place.state.names()).ok()?;
        let valid =
            self.check(Upload { origin: Origin::Plain { lineage: place.lineage.clone() }, bundle }).await.ok()?;
        Some(place::record(&self.settings, &valid, valid.bundle(), true))
    }

    /// What is held of every lineage. One that cannot be read is logged and counts as not held.
    ///
    /// # Errors
    /// `destination` cannot be read.
    pub fn holdings(&self) -> io::Result<Holdings> {
        let mut holdings = Holdings::default();
        for lineage in State::lineages(&self.settings.destination)? {
            match self.held(&lineage) {
                Ok(held) => holdings.lineages.extend(held.map(|held| (lineage, held))),
                Err(error) => tracing::error!("Cannot read lineage {lineage}, so it counts as not held: {error}"),
            }
        }
        Ok(holdings)
    }

    /// What is held of one lineage.
    ///
    /// # Errors
    /// Its directory cannot be read.
    pub fn held(&self, lineage: &Lineage) -> io::Result<Option<Held>> {
        let directory = lineage_directory(&self.settings.destination, lineage);
        let state = State::read(&directory)?;
        // What somebody has been at is not held: it is to be delivered again.
        Ok(state.held().and_then(|Current { number, record, .. }| {
            let Record { digest, serial, not_after, .. } = record.clone()?;
            let update = turn::owed(&self.settings, ledger::read(&directory, *number).update);
            Some(Held { digest, generation: *number, serial, not_after, update })
        }))
    }
}

/// How long another process of ours may be at work on `destination`.
pub const BUSY: Duration = Duration::from_secs(10);

/// What is there and does not belong to what came: more may follow from a plain peer; a manifest is final.
fn unfit(place: &Place, there: &Bundle, why: String, plain: bool) -> Outcome {
    let (lineage, missing) = (place.lineage.clone(), there.names());
    if plain {
        return Outcome::Waiting { lineage, missing, why };
    }
    let missing = listed(&missing);
    let reason = format!(
        "the {missing} that is deployed here did not come and does not belong to what came ({why}); \
         let the server send it, or, if there is none any more, remove it here and push again"
    );
    Outcome::Refused { rejection: Rejection::final_because(reason) }
}

/// Names for a sentence.
#[must_use]
pub fn listed(names: &[FileName]) -> String {
    names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" and ")
}

/// Whether a `fullchain.pem` may have been cut between two certificates.
fn is_shorter(came: &Bundle, there: &Bundle) -> bool {
    const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
    let count = |bundle: &Bundle| {
        let bytes = bundle.file(FileName::Fullchain)?;
        Some(bytes.windows(BEGIN.len()).filter(|window| *window == BEGIN).count())
    };
    matches!((count(came), count(there)), (Some(came), Some(there)) if came < there)
}

fn deploy(
    settings: &Settings,
    place: &Place,
    valid: &ValidBundle,
    kept: Option<&Record>,
    plain: bool,
    due: i64,
) -> Outcome {
    let lineage = place.lineage.clone();
    let names = place.state.names();
    let files = valid.files(&names);
    let record = place::record(settings, valid, &files, plain);
    match decide(&place.state, Wish { record: &record, force: valid.force(), now: clock::now() }) {
        Decision::Refuse(reason) => Outcome::Refused { rejection: Rejection::final_because(reason) },
        Decision::Unchanged => Outcome::InPlace { lineage, new: false, update: false },
        Decision::UpdateAgain => {
            place.owe(place.state.current.as_ref().map(|current| current.number).unwrap_or_default(), due);
            Outcome::InPlace { lineage, new: false, update: true }
        }
        Decision::Deploy => match (std::time::Instant::now(), place.put(settings, &files, &record, kept, due)) {
            (_, Err(error)) => Outcome::Failed { reason: error.to_string() },
            (begun, Ok(number)) => {
                tracing::info!("Deployed lineage {lineage} serial {} as generation {number}", record.serial);
                tracing::debug!("The swap of {lineage} took {} us", begun.elapsed().as_micros());
                for gone in names.iter().filter(|name| files.file(**name).is_none()) {
                    tracing::warn!("Lineage {lineage} has no {gone} any more: nothing like it is in what came");
                }
                Outcome::InPlace { lineage, new: true, update: true }
            }
        },
    }
}
