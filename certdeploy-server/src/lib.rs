//! certdeploy-server, in the order of the flow:
//!
//! [`cli`] argv and environment -> command · [`config`] server.yml -> settings · [`hook`] what certbot hands over ->
//! renewal · [`queue`] the durable store · [`lineage`] live/ -> bundle · [`plan`] what is owed, and what follows ·
//! [`push`] the way to a target · [`dispatch`] the loop · [`renew`] certbot by schedule · [`daemon`] the parts together ·
//! [`report`] status.
//!
//! This file runs one command; it decides nothing. `hook` and `queue` never name `push`; `plan` touches neither files
//! nor the clock.

pub mod check;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod dispatch;
pub mod enroll;
pub mod forget;
pub mod hook;
pub mod lineage;
pub mod plan;
pub mod push;
pub mod queue;
pub mod renew;
pub mod report;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use certdeploy_common::daemon::exit::Exit;
use certdeploy_common::daemon::logging::{self, LogLevel, Stream};
use certdeploy_common::daemon::shutdown;
use certdeploy_common::ssh::key;
use tokio_util::sync::CancellationToken;

use cli::{Command, Enqueue, Invocation, Usage};
use config::Settings;
use dispatch::{Dispatcher, Ended, Mode};
use push::Ssh;
use queue::{Check, Queue, QueueError};

const LOGGER: &str = "certdeploy-server";

/// Why a command failed; each line of it is one error line.
type Failure = Box<dyn std::error::Error>;

/// Runs the command that the command line and the environment ask for.
pub fn run() -> Exit {
    // Nothing we make is for others; before the first file and the first thread.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let argv: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
    };
    let environment = std::env::vars_os().filter_map(text).collect();
    match cli::parse(&argv, &environment) {
        Ok(invocation) => carry_out(&invocation),
        Err(Usage::Asked(text)) => print(&text),
        Err(Usage::Wrong(text)) => {
            // If stderr is closed, the exit code still says it.
            let _ = std::io::stderr().write_all(text.as_bytes());
            Exit::Usage
        }
        Err(Usage::NothingToDo { lineage, domains }) => {
            logging::start(LOGGER, LogLevel::Error, Stream::Stdout);
            let (lineage, domains) = (lineage.unwrap_or("None".to_owned()), domains.unwrap_or_default());
            tracing::error!("Could not find lineage or domains. lineage: {lineage}, domains: {domains}");
            Exit::Failed
        }
    }
}

fn carry_out(invocation: &Invocation) -> Exit {
    let done = match &invocation.command {
        Command::Keygen { path } => {
            logging::start(LOGGER, invocation.log_level.unwrap_or(LogLevel::Error), Stream::Stderr);
            keygen(path)
        }
        Command::Status { json } => with_config(invocation, Stream::Stderr, |settings| status(settings, *json)),
        Command::Check { effective } => check::check(invocation, *effective),
        Command::Forget { name } => with_config(invocation, Stream::Stderr, |settings| forget::forget(&settings, name)),
        Command::Enroll { host, fingerprint } => enroll::enroll(invocation, host, fingerprint.as_deref()),
        Command::Enqueue(handed) => with_config(invocation, Stream::Stdout, |settings| enqueue(settings, handed)),
        Command::Push => with_config(invocation, Stream::Stdout, push),
        Command::Daemon => with_config(invocation, Stream::Stdout, |settings| daemon(settings, &invocation.config)),
        Command::Renew => with_config(invocation, Stream::Stdout, |settings| renew(&settings, &invocation.config)),
    };
    done.unwrap_or_else(|failure| {
        for line in failure.to_string().lines() {
            tracing::error!("{line}");
        }
        Exit::Failed
    })
}

fn with_config(
    invocation: &Invocation,
    stream: Stream,
    work: impl FnOnce(Arc<Settings>) -> Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    let loaded = config::load(&invocation.config);
    let configured = loaded.as_ref().map_or(LogLevel::Error, |(settings, _)| settings.log_level);
    logging::start(LOGGER, invocation.log_level.unwrap_or(configured), stream);
    let (settings, warnings) = loaded?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    work(Arc::new(settings))
}

fn print(text: &str) -> Exit {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Exit::Done,
        Err(_) => Exit::Failed,
    }
}

fn keygen(path: &Path) -> Result<Exit, Failure> {
    let line = key::generate(path, LOGGER)?;
    Ok(print(&format!("{line}\n")))
}

fn status(settings: Arc<Settings>, json: bool) -> Result<Exit, Failure> {
    let (deliveries, holdings, renewals) = match Queue::look(&settings.queue_dir)? {
        None => Default::default(),
        Some(mut queue) => (queue.deliveries()?, queue.holdings()?, queue.renewals()?.len()),
    };
    let status = report::status::status(&settings.targets, deliveries, holdings, renewals);
    let printed = print(&if json { status.json() } else { status.table() });
    Ok(if printed == Exit::Done && !status.fine { Exit::Owed } else { printed })
}

fn enqueue(settings: Arc<Settings>, handed: &Enqueue) -> Result<Exit, Failure> {
    tracing::debug!("Running manual push or hook");
    // A hook without a usable key would only put the complaint off to where nobody looks.
    settings.key.load()?;
    let (renewal, strange) = hook::parse(handed, &std::env::current_dir()?)?;
    for name in strange {
        tracing::warn!("\"{name}\" is not a domain name; the certificate's own names decide");
    }
    tracing::debug!("Adding lineage to queue.");
    let now = clock::now();
    if renewal.path.metadata().is_ok_and(|meta| !meta.is_dir()) {
        return Err(format!("lineage `{}` is not a directory", renewal.path.display()).into());
    }
    let append = |check| Queue::open(&settings.queue_dir, check, now)?.append(&renewal, now);
    match append(Check::Opening) {
        // Damage that opening does not show: looked for, set aside, and this renewal is not lost.
        Err(error) if error.is_damage() => append(Check::Whole)?,
        appended => appended?,
    }
    tracing::info!("Queued lineage {}", renewal.path.display());
    dispatch::wake::ring(&settings.queue_dir);
    if handed.push { push(settings) } else { Ok(Exit::Done) }
}

fn push(settings: Arc<Settings>) -> Result<Exit, Failure> {
    tracing::debug!("Running manual push without a running daemon");
    let ssh = Ssh::new(settings.key.load()?);
    let open = |check| Queue::open(&settings.queue_dir, check, clock::now());
    let dispatcher = Dispatcher::new(Arc::clone(&settings), open(Check::Whole)?, ssh, Mode::Once, clock::now);
    let ended = runtime()?.block_on(async { Ok::<_, Failure>(dispatcher.run(shutdown::on_signal()?, None).await?) })?;
    let left = |mut queue: Queue| Ok::<_, QueueError>(!queue.deliveries()?.is_empty() || !queue.renewals()?.is_empty());
    Ok(match ended {
        Ended::FailedFast => Exit::Failed,
        Ended::UpdatesFailed => Exit::Owed,
        Ended::Quietly if left(open(Check::Opening)?)? => Exit::Owed,
        Ended::Quietly => Exit::Done,
    })
}

fn daemon(settings: Arc<Settings>, config: &Path) -> Result<Exit, Failure> {
    let ssh = Ssh::new(settings.key.load()?);
    match runtime()?.block_on(daemon::run(settings, ssh, config))? {
        Ended::FailedFast => Ok(Exit::Failed),
        Ended::Quietly | Ended::UpdatesFailed => Ok(Exit::Done),
    }
}

fn renew(settings: &Settings, config: &Path) -> Result<Exit, Failure> {
    tracing::debug!("Running renew");
    let run = async {
        let stop = shutdown::on_signal().unwrap_or_else(|_| CancellationToken::new());
        renew::certbot::run(&settings.renew, config, &stop).await
    };
    match runtime()?.block_on(run) {
        Ok(()) => Ok(Exit::Done),
        Err(renew::certbot::RenewError::Failed { command, .. }) if settings.fail_fast => {
            Err(format!("CertDeployError: Failed to run `{command}`").into())
        }
        Err(error @ renew::certbot::RenewError::Failed { .. }) => {
            tracing::error!("Failed to renew or check for renewable certificates. {error}");
            Ok(Exit::Owed)
        }
        Err(error) => Err(error.into()),
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
}
