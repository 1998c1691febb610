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
pub mod harden;
pub mod hook;
pub mod lineage;
mod log;
pub mod plan;
pub mod push;
pub mod queue;
pub mod renew;
pub mod report;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use certdeploy_common::daemon::exit::Exit;
use certdeploy_common::daemon::logging::Stream;
use certdeploy_common::daemon::shutdown;
use certdeploy_common::setting::place::ConfigWarning;
use certdeploy_common::ssh::key;

use cli::{Command, Enqueue, Environment, Invocation, LogOptions, Usage};
use config::Settings;
use config::pins::Demand;
use dispatch::{Dispatcher, Ended, Mode};
use log::Need;
use push::Ssh;
use queue::{Check, Queue, import};

/// Why a command failed; each line of it is one error line.
type Failure = Box<dyn std::error::Error>;

/// Runs the command that the command line and the environment ask for.
pub fn run() -> Exit {
    // Nothing we make is for others; before the first file and the first thread.
    renew::certbot::inherit_umask(rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077)));
    let understood = words().and_then(|(argv, environment)| cli::parse(&argv, &environment));
    match understood {
        Ok(invocation) => carry_out(&invocation),
        Err(Usage::Asked(text)) => print(&text),
        Err(Usage::Wrong(text)) => {
            // If stderr is closed, the exit code still says it.
            let _ = std::io::stderr().write_all(text.as_bytes());
            Exit::Usage
        }
        Err(Usage::NothingToDo { lineage, domains }) => {
            log::without_settings(&LogOptions::default(), Stream::Stdout);
            let (lineage, domains) = (lineage.unwrap_or("None".to_owned()), domains.unwrap_or_default());
            tracing::error!("Could not find lineage or domains. lineage: {lineage}, domains: {domains}");
            Exit::Failed
        }
    }
}

/// What we were given, as text: a path that is none would mean another one.
fn words() -> Result<(Vec<String>, Environment), Usage> {
    let argv =
        std::env::args_os().map(|word| word.into_string().map_err(|word| not_text(&word))).collect::<Result<_, _>>()?;
    let mut environment = Environment::new();
    for (name, value) in std::env::vars_os() {
        let Ok(name) = name.into_string() else { continue };
        match value.into_string() {
            Ok(value) => _ = environment.insert(name, value),
            Err(value) if cli::is_read(&name) => return Err(not_text(&value)),
            Err(_) => {}
        }
    }
    Ok((argv, environment))
}

fn not_text(word: &std::ffi::OsStr) -> Usage {
    Usage::Wrong(format!("Error: {word:?} is not UTF-8; nothing is done rather than something else\n"))
}

fn carry_out(invocation: &Invocation) -> Exit {
    let done = match &invocation.command {
        Command::Keygen { path } => {
            log::without_settings(&invocation.log, Stream::Stderr);
            keygen(path)
        }
        Command::Status { json } => with_config(invocation, Need::Stderr, |settings| status(settings, *json)),
        Command::Check { effective } => check::check(invocation, *effective),
        Command::Harden => {
            log::without_settings(&invocation.log, Stream::Stderr);
            harden::print(&invocation.config).map(|text| print(&text)).map_err(Failure::from)
        }
        Command::Healthcheck { limit } => healthcheck(invocation, *limit),
        Command::Forget { name } => with_config(invocation, Need::Stderr, |settings| forget::forget(&settings, name)),
        Command::Enroll { host, fingerprint } => enroll::enroll(invocation, host, fingerprint.as_deref()),
        Command::Enqueue(handed) => enqueue(invocation, handed),
        Command::Push => with_config(invocation, Need::Files, push),
        Command::Daemon => with_config(invocation, Need::Files, |settings| daemon(settings, invocation)),
        Command::Renew => with_config(invocation, Need::Files, |settings| renew(&settings, &invocation.config)),
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
    need: Need,
    work: impl FnOnce(Arc<Settings>) -> Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    let (settings, _) = begin(invocation, need, Demand::Pinned)?;
    work(Arc::new(settings))
}

/// Reads the config and starts the log; the warnings have been said.
fn begin(invocation: &Invocation, need: Need, demand: Demand) -> Result<(Settings, Vec<ConfigWarning>), Failure> {
    let loaded = config::load_with(&invocation.config, demand);
    let (settings, warnings) = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            let stream = if need == Need::Stderr { Stream::Stderr } else { Stream::Stdout };
            log::without_settings(&invocation.log, stream);
            return Err(error.into());
        }
    };
    let begun = log::begin(&invocation.log, &settings, need);
    if begun.is_err() {
        log::without_settings(&LogOptions { file: None, ..invocation.log.clone() }, Stream::Stdout);
    }
    begun?;
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    Ok((settings, warnings))
}

fn print(text: &str) -> Exit {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Exit::Done,
        Err(_) => Exit::Failed,
    }
}

fn keygen(path: &Path) -> Result<Exit, Failure> {
    let line = key::generate(path, log::LOGGER)?;
    Ok(print(&format!("{line}\n")))
}

/// One line to stdout: it is what `docker inspect` shows. A daemon goes on when its config was broken since, so no more of it
/// is looked at than is needed.
fn healthcheck(invocation: &Invocation, limit: Duration) -> Result<Exit, Failure> {
    log::without_settings(&invocation.log, Stream::Stderr);
    let asked = config::queue_dir(&invocation.config).map_err(Failure::from).and_then(|queue_dir| {
        block_on(async { dispatch::wake::ask(&queue_dir, limit).await.map_err(Failure::from) })?;
        Ok(queue_dir)
    });
    Ok(match asked {
        Ok(queue_dir) => print(&format!("healthy: the daemon of `{}` answers\n", queue_dir.display())),
        Err(error) => {
            let _ = print(&format!("unhealthy: {}\n", error.to_string().replace('\n', "; ")));
            Exit::Failed
        }
    })
}

fn status(settings: Arc<Settings>, json: bool) -> Result<Exit, Failure> {
    let (rows, run) = match Queue::look(&settings.queue_dir)? {
        None => Default::default(),
        Some(mut queue) => {
            let (deliveries, holdings, renewals) = (queue.deliveries()?, queue.holdings()?, queue.waiting()?);
            (report::status::Rows { deliveries, holdings, renewals }, renew::record::read(&mut queue)?)
        }
    };
    let gone = lineage::gone(&settings.live_directory, rows.deliveries.iter().map(|owed| owed.path.as_path()));
    let status = report::status::status(&settings.targets, rows, &gone, clock::now());
    let last_run = |record| report::renewal::last_run(&record, settings.renew.interval, &renew::civil::Zone::local());
    let status = status.with(run.map(last_run));
    let printed = print(&if json { status.json() } else { status.table() });
    Ok(if printed == Exit::Done && !status.fine { Exit::Owed } else { printed })
}

/// The renewal goes to the disk before anything is looked at that only a push needs: certbot never calls again.
fn enqueue(invocation: &Invocation, handed: &Enqueue) -> Result<Exit, Failure> {
    let (settings, warned) = begin(invocation, Need::FilesIfPossible, Demand::NotNow)?;
    tracing::debug!("Running manual push or hook");
    let (renewal, strange) = hook::parse(handed, &base(&handed.lineage)?)?;
    for name in strange {
        tracing::warn!("\"{name}\" is not a domain name; the certificate's own names decide");
    }
    tracing::debug!("Adding lineage to queue.");
    let now = clock::now();
    if renewal.path.metadata().is_ok_and(|meta| !meta.is_dir()) {
        return Err(format!("lineage `{}` is not a directory", renewal.path.display()).into());
    }
    // certbot's word is taken, its files may be on their way; a person's slip would be owed until it is forgotten.
    let names = renewal.domains.iter().cloned().collect();
    let wanted = || settings.targets.iter().any(|target| plan::gets(target, &renewal.lineage, &names));
    if renewal.anew && !renewal.path.exists() && wanted() {
        let path = renewal.path.display();
        return Err(
            format!("lineage `{path}` does not exist; give the directory, like /etc/letsencrypt/live/NAME").into()
        );
    }
    Queue::add(&settings.queue_dir, &renewal, now, || dispatch::wake::ring(&settings.queue_dir))?;
    tracing::info!("Queued lineage {}", renewal.path.display());
    dispatch::wake::ring(&settings.queue_dir);
    if handed.push {
        return push_with_pins(invocation, &warned);
    }
    if let Err(error) = settings.key.look() {
        // Still a success: what the hook was called for is done. Whoever pushes ends with this error, and `status` shows
        // what waits.
        for line in error.to_string().lines() {
            tracing::error!("{line}");
        }
        tracing::error!("Lineage {} is queued, but nothing is delivered until this is mended", renewal.path.display());
    }
    Ok(Exit::Done)
}

/// What a relative lineage starts from. A certbot whose directory was removed has none, and mostly needs none.
fn base(lineage: &str) -> Result<PathBuf, Failure> {
    if Path::new(lineage).is_absolute() {
        return Ok(PathBuf::from("/"));
    }
    let unknown = |error| {
        format!(
            "lineage `{lineage}` is relative, and the directory we were started in cannot be told ({error}); give its absolute path"
        )
    };
    Ok(std::env::current_dir().map_err(unknown)?)
}

/// Reads the config again, now with what may be shown by whom; what was `warned` of is not said twice.
fn push_with_pins(invocation: &Invocation, warned: &[ConfigWarning]) -> Result<Exit, Failure> {
    let (settings, warnings) = config::load(&invocation.config)?;
    let said: Vec<String> = warned.iter().map(ToString::to_string).collect();
    for warning in warnings.iter().map(ToString::to_string).filter(|warning| !said.contains(warning)) {
        tracing::warn!("{warning}");
    }
    push(Arc::new(settings))
}

/// The way to the targets, with the key read anew.
fn ssh(settings: &Settings) -> Result<Ssh, Failure> {
    Ok(Ssh::new(settings.key.load()?))
}

fn push(settings: Arc<Settings>) -> Result<Exit, Failure> {
    tracing::debug!("Running manual push without a running daemon");
    let ssh = ssh(&settings)?;
    let open = |check| Queue::open(&settings.queue_dir, check, clock::now());
    let mut queue = open(Check::Whole)?;
    import::import(&mut queue, &settings, clock::now());
    let dispatcher = Dispatcher::new(Arc::clone(&settings), queue, ssh, Mode::Once, clock::now);
    let ended = block_on(async {
        let orders = shutdown::of_command()?;
        tokio::select! {
            ended = dispatcher.run(orders.stop.clone(), None) => Ok::<_, Failure>(Some(ended?)),
            () = orders.overdue(|| settings.push.stop + daemon::END) => Ok(None),
        }
    })?;
    let left = |mut queue: Queue| queue.is_empty().map(|empty| !empty);
    Ok(match ended {
        Some(Ended::FailedFast) => Exit::Failed,
        Some(Ended::UpdatesFailed) => Exit::Owed,
        Some(Ended::Quietly) | None if left(open(Check::Opening)?)? => Exit::Owed,
        Some(Ended::Quietly) | None => Exit::Done,
    })
}

fn daemon(settings: Arc<Settings>, invocation: &Invocation) -> Result<Exit, Failure> {
    let ssh = ssh(&settings)?;
    match block_on(async { Ok::<_, Failure>(daemon::run(settings, ssh, invocation).await?) })? {
        Ended::FailedFast => Ok(Exit::Failed),
        Ended::Quietly | Ended::UpdatesFailed => Ok(Exit::Done),
    }
}

fn renew(settings: &Settings, config: &Path) -> Result<Exit, Failure> {
    tracing::debug!("Running renew");
    let renewed = block_on(async {
        let orders = shutdown::of_command()?;
        tokio::select! {
            renewed = renew::once(settings, config, &orders.stop) => Ok(renewed),
            () = orders.overdue(|| settings.push.stop + daemon::END) => Err(Failure::from("the renewal was cut off")),
        }
    })?;
    match renewed {
        Ok(()) => Ok(Exit::Done),
        Err(error) if error.is_no_fault_of_ours() && !settings.fail_fast => {
            tracing::error!("{}", error.complaint(false));
            Ok(Exit::Owed)
        }
        Err(error) => Err(error.complaint(settings.fail_fast).into()),
    }
}

/// Runs to the end of `work`; what waits for a disk or a name server on a thread of its own is not waited for.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let done = runtime.block_on(work);
    runtime.shutdown_background();
    done
}
