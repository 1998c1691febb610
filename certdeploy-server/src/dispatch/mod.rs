//! The loop: claim a target, visit it, write down what came of it; serially or in parallel, once or for ever. It
//! decides when; what is owed and what follows is [`plan`]'s, how it travels is [`push`](crate::push)'s.

mod agenda;
mod look;
mod record;
mod visit;
pub mod wake;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use certdeploy_common::cert::Digest;
use certdeploy_common::daemon::notify::Heart;
use certdeploy_common::fs::lock::{self, Lock};
use certdeploy_common::wire::Update;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::clock::Millis;
use crate::config::{Settings, Target};
use crate::plan;
use crate::push::{Ask, Transport};
use crate::queue::{Change, Delivery, Holding, Queue, QueueError, State};
use agenda::Agenda;
use record::{Context, Recorded};
use visit::{Errand, Report};
use wake::Wake;

/// How long the loop goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Until it is told to stop.
    Daemon,
    /// Until everything owed had its burst of attempts.
    Once,
}

/// How the loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Told to stop, or nothing left to do.
    Quietly,
    /// Something failed, and `fail_fast` is set.
    FailedFast,
    /// Updates are known to have failed.
    UpdatesFailed,
}

/// How long the daemon sleeps at most: it looks into the queue even if nobody rang.
const LONGEST_SLEEP: Duration = Duration::from_secs(10);
/// How long visits may go on after we were told to stop.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// How soon a target that another process is visiting is looked at again.
const BUSY: Duration = Duration::from_millis(100);
/// How long `--push` waits for another process to leave a target.
const BUSY_LIMIT: Duration = Duration::from_secs(300);
/// The most lineages of one visit.
const ERRAND: usize = 64;

/// The loop and what it needs.
pub struct Dispatcher<T> {
    settings: Arc<Settings>,
    targets: Vec<Arc<Target>>,
    queue: Queue,
    transport: Arc<T>,
    mode: Mode,
    agenda: Agenda,
    running: JoinSet<Report>,
    visits: HashMap<Id, (usize, Lock)>,
    /// `--push`: visits made to each target.
    bursts: HashMap<usize, u32>,
    /// `--push`: since when another process has been at a target.
    busy_since: HashMap<usize, Millis>,
    start_at: Millis,
    reconcile_at: Millis,
    /// A target has lost what it had acknowledged.
    missing: bool,
    ended: Ended,
    clock: fn() -> Millis,
    heart: Heart,
}

impl<T: Transport> Dispatcher<T> {
    /// Makes a loop over `queue`.
    #[must_use]
    pub fn new(settings: Arc<Settings>, queue: Queue, transport: T, mode: Mode, clock: fn() -> Millis) -> Self {
        let now = clock();
        Self {
            targets: settings.targets.iter().cloned().map(Arc::new).collect(),
            settings,
            queue,
            transport: Arc::new(transport),
            mode,
            agenda: Agenda::default(),
            running: JoinSet::new(),
            visits: HashMap::new(),
            bursts: HashMap::new(),
            busy_since: HashMap::new(),
            start_at: now,
            reconcile_at: now,
            missing: false,
            ended: Ended::Quietly,
            clock,
            heart: Heart::default(),
        }
    }

    /// The same loop, telling the watchdog each time it turns.
    #[must_use]
    pub fn beating(self, heart: Heart) -> Self {
        Self { heart, ..self }
    }

    /// Goes on until `stop`, or until there is nothing left to do.
    ///
    /// # Errors
    /// The queue.
    pub async fn run(mut self, stop: CancellationToken, wake: Option<&Wake>) -> Result<Ended, QueueError> {
        tracing::debug!("Server.serve_forever: one_shot={}", if self.mode == Mode::Once { "True" } else { "False" });
        self.begin()?;
        loop {
            self.heart.beat();
            let now = (self.clock)();
            self.look(now)?;
            if self.ended != Ended::FailedFast && !stop.is_cancelled() {
                self.start(now)?;
            }
            let idle = self.running.is_empty();
            let over = self.ended == Ended::FailedFast || (self.mode == Mode::Once && self.agenda.is_empty());
            if idle && over {
                return Ok(self.ended);
            }
            let pause = self.pause((self.clock)());
            tokio::select! {
                Some(done) = self.running.join_next_with_id(), if !idle => self.finish(done)?,
                () = rung(wake) => {}
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return self.stop().await,
            }
        }
    }

    /// Waits for the visits under way, within a bound; what is cut is owed as before.
    async fn stop(mut self) -> Result<Ended, QueueError> {
        let deadline = tokio::time::Instant::now() + STOP_GRACE;
        while let Ok(Some(done)) = tokio::time::timeout_at(deadline, self.running.join_next_with_id()).await {
            self.finish(done)?;
        }
        if !self.running.is_empty() {
            tracing::warn!("Gave up {} visits under way; they are still owed", self.running.len());
        }
        Ok(self.ended)
    }

    fn begin(&mut self) -> Result<(), QueueError> {
        let now = (self.clock)();
        look::ingest(&mut self.queue, &self.settings, now)?;
        let open = self.queue.deliveries()?;
        self.queue.apply(&plan::strays(&open, &self.settings.targets), now)?;
        if self.mode == Mode::Once {
            for (index, target) in self.targets.iter().enumerate() {
                let owed = self.queue.deliveries_to(&target.id)?.iter().any(is_open);
                let asks = self.queue.held_by(&target.id)?.iter().any(|held| self.is_asked(held, now));
                self.agenda.set(index, (owed || asks).then_some(now));
            }
            return Ok(());
        }
        // A start is a hint that something was mended: what waits in a long pause is tried again.
        let hasten: Vec<Change> =
            open.iter().filter(|delivery| is_open(delivery)).map(|open| Change::Hasten { id: open.id }).collect();
        self.queue.apply(&hasten, now)
    }

    /// Looks for renewals, and compares when it is time.
    fn look(&mut self, now: Millis) -> Result<(), QueueError> {
        if self.mode == Mode::Once {
            return Ok(());
        }
        // A hook would write into a new one, and nobody would ever read it.
        self.queue.still_there()?;
        let mut changed = look::ingest(&mut self.queue, &self.settings, now)?;
        let due = self.reconcile_at <= now;
        if due {
            // Those who can say what they hold are asked: a host may have been restored from a backup.
            self.queue.ask_all(now)?;
            self.reconcile_at = now.after(self.settings.reconcile_interval);
        }
        if due || std::mem::take(&mut self.missing) {
            look::reconcile(&mut self.queue, &self.settings, now)?;
            changed = true;
        }
        if changed { self.replan() } else { Ok(()) }
    }

    /// Puts all targets on the agenda anew, but those that are being visited: their end will.
    fn replan(&mut self) -> Result<(), QueueError> {
        let mut due: HashMap<String, Millis> = HashMap::new();
        let mut note = |target: &str, at: Millis| {
            due.entry(target.to_owned()).and_modify(|earliest| *earliest = at.min(*earliest)).or_insert(at);
        };
        for delivery in self.queue.deliveries()?.iter().filter(|delivery| is_open(delivery)) {
            note(delivery.target.as_str(), delivery.next_at);
        }
        for holding in self.queue.holdings()? {
            if let Some(at) = holding.ask_at {
                note(holding.target.as_str(), at);
            }
        }
        for (index, target) in self.targets.iter().enumerate() {
            if !self.visits.values().any(|(visited, _)| *visited == index) {
                self.agenda.set(index, due.get(target.id.as_str()).copied());
            }
        }
        Ok(())
    }

    fn start(&mut self, now: Millis) -> Result<(), QueueError> {
        while self.running.len() < self.settings.push.at_once && self.start_at <= now {
            let Some(index) = self.agenda.next(now) else { break };
            let Some(target) = self.targets.get(index).cloned() else { continue };
            let Some(lock) = self.claim(index, &target, now)? else { continue };
            let Some(errand) = self.errand(index, target, now)? else { continue };
            let visit = self.running.spawn(visit::run(Arc::clone(&self.transport), errand, self.clock));
            self.visits.insert(visit.id(), (index, lock));
            self.start_at = now.after(self.settings.push.interval);
        }
        Ok(())
    }

    /// Makes sure that no other process visits the target; it falls with us, however we end.
    fn claim(&mut self, index: usize, target: &Target, now: Millis) -> Result<Option<Lock>, QueueError> {
        let directory = self.settings.queue_dir.join("lock");
        let name: String = Digest::of(target.id.as_str().as_bytes()).as_str().chars().take(32).collect();
        let claimed = std::fs::create_dir_all(&directory).and_then(|()| lock::try_lock(&directory.join(name)));
        let lock = claimed.map_err(|source| QueueError::Directory { path: directory, source })?;
        if lock.is_some() {
            self.busy_since.remove(&index);
            return Ok(lock);
        }
        let since = *self.busy_since.entry(index).or_insert(now);
        if self.mode == Mode::Daemon || since.until(now) < BUSY_LIMIT {
            self.agenda.set(index, Some(now.after(BUSY)));
        } else {
            tracing::error!("Another process has been at {} for too long; it is left to that one", target.id);
        }
        Ok(None)
    }

    /// What there is to do at a target now that it is ours; `None` puts it back on the agenda.
    fn errand(&mut self, index: usize, target: Arc<Target>, now: Millis) -> Result<Option<Errand>, QueueError> {
        let due = |delivery: &Delivery| is_open(delivery) && (self.mode == Mode::Once || delivery.next_at <= now);
        let mut deliveries = self.queue.deliveries_to(&target.id)?;
        deliveries.retain(due);
        deliveries.truncate(ERRAND);
        let asked = self.queue.held_by(&target.id)?.iter().any(|held| self.is_asked(held, now));
        let ask = if asked { Ask::Holdings } else { Ask::Nothing };
        if deliveries.is_empty() && ask == Ask::Nothing {
            if self.mode == Mode::Daemon {
                self.schedule(index, &target)?;
            }
            return Ok(None);
        }
        Ok(Some(Errand { target, live: self.settings.live_directory.clone(), deliveries, ask }))
    }

    /// Whether a target is to be asked about its updates. `--push` asks about failed ones too: somebody may have mended
    /// them, and there may be no daemon that would ever ask.
    fn is_asked(&self, held: &Holding, now: Millis) -> bool {
        let failed = matches!(held.update, Some(Update::Failed { .. }));
        held.ask_at.is_some_and(|at| at <= now) || (self.mode == Mode::Once && failed)
    }

    fn finish(&mut self, done: Result<(Id, Report), tokio::task::JoinError>) -> Result<(), QueueError> {
        let (id, report) = match done {
            Ok((id, report)) => (id, Some(report)),
            Err(error) => {
                tracing::error!("A visit broke: {error}");
                (error.id(), None)
            }
        };
        let Some((index, lock)) = self.visits.remove(&id) else { return Ok(()) };
        let Some(target) = self.targets.get(index).cloned() else { return Ok(()) };
        let now = (self.clock)();
        let Some(report) = report else {
            self.agenda.set(index, (self.mode == Mode::Daemon).then(|| now.after(self.settings.push.longest)));
            return Ok(());
        };
        let context =
            Context { mode: self.mode, fail_fast: self.settings.fail_fast, longest: self.settings.push.longest, now };
        let Recorded { well, updates_failed, missing } = record::record(&mut self.queue, &target, report, context)?;
        if updates_failed && self.ended == Ended::Quietly {
            self.ended = Ended::UpdatesFailed;
        }
        self.missing |= missing;
        self.agenda.went(index, well);
        if !well && self.settings.fail_fast {
            self.ended = Ended::FailedFast;
        }
        match self.mode {
            Mode::Once => self.again(index, &target, well, now)?,
            Mode::Daemon => self.schedule(index, &target)?,
        }
        drop(lock);
        Ok(())
    }

    /// `--push`: another attempt of the burst, if something is still open.
    fn again(&mut self, index: usize, target: &Target, well: bool, now: Millis) -> Result<(), QueueError> {
        let open = self.queue.deliveries_to(&target.id)?;
        let mut open = open.iter().filter(|delivery| is_open(delivery)).peekable();
        if open.peek().is_none() {
            tracing::debug!("Done pushing all lineages to {}", target.place());
            return Ok(());
        }
        if well {
            // More than one errand's worth.
            self.agenda.set(index, Some(now));
            return Ok(());
        }
        let made = self.bursts.entry(index).or_default();
        *made += 1;
        if *made <= target.burst.retries && !open.all(|delivery| delivery.state == State::Failed) {
            self.agenda.set(index, Some(now.after(target.burst.interval)));
        }
        Ok(())
    }

    /// The daemon: the next attempt or question.
    fn schedule(&mut self, index: usize, target: &Target) -> Result<(), QueueError> {
        let deliveries = self.queue.deliveries_to(&target.id)?;
        let tries = deliveries.iter().filter(|delivery| is_open(delivery)).map(|delivery| delivery.next_at).min();
        let asks = self.queue.held_by(&target.id)?.into_iter().filter_map(|held| held.ask_at).min();
        let next = [tries, asks].into_iter().flatten().min();
        self.agenda.set(index, next);
        Ok(())
    }

    /// How long there is nothing to do.
    fn pause(&self, now: Millis) -> Duration {
        let room = self.running.len() < self.settings.push.at_once && self.ended != Ended::FailedFast;
        let next = self.agenda.earliest(now).filter(|_| room).map(|at| at.max(self.start_at));
        next.map_or(LONGEST_SLEEP, |at| now.until(at)).min(LONGEST_SLEEP).min(self.heart.rest())
    }
}

/// Whether a delivery is to be tried at all.
fn is_open(delivery: &Delivery) -> bool {
    matches!(delivery.state, State::Owed | State::Failed)
}

async fn rung(wake: Option<&Wake>) {
    match wake {
        Some(wake) => wake.rung().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
