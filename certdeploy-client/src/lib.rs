//! certdeploy-client, in the order of the flow:
//!
//! [`cli`] argv and environment -> command · [`config`] client.yml -> settings · [`daemon`] the applier's loop ·
//! [`pass`] one pass · [`link`] the line to the receiver · [`sftp`] the receiver · [`staging`] uploads below a held
//! directory · [`intake`] copies them in · [`validate`] bytes -> valid bundle · [`deploy`] -> one swap · [`update`] pokes
//! what uses it · [`pipeline`] the order of the steps.
//!
//! The applier, started as root, listens to nobody and parses no peer's bytes; the receiver talks to peers and owns
//! nothing but its staging. `sftp` and `staging` must not name `validate`, `deploy` or `update`; `validate` sees bytes,
//! never paths; `update` does not know how files changed.

pub mod account;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod deploy;
pub mod dir;
pub mod intake;
pub mod link;
pub mod pass;
pub mod pipeline;
pub mod sftp;
pub mod staging;
pub mod turn;
pub mod update;
pub mod validate;

use std::future::Future;
use std::sync::Arc;

use certdeploy_common::daemon::exit::Exit;
use certdeploy_common::daemon::logging::{self, LogLevel, Stream};
use certdeploy_common::daemon::shutdown;
use certdeploy_common::ssh::key;

use cli::{Command, Options, Role};
use config::Settings;
use config::settings::LogPolicy;

/// The logger's name.
const LOGGER: &str = "certdeploy-client";

/// Runs the program.
pub fn run() -> Exit {
    // Whatever is made is made private first; wider modes are given on purpose.
    let theirs = rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    update::command::inherit_umask(theirs);
    let environment = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    match cli::parse(std::env::args_os(), &environment.collect()) {
        Ok(Command::Daemon(options)) => with_settings(&options, |settings| block_on(daemon::run(settings))),
        Ok(Command::Pass(options)) => with_settings(&options, |settings| block_on(pass::run(settings))),
        Ok(Command::Update(options, failed)) => {
            let which = if failed { turn::Which::Failed } else { turn::Which::All };
            with_settings(&options, |settings| block_on(pass::update(settings, which)))
        }
        Ok(Command::Rollback(options, lineage)) => {
            with_settings(&options, |settings| block_on(pass::rollback(settings, lineage)))
        }
        Ok(Command::Keygen(path)) => keygen(&path),
        Ok(Command::Internal(role)) => internal(role),
        Err(error) => {
            let _ = error.print();
            if error.use_stderr() { Exit::Usage } else { Exit::Done }
        }
    }
}

fn with_settings(options: &Options, body: impl FnOnce(Arc<Settings>) -> Exit) -> Exit {
    let (settings, warnings) = match config::load(&options.config) {
        Ok(loaded) => loaded,
        Err(error) => {
            logging::start(LOGGER, options.log_level.unwrap_or(LogLevel::Error), Stream::Stdout);
            for line in error.to_string().lines() {
                tracing::error!("{line}");
            }
            return Exit::Failed;
        }
    };
    let log = log_policy(options, &settings.log);
    if let Err(error) = logging::begin(&log_setup(&log)) {
        logging::start(LOGGER, log.level, Stream::Stdout);
        tracing::error!("The log file {error}");
        return Exit::Failed;
    }
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    if let Err(error) = account::forbid_dumps() {
        tracing::warn!("Core dumps cannot be forbidden: {error}");
    }
    body(Arc::new(Settings { log, ..settings }))
}

/// Options and variables beat the config.
fn log_policy(options: &Options, written: &LogPolicy) -> LogPolicy {
    LogPolicy {
        level: options.log_level.unwrap_or(written.level),
        format: written.format,
        file: options.log_filename.clone().or(written.file.clone()),
        library_level: options.sftp_log_level.unwrap_or(written.library_level),
        library_file: options.sftp_log_filename.clone().or(written.library_file.clone()),
    }
}

fn log_setup(log: &LogPolicy) -> logging::Setup {
    logging::Setup {
        logger: LOGGER,
        stream: Stream::Stdout,
        format: log.format,
        level: log.level,
        file: log.file.clone(),
        library_level: log.library_level,
        library_file: log.library_file.clone(),
        handed: logging::Handed::default(),
    }
}

/// The receiver's log: as ours, with the files that it was handed.
fn receiver_log(setup: &link::Setup, handed: logging::Handed) {
    let _ = logging::begin(&logging::Setup { handed, ..log_setup(&setup.log.policy()) });
}

/// One thread is enough: what waits for the disk waits on threads of its own.
fn block_on(body: impl Future<Output = Exit>) -> Exit {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let exit = runtime.block_on(body);
            // An update that outlives its process is the next start's business.
            runtime.shutdown_background();
            exit
        }
        Err(error) => {
            tracing::error!("Cannot start: {error}");
            Exit::Failed
        }
    }
}

fn internal(role: Role) -> Exit {
    let served = match role {
        Role::Validator => validate::process::serve(),
        Role::Receiver => return block_on(receiver()),
    };
    if served.is_ok() { Exit::Done } else { Exit::Failed }
}

async fn receiver() -> Exit {
    let begun = account::give_up_the_rest().and_then(|()| link::spawn::line());
    // The applier gets the same signals and says when to drain.
    let _deaf = shutdown::ignore();
    let served = match begun {
        Ok(line) => sftp::serve(line, receiver_log).await,
        Err(error) => Err(error),
    };
    match served {
        Ok(()) => Exit::Done,
        Err(error) => {
            tracing::error!("The receiver ends: {error}");
            Exit::Failed
        }
    }
}

fn keygen(path: &std::path::Path) -> Exit {
    logging::start(LOGGER, LogLevel::Error, Stream::Stderr);
    match key::generate(path, LOGGER) {
        Ok(line) => {
            use std::io::Write;
            let _ = writeln!(std::io::stdout(), "{line}");
            Exit::Done
        }
        Err(error) => {
            tracing::error!("{error}");
            Exit::Failed
        }
    }
}
