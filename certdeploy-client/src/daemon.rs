//! The applier's loop: owns deployment and updates, listens to nobody. Started as root it is one of two processes;
//! otherwise the receiver is a task in the same process, on the same line.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use certdeploy_common::cert::Lineage;
use certdeploy_common::daemon::exit::Exit;
use certdeploy_common::daemon::logging::{self, Handed};
use certdeploy_common::daemon::shutdown;
use certdeploy_common::fs::lock::Lock;
use certdeploy_common::ssh::key;
use certdeploy_common::wire::{Holdings, Receipt};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::account::Account;
use crate::config::{Settings, Sftpd};
use crate::dir::Dir;
use crate::link::{self, Commit, Sender, Setup, ToApplier, ToReceiver, handover, spawn};
use crate::pipeline::{Outcome, Pipeline};
use crate::staging::INCOMING;
use crate::turn::{self, Which};
use crate::update::Failure;
use crate::update::delay::{Debounce, Turn};
use crate::validate::process::Validator;
use crate::{clock, pass, sftp};

/// How long an update that is running may go on after SIGTERM.
const UPDATE_GRACE: Duration = Duration::from_secs(10);
/// How often uploads are tried again that could not be placed.
const RETRY: Duration = Duration::from_secs(60);

/// Why the daemon cannot start or go on.
#[derive(Debug, thiserror::Error)]
enum DaemonError {
    #[error("CertDeployError: Failed to listen on {0}: {1}")]
    Listen(SocketAddr, io::Error),
    #[error("cannot prepare `{0}`: {1}")]
    Incoming(String, io::Error),
    #[error("cannot start the receiver: {0}")]
    Start(io::Error),
    #[error("the receiver has ended: {0}")]
    Gone(String),
    #[error("cannot read `destination`: {0}")]
    Destination(io::Error),
    #[error(transparent)]
    Key(#[from] key::KeyError),
}

/// Runs the daemon until SIGTERM.
pub async fn run(settings: Arc<Settings>) -> Exit {
    tracing::debug!("Running daemon");
    let Some(sftpd) = &settings.sftpd else {
        if let Some(complaint) = &settings.no_sftpd {
            tracing::error!("{}", complaint.message);
        }
        return Exit::Failed;
    };
    let _lock = match lock(&settings, sftpd.limits.drain_timeout).await {
        Ok(lock) => lock,
        Err(exit) => return exit,
    };
    match serve(&settings, sftpd).await {
        Ok(()) => Exit::Done,
        Err(error) => {
            tracing::error!("{error}");
            Exit::Failed
        }
    }
}

/// The lock on `source`; a daemon that was told to end may still be draining its connections.
async fn lock(settings: &Settings, drain_timeout: Duration) -> Result<Lock, Exit> {
    const STEP: Duration = Duration::from_millis(100);
    let deadline = tokio::time::Instant::now() + drain_timeout + UPDATE_GRACE;
    loop {
        if let Some(lock) = pass::lock(settings)? {
            return Ok(lock);
        }
        if tokio::time::Instant::now() >= deadline {
            let source = settings.source.display();
            tracing::error!("CertDeployError: Another certdeploy-client is at work on `{source}`; stop it first");
            return Err(Exit::Failed);
        }
        tokio::time::sleep(STEP).await;
    }
}

/// Where uploads are examined: apart, when there are privileges to lose.
#[must_use]
pub fn validator(settings: &Settings) -> Validator {
    match account(settings) {
        Some(account) => Validator::Apart { account, timeout: settings.validate_timeout },
        None => Validator::Here,
    }
}

fn account(settings: &Settings) -> Option<Account> {
    let user = settings.sftpd.as_ref().map_or("certdeploy", |sftpd| sftpd.user.as_str());
    rustix::process::geteuid().is_root().then(|| Account::find(user))
}

async fn serve(settings: &Arc<Settings>, sftpd: &Sftpd) -> Result<(), DaemonError> {
    let account = account(settings);
    match &account {
        Some(account) => pass::note_account(&sftpd.user, account),
        None => tracing::info!("Not started by root: one process, no privileges to separate"),
    }
    let stop = shutdown::on_signal().map_err(DaemonError::Start)?;
    let incoming = prepare(&settings.source, account.as_ref())?;
    let pipeline = Pipeline::new(Arc::clone(settings), validator(settings));
    let listeners = listen(&sftpd.listen)?;
    pass::leftovers(settings, &pipeline).await;
    pass::staged(settings, &pipeline).await;
    let (ours, theirs) = UnixStream::pair().map_err(DaemonError::Start)?;
    handover::send(&ours, &incoming, &listeners, &logs(settings)?).map_err(DaemonError::Start)?;
    let setup = setup(settings, sftpd)?;
    let receiver = match &account {
        Some(account) => Other::Process(spawn::receiver(account, theirs).map_err(DaemonError::Start)?),
        None => Other::Task(tokio::spawn(sftp::serve(theirs, |_, _| ()))),
    };
    for listener in &listeners {
        let address = listener.local_addr().map_err(DaemonError::Start)?;
        tracing::info!("Listening for incoming connections at {}:{}", address.ip(), address.port());
    }
    drop(listeners);
    ours.set_nonblocking(true).map_err(DaemonError::Start)?;
    let (sender, line) = link::split(tokio::net::UnixStream::from_std(ours).map_err(DaemonError::Start)?);
    let mut applier = Applier {
        debounce: Debounce::new(settings.update_delay),
        settings: Arc::clone(settings),
        pipeline,
        incoming,
        sender,
        running: None,
        waiting: Vec::new(),
        failed: 0,
    };
    applier.begin(setup).await?;
    applier.work(line, receiver, stop).await
}

/// Makes the directory that belongs to the receiver, whatever `source` itself allows.
fn prepare(source: &Path, account: Option<&Account>) -> Result<Dir, DaemonError> {
    let path = source.join(INCOMING);
    let failed = |error: io::Error| DaemonError::Incoming(path.display().to_string(), error);
    certdeploy_common::fs::atomic::create_directory(&path, 0o700).map_err(failed)?;
    // The descriptor, not the path, is given away: nothing can be put in its place meanwhile.
    let incoming = Dir::open(source).and_then(|source| source.child(INCOMING)).map_err(failed)?;
    let own = || {
        if let Some(account) = account {
            let (uid, gid) = (rustix::fs::Uid::from_raw(account.uid), rustix::fs::Gid::from_raw(account.gid));
            rustix::fs::fchown(&incoming, Some(uid), Some(gid))?;
        }
        rustix::fs::fchmod(&incoming, rustix::fs::Mode::RWXU)
    };
    own().map_err(|error| failed(error.into()))?;
    Ok(incoming)
}

/// Binds every address; the IPv6 wildcard takes IPv4 too, so its IPv4 twin is only tried when it fails.
fn listen(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, DaemonError> {
    let mut failed = None;
    for address in addresses {
        match TcpListener::bind(address) {
            Ok(listener) => return Ok(vec![listener]),
            Err(error) => failed = Some(DaemonError::Listen(*address, error)),
        }
    }
    Err(failed.unwrap_or_else(|| DaemonError::Start(io::Error::other("nothing to listen on"))))
}

/// The log files, open: the receiver may not open them itself.
fn logs(settings: &Settings) -> Result<Handed, DaemonError> {
    let open = |path: &Option<PathBuf>| match path {
        Some(path) if !logging::is_stream(path) => logging::open(path).map(|file| Some(Arc::new(file))),
        Some(_) | None => Ok(None),
    };
    let all = || Ok(Handed { own: open(&settings.log.file)?, library: open(&settings.log.library_file)? });
    all().map_err(DaemonError::Start)
}

fn setup(settings: &Settings, sftpd: &Sftpd) -> Result<Setup, DaemonError> {
    Ok(Setup {
        host_key: key::encode_private(&sftpd.host_key)?,
        username: sftpd.username.clone(),
        pusher: key::public_line(&sftpd.pusher)?,
        source: settings.source.display().to_string(),
        limits: sftpd.limits.clone(),
        log: link::Log::of(&settings.log),
    })
}

/// The receiver, as a process or as a task.
enum Other {
    Process(tokio::process::Child),
    Task(JoinHandle<io::Result<()>>),
}

impl Other {
    async fn ended(&mut self) -> String {
        match self {
            Self::Process(child) => {
                child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string())
            }
            Self::Task(task) => match task.await {
                Ok(Ok(())) => "it has drained".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            },
        }
    }
}

struct Applier {
    settings: Arc<Settings>,
    pipeline: Pipeline,
    incoming: Dir,
    sender: Sender,
    debounce: Debounce,
    running: Option<JoinHandle<Vec<Failure>>>,
    waiting: Vec<Lineage>,
    /// How often in a row updates have failed.
    failed: u32,
}

impl Applier {
    async fn begin(&mut self, setup: Setup) -> Result<(), DaemonError> {
        let setup = ToReceiver::Setup(Box::new(setup));
        self.sender.send(&setup).await.map_err(DaemonError::Start)?;
        let (batch, due) = turn::due(&self.settings, &Which::Owed).map_err(DaemonError::Destination)?;
        if !batch.lineages.is_empty() {
            self.debounce.owed(due.unwrap_or_default());
        }
        self.tell_holdings().await
    }

    async fn work(
        &mut self,
        mut line: link::Receiver,
        mut receiver: Other,
        stop: CancellationToken,
    ) -> Result<(), DaemonError> {
        let mut pending = Vec::new();
        loop {
            let due = self.debounce.due().filter(|_| self.running.is_none());
            tokio::select! {
                message = line.next(&mut pending) => match message {
                    Ok(Some(ToApplier::Committed(commit))) => self.received(commit).await?,
                    Ok(Some(ToApplier::Ask)) => self.tell_holdings().await?,
                    Ok(None) => return Err(DaemonError::Gone(receiver.ended().await)),
                    Err(error) => return Err(DaemonError::Gone(error.to_string())),
                },
                ended = receiver.ended() => return Err(DaemonError::Gone(ended)),
                () = until(due) => self.begin_updates()?,
                done = finished(&mut self.running) => self.end_updates(done).await?,
                () = tokio::time::sleep(RETRY), if !self.waiting.is_empty() => self.retry().await?,
                () = stop.cancelled() => return self.stop(receiver).await,
            }
        }
    }

    async fn received(&mut self, commit: Commit) -> Result<(), DaemonError> {
        tracing::debug!("Deploying new certs");
        // What the debounce will say if this is deployed; said to the pusher in the receipt.
        let due = self.debounce.clone().deployed(clock::now());
        let outcome = match &commit {
            Commit::Push(push) => pass::receive_push(&self.incoming, push, &self.pipeline, due).await,
            Commit::Plain(lineage) => pass::receive_plain(&self.incoming, lineage, &self.pipeline, due).await,
        };
        if matches!(outcome, Outcome::InPlace { update: true, .. }) {
            tracing::debug!("Queueing updates for services");
            self.debounce.deployed(clock::now());
        }
        if let (Commit::Plain(lineage), Outcome::Failed { .. }) = (&commit, &outcome) {
            self.waiting.push(lineage.clone());
        }
        // Holdings first: a pusher that has its receipt may ask for them at once.
        self.tell_holdings().await?;
        if let Commit::Push(push) = commit {
            let lineage = match &outcome {
                Outcome::InPlace { lineage, .. } | Outcome::Waiting { lineage, .. } => Some(lineage.clone()),
                Outcome::Refused { .. } | Outcome::Failed { .. } => None,
            };
            let held = lineage.as_ref().and_then(|lineage| self.pipeline.held(lineage).ok().flatten());
            let receipt = Receipt { push, lineage, verdict: outcome.verdict(), held };
            self.sender.send(&ToReceiver::Receipt(receipt)).await.map_err(|e| DaemonError::Gone(e.to_string()))?;
        }
        Ok(())
    }

    async fn retry(&mut self) -> Result<(), DaemonError> {
        for lineage in std::mem::take(&mut self.waiting) {
            self.received(Commit::Plain(lineage)).await?;
        }
        Ok(())
    }

    fn begin_updates(&mut self) -> Result<(), DaemonError> {
        let which = match self.debounce.take(clock::now()) {
            None => return Ok(()),
            Some(Turn::Owed) => Which::Owed,
            Some(Turn::Failed) => Which::Failed,
        };
        let (batch, _) = turn::due(&self.settings, &which).map_err(DaemonError::Destination)?;
        let settings = Arc::clone(&self.settings);
        self.running = Some(tokio::spawn(async move { turn::run(&settings, &batch).await }));
        Ok(())
    }

    async fn end_updates(&mut self, done: Option<Vec<Failure>>) -> Result<(), DaemonError> {
        self.running = None;
        if let Some(failures) = done {
            match (failures.is_empty(), self.settings.update_retry.after(self.failed)) {
                (true, _) => self.failed = 0,
                (false, None) => tracing::error!("Failed updates run again at the next start, or by `update --failed`"),
                (false, Some(pause)) => {
                    self.failed = self.failed.saturating_add(1);
                    tracing::warn!("Failed updates run again in {} seconds", pause.as_secs());
                    let pause = i64::try_from(pause.as_secs()).unwrap_or(i64::MAX / 2);
                    self.debounce.retry(clock::now().saturating_add(pause));
                }
            }
        }
        self.tell_holdings().await
    }

    async fn tell_holdings(&mut self) -> Result<(), DaemonError> {
        let holdings = match self.pipeline.holdings() {
            Ok(holdings) => holdings,
            Err(error) => {
                tracing::error!("Cannot read `{}`: {error}", self.settings.destination.display());
                Holdings::default()
            }
        };
        let told = self.sender.send(&ToReceiver::Holdings(holdings)).await;
        told.map_err(|error| DaemonError::Gone(error.to_string()))
    }

    /// The open connections and the running update may finish; what does not is found at the next start.
    async fn stop(&mut self, mut receiver: Other) -> Result<(), DaemonError> {
        let _ = self.sender.send(&ToReceiver::Drain).await;
        let limit = self.settings.sftpd.as_ref().map_or(Duration::ZERO, |sftpd| sftpd.limits.drain_timeout);
        let drained = tokio::time::timeout(limit + Duration::from_secs(2), receiver.ended()).await;
        if drained.is_err() {
            tracing::warn!("The receiver did not end in time");
        }
        if self.running.is_some() {
            match tokio::time::timeout(UPDATE_GRACE, finished(&mut self.running)).await {
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => tracing::warn!("An update is cut off; it runs again at the next start"),
            }
        }
        Ok(())
    }
}

async fn until(due: Option<i64>) {
    match due {
        Some(due) => {
            let seconds = u64::try_from(due - clock::now()).unwrap_or_default();
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }
        None => std::future::pending().await,
    }
}

async fn finished(running: &mut Option<JoinHandle<Vec<Failure>>>) -> Option<Vec<Failure>> {
    match running {
        Some(task) => task.await.ok(),
        None => std::future::pending().await,
    }
}
