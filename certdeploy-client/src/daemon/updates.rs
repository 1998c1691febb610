//! The updates as the applier's loop sees them: when the next turn comes, the one that runs, and when what failed or
//! broke off runs again. Must not ask what a deployment is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use certdeploy_common::cert::Lineage;
use certdeploy_common::daemon::shutdown::Orders;
use certdeploy_common::daemon::steady::{self, Steady};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;

use crate::clock;
use crate::config::Settings;
use crate::pass::RETRY;
use crate::turn::{self, Leaves, Told, Which};
use crate::update::Updater;
use crate::update::delay::{Debounce, Turn};

/// How a turn ended, or that it broke off.
pub(super) type Ended = Result<(Told, BTreeSet<Lineage>), JoinError>;

/// A turn that runs, and whose users it tells.
struct Running {
    task: JoinHandle<(Told, BTreeSet<Lineage>)>,
    lineages: BTreeSet<Lineage>,
}

/// See the module.
pub(super) struct Updates {
    debounce: Debounce,
    running: Option<Running>,
    /// What was deployed since the last look at what is owed.
    deployed: BTreeSet<Lineage>,
    /// Whether others may be owed something too: the next look is at all of them, which costs as much as there is.
    all: bool,
    /// How often in a row updates have failed.
    failed: u32,
    /// Whether the last look at what is owed did not see all of it.
    unseen: bool,
    steady: Steady,
    /// When swarm secrets are looked at again.
    secrets_at: Instant,
    /// What it was told about its end.
    orders: Orders,
}

impl Updates {
    pub(super) fn new(settings: &Settings, orders: Orders) -> Self {
        let debounce = Debounce::new(settings.update_delay);
        Self {
            debounce,
            running: None,
            deployed: BTreeSet::new(),
            all: true,
            failed: 0,
            unseen: false,
            steady: Steady::new(clock::millis()),
            secrets_at: Instant::now(),
            orders,
        }
    }

    /// With other settings; what runs goes on, and what failed runs again.
    pub(super) fn renew(&mut self, settings: &Settings) {
        self.debounce.renew(settings.update_delay);
        self.owed(settings);
    }

    /// Says what nobody will be told of any more, when another `destination` is looked at from now on.
    pub(super) fn leave(&self, old: &Settings, new: &Settings) {
        if old.destination == new.destination {
            return;
        }
        let owed = turn::due(old, &Which::Owed).map(|duties| duties.batch.lineages).unwrap_or_default();
        if !owed.is_empty() {
            let names: Vec<&str> = owed.keys().map(Lineage::as_str).collect();
            tracing::error!(
                "Updates of {} are still owed in `{}`, which is `destination` no more: run `certdeploy-client update` with a \
                 config that has it",
                names.join(", "),
                old.destination.display()
            );
        }
    }

    /// What is owed already: what failed now, what was put off in its time.
    pub(super) fn owed(&mut self, settings: &Settings) {
        self.all = true;
        let Some(duties) = self.look(settings, &Which::Owed) else { return };
        if duties.failed {
            self.debounce.retry(clock::now(), Turn::Failed);
        }
        if let Some(due) = duties.pending {
            self.debounce.owed(due);
        }
    }

    /// What is due; what cannot be read is looked for again later.
    fn look(&mut self, settings: &Settings, which: &Which) -> Option<turn::Duties> {
        let duties = turn::due(settings, which);
        self.unseen = !duties.as_ref().is_ok_and(|duties| duties.whole);
        if let Err(error) = &duties {
            tracing::error!("Cannot read `{}`: {error}", settings.destination.display());
        }
        if self.unseen {
            self.again(settings, Turn::Owed);
        }
        duties.ok()
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// When the next turn comes (Unix seconds), if one does.
    pub(super) fn due(&mut self) -> Option<i64> {
        if let Some(by) = self.steady.jump(clock::millis()) {
            tracing::warn!(
                "The clock was set {}; updates that wait go on waiting for as long as before",
                steady::words(by)
            );
            self.debounce.shift(by / 1000);
        }
        self.debounce.due().filter(|_| self.running.is_none())
    }

    /// When the updates of what is deployed now would run (Unix seconds).
    pub(super) fn would_be_due(&self) -> i64 {
        self.debounce.clone().deployed(clock::now())
    }

    /// Something was deployed.
    pub(super) fn deployed(&mut self, lineage: &Lineage) {
        self.deployed.insert(lineage.clone());
        self.debounce.deployed(clock::now());
    }

    /// Somebody else may have left something undone: the next turn looks at everything.
    pub(super) fn look_at_all(&mut self) {
        self.all = true;
    }

    /// Begins a look at the swarm's secrets if that is due and nothing else runs.
    pub(super) fn look_at_secrets(&mut self, settings: &Arc<Settings>) {
        let any = settings.updates.iter().any(|entry| matches!(entry.updater, Updater::Secret(_)));
        let Some(interval) = settings.secret_interval.filter(|_| any) else { return };
        if self.running.is_none() && Instant::now() >= self.secrets_at {
            self.secrets_at = Instant::now() + interval;
            if let Some(duties) = self.look(settings, &Which::Secrets) {
                self.run(settings, Which::Secrets, duties);
            }
        }
    }

    /// A command that has ended, or was killed, may have left something.
    pub(super) fn look_at_left(&mut self, settings: &Settings) {
        let left = match self.running {
            None if !settings.updates.is_empty() => turn::take_left(&settings.destination),
            _ => Leaves::Nothing,
        };
        if left != Leaves::Nothing {
            self.all = true;
            let Some(duties) = self.look(settings, &Which::Owed) else { return };
            if !duties.batch.lineages.is_empty() {
                tracing::info!("Another certdeploy-client has left updates to do");
            }
            match settings.update_retry.after(0) {
                // Some of it has not failed: nobody has begun it.
                _ if duties.failed && left == Leaves::Undone => self.debounce.retry(clock::now(), Turn::Failed),
                Some(pause) if duties.failed => self.debounce.retry_unless(in_so_long(pause), Turn::Failed),
                _ => {}
            }
            if let Some(due) = duties.pending {
                self.debounce.owed(due);
            }
        }
    }

    fn run(&mut self, settings: &Arc<Settings>, which: Which, mut duties: turn::Duties) {
        if !duties.batch.lineages.is_empty() {
            let (settings, orders) = (Arc::clone(settings), self.orders.clone());
            let lineages = whose(&duties);
            let task = tokio::spawn(async move {
                let alone = turn::alone(&settings, &orders.stop).await;
                if orders.stop.is_cancelled() {
                    return (Told { again: true, left: true, ..Told::default() }, whose(&duties));
                }
                if alone.waited
                    && let Ok(newer) = turn::due(&settings, &which)
                {
                    // What came meanwhile has a turn of its own.
                    duties = newer.of(&whose(&duties));
                }
                if duties.batch.lineages.is_empty() {
                    tracing::debug!("What was owed has been done meanwhile");
                    return (Told::default(), BTreeSet::new());
                }
                let mut told = turn::run(&settings, &duties, &orders).await;
                told.again |= !duties.whole;
                (told, whose(&duties))
            });
            self.running = Some(Running { task, lineages });
        }
    }

    /// Begins the turn that has come.
    pub(super) fn begin(&mut self, settings: &Arc<Settings>) {
        let which = match self.debounce.take(clock::now()) {
            None => return,
            Some(Turn::Owed) => {
                let deployed = std::mem::take(&mut self.deployed);
                if std::mem::take(&mut self.all) { Which::Owed } else { Which::OwedOf(deployed) }
            }
            Some(Turn::Failed) => Which::Failed,
        };
        if let Some(duties) = self.look(settings, &which) {
            self.run(settings, which, duties);
        }
    }

    /// Returns when the turn that runs has ended; [`end`](Self::end) is to be told.
    pub(super) async fn finished(&mut self) -> Ended {
        match &mut self.running {
            Some(running) => (&mut running.task).await,
            None => std::future::pending().await,
        }
    }

    /// One has ended; whose users it was to tell.
    pub(super) fn end(&mut self, ended: &Ended, settings: &Settings) -> BTreeSet<Lineage> {
        let mut told = self.running.take().map(|running| running.lineages).unwrap_or_default();
        told.extend(ended.iter().flat_map(|(_, told)| told).cloned());
        match ended {
            Ok((Told { again: false, .. }, _)) => {
                if !self.unseen {
                    self.failed = 0;
                }
            }
            Ok(_) => self.again(settings, Turn::Failed),
            Err(error) => {
                tracing::error!("The updates broke off: {error}");
                // Nothing was written down, so all of them are still owed.
                self.again(settings, Turn::Owed);
            }
        }
        told
    }

    /// Plans the next try: of all that is owed, or of what failed only.
    fn again(&mut self, settings: &Settings, turn: Turn) {
        if self.orders.stop.is_cancelled() {
            return;
        }
        // Whatever is deployed next, its turn is for this too.
        self.all = true;
        // What could not even be looked at has not failed, so the setting for that does not switch it off.
        let pause = settings.update_retry.after(self.failed).or(self.unseen.then_some(RETRY));
        let Some(pause) = pause else {
            return tracing::error!("Failed updates run again at the next start, or by `update --failed`");
        };
        let turn = if self.unseen { Turn::Owed } else { turn };
        self.failed = self.failed.saturating_add(1);
        tracing::warn!("Failed updates run again in {} seconds", pause.as_secs());
        self.debounce.retry(in_so_long(pause), turn);
    }

    /// The one that runs is to be dropped, and that written down.
    pub(super) fn cut(&self) {
        tracing::warn!("An update is cut off; it runs again at the next start");
        self.orders.cut.cancel();
    }
}

/// In Unix seconds.
fn in_so_long(pause: Duration) -> i64 {
    clock::now().saturating_add(i64::try_from(pause.as_secs()).unwrap_or(i64::MAX / 2))
}

fn whose(duties: &turn::Duties) -> BTreeSet<Lineage> {
    duties.batch.lineages.keys().cloned().collect()
}

/// Returns at `due` (Unix seconds); never without.
pub(super) async fn until(due: Option<i64>) {
    match due {
        Some(due) => {
            let seconds = u64::try_from(due - clock::now()).unwrap_or_default();
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }
        None => std::future::pending().await,
    }
}
