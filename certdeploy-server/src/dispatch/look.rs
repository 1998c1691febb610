//! Renewals and `live/` -> changes of the queue. It reads lineages and asks [`plan`]; it pushes nothing.

use std::collections::HashMap;

use crate::clock::Millis;
use crate::config::{Settings, Target, TargetId};
use crate::hook::Renewal;
use crate::lineage::{self, LineageError};
use crate::plan::{self, Cause, Known};
use crate::queue::{Change, Queue, QueueError};

type Knowledge = HashMap<TargetId, Known>;

/// Turns the renewals in the queue into deliveries. Says whether there were any.
pub(super) fn ingest(queue: &mut Queue, settings: &Settings, now: Millis) -> Result<bool, QueueError> {
    let renewals = queue.renewals()?;
    let any = !renewals.is_empty();
    for (id, renewal) in renewals {
        let known = known(queue.deliveries_of(&renewal.lineage)?, queue.holdings_of(&renewal.lineage)?);
        let changes = changes(settings, &renewal, &known, now);
        if changes.is_empty() && renewal.anew {
            let path = renewal.path.display();
            tracing::warn!("No target gets {path}: none has a domain that its certificate and --domains both name");
        }
        for change in &changes {
            if let Change::Owe(owed) = change {
                tracing::info!("Queued lineage {} for client {}", owed.path.display(), owed.target);
            }
        }
        queue.settle(id, &changes, now)?;
    }
    Ok(any)
}

fn changes(settings: &Settings, renewal: &Renewal, known: &Knowledge, now: Millis) -> Vec<Change> {
    let nothing = Known::default();
    let of = |target: &Target| known.get(&target.id).unwrap_or(&nothing);
    match lineage::read(&renewal.path, &settings.live_directory, renewal.force, now.seconds()) {
        Ok(readable) => {
            for warning in &readable.facts.warnings {
                tracing::warn!("{}: {warning}", renewal.path.display());
            }
            let cause = Cause::Hint(renewal);
            settings.targets.iter().filter_map(|target| plan::change(target, of(target), &readable, cause)).collect()
        }
        Err((error, _)) => {
            let unread = |target| plan::change_unread(target, of(target), renewal);
            let changes: Vec<Change> = settings.targets.iter().filter_map(unread).collect();
            if changes.is_empty() {
                tracing::debug!("Nobody needs {}: {error}", renewal.path.display());
            }
            changes
        }
    }
}

/// Compares what the targets should hold with what they acknowledged.
pub(super) fn reconcile(queue: &mut Queue, settings: &Settings, now: Millis) -> Result<(), QueueError> {
    let live = &settings.live_directory;
    let paths = match lineage::all(live) {
        Ok(paths) => paths,
        Err(error) => {
            tracing::error!("live_directory `{}` cannot be read: {error}", live.display());
            return Ok(());
        }
    };
    let deliveries = queue.deliveries()?;
    let deleted = deliveries.iter().filter(|owed| owed.path.parent() == Some(live) && !paths.contains(&owed.path));
    let mut changes: Vec<Change> = deleted.map(|owed| Change::Drop { id: owed.id }).collect();
    changes.extend(plan::strays(&deliveries, &settings.targets));
    let known = known(deliveries, queue.holdings()?);
    let nothing = Known::default();
    for path in paths {
        match lineage::read(&path, live, false, now.seconds()) {
            Ok(readable) => changes.extend(settings.targets.iter().filter_map(|target| {
                plan::change(target, known.get(&target.id).unwrap_or(&nothing), &readable, Cause::Reconcile)
            })),
            Err((error, _)) => complain(&error),
        }
    }
    queue.apply(&changes, now)
}

/// certbot keeps what it no longer renews: that is worth a line, but not at every hour's comparison.
fn complain(error: &LineageError) {
    if error.is_permanent() {
        tracing::warn!("Not compared: {error}");
    } else {
        tracing::info!("Not compared: {error}");
    }
}

fn known(deliveries: Vec<crate::queue::Delivery>, holdings: Vec<crate::queue::Holding>) -> Knowledge {
    let mut known = Knowledge::new();
    for delivery in deliveries {
        known.entry(delivery.target.clone()).or_default().deliveries.push(delivery);
    }
    for holding in holdings {
        known.entry(holding.target.clone()).or_default().holdings.push(holding);
    }
    known
}
