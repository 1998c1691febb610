//! What is owed to whom, and what follows from how an attempt ended. Pure: it is handed lineages, rows and the time.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use certdeploy_common::cert::{Digest, Domain, Lineage};

use crate::clock::Millis;
use crate::config::{Burst, Target, TargetId};
use crate::hook::Renewal;
use crate::lineage::Readable;
use crate::queue::{Change, Delivery, Holding, Owed, Setback, State};

/// What the queue knows of one target.
#[derive(Debug, Default)]
pub struct Known {
    /// What is owed to it.
    pub deliveries: Vec<Delivery>,
    /// What it acknowledged.
    pub holdings: Vec<Holding>,
}

/// Why a lineage is looked at.
#[derive(Debug, Clone, Copy)]
pub enum Cause<'a> {
    /// It was handed over.
    Hint(&'a Renewal),
    /// The daemon compares what is with what should be.
    Reconcile,
}

/// The names that `target` gets a certificate with `names` for. This is the whole rule of matching:
///
/// * Names are compared without case and without a trailing dot.
/// * A name in `domains` matches a certificate that carries the same name.
/// * It also matches a certificate that carries a wildcard over it: `*` stands for exactly one label, as in RFC 6125, so
///   `*.example.com` is good for `a.example.com` and neither for `example.com` nor for `a.b.example.com`.
/// * A wildcard in `domains` is a name like any other: `*.example.com` matches certificates that carry this very
///   wildcard. It is no pattern: the key of `secret.example.com` goes to nobody who did not name it. For that there is
///   `lineages`.
#[must_use]
pub fn needed(target: &Target, names: &BTreeSet<Domain>) -> BTreeSet<Domain> {
    target.domains.iter().filter(|domain| names.iter().any(|name| name.covers(domain))).cloned().collect()
}

/// Whether `target` gets the lineage: by its names ([`needed`]), or because `lineages` names it, whatever its names.
#[must_use]
pub fn gets(target: &Target, lineage: &Lineage, names: &BTreeSet<Domain>) -> bool {
    target.lineages.contains(lineage) || !needed(target, names).is_empty()
}

/// Whether an explicit `--domains` leaves `target` in: one of them is, or covers, or is covered by, a name that the
/// target gets the lineage for. It narrows the run that it was given to, and nothing else.
fn is_meant(target: &Target, readable: &Readable, asked: &[Domain]) -> bool {
    let names = &readable.facts.names;
    let mut reasons = needed(target, names);
    if target.lineages.contains(&readable.lineage) {
        reasons.extend(names.iter().cloned());
    }
    reasons.iter().any(|name| asked.iter().any(|asked| asked.covers(name) || name.covers(asked)))
}

/// What changes for `target` because of a lineage that was read.
#[must_use]
pub fn change(target: &Target, known: &Known, readable: &Readable, cause: Cause<'_>) -> Option<Change> {
    let existing = known.deliveries.iter().find(|delivery| delivery.lineage == readable.lineage);
    // What another directory of this name brings is another certificate, perhaps a newer one.
    let ours = existing.filter(|delivery| delivery.path == readable.path);
    let drop_ours = || ours.map(|delivery| Change::Drop { id: delivery.id });
    if !gets(target, &readable.lineage, &readable.facts.names) {
        // The certificate or the config no longer says so.
        return drop_ours();
    }
    if let Cause::Hint(renewal) = cause
        && renewal.anew
        && !is_meant(target, readable, &renewal.domains)
    {
        return None;
    }
    let digest = readable.bundle.only(&target.wanted).digest();
    let owe = |force| {
        Some(Change::Owe(Owed {
            target: target.id.clone(),
            lineage: readable.lineage.clone(),
            path: readable.path.clone(),
            digest: Some(digest.clone()),
            serial: Some(readable.facts.serial.clone()),
            not_after: Some(readable.facts.not_after),
            force,
        }))
    };
    let (anew, force) = match cause {
        Cause::Hint(renewal) => (renewal.anew, renewal.force),
        Cause::Reconcile => (false, false),
    };
    let older = is_older(target, known, readable);
    if anew && (force || !older) {
        return owe(force);
    }
    // It cannot have what is not there: what is missing is said until it is.
    let whole = target.wanted.iter().all(|name| readable.bundle.file(*name).is_some());
    let settled = whole && held(target, known, readable).is_some_and(|holding| holding.digest == digest);
    let fresh = |delivery: &Delivery| delivery.state != State::Refused;
    let same = |delivery: &Delivery| delivery.digest.as_ref() == Some(&digest);
    match existing {
        // Forced: somebody asked for exactly this, acknowledged or not.
        Some(delivery) if delivery.force && fresh(delivery) => hasten(delivery, cause),
        _ if older => drop_ours(),
        // Held and owed all the same: somebody asked for it by hand.
        Some(delivery) if same(delivery) && fresh(delivery) => hasten(delivery, cause),
        // Owed since it could not be read: by hand perhaps, and only an attempt can tell.
        Some(delivery) if settled && delivery.digest.is_none() && fresh(delivery) => hasten(delivery, cause),
        _ if settled => drop_ours(),
        // What was refused, forced or not, is no longer in the way once the files are others.
        Some(delivery) if same(delivery) => None,
        _ => owe(false),
    }
}

/// Whether the target holds a certificate that began later than this one. Only by force is it given the older.
#[must_use]
pub fn is_older(target: &Target, known: &Known, readable: &Readable) -> bool {
    held(target, known, readable)
        .and_then(|holding| holding.not_before)
        .is_some_and(|begins| readable.facts.not_before < begins)
}

/// What the target has of the lineage, at the place where it is now.
fn held<'a>(target: &Target, known: &'a Known, readable: &Readable) -> Option<&'a Holding> {
    let here = |place: &String| *place == target.whereabouts();
    let held = known.holdings.iter().find(|holding| holding.lineage == readable.lineage);
    held.filter(|holding| holding.place.as_ref().is_none_or(here))
}

fn hasten(delivery: &Delivery, cause: Cause<'_>) -> Option<Change> {
    match cause {
        Cause::Hint(_) => Some(Change::Hasten { id: delivery.id }),
        Cause::Reconcile => None,
    }
}

/// What changes for `target` because of a renewal whose lineage cannot be read: what it was handed over with decides,
/// and the attempts to come will say what is wrong.
#[must_use]
pub fn change_unread(target: &Target, known: &Known, renewal: &Renewal) -> Option<Change> {
    let names: BTreeSet<Domain> = renewal.domains.iter().cloned().collect();
    if !gets(target, &renewal.lineage, &names) {
        return None;
    }
    match known.deliveries.iter().find(|delivery| delivery.lineage == renewal.lineage) {
        Some(delivery) if !renewal.anew => Some(Change::Hasten { id: delivery.id }),
        _ => Some(Change::Owe(Owed {
            target: target.id.clone(),
            lineage: renewal.lineage.clone(),
            path: renewal.path.clone(),
            digest: None,
            serial: None,
            not_after: None,
            force: renewal.force,
        })),
    }
}

/// What changes for `target` because a lineage that it holds is no good now: it is owed, and the attempt will say what is
/// wrong. What is owed already stays as it is.
#[must_use]
pub fn change_spoiled(target: &Target, known: &Known, path: &Path, names: &BTreeSet<Domain>) -> Option<Change> {
    let lineage = Lineage::of_path(path).ok()?;
    let holds = known.holdings.iter().any(|holding| holding.lineage == lineage);
    if holds && gets(target, &lineage, names) { change_lost(target, known, path) } else { None }
}

/// The same for a target that has lost it.
#[must_use]
pub fn change_lost(target: &Target, known: &Known, path: &Path) -> Option<Change> {
    let lineage = Lineage::of_path(path).ok()?;
    let owed = known.deliveries.iter().any(|delivery| delivery.lineage == lineage);
    (!owed).then(|| {
        Change::Owe(Owed {
            target: target.id.clone(),
            lineage,
            path: path.to_owned(),
            digest: None,
            serial: None,
            not_after: None,
            force: false,
        })
    })
}

/// What is owed to nobody: its target is not in the config any more.
#[must_use]
pub fn strays(deliveries: &[Delivery], targets: &[Target]) -> Vec<Change> {
    let known: BTreeSet<&TargetId> = targets.iter().map(|target| &target.id).collect();
    let stray = deliveries.iter().filter(|delivery| !known.contains(&delivery.target));
    stray.map(|delivery| Change::Drop { id: delivery.id }).collect()
}

/// How an attempt failed, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Worth trying again.
    Passing,
    /// Another attempt will hardly mend it.
    Lasting,
    /// The same files will be refused again.
    Refused(Option<Digest>),
}

/// How attempts follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The first retries.
    pub burst: Burst,
    /// The longest pause after them.
    pub longest: Duration,
    /// When to go on after them, if not by growing pauses.
    pub resume: Option<Millis>,
}

/// How long at least a host that shows another key is left alone, however short the pauses are otherwise.
const RARELY: Duration = Duration::from_secs(3600);

/// What to write down after an attempt that did not deliver.
#[must_use]
pub fn set_back(attempts: u32, pace: Pace, failure: Failure, error: String, seed: u64, now: Millis) -> Setback {
    let attempts = attempts.saturating_add(1);
    let resume = |wait| pace.resume.map_or(now.after(wait), |resume| resume.max(now));
    let (state, digest, next_at) = match failure {
        Failure::Refused(digest) => (State::Refused, digest, now),
        Failure::Lasting => (State::Failed, None, resume(pace.longest.max(RARELY))),
        Failure::Passing if attempts <= pace.burst.retries => (State::Owed, None, now.after(pace.burst.interval)),
        Failure::Passing => (State::Owed, None, resume(pause(attempts, pace, seed))),
    };
    Setback { state, attempts, next_at, error, digest }
}

/// How long to wait after so many attempts: the burst first, then twice as long each time, capped, with jitter.
#[must_use]
pub fn pause(attempts: u32, pace: Pace, seed: u64) -> Duration {
    let Pace { burst, longest, .. } = pace;
    if attempts <= burst.retries {
        return burst.interval;
    }
    let shortest = burst.interval.max(Duration::from_secs(1)).min(longest / 2);
    let growing =
        ExponentialBuilder::new().with_min_delay(shortest).with_max_delay(longest).with_factor(2.0).without_max_times();
    let step = usize::try_from(attempts - burst.retries).unwrap_or(usize::MAX).min(32);
    let pause = growing.build().nth(step).unwrap_or(longest);
    // Up to a quarter less, so that a thousand targets that failed together do not come back together.
    pause.mul_f64(1.0 - 0.25 * fraction(seed))
}

/// A number from 0 to 1 that looks random (splitmix64).
fn fraction(seed: u64) -> f64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    f64::from(u32::try_from((z ^ (z >> 31)) >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests;
