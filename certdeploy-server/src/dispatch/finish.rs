//! What follows from visits that have ended: written into the queue, all that ended together at once, and each target put
//! back on the agenda. What is lost between the end of a visit and the disk is only done again.

use std::time::Duration;

use certdeploy_common::cert::Lineage;
use certdeploy_common::fs::lock::Lock;
use tokio::task::{Id, JoinError};

use super::record::{self, Context, Recorded};
use super::visit::Report;
use super::{Dispatcher, Ended, Mode};
use crate::clock::Millis;
use crate::plan::Pace;
use crate::push::Transport;
use crate::queue::{QueueError, Standing, State, Write};

/// A visit that has ended.
type Done = Result<(Id, Report), JoinError>;

/// How soon after it was delivered again a lineage that is lost once more is left to the next comparison.
const AGAIN: Duration = Duration::from_secs(3600);

/// What of a visit matters to the agenda.
struct Past {
    index: usize,
    failed: bool,
    passing: bool,
    /// What it tried that is still to be delivered.
    open: usize,
    /// Something came to an end, well or not.
    through: bool,
    /// Until all is written, no other process visits the target.
    _lock: Lock,
}

/// `--push`: one attempt at all that is owed to a target; it may take several visits.
#[derive(Debug, Default)]
pub(super) struct Round {
    failed: bool,
    passing: bool,
    open: usize,
}

impl<T: Transport> Dispatcher<T> {
    /// Takes this visit, and all others that have ended by now.
    pub(super) fn finish(&mut self, first: Done) -> Result<(), QueueError> {
        let now = self.now()?;
        let (mut writes, mut past, mut next) = (Vec::new(), Vec::new(), Some(first));
        while let Some(done) = next {
            if let Some((visit, recorded)) = self.end(done, now)? {
                writes.extend(recorded.writes);
                past.push(visit);
            }
            next = self.running.try_join_next_with_id();
        }
        self.queue.write(&writes, now)?;
        let indices: Vec<usize> = past.iter().map(|past| past.index).collect();
        match self.mode {
            Mode::Daemon => self.schedule(indices, now),
            Mode::Once => {
                let of = |index: &usize| self.targets.get(*index).map(|target| &target.id);
                let standing = self.queue.standing(indices.iter().filter_map(of))?;
                for (past, standing) in past.iter().zip(standing) {
                    self.again(past, standing, now);
                }
                Ok(())
            }
        }
    }

    fn end(&mut self, done: Done, now: Millis) -> Result<Option<(Past, Recorded)>, QueueError> {
        let (id, report) = match done {
            Ok((id, report)) => (id, Some(report)),
            Err(error) => {
                tracing::error!("A visit broke: {error}");
                (error.id(), None)
            }
        };
        let Some((index, lock)) = self.visits.remove(&id) else { return Ok(None) };
        self.visited.remove(&index);
        let Some(target) = self.targets.get(index).cloned() else { return Ok(None) };
        let Some(report) = report else {
            let later = (self.mode == Mode::Daemon).then(|| now.after(self.settings.push.longest));
            self.agenda.set(index, later);
            return Ok(None);
        };
        let tried = report.ends.len();
        let known = if report.holdings.is_some() { self.queue.held_by(&target.id)? } else { Vec::new() };
        let policy = &self.settings.push;
        let resume = (!policy.forever).then_some(self.reconcile_at);
        let context = Context {
            mode: self.mode,
            fail_fast: self.settings.fail_fast,
            pace: Pace { burst: target.burst, longest: policy.longest, resume },
            failures: self.failures.get(&index).copied().unwrap_or_default(),
            now,
        };
        let mut recorded = record::record(&target, report, known, context);
        if recorded.updates_failed && self.ended == Ended::Quietly {
            self.ended = Ended::UpdatesFailed;
        }
        if recorded.failed && self.settings.fail_fast {
            self.ended = Ended::FailedFast;
        }
        for lost in std::mem::take(&mut recorded.gone) {
            self.has_lost(index, lost.lineage, now);
        }
        self.agenda.went(index, !recorded.failed && !recorded.silent);
        let open = |write: &&Write| matches!(write, Write::SetBack(_, setback) if setback.state != State::Refused);
        let open = recorded.writes.iter().filter(open).count();
        let (failed, passing, through) = (recorded.failed, recorded.passing, open < tried);
        Ok(Some((Past { index, failed, passing, open, through, _lock: lock }, recorded)))
    }

    /// What was lost is delivered again at once, but not again and again: something at the target may change its files
    /// after each deployment, and would be told of each.
    fn has_lost(&mut self, index: usize, lineage: Lineage, now: Millis) {
        let path = self.settings.live_directory.join(lineage.as_str());
        let before = self.lost.get(&(index, lineage.clone())).copied();
        if before.is_some_and(|before| before.until(now) < AGAIN) {
            let target = self.targets.get(index).map(|target| target.id.to_string()).unwrap_or_default();
            tracing::error!(
                "{target} has lost {lineage} again, soon after it was delivered again: does something there change deployed \
                 files? It is delivered at the daemon's next comparison"
            );
            if self.mode == Mode::Once && self.ended == Ended::Quietly {
                self.ended = Ended::UpdatesFailed;
            }
            return;
        }
        self.lost.insert((index, lineage), now);
        self.look.lost(path, index);
    }

    /// `--push`: another visit, if something is still untried, or another attempt of the burst.
    fn again(&mut self, past: &Past, standing: Standing, now: Millis) {
        let Some(target) = self.targets.get(past.index) else { return };
        if standing.tries.is_none() {
            tracing::debug!("Done pushing all lineages to {}", target.place());
            return;
        }
        let mut round = self.rounds.remove(&past.index).unwrap_or_default();
        round.failed |= past.failed;
        round.passing |= past.passing;
        round.open = round.open.saturating_add(past.open);
        let untried = standing.due.saturating_sub(round.open);
        // Who lets nothing through is not tried with each of them.
        if !past.failed || (untried > 0 && past.through) {
            self.rounds.insert(past.index, round);
            self.agenda.set(past.index, Some(now));
            return;
        }
        let failures = self.failures.entry(past.index).or_default();
        *failures += 1;
        if *failures <= target.burst.retries && round.passing {
            self.agenda.set(past.index, Some(now.after(target.burst.interval)));
        } else if untried > 0 {
            tracing::error!("{untried} more lineages were not tried at {}. They are still owed.", target.shown());
        }
    }
}
