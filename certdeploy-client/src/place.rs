//! A lineage's place below `destination`, locked: what is there, and the one way to put something new there. Knows
//! deployments and the ledger; asks nobody.

use std::path::PathBuf;

use certdeploy_common::cert::{Bundle, FileName, Lineage};

use crate::clock;
use crate::config::Settings;
use crate::deploy::apply::{ApplyError, Content};
use crate::deploy::plan::{Retention, Step};
use crate::deploy::state::{Current, Damage, is_blocked, lineage_directory};
use crate::deploy::{Record, State, apply, plan, seen};
use crate::dir::Dir;
use crate::pipeline::{BUSY, listed};
use crate::update::ledger;
use crate::validate::ValidBundle;

/// See the module. The lock falls with this value.
#[derive(Debug)]
pub struct Place {
    /// Whose it is.
    pub lineage: Lineage,
    /// What is there.
    pub state: State,
    directory: PathBuf,
    _held: Dir,
}

/// What there is to say when nothing is left of a lineage.
pub const NONE_LEFT: &str = "`..data` leads to no generation, and none is left that is whole; push it anew";

/// What there is to say when something else has the name of the link.
pub const NO_LINK: &str = "`..data` is no link, so nothing can be put there; move it away";

impl Place {
    /// Takes the lock and looks. Blocks, for [`BUSY`] at most.
    ///
    /// # Errors
    /// A sentence: it cannot be locked or read.
    pub fn hold(settings: &Settings, lineage: &Lineage) -> Result<Self, String> {
        let destination = &settings.destination;
        let held = Dir::open(destination).and_then(|held| held.lock(BUSY).map(|()| held));
        let held = held.map_err(|error| format!("cannot lock `{}`: {error}", destination.display()))?;
        let directory = lineage_directory(destination, lineage);
        let state =
            State::read(&directory).map_err(|error| format!("cannot read `{}`: {error}", directory.display()))?;
        Ok(Self { lineage: lineage.clone(), state, directory, _held: held })
    }

    /// What readers find behind these names.
    ///
    /// # Errors
    /// A sentence: something is there and cannot be kept.
    pub fn there(&self, names: &[FileName]) -> Result<Bundle, String> {
        seen::files(&self.directory, names).map_err(|unkept| unkept.to_string())
    }

    /// Makes `files` the next generation and writes down that its users are to be told at `due` (Unix seconds). Returns
    /// its number. `kept` is what is known of plain files that are there.
    ///
    /// # Errors
    /// See [`ApplyError`]; what was there still is.
    pub fn put(
        &self,
        settings: &Settings,
        files: &Bundle,
        record: &Record,
        kept: Option<&Record>,
        due: i64,
    ) -> Result<u64, ApplyError> {
        let (number, steps) = plan(&self.state, &files.names(), retention(settings), clock::now());
        apply(&self.directory, &steps, &Content { files, record, kept }, &settings.permissions)?;
        self.owe(number, due);
        Ok(number)
    }

    /// Brings back what can be without asking anybody: names that are missing, and files that another generation has as
    /// well. Says what it did.
    ///
    /// # Errors
    /// A sentence.
    pub fn mend(&self, settings: &Settings, now: i64) -> Result<Option<String>, String> {
        let failed = |error: ApplyError| error.to_string();
        match (self.state.damage(), &self.state.current) {
            (Some(Damage::Names { missing, dangling }), Some(current)) => {
                let steps = dangling.iter().copied().map(Step::Unlink).chain(missing.iter().copied().map(Step::Link));
                self.steps(settings, current, &steps.collect::<Vec<_>>()).map_err(failed)?;
                let words =
                    format!("{} was not there; it leads to generation {} now", listed(&missing), current.number);
                Ok(Some(words).filter(|_| !missing.is_empty()))
            }
            (Some(Damage::Changed | Damage::Lost), Some(current)) if self.state.foreign.is_empty() => {
                let Some((record, files)) = self.state.twin(&self.directory) else { return Ok(None) };
                let number = self.put(settings, &files, &record, None, now).map_err(failed)?;
                let damaged = current.number;
                Ok(Some(format!("the files of generation {damaged} were damaged; generation {number} has them again")))
            }
            _ => Ok(None),
        }
    }

    /// Makes the best generation that is left the current one, when none is, and its users are to be told at `now` (Unix
    /// seconds). Returns its number, and whether it is what was deployed last.
    ///
    /// # Errors
    /// A sentence: there is none, or it cannot be done.
    pub fn back(&self, settings: &Settings, now: i64) -> Result<(u64, bool), String> {
        if is_blocked(&self.directory) {
            return Err(NO_LINK.to_owned());
        }
        let best = self.state.next_best(&self.directory, now).ok_or(NONE_LEFT)?;
        let (number, last) = (best.number, self.state.last(&self.directory));
        self.steps(settings, &best, &[Step::Switch { number }]).map_err(|error| error.to_string())?;
        self.owe(number, now);
        Ok((number, last == Some(number)))
    }

    /// Steps that write no files.
    fn steps(&self, settings: &Settings, of: &Current, steps: &[Step]) -> Result<(), ApplyError> {
        let Some(record) = &of.record else { return Ok(()) };
        let content = Content { files: &Bundle::default(), record, kept: None };
        apply(&self.directory, steps, &content, &settings.permissions)
    }

    /// Writes down that the users of a generation are to be told at `due` (Unix seconds).
    pub fn owe(&self, generation: u64, due: i64) {
        let word = ledger::read(&self.directory, generation).owed(due);
        if let Err(error) = ledger::write(&self.directory, &word) {
            // Without a word the update counts as owed, so nothing is lost.
            tracing::warn!("Cannot write down the pending update of {}: {error}", self.lineage);
        }
    }
}

/// How long generations are kept, as the config says.
#[must_use]
pub fn retention(settings: &Settings) -> Retention {
    Retention {
        keep: settings.keep_generations,
        min_age: i64::try_from(settings.generation_min_age.as_secs()).unwrap_or(i64::MAX),
    }
}

/// What is to be known of a bundle once it is deployed as `files`. A pusher with a manifest says which files count for
/// the digest; of a plain peer's all do, but a `cert.pem` that was made here.
#[must_use]
pub fn record(settings: &Settings, valid: &ValidBundle, files: &Bundle, plain: bool) -> Record {
    let facts = valid.facts();
    let counted = |name: &FileName| *name != FileName::Cert || valid.bundle().file(*name).is_some();
    let names: Vec<FileName> = files.names().into_iter().filter(counted).collect();
    let came = if plain { files.only(&names) } else { valid.bundle().clone() };
    Record {
        digest: came.digest(),
        files: came.names(),
        serial: facts.map(|facts| facts.serial.clone()).unwrap_or_default(),
        not_before: facts.map(|facts| facts.not_before).unwrap_or_default(),
        not_after: facts.map(|facts| facts.not_after).unwrap_or_default(),
        names: facts.map(|facts| facts.names.clone()).unwrap_or_default(),
        all: Some(files.digest()),
        permissions: Some(settings.permissions.to_string()),
        instead: None,
    }
}
