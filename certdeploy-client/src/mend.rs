//! At a start, and when `file_permissions` changed: what somebody has been at since (the Python program, an administrator), and what the config wants in
//! another way now, becomes a generation of its own, so that the newest record says what readers see.

use certdeploy_common::cert::{Bundle, FileName, Lineage};

use crate::clock;
use crate::deploy::State;
use crate::deploy::state::{Damage, current_number, lineage_directory};
use crate::pipeline::{Outcome, Pipeline, listed};
use crate::place::{self, Place};
use crate::validate::{Origin, Upload, ValidBundle};

/// Lineages that could not be mended, with the generation that is current in them: what comes next may mend them.
pub type Left = Vec<(Lineage, Option<u64>)>;

/// Looks at every lineage before anything new is taken; `each` is called after it. None stops another.
pub async fn all(pipeline: &Pipeline, each: impl FnMut()) -> Left {
    every(pipeline, each, async |lineage| one(pipeline, &lineage).await).await
}

/// Links the names again that are missing, after what was there to be taken: whoever took a name away because the file
/// did not belong to what comes has had his way.
pub async fn names(pipeline: &Pipeline) -> Left {
    every(pipeline, || (), async |lineage| linked(pipeline, &lineage).await).await
}

/// Whether some of these are still as they were left.
#[must_use]
pub fn are_left(pipeline: &Pipeline, left: &Left) -> bool {
    left.iter().any(|(lineage, generation)| current(pipeline, lineage) == *generation)
}

fn current(pipeline: &Pipeline, lineage: &Lineage) -> Option<u64> {
    current_number(&lineage_directory(&pipeline.settings.destination, lineage))
}

async fn every(pipeline: &Pipeline, mut each: impl FnMut(), mend: impl AsyncFn(Lineage) -> Result<(), String>) -> Left {
    let destination = &pipeline.settings.destination;
    let lineages = match State::lineages(destination) {
        Ok(lineages) => lineages,
        Err(error) => {
            tracing::error!("Cannot read `{}`: {error}", destination.display());
            return Vec::new();
        }
    };
    let mut left = Vec::new();
    for lineage in lineages {
        if let Err(reason) = mend(lineage.clone()).await {
            tracing::error!("Lineage {lineage}: {reason}");
            let generation = current(pipeline, &lineage);
            left.push((lineage, generation));
        }
        each();
    }
    left
}

async fn one(pipeline: &Pipeline, lineage: &Lineage) -> Result<(), String> {
    let settings = &pipeline.settings;
    let mut place = pipeline.hold(lineage).await?;
    let mut lost = Ok(());
    if place.state.damage() == Some(Damage::Lost) {
        if let Some(words) = place.mend(settings, clock::now())? {
            tracing::warn!("Lineage {lineage}: {words}");
            return Ok(());
        }
        (place, lost) = found_again(pipeline, place).await?;
    }
    // Without a record it is what the Python program left; the next upload makes it ours.
    let record = place.state.current.as_ref().and_then(|current| current.record.clone());
    let names = place.state.names();
    let (files, record, why) = match place.state.damage() {
        None => {
            let wanted = settings.permissions.to_string();
            let Some(record) = record else { return lost };
            if record.permissions.as_ref().is_none_or(|had| *had == wanted) {
                return lost;
            }
            let permissions = Some(wanted);
            (place.there(&names)?, crate::deploy::Record { permissions, ..record }, "`file_permissions` has changed")
        }
        Some(Damage::Lost | Damage::Names { .. }) => return lost,
        Some(Damage::Changed) => {
            let (valid, files) = match set(pipeline, lineage, &names, |names| place.there(names)).await {
                Ok(set) => set,
                Err(reason) => match place.mend(settings, clock::now())? {
                    Some(words) => {
                        tracing::warn!("Lineage {lineage}: {words}");
                        return lost;
                    }
                    None => return Err(reason),
                },
            };
            let found = place::record(settings, &valid, &files, true);
            // What is not wanted here is not wanted beside other files either, unless it is what somebody put there.
            // And this is no rollback: everything before it can be gone back to.
            let instead = record.and_then(|record| record.instead).filter(|instead| !instead.is_about(&found));
            let instead = instead.map(|instead| crate::deploy::record::Instead { from: u64::MAX, ..instead });
            let record = crate::deploy::Record { instead, ..found };
            (files, record, "somebody else has changed its files")
        }
    };
    let number = place.put(settings, &files, &record, None, clock::now()).map_err(|error| error.to_string())?;
    tracing::warn!("Lineage {lineage}: {why}; what is there now (serial {}) is generation {number}", record.serial);
    lost
}

/// `..data` leads to the best generation that is left; the place as it is then, and whether that is all right.
async fn found_again(pipeline: &Pipeline, place: Place) -> Result<(Place, Result<(), String>), String> {
    let lineage = place.lineage.clone();
    let (number, last) = place.back(&pipeline.settings, clock::now())?;
    drop(place);
    tracing::warn!("Lineage {lineage}: `..data` led to no generation; it leads to generation {number} now");
    let older = "what was deployed last is lost, and an older generation is in its place; push it anew";
    let verdict = if last { Ok(()) } else { Err(older.to_owned()) };
    Ok((pipeline.hold(&lineage).await?, verdict))
}

async fn linked(pipeline: &Pipeline, lineage: &Lineage) -> Result<(), String> {
    let place = pipeline.hold(lineage).await?;
    if !matches!(place.state.damage(), Some(Damage::Names { .. })) {
        return Ok(());
    }
    if let Some(words) = place.mend(&pipeline.settings, clock::now())? {
        tracing::warn!("Lineage {lineage}: {words}");
    }
    drop(place);
    // Its modes and owner could not be looked at while it was not whole.
    one(pipeline, lineage).await
}

/// What readers find under these names, if it is a whole set: all of them, and good.
///
/// # Errors
/// A sentence: it is not.
pub async fn set(
    pipeline: &Pipeline,
    lineage: &Lineage,
    names: &[FileName],
    there: impl FnOnce(&[FileName]) -> Result<Bundle, String>,
) -> Result<(ValidBundle, Bundle), String> {
    // What can be made of fullchain.pem may be older than it.
    let made =
        |name: &FileName| names.contains(&FileName::Fullchain) && matches!(name, FileName::Cert | FileName::Chain);
    let found: Vec<FileName> = names.iter().copied().filter(|name| !made(name)).collect();
    let upload = Upload { origin: Origin::Plain { lineage: lineage.clone() }, bundle: there(&found)? };
    let valid = pipeline.check(upload).await.map_err(no_set)?;
    let files = valid.files(names);
    let gone: Vec<FileName> = names.iter().copied().filter(|name| files.file(*name).is_none()).collect();
    if gone.is_empty() { Ok((valid, files)) } else { Err(incomplete(&format!("there is no {}", listed(&gone)))) }
}

fn no_set(outcome: Outcome) -> String {
    let reason = match outcome {
        Outcome::Refused { rejection } => rejection.reason,
        Outcome::Failed { reason } => return reason,
        Outcome::InPlace { .. } | Outcome::Waiting { .. } => String::new(),
    };
    incomplete(&reason)
}

fn incomplete(reason: &str) -> String {
    format!(
        "its files are not those that were deployed, and make no whole set ({reason}); the next upload replaces them"
    )
}
