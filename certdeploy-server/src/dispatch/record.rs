//! What came of a visit -> the queue and the log. It decides nothing that [`plan`] decides.

use std::time::Duration;

use certdeploy_common::wire::{Holdings, Update};

use super::Mode;
use super::visit::{self, End, Report};
use crate::clock::Millis;
use crate::config::Target;
use crate::plan;
use crate::push;
use crate::queue::{Change, Delivery, Queue, QueueError, Setback, State};

/// How soon a target that could not be asked is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(300);

/// What the words of the log depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context {
    pub(super) mode: Mode,
    pub(super) fail_fast: bool,
    pub(super) longest: Duration,
    pub(super) now: Millis,
}

/// What the loop must know of it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Recorded {
    /// Nothing failed.
    pub(super) well: bool,
    /// Updates are known to have failed.
    pub(super) updates_failed: bool,
    /// The target does not hold any more what it had acknowledged.
    pub(super) missing: bool,
}

/// Writes it down.
pub(super) fn record(
    queue: &mut Queue,
    target: &Target,
    report: Report,
    context: Context,
) -> Result<Recorded, QueueError> {
    let now = context.now;
    let mut recorded = Recorded { well: true, ..Recorded::default() };
    for (delivery, end) in report.ends {
        let path = delivery.path.display();
        let attempt = delivery.attempts.saturating_add(1);
        match end {
            End::Acknowledged(holding) => {
                tracing::info!("Pushed {path} to {} in {attempt} attempts", target.place());
                if let Some(Update::Failed { reason }) = &holding.update {
                    tracing::error!("Updates for {} at {} failed: {reason}", holding.lineage, target.id);
                    recorded.updates_failed = true;
                }
                queue.acknowledge(delivery.id, &holding)?;
            }
            End::NotNeeded => queue.apply(&[Change::Drop { id: delivery.id }], now)?,
            End::Failed { failure, error } => {
                recorded.well = false;
                tracing::error!("Error syncing with {}:{}: {error}", target.address, target.port);
                let pace = plan::Pace { burst: target.burst, longest: context.longest, resume: None };
                let seed = u64::try_from(now.0).unwrap_or_default() ^ u64::try_from(delivery.id).unwrap_or_default();
                let setback = plan::set_back(delivery.attempts, pace, failure, error, seed, now);
                tell(target, &delivery, &setback, context);
                queue.set_back(delivery.id, &setback, now)?;
            }
        }
    }
    if let Some(asked) = report.holdings {
        let taken = take(queue, target, asked, now)?;
        recorded.missing = taken.missing;
        recorded.updates_failed |= taken.updates_failed;
    }
    Ok(recorded)
}

fn tell(target: &Target, delivery: &Delivery, setback: &Setback, context: Context) {
    let (attempt, place) = (setback.attempts, target.place());
    let burst = target.burst.retries.saturating_add(1);
    let wait = context.now.until(setback.next_at).as_secs_f64();
    let path = delivery.path.display();
    // Beyond the burst the number says how often it has been tried, by whomever.
    let number = if attempt <= burst { format!("#{attempt} of {burst}") } else { format!("#{attempt}") };
    match (setback.state, context.mode) {
        (State::Owed, _) if attempt < burst && !context.fail_fast => {
            tracing::warn!("Attempt #{attempt} failed. Retrying sync to {place} in {wait} seconds.");
        }
        (State::Refused, _) => {
            tracing::error!("{path} is not pushed to {place} again until it changes or is forced.");
        }
        (State::Owed | State::Failed, Mode::Once) => {
            tracing::error!("Attempt {number} failed. Not retrying sync {path} to {place}. It is still owed.");
        }
        (State::Owed | State::Failed, Mode::Daemon) if context.fail_fast => {
            tracing::error!("Attempt {number} failed. Not retrying sync {path} to {place}: fail_fast ends this run.");
        }
        (State::Owed | State::Failed, Mode::Daemon) => {
            let rest = format!("It is still owed and tried again in {wait:.0} seconds.");
            tracing::error!("Attempt {number} failed. Not retrying sync {path} to {place} now. {rest}");
        }
    }
}

/// Writes down what a target says it holds; says what of it needs attention.
fn take(
    queue: &mut Queue,
    target: &Target,
    asked: Result<Option<Holdings>, push::Error>,
    now: Millis,
) -> Result<Recorded, QueueError> {
    let mut known = queue.held_by(&target.id)?;
    match asked {
        Ok(Some(told)) => {
            let news = visit::news(known, &told, now);
            queue.hold(&news.held)?;
            for gone in &news.gone {
                tracing::warn!("{} holds nothing of {} any more", target.id, gone.lineage);
                queue.forget(&gone.target, &gone.lineage)?;
            }
            let updates_failed = news.held.iter().any(|held| matches!(held.update, Some(Update::Failed { .. })));
            return Ok(Recorded { well: true, updates_failed, missing: !news.gone.is_empty() });
        }
        Ok(None) => known.iter_mut().for_each(|held| held.ask_at = None),
        Err(error) => {
            tracing::warn!("{} cannot be asked what it holds: {error}", target.id);
            known.iter_mut().filter(|held| held.ask_at.is_some()).for_each(|held| {
                held.ask_at = Some(now.after(ASK_AGAIN));
            });
        }
    }
    queue.hold(&known)?;
    Ok(Recorded { well: true, ..Recorded::default() })
}
