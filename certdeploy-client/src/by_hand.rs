//! What a person asks for beside passes: `update` and `rollback`; and how a command runs updates. Must not look into
//! staging.

use std::sync::Arc;

use certdeploy_common::cert::Lineage;
use certdeploy_common::daemon::exit::Exit;
use certdeploy_common::daemon::shutdown::Orders;

use crate::clock;
use crate::config::Settings;
use crate::deploy::State;
use crate::deploy::rollback::{Cause, Restored};
use crate::deploy::state::lineage_directory;
use crate::turn::{self, Leaves, Told, Which};

/// `update`: runs the updates of what is in place, without a new deployment.
pub async fn update(settings: Arc<Settings>, which: Which, orders: Orders) -> Exit {
    for lineage in State::closed(&settings.destination) {
        let place = lineage_directory(&settings.destination, &lineage);
        tracing::warn!("`{}` cannot be looked into; if it is a lineage, nobody is told of it", place.display());
    }
    updates(&settings, &which, &orders).await
}

/// `rollback`: puts the generation before back and tells its users.
pub async fn rollback(settings: Arc<Settings>, lineage: Lineage, orders: Orders) -> Exit {
    // Before anything is owed: this process may be killed at any moment.
    turn::leave(&settings, Leaves::Undone);
    match turn::go_back(&settings, &lineage, Cause::Hand).await {
        Ok((Restored { number, from, record }, _)) => {
            tracing::info!(
                "Lineage {lineage} has the files of generation {from} again (serial {}), as generation {number}",
                record.serial
            );
            if !record.serial.is_empty() && record.not_after <= clock::now() {
                tracing::warn!("Lineage {lineage}: this certificate has expired");
            }
            updates(&settings, &Which::Of(lineage), &orders).await
        }
        Err(error) => {
            tracing::error!("{error}");
            Exit::Failed
        }
    }
}

/// Runs the updates that are due, as a command does: at once, and once.
pub async fn updates(settings: &Arc<Settings>, which: &Which, orders: &Orders) -> Exit {
    let alone = if settings.updates.is_empty() { None } else { Some(turn::alone(settings, &orders.stop).await) };
    // A daemon may have seen to a rollback meanwhile.
    let waited = alone.as_ref().is_some_and(|alone| alone.waited);
    let one = if let Which::Of(lineage) = which { Some(lineage) } else { None };
    let again = one.filter(|_| waited).map(|lineage| Which::OwedOf([lineage.clone()].into()));
    let mut duties = match turn::due(settings, again.as_ref().unwrap_or(which)) {
        Ok(duties) => duties,
        Err(error) => {
            tracing::error!("Cannot read `{}`: {error}", settings.destination.display());
            return Exit::Failed;
        }
    };
    let mut done = if duties.whole { Exit::Done } else { Exit::Failed };
    let meant = |lineage: &&Lineage| !matches!(which, Which::Of(one) if one != *lineage);
    for lineage in duties.lost.iter().filter(meant) {
        tracing::error!("Lineage {lineage} has lost its current generation, so nobody is told of it");
        done = Exit::Failed;
    }
    if duties.batch.lineages.is_empty() || settings.updates.is_empty() {
        return done;
    }
    turn::leave(settings, Leaves::Undone);
    if *which == Which::All {
        turn::order(settings, &mut duties);
    }
    if orders.stop.is_cancelled() {
        return cut_off();
    }
    let told = turn::run(settings, &duties, orders).await;
    let owed = || turn::due(settings, &Which::Owed).map_or(true, |duties| !duties.batch.lineages.is_empty());
    turn::leave(
        settings,
        match told {
            Told { left: true, .. } => Leaves::Undone,
            Told { again: true, .. } => Leaves::Failed,
            // Of another command, which waits for its turn, or was killed.
            Told { .. } if owed() => Leaves::Failed,
            Told { .. } => Leaves::Nothing,
        },
    );
    match told {
        Told { unwritten: true, .. } => Exit::Failed,
        Told { failed: true, .. } if settings.fail_fast => Exit::Failed,
        Told { left: true, .. } => cut_off(),
        Told { failed: true, .. } => Exit::Owed,
        Told { failed: false, .. } => done,
    }
}

/// A command ends before it has done everything, because it was told to.
pub fn cut_off() -> Exit {
    tracing::error!("Ended by a signal: what was not done is done by the next run");
    Exit::Owed
}
