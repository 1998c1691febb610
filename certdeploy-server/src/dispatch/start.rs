//! Who is visited now: the next target that is due, claimed so that no other process visits it, with what is to be done
//! there. It must not decide what is owed.

use std::sync::Arc;
use std::time::Duration;

use certdeploy_common::cert::Digest;
use certdeploy_common::fs::lock::{self, Lock};

use super::room::{self, Seat};
use super::visit::{self, Errand};
use super::{Dispatcher, Mode};
use crate::clock::Millis;
use crate::config::Target;
use crate::push::{Ask, Transport};
use crate::queue::{Delivery, QueueError, Standing};

/// How soon a target that another process is visiting is looked at again.
const BUSY: Duration = Duration::from_millis(100);
/// How long nobody new is visited when no more files can be opened.
const FULL: Duration = Duration::from_secs(1);
/// How long `--push` waits for another process to leave a target.
const BUSY_LIMIT: Duration = Duration::from_secs(300);
/// The most lineages of one visit.
const ERRAND: usize = 64;

/// What came of claiming a target.
enum Claim {
    /// It is ours.
    Ours(Lock),
    /// Another process is there.
    Taken,
    /// No file can be opened for now.
    Full(std::io::Error),
}

impl<T: Transport> Dispatcher<T> {
    /// Starts visits as long as there is room and somebody is due.
    pub(super) fn start(&mut self, now: Millis) -> Result<(), QueueError> {
        while self.start_at <= now {
            let Some(seat) = self.room.enter() else { break };
            let Some(index) = self.agenda.next(now) else { break };
            let Some(target) = self.targets.get(index).cloned() else { continue };
            let standing = self.queue.standing([&target.id])?.into_iter().next().unwrap_or_default();
            let next = self.next(index, &standing, now);
            if self.mode == Mode::Daemon && next.is_none_or(|next| next > now) {
                self.to_ask.remove(&index);
                self.agenda.set(index, next);
                continue;
            }
            let lock = match self.claim(index, &target, now)? {
                Claim::Ours(lock) => lock,
                Claim::Taken => continue,
                Claim::Full(error) => {
                    tracing::warn!("No more targets are visited at once: {error}; raise `LimitNOFILE`");
                    self.agenda.set(index, Some(now));
                    self.start_at = now.after(FULL);
                    break;
                }
            };
            let Some(errand) = self.errand(index, target, standing, seat, now)? else { continue };
            let visit = visit::run(Arc::clone(&self.transport), errand, self.over.clone(), self.clock);
            let visit = self.running.spawn(visit);
            self.visits.insert(visit.id(), (index, lock));
            self.visited.insert(index);
            self.start_at = now.after(self.settings.push.interval);
        }
        Ok(())
    }

    /// Makes sure that no other process visits the target; it falls with us, however we end.
    fn claim(&mut self, index: usize, target: &Target, now: Millis) -> Result<Claim, QueueError> {
        let directory = self.settings.queue_dir.join("lock");
        let name: String = Digest::of(target.id.as_str().as_bytes()).as_str().chars().take(32).collect();
        let claimed = std::fs::create_dir_all(&directory).and_then(|()| lock::try_lock(&directory.join(name)));
        match claimed {
            Ok(Some(lock)) => {
                self.busy_since.remove(&index);
                return Ok(Claim::Ours(lock));
            }
            Ok(None) => {}
            Err(error) if room::is_full(&error) => return Ok(Claim::Full(error)),
            Err(source) => return Err(QueueError::Directory { path: directory, source }),
        }
        let since = *self.busy_since.entry(index).or_insert(now);
        if self.mode == Mode::Daemon || since.until(now) < BUSY_LIMIT {
            self.agenda.set(index, Some(now.after(BUSY)));
        } else {
            tracing::error!("Another process has been at {} for too long; it is left to that one", target.id);
        }
        Ok(Claim::Taken)
    }

    /// What there is to do at a target now that it is ours; `None` puts it back on the agenda.
    fn errand(
        &mut self,
        index: usize,
        target: Arc<Target>,
        standing: Standing,
        seat: Seat,
        now: Millis,
    ) -> Result<Option<Errand>, QueueError> {
        let due = (self.mode == Mode::Daemon).then(|| (now, self.horizon(now)));
        let mut deliveries = self.queue.due_to(&target.id, due, ERRAND)?;
        if !self.settings.push.forever {
            // It was put off until now; now it has its first attempts again.
            let over = |delivery: &&mut Delivery| delivery.attempts > target.burst.retries;
            deliveries.iter_mut().filter(over).for_each(|delivery| delivery.attempts = 0);
        }
        let asked = (self.to_ask.remove(&index) && standing.says) || self.asks(&standing, now);
        let ask = match (asked, standing.known) {
            (true, _) => Ask::Holdings,
            // Nothing is known of it: the queue may be new, and the target old.
            (false, false) => Ask::First,
            (false, true) => Ask::Nothing,
        };
        if deliveries.is_empty() && !asked {
            if self.mode == Mode::Daemon {
                self.schedule([index], now)?;
            }
            return Ok(None);
        }
        Ok(Some(Errand { target, shelf: Arc::clone(&self.shelf), seat, deliveries, ask }))
    }

    /// Whether a target is to be asked about its updates. `--push` asks about failed ones too: somebody may have mended
    /// them, and there may be no daemon that would ever ask.
    pub(super) fn asks(&self, standing: &Standing, now: Millis) -> bool {
        standing.asks.is_some_and(|at| at <= now) || (self.mode == Mode::Once && standing.updates_failed)
    }
}
