//! The generation before, put back as a new one: numbers only grow, so whoever was told of one is not deceived. What
//! it replaces is remembered in its record and does not come back by itself.

use std::path::Path;

use certdeploy_common::cert::{Bundle, Lineage};

use super::apply::{ApplyError, Content, apply};
use super::plan::{Retention, plan};
use super::record::Record;
use super::state::{Damage, State, generation, with_files};
use crate::config::Permissions;

/// Why there is nothing to go back to.
#[derive(Debug, thiserror::Error)]
pub enum RollbackError {
    /// Nothing is deployed.
    #[error("there is no lineage {0}")]
    Nothing(Lineage),
    /// What is current is gone.
    #[error(
        "lineage {0} has lost its current generation; a pass (`certdeploy-client`) or a start of the daemon puts the best that is left in its place"
    )]
    Lost(Lineage),
    /// No earlier generation is there and whole.
    #[error(
        "lineage {0} has no earlier generation to go back to that is whole (`keep_generations` says how many are kept)"
    )]
    Oldest(Lineage),
    /// What there is has expired; by hand it can be gone back to.
    #[error("the certificates in the earlier generations of lineage {0} have expired")]
    Expired(Lineage),
    /// The generation that failed is not the current one any more.
    #[error("lineage {0} has a newer generation than the one that failed; it stays")]
    Newer(Lineage),
    /// It was put back by an earlier failure, and fails as well: the files are not to blame.
    #[error("lineage {0} was rolled back already, and the failure goes on; it stays as it is")]
    Again(Lineage),
    /// The generation before has the same files: they are not to blame.
    #[error("the generation before of lineage {0} has the same certificate; it stays as it is")]
    Same(Lineage),
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
    let none = if state.damage() == Some(Damage::Lost) { RollbackError::Lost } else { RollbackError::Nothing };
    let current = state.current.as_ref().ok_or_else(|| none(lineage.clone()))?;
    let put_back = current.record.as_ref().and_then(|record| record.instead.as_ref());
    if let Cause::Failed(generation) = cause {
        match put_back {
            _ if current.number != generation => return Err(RollbackError::Newer(lineage.clone())),
            Some(_) => return Err(RollbackError::Again(lineage.clone())),
            None => {}
        }
    }
    let below = put_back.map_or(current.number, |instead| instead.from.min(current.number));
    // What a later generation was put in the place of is not gone back to.
    let numbers = state.generations.iter().map(|(number, _)| *number);
    let records: Vec<(u64, Record)> =
        numbers.filter_map(|number| Some((number, generation(directory, number)?.record?))).collect();
    let is_unwanted = |number: u64, record: &Record| {
        let about = |later: &Record| later.instead.as_ref().is_some_and(|instead| instead.is_about(record));
        records.iter().any(|(later, other)| *later > number && about(other))
    };
    let earlier = state.generations.iter().rev().map(|(number, _)| *number).filter(|number| *number < below);
    let same = |number| {
        let before = records.iter().find(|(own, _)| *own == number).map(|(_, record)| &record.digest);
        before.is_some() && before == current.record.as_ref().map(|record| &record.digest)
    };
    if cause != Cause::Hand && earlier.clone().next().is_some_and(same) {
        return Err(RollbackError::Same(lineage.clone()));
    }
    let mut none = RollbackError::Oldest(lineage.clone());
    let fits = |(number, _, record): &(u64, Bundle, Record)| {
        let another = current.record.as_ref().is_none_or(|current| current.digest != record.digest);
        let wanted = another && !is_unwanted(*number, record);
        let valid = cause == Cause::Hand || record.not_after > now;
        if wanted && !valid {
            none = RollbackError::Expired(lineage.clone());
        }
        wanted && valid
    };
    let found = earlier.filter_map(|number| whole(directory, number)).find(fits);
    let Some((from, files, mut record)) = found else { return Err(none) };
    record.instead = current.record.as_ref().map(|current| current.taken_out(from));
    record.permissions = Some(permissions.to_string());
    let keep = retention.keep.saturating_add(copies(&records, &record));
    let (number, steps) = plan(&state, &files.names(), Retention { keep, ..retention }, now);
    apply(directory, &steps, &Content { files: &files, record: &record, kept: None }, permissions)?;
    Ok(Restored { number, from, record })
}

/// How many generations have the same files as a later one, `next` included: they must not push out what can still be
/// gone back to.
fn copies(records: &[(u64, Record)], next: &Record) -> usize {
    let mut digests: Vec<_> = records.iter().map(|(_, record)| &record.digest).chain([&next.digest]).collect();
    let all = digests.len();
    digests.sort_unstable();
    digests.dedup();
    all - digests.len()
}

/// A generation with its files, if it is as it was deployed.
fn whole(directory: &Path, number: u64) -> Option<(u64, Bundle, Record)> {
    let (found, files) = with_files(directory, number).filter(|(found, _)| found.intact)?;
    Some((number, files, found.record?))
}
