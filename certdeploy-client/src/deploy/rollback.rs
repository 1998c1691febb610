//! The generation before, put back as a new one: numbers only grow, so whoever was told of one is not deceived. What
//! it replaces is remembered in its record and does not come back by itself.

use std::path::Path;

use certdeploy_common::cert::{Bundle, Lineage};

use super::apply::{ApplyError, Content, apply};
use super::plan::{Retention, plan};
use super::state::{Instead, Record, State, generation, generation_name};
use crate::config::Permissions;
use crate::dir::Dir;

/// Why there is nothing to go back to.
#[derive(Debug, thiserror::Error)]
pub enum RollbackError {
    /// Nothing is deployed.
    #[error("there is no lineage {0}")]
    Nothing(Lineage),
    /// No earlier generation is there and whole.
    #[error("lineage {0} has no earlier generation to go back to (`keep_generations` says how many are kept)")]
    Oldest(Lineage),
    /// The generation that failed is not the current one any more.
    #[error("lineage {0} has a newer generation than the one that failed; it stays")]
    Newer(Lineage),
    /// It was put back by an earlier failure, and fails as well: the files are not to blame.
    #[error("lineage {0} was rolled back already, and the failure goes on; it stays as it is")]
    Again(Lineage),
    /// It cannot be read.
    #[error("cannot read lineage {0}: {1}")]
    Unreadable(Lineage, std::io::Error),
    /// It cannot be written.
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

/// What was put back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The number it has now.
    pub number: u64,
    /// The generation it was.
    pub from: u64,
    /// What is known of it.
    pub record: Record,
}

/// Who wants it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A person: after a rollback one generation further, whatever it is.
    Hand,
    /// An update of this generation failed: once, and not to what has expired.
    Failed(u64),
}

/// Goes back one generation. The caller holds the lock of `destination`.
///
/// # Errors
/// See [`RollbackError`]; then nothing has changed.
pub fn rollback(
    directory: &Path,
    lineage: &Lineage,
    cause: Cause,
    permissions: &Permissions,
    retention: Retention,
    now: i64,
) -> Result<Restored, RollbackError> {
    let unreadable = |error| RollbackError::Unreadable(lineage.clone(), error);
    let state = State::read(directory).map_err(unreadable)?;
    let current = state.current.as_ref().ok_or_else(|| RollbackError::Nothing(lineage.clone()))?;
    let put_back = current.record.as_ref().and_then(|record| record.instead.as_ref());
    if let Cause::Failed(generation) = cause {
        match put_back {
            _ if current.number != generation => return Err(RollbackError::Newer(lineage.clone())),
            Some(_) => return Err(RollbackError::Again(lineage.clone())),
            None => {}
        }
    }
    let below = put_back.map_or(current.number, |instead| instead.from);
    let earlier = state.generations.iter().rev().map(|(number, _)| *number).filter(|number| *number < below);
    let (from, files, mut record) = earlier
        .filter_map(|number| whole(directory, number))
        .find(|(.., record)| {
            let another = current.record.as_ref().is_none_or(|current| current.digest != record.digest);
            another && (cause == Cause::Hand || record.not_after > now)
        })
        .ok_or_else(|| RollbackError::Oldest(lineage.clone()))?;
    record.instead = current.record.as_ref().map(|current| Instead { digest: current.digest.clone(), from });
    let (number, steps) = plan(&state, &files.names(), retention, now);
    apply(directory, &steps, &Content { files: &files, record: &record }, permissions)?;
    Ok(Restored { number, from, record })
}

/// A generation with its files, if it is as it was deployed.
fn whole(directory: &Path, number: u64) -> Option<(u64, Bundle, Record)> {
    let found = generation(directory, number).filter(|found| found.intact)?;
    let within = Dir::open(&directory.join(generation_name(number))).ok()?;
    let mut files = Bundle::default();
    for name in found.files {
        files.insert(name, within.read(name.as_str(), name.limit(), &[]).ok()?.0);
    }
    Some((number, files, found.record?))
}
