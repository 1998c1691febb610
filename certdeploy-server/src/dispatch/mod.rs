//! The loop: claim a target, visit it, write down what came of it; serially or in parallel, once or for ever. It
//! decides when; what is owed and what follows is [`plan`](crate::plan)'s, how it travels is [`push`](crate::push)'s.

mod agenda;
mod finish;
mod look;
mod record;
mod room;
mod shelf;
mod start;
mod visit;
pub mod wake;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use certdeploy_common::cert::Lineage;
use certdeploy_common::daemon::notify::Heart;
use certdeploy_common::daemon::steady::{self, Steady};
use certdeploy_common::fs::lock::Lock;
use tokio::sync::Notify;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::clock::Millis;
use crate::config::{Settings, Target};
use crate::push::Transport;
use crate::queue::{Queue, QueueError, Standing};
use crate::report::counted;
use agenda::Agenda;
use finish::Round;
use look::Look;
use room::Room;
use shelf::Shelf;
use visit::Report;
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

/// How often the daemon looks into the queue even if nobody rang, and how long it sleeps at most.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long pushes wait while lineages are being compared, so that one visit brings all that a target lacks.
const GATHER: Duration = Duration::from_millis(500);

/// The loop and what it needs.
pub struct Dispatcher<T> {
    settings: Arc<Settings>,
    targets: Vec<Arc<Target>>,
    queue: Queue,
    transport: Arc<T>,
    mode: Mode,
    agenda: Agenda,
    look: Look,
    shelf: Arc<Shelf>,
    room: Room,
    running: JoinSet<Report>,
    visits: HashMap<Id, (usize, Lock)>,
    visited: HashSet<usize>,
    /// Who is to be asked what it holds, if it can say.
    to_ask: HashSet<usize>,
    /// `--push`: failed visits to each target.
    failures: HashMap<usize, u32>,
    rounds: HashMap<usize, Round>,
    /// When a target lost a lineage last that was delivered again at once.
    lost: HashMap<(usize, Lineage), Millis>,
    /// Since when another process has been at a target.
    busy_since: HashMap<usize, Millis>,
    steady: Steady,
    /// Told to stop: another loop may be at work already.
    leaving: bool,
    start_at: Millis,
    look_at: Millis,
    reconcile_at: Millis,
    gather_until: Millis,
    ended: Ended,
    /// The longest that anything waits.
    furthest: Duration,
    /// Cancelled when no visit may begin to push any more.
    over: CancellationToken,
    /// Told when everything is to be compared again.
    anew: Arc<Notify>,
    clock: fn() -> Millis,
    heart: Heart,
}

impl<T: Transport> Dispatcher<T> {
    /// Makes a loop over `queue`.
    #[must_use]
    pub fn new(settings: Arc<Settings>, queue: Queue, transport: T, mode: Mode, clock: fn() -> Millis) -> Self {
        let now = clock();
        let shelf = Arc::new(Shelf::new(settings.live_directory.clone()));
        let bursts = settings.targets.iter().map(|target| target.burst.interval).max().unwrap_or_default();
        let furthest = settings.push.longest.max(settings.reconcile_interval).max(bursts * 2);
        Self {
            targets: settings.targets.iter().cloned().map(Arc::new).collect(),
            look: Look::new(&settings.targets, Arc::clone(&shelf)),
            room: Room::new(&settings.push),
            settings,
            queue,
            transport: Arc::new(transport),
            mode,
            agenda: Agenda::default(),
            shelf,
            running: JoinSet::new(),
            visits: HashMap::new(),
            visited: HashSet::new(),
            to_ask: HashSet::new(),
            failures: HashMap::new(),
            rounds: HashMap::new(),
            lost: HashMap::new(),
            busy_since: HashMap::new(),
            steady: Steady::new(now.0),
            leaving: false,
            start_at: now,
            look_at: now,
            reconcile_at: now,
            gather_until: now,
            ended: Ended::Quietly,
            furthest,
            over: CancellationToken::new(),
            anew: Arc::default(),
            clock,
            heart: Heart::default(),
        }
    }

    /// The same loop, telling the watchdog each time it turns.
    #[must_use]
    pub fn beating(self, heart: Heart) -> Self {
        Self { heart, ..self }
    }

    /// The same loop, comparing everything again whenever it is told to: by one that ended after it had begun.
    #[must_use]
    pub fn comparing(self, anew: Arc<Notify>) -> Self {
        Self { anew, ..self }
    }

    /// The same loop, beginning to push nothing more once its settings are `over`.
    #[must_use]
    pub fn outdated_by(self, over: CancellationToken) -> Self {
        Self { over, ..self }
    }

    /// Goes on until `stop`, or until there is nothing left to do.
    ///
    /// # Errors
    /// The queue.
    pub async fn run(mut self, stop: CancellationToken, wake: Option<&Wake>) -> Result<Ended, QueueError> {
        tracing::debug!("Server.serve_forever: one_shot={}", if self.mode == Mode::Once { "True" } else { "False" });
        self.begin().await?;
        loop {
            self.heart.beat();
            let now = self.now()?;
            self.look(now)?;
            let over = self.ended == Ended::FailedFast || stop.is_cancelled();
            if !over && (self.gather_until <= now || !self.look.is_busy()) {
                self.start(now)?;
            }
            let idle = self.running.is_empty();
            if idle {
                self.shelf.clear();
            }
            if idle
                && (self.ended == Ended::FailedFast
                    || (self.mode == Mode::Once && self.agenda.is_empty() && !self.look.is_busy()))
            {
                return Ok(self.ended);
            }
            let pause = self.pause(now);
            tokio::select! {
                Some(done) = self.running.join_next_with_id(), if !idle => self.finish(done)?,
                Some(read) = self.look.read(now), if self.look.is_busy() => {
                    let now = self.now()?;
                    let touched = self.look.take(&mut self.queue, &self.targets, read, now)?;
                    self.schedule(touched, now)?;
                }
                () = self.room.moved(), if !idle => {}
                () = rung(wake) => self.look_at = now,
                () = self.anew.notified() => self.reconcile_at = now,
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return self.stop().await,
            }
        }
    }

    /// Waits for the visits under way, within a bound; what is cut is owed as before.
    async fn stop(mut self) -> Result<Ended, QueueError> {
        self.leaving = true;
        let deadline = tokio::time::Instant::now() + self.settings.push.stop;
        while let Ok(Some(done)) = tokio::time::timeout_at(deadline, self.running.join_next_with_id()).await {
            self.finish(done)?;
        }
        if !self.running.is_empty() {
            let visits = counted(self.running.len(), "visit");
            tracing::warn!("Gave up {visits} under way; what they were to bring is still owed");
        }
        if self.look.has_lost() {
            // Whoever follows may have compared before this was known.
            self.anew.notify_one();
        }
        Ok(self.ended)
    }

    async fn begin(&mut self) -> Result<(), QueueError> {
        let now = self.now()?;
        // Really written: nobody is visited while the queue cannot take the answer, as when the disk is full. What was
        // delivered then would be delivered again and again.
        self.queue.write_note("begun", &now.0.to_string())?;
        let known: HashSet<&str> = self.targets.iter().map(|target| target.id.as_str()).collect();
        for target in self.queue.owed_targets()? {
            if !known.contains(target.as_str()) {
                let count = self.queue.drop_target(&target)?;
                tracing::info!("{target} is not in the config any more; {count} lineages are not owed to it now");
            }
        }
        let places = self.targets.iter().map(|target| (&target.id, target.whereabouts()));
        for target in self.queue.moved(places)? {
            tracing::info!("{target} is at another place now; what it was given before does not count");
        }
        if self.mode == Mode::Daemon {
            // A start is a hint that something was mended: what waits in a long pause is tried again.
            self.queue.hasten_all(now)?;
            (0..self.targets.len()).for_each(|index| self.agenda.set(index, Some(now)));
            return Ok(());
        }
        // They are taken by the thousand.
        self.look.renewals(&mut self.queue)?;
        while self.look.is_busy() {
            while let Some(read) = self.look.read(now).await {
                self.look.take(&mut self.queue, &self.targets, read, now)?;
            }
            self.look.renewals(&mut self.queue)?;
        }
        let standing = self.queue.standing(self.targets.iter().map(|target| &target.id))?;
        for (index, standing) in standing.iter().enumerate() {
            let due = standing.tries.is_some() || self.asks(standing, now);
            self.agenda.set(index, due.then_some(now));
        }
        Ok(())
    }

    /// The time; and if the clock was set, everything that waits keeps waiting for as long as before.
    fn now(&mut self) -> Result<Millis, QueueError> {
        let now = (self.clock)();
        let Some(by) = self.steady.jump(now.0) else { return Ok(now) };
        tracing::warn!("The clock was set {}; what waits goes on waiting for as long as before", steady::words(by));
        // One of those who share the queue does it, else what waits is moved twice: the daemon's present loop.
        if self.mode == Mode::Daemon && !self.leaving {
            self.queue.shift(by, Millis(now.0.saturating_sub(by)))?;
        }
        self.agenda.shift(by);
        let times = [&mut self.start_at, &mut self.look_at, &mut self.reconcile_at, &mut self.gather_until];
        for at in times.into_iter().chain(self.busy_since.values_mut()).chain(self.lost.values_mut()) {
            at.0 = at.0.saturating_add(by);
        }
        Ok(now)
    }

    /// Looks for renewals, and compares when it is time.
    fn look(&mut self, now: Millis) -> Result<(), QueueError> {
        if self.mode == Mode::Once || self.look_at.min(self.reconcile_at) > now {
            return Ok(());
        }
        let was_busy = self.look.is_busy();
        // A hook would write into a new one, and nobody would ever read it.
        match self.queue.still_there() {
            // It cannot be looked into; that says nothing of it.
            Err(error) if error.is_passing() && room::no_file_left(&self.settings.queue_dir) => {
                tracing::warn!("{error}; raise `LimitNOFILE`");
                self.look_at = now.after(LOOK_EVERY);
                self.reconcile_at = self.reconcile_at.max(self.look_at);
                return Ok(());
            }
            looked => looked?,
        }
        self.look.renewals(&mut self.queue)?;
        self.look_at = now.after(LOOK_EVERY);
        if self.reconcile_at <= now {
            self.look.everything(&mut self.queue, &self.settings)?;
            // Those who can say what they hold are asked: a host may have been restored from a backup.
            for index in 0..self.targets.len() {
                self.to_ask.insert(index);
                if !self.visited.contains(&index) {
                    self.agenda.set(index, Some(now));
                }
            }
            self.reconcile_at = now.after(self.settings.reconcile_interval);
        }
        if !was_busy && self.look.is_busy() {
            self.gather_until = now.after(GATHER);
        }
        Ok(())
    }

    /// Puts targets on the agenda as the queue says, but those that are being visited: their end will.
    fn schedule(&mut self, targets: impl IntoIterator<Item = usize>, now: Millis) -> Result<(), QueueError> {
        let visited = &self.visited;
        let targets: Vec<usize> = targets.into_iter().filter(|index| !visited.contains(index)).collect();
        let of = |index: &usize| self.targets.get(*index).map(|target| &target.id);
        let standing = self.queue.standing(targets.iter().filter_map(of))?;
        for (index, standing) in targets.into_iter().zip(standing) {
            let next = self.next(index, &standing, now);
            self.agenda.set(index, next);
        }
        Ok(())
    }

    /// When a target is to be visited next.
    fn next(&self, index: usize, standing: &Standing, now: Millis) -> Option<Millis> {
        let horizon = self.horizon(now);
        let asked = (self.to_ask.contains(&index) && standing.says).then_some(now);
        let tries = standing.tries.map(|at| if at > horizon { now } else { at });
        [tries, standing.asks, asked].into_iter().flatten().min()
    }

    /// Nobody waits longer than until then: what says so was written under another clock.
    fn horizon(&self, now: Millis) -> Millis {
        now.after(self.furthest)
    }

    /// How long there is nothing to do.
    fn pause(&self, now: Millis) -> Duration {
        let mut next = now.after(LOOK_EVERY);
        if self.mode == Mode::Daemon {
            next = next.min(self.look_at).min(self.reconcile_at);
        }
        if self.room.has_place() && self.ended != Ended::FailedFast {
            let gathered = if self.look.is_busy() { self.gather_until } else { now };
            let visit = self.agenda.earliest(now).map(|at| at.max(self.start_at).max(gathered));
            next = visit.map_or(next, |visit| visit.min(next));
        }
        now.until(next).min(self.heart.rest())
    }
}

async fn rung(wake: Option<&Wake>) {
    match wake {
        Some(wake) => wake.rung().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
