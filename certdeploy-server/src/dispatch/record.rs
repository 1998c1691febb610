//! What came of a visit -> what is written into the queue, and the log. It decides nothing that [`plan`] decides, and
//! writes nothing itself: what several visits lead to goes to the disk together.

use std::time::Duration;

use certdeploy_common::wire::{Holdings, Update};

use super::Mode;
use super::visit::{self, End, Report};
use crate::clock::Millis;
use crate::config::Target;
use crate::plan::{self, Pace};
use crate::push;
use crate::queue::{Change, Delivery, Holding, Setback, State, Write};

/// How soon a target that could not be asked about pending updates is asked again: at first, and when they are long
/// overdue.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(3600));

/// What the words of the log, and what follows, depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context {
    pub(super) mode: Mode,
    pub(super) fail_fast: bool,
    pub(super) pace: Pace,
    /// `--push`: failed visits to this target so far.
    pub(super) failures: u32,
    pub(super) now: Millis,
}

/// What the loop must do about it.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    /// What to write.
    pub(super) writes: Vec<Write>,
    /// Something failed.
    pub(super) failed: bool,
    /// Something failed that another attempt may mend.
    pub(super) passing: bool,
    /// It could not be asked what it holds.
    pub(super) silent: bool,
    /// Updates are known to have failed.
    pub(super) updates_failed: bool,
    /// What the target does not hold any more though it had acknowledged it.
    pub(super) gone: Vec<Holding>,
}

/// Says what follows from a report; `known` is what the target has acknowledged so far.
pub(super) fn record(target: &Target, report: Report, mut known: Vec<Holding>, context: Context) -> Recorded {
    let now = context.now;
    let mut recorded = Recorded::default();
    for (delivery, end) in report.ends {
        let _around = visit::about(target, &delivery).entered();
        match end {
            End::Acknowledged(holding) => {
                let (path, attempt) = (delivery.path.display(), context.attempt(&delivery));
                tracing::info!("Pushed {path} to {} in {attempt} attempts", target.place());
                if let Some(Update::Failed { reason }) = &holding.update {
                    tracing::error!("Updates for {} at {} failed: {reason}", holding.lineage, target.id);
                    recorded.updates_failed = true;
                }
                // What it says after this visit is compared with what it acknowledged in it.
                known.retain(|held| held.lineage != holding.lineage);
                known.push(holding.clone());
                recorded.writes.push(Write::Acknowledge(delivery.id, holding));
            }
            End::NotNeeded => recorded.writes.push(Write::Change(Change::Drop { id: delivery.id })),
            End::Failed { failure, error } => {
                recorded.failed = true;
                recorded.passing |= failure == plan::Failure::Passing;
                tracing::error!("Error syncing with {}:{}: {error}", target.address, target.port);
                let seed = u64::try_from(now.0).unwrap_or_default() ^ u64::try_from(delivery.id).unwrap_or_default();
                let attempt = context.attempt(&delivery);
                let mut setback = plan::set_back(attempt.saturating_sub(1), context.pace, failure, error, seed, now);
                tell(target, &delivery, &setback, context);
                if context.mode == Mode::Once {
                    // The daemon's pauses are its own: somebody's tries by hand do not make them longer.
                    (setback.attempts, setback.next_at) = (delivery.attempts, delivery.next_at);
                }
                recorded.writes.push(Write::SetBack(delivery.id, setback));
            }
        }
    }
    if let Some(asked) = report.holdings {
        let _around = tracing::error_span!("asked", target = target.id.as_str()).entered();
        take(&mut recorded, target, asked, known, now);
    }
    recorded
}

impl Context {
    /// The number of this attempt: the daemon's since the duty began, or this run's.
    fn attempt(&self, delivery: &Delivery) -> u32 {
        let before = if self.mode == Mode::Once { self.failures } else { delivery.attempts };
        before.saturating_add(1)
    }
}

fn tell(target: &Target, delivery: &Delivery, setback: &Setback, context: Context) {
    let (attempt, place) = (setback.attempts, target.shown());
    let burst = target.burst.retries.saturating_add(1);
    let wait = context.now.until(setback.next_at).as_secs_f64();
    let path = delivery.path.display();
    // Beyond the burst the number says how often it has been tried.
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

/// What follows from what a target says it holds.
fn take(
    recorded: &mut Recorded,
    target: &Target,
    asked: Result<Option<Holdings>, push::Error>,
    mut known: Vec<Holding>,
    now: Millis,
) {
    match asked {
        Ok(Some(told)) => {
            let news = visit::news(known, &told, now);
            recorded.writes.extend(news.held.into_iter().map(Write::Hold));
            for gone in &news.gone {
                tracing::warn!("{} holds nothing of {} any more", target.id, gone.lineage);
                recorded.writes.push(Write::Forget(gone.target.clone(), gone.lineage.clone()));
            }
            recorded.updates_failed |= news.updates_failed;
            recorded.gone = news.gone;
            return;
        }
        // Another peer than before: this one cannot say.
        Ok(None) => known.iter_mut().for_each(|held| (held.ask_at, held.generation) = (None, None)),
        Err(error) => {
            tracing::warn!("{} cannot be asked what it holds: {error}", target.id);
            recorded.silent = true;
            // The others are asked at the next comparison.
            known.retain(|held| held.ask_at.is_some());
            known.iter_mut().for_each(|held| held.ask_at = ask_again(held.update.as_ref(), now));
        }
    }
    recorded.writes.extend(known.into_iter().map(Write::Hold));
}

/// When to ask again about updates that could not be asked about: ever more rarely.
fn ask_again(update: Option<&Update>, now: Millis) -> Option<Millis> {
    let Some(Update::Pending { due }) = update else { return None };
    let overdue = Millis::of_seconds(*due).until(now);
    Some(visit::ask_at(update?, now)?.max(now.after((overdue / 2).clamp(ASK_AGAIN.0, ASK_AGAIN.1))))
}
