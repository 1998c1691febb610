//! The daemon: one for each `queue_dir`, pushing and renewing side by side until it is told to stop. It only puts the
//! parts together, and puts them together anew when the config was changed or the queue had to be opened again.

mod reload;

use std::collections::VecDeque;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use certdeploy_common::daemon::notify::Notifier;
use certdeploy_common::daemon::shutdown::{self, Reload};
use certdeploy_common::fs::lock::{self, Lock};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::cli::Invocation;
use crate::clock;
use crate::config::Settings;
use crate::dispatch::wake::Wake;
use crate::dispatch::{Dispatcher, Ended, Mode};
use crate::push::Ssh;
use crate::queue::{Check, Queue, QueueError, import};
use crate::renew::{self, Renewed};
use crate::report::counted;
use reload::{Loaded, Loading};

/// Why there is no daemon.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// There is one already.
    #[error("another certdeploy-server daemon is running with queue_dir `{}`", .0.display())]
    Second(PathBuf),
    /// The queue.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The system.
    #[error("the daemon cannot start: {0}")]
    System(#[from] std::io::Error),
    /// The renewals broke off.
    #[error("the renewals broke off: {0}")]
    Renewals(JoinError),
}

/// The most damaged queues that are set aside within [`A_WHILE`]; more of them, and the disk is what is damaged.
const DAMAGES: usize = 3;
const A_WHILE: Duration = Duration::from_secs(60);
/// How long the end may take besides `stop_timeout`: certbot is ended meanwhile, and everything is written down.
pub(crate) const END: Duration = Duration::from_secs(9);
/// How long the daemon waits before it tries again a queue that was not to be had.
const QUEUE_PAUSE: Duration = Duration::from_secs(10);

/// Runs until SIGTERM or SIGINT, or until something fails and `fail_fast` is set.
///
/// # Errors
/// See [`DaemonError`].
pub async fn run(settings: Arc<Settings>, ssh: Ssh, invocation: &Invocation) -> Result<Ended, DaemonError> {
    tracing::debug!("Running daemon");
    let orders = shutdown::of_daemon()?;
    let reload = Reload::watch()?;
    let mut queue = Queue::open(&settings.queue_dir, Check::Whole, clock::now())?;
    let _lock = only_one(&settings.queue_dir)?;
    import::import(&mut queue, &settings, clock::now());
    warn_of_tmpfs(&settings.queue_dir);
    let wake = Wake::bind(&settings.queue_dir);
    if let Err(error) = &wake {
        tracing::warn!("Hooks cannot wake this daemon, it looks every 10 seconds: {error}");
    }
    let (current, received) = watch::channel(settings);
    let newest = received.clone();
    let renewals = tokio::spawn(renew::run(received, invocation.config.clone(), orders.stop.clone()));
    let mut daemon = Daemon {
        settings: current,
        ssh,
        wake: wake.ok().map(Arc::new),
        invocation: Arc::new(invocation.clone()),
        notifier: Notifier::of_environment(),
        stop: orders.stop.clone(),
        reload,
        loading: None,
        renewals: Some(renewals),
        draining: JoinSet::new(),
        anew: Arc::default(),
        damages: VecDeque::new(),
        failed_fast: false,
    };
    tokio::select! {
        ended = async {
            let ended = daemon.serve(queue).await;
            daemon.end(ended).await
        } => ended,
        () = orders.overdue(|| newest.borrow().push.stop + END) => {
            tracing::warn!("What was under way is cut off; it is still owed");
            Ok(Ended::Quietly)
        }
    }
}

fn only_one(queue_dir: &Path) -> Result<Lock, DaemonError> {
    lock::try_lock(&queue_dir.join("daemon.lock"))?.ok_or_else(|| DaemonError::Second(queue_dir.to_owned()))
}

fn warn_of_tmpfs(queue_dir: &Path) {
    const TMPFS: u64 = 0x0102_1994;
    let kind = rustix::fs::statfs(queue_dir).ok().and_then(|fs| u64::try_from(fs.f_type).ok());
    if kind == Some(TMPFS) {
        tracing::warn!(
            "queue_dir `{}` is on a tmpfs: a restart of the host forgets it. Set `queue_dir` to a directory on a disk",
            queue_dir.display()
        );
    }
}

/// A dispatcher at work.
type Work = Pin<Box<dyn Future<Output = Result<Ended, QueueError>> + Send>>;

struct Daemon {
    settings: watch::Sender<Arc<Settings>>,
    ssh: Ssh,
    wake: Option<Arc<Wake>>,
    invocation: Arc<Invocation>,
    notifier: Notifier,
    stop: CancellationToken,
    reload: Reload,
    /// A config that is being read.
    loading: Option<Loading>,
    renewals: Option<JoinHandle<Renewed>>,
    /// Dispatchers of former configs, finishing what they had begun. Nobody waits for them, and what they visit is
    /// claimed, so that the new one leaves it alone.
    draining: JoinSet<Result<Ended, QueueError>>,
    /// How they tell the new one that there is something to be compared again.
    anew: Arc<Notify>,
    damages: VecDeque<Instant>,
    failed_fast: bool,
}

/// Why a dispatcher's turn is over.
enum Turn {
    /// It has ended.
    Ended(Result<Ended, QueueError>),
    /// There are new settings.
    Renewed,
}

impl Daemon {
    async fn serve(&mut self, queue: Queue) -> Result<Ended, DaemonError> {
        let mut opened = Ok(queue);
        loop {
            opened = match opened {
                Ok(queue) => {
                    let round = self.stop.child_token();
                    let over = CancellationToken::new();
                    let mut work = self.dispatcher(queue, round.clone(), over.clone());
                    let serving = self.serving();
                    tracing::info!("{serving}");
                    self.notifier.ready(&serving);
                    match self.attend(&mut work).await? {
                        Turn::Ended(Ok(ended)) => return Ok(ended),
                        Turn::Ended(Err(error)) => Err(error),
                        Turn::Renewed => {
                            over.cancel();
                            round.cancel();
                            self.draining.spawn(work);
                            self.open(Check::Opening)
                        }
                    }
                }
                Err(error) if self.stop.is_cancelled() => return Err(error.into()),
                Err(error) => self.after(error).await?,
            };
        }
    }

    fn dispatcher(&self, queue: Queue, round: CancellationToken, over: CancellationToken) -> Work {
        let settings = Arc::clone(&self.settings.borrow());
        let dispatcher = Dispatcher::new(settings, queue, self.ssh.clone(), Mode::Daemon, clock::now);
        let dispatcher = dispatcher.beating(self.notifier.heart()).comparing(Arc::clone(&self.anew)).outdated_by(over);
        let wake = self.wake.clone();
        Box::pin(async move { dispatcher.run(round, wake.as_deref()).await })
    }

    fn open(&self, check: Check) -> Result<Queue, QueueError> {
        Queue::open(&self.settings.borrow().queue_dir, check, clock::now())
    }

    /// Lets the dispatcher work until its turn is over, and takes what else comes.
    async fn attend(&mut self, work: &mut Work) -> Result<Turn, DaemonError> {
        let stop = self.stop.clone();
        let mut stopping = false;
        loop {
            tokio::select! {
                ended = &mut *work => return Ok(Turn::Ended(ended)),
                () = self.reload.asked(), if self.loading.is_none() && !stopping => {
                    tracing::info!("Reloading on SIGHUP");
                    self.notifier.reloading();
                    self.loading = Some(reload::begin(&self.settings.borrow(), &self.invocation));
                }
                loaded = reload::finished(&mut self.loading), if !stopping => if self.take(loaded) {
                    return Ok(Turn::Renewed);
                },
                Some(drained) = self.draining.join_next() => self.drained(drained),
                renewed = finished(&mut self.renewals) => self.renewed(renewed)?,
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    self.notifier.stopping();
                }
            }
        }
    }

    /// What became of a config that was read; whether there are new settings.
    fn take(&mut self, loaded: Loaded) -> bool {
        let told = match loaded {
            Ok((settings, ssh)) => {
                self.ssh = ssh;
                self.settings.send_replace(Arc::new(settings));
                tracing::info!("Reloaded `{}`", self.invocation.config.display());
                return true;
            }
            Err(complaint) => complaint,
        };
        for line in told.lines() {
            tracing::error!("{line}");
        }
        let config = self.invocation.config.display();
        tracing::error!("`{config}` is not reloaded; this daemon goes on with the settings it has");
        self.notifier.ready(&format!("{}; the changed config is refused, see the log", self.serving()));
        false
    }

    fn drained(&mut self, drained: Result<Result<Ended, QueueError>, JoinError>) {
        match drained {
            Ok(Ok(Ended::FailedFast)) if self.settings.borrow().fail_fast => {
                self.failed_fast = true;
                self.stop.cancel();
            }
            Ok(Ok(Ended::FailedFast | Ended::Quietly | Ended::UpdatesFailed)) => {}
            Ok(Err(error)) => {
                tracing::error!("What was under way before the reload could not be written down: {error}")
            }
            Err(error) => tracing::error!("What was under way before the reload broke off: {error}"),
        }
    }

    /// The renewals end with the daemon; before that they end it.
    fn renewed(&mut self, renewed: Result<Renewed, JoinError>) -> Result<(), DaemonError> {
        self.failed_fast |= renewed.map_err(DaemonError::Renewals)? == Renewed::FailedFast;
        self.stop.cancel();
        Ok(())
    }

    /// Waits for everything else that is under way; all of it has its limits.
    async fn end(&mut self, ended: Result<Ended, DaemonError>) -> Result<Ended, DaemonError> {
        self.notifier.stopping();
        self.stop.cancel();
        while let Some(drained) = self.draining.join_next().await {
            self.drained(drained);
        }
        if self.renewals.is_some() {
            let renewed = finished(&mut self.renewals).await;
            self.renewed(renewed)?;
        }
        ended.map(|ended| if self.failed_fast { Ended::FailedFast } else { ended })
    }

    /// The queue failed: it is opened again, at once when it is damaged (that sets it aside), else after a while.
    async fn after(&mut self, error: QueueError) -> Result<Result<Queue, QueueError>, QueueError> {
        if error.is_damage() {
            self.damages.retain(|at| at.elapsed() < A_WHILE);
            if self.damages.len() >= DAMAGES {
                return Err(error);
            }
            self.damages.push_back(Instant::now());
            tracing::error!("{error}");
            return Ok(self.open(Check::Whole));
        }
        if !error.is_passing() {
            return Err(error);
        }
        let pause = QUEUE_PAUSE.as_secs();
        tracing::error!("{error}; nothing is pushed meanwhile, it is tried again in {pause} seconds");
        self.notifier.status(&format!("Waiting for the queue: {error}"));
        let mut heart = self.notifier.heart();
        let end = tokio::time::Instant::now() + QUEUE_PAUSE;
        while tokio::time::Instant::now() < end && !self.stop.is_cancelled() {
            heart.beat();
            let beat = tokio::time::Instant::now() + heart.rest().min(QUEUE_PAUSE);
            tokio::select! {
                () = tokio::time::sleep_until(beat.min(end)) => {}
                () = self.stop.cancelled() => {}
            }
        }
        Ok(self.open(Check::Opening))
    }

    fn serving(&self) -> String {
        let settings = self.settings.borrow();
        let (targets, live) = (counted(settings.targets.len(), "target"), settings.live_directory.display());
        format!("Serving {targets}, queue in `{}`, lineages in `{live}`", settings.queue_dir.display())
    }
}

async fn finished(task: &mut Option<JoinHandle<Renewed>>) -> Result<Renewed, JoinError> {
    match task {
        Some(running) => {
            let ended = running.await;
            *task = None;
            ended
        }
        None => std::future::pending().await,
    }
}
