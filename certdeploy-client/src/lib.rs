//! certdeploy-client, in the order of the flow:
//!
//! [`cli`] argv and environment -> command · [`config`] client.yml -> settings · [`daemon`] the applier's loop ·
//! [`pass`] one pass · [`by_hand`] `update` and `rollback` · [`link`] the line to the receiver · [`sftp`] the receiver ·
//! [`staging`] uploads below a held directory · [`intake`] copies them in · [`validate`] bytes -> valid bundle ·
//! [`deploy`] -> one swap · [`update`] pokes what uses it · [`pipeline`] the order of the steps.
//!
//! The applier, started as root, listens to nobody and parses no peer's bytes; the receiver talks to peers and owns
//! nothing but its staging. `sftp` and `staging` must not name `validate`, `deploy` or `update`; `validate` sees bytes,
//! never paths; `update` does not know how files changed.

pub mod account;
pub mod by_hand;
mod check;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod deploy;
pub mod dir;
pub mod harden;
pub mod health;
pub mod intake;
pub mod link;
mod log;
pub mod mend;
pub mod pass;
pub mod pipeline;
pub mod place;
pub mod sandbox;
pub mod sftp;
pub mod staging;
pub mod turn;
pub mod update;
pub mod validate;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use certdeploy_common::daemon::exit::Exit;
use certdeploy_common::daemon::logging::{self, LogLevel, Stream};
use certdeploy_common::daemon::shutdown::{self, Orders};
use certdeploy_common::ssh::key;

use cli::{Command, Options, Role};
use config::{Demand, Settings};

/// Runs the program.
pub fn run() -> Exit {
    // What our parent left open is no business of what we start.
    close_fds::set_fds_cloexec(3, &[]);
    // Whatever is made is made private first; wider modes are given on purpose.
    let theirs = rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    update::command::inherit_umask(theirs);
    let environment = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    match cli::parse(std::env::args_os(), &environment.collect()) {
        Ok(Command::Daemon(options)) => {
            with_settings(&options, Demand::Daemon, |settings| block_on(daemon::run(settings, options.clone())))
        }
        Ok(Command::Pass(options)) => {
            with_settings(&options, Demand::Pass, |settings| to_the_end(|orders| pass::run(settings, orders)))
        }
        Ok(Command::Update(options, failed)) => {
            let which = if failed { turn::Which::Undone } else { turn::Which::All };
            with_settings(&options, Demand::Pass, |settings| {
                to_the_end(|orders| by_hand::update(settings, which, orders))
            })
        }
        Ok(Command::Rollback(options, lineage)) => with_settings(&options, Demand::Pass, |settings| {
            to_the_end(|orders| by_hand::rollback(settings, lineage, orders))
        }),
        Ok(Command::Check(options, effective)) => check::check(&options, effective),
        Ok(Command::Healthcheck(options, limit)) => healthcheck(&options, limit),
        Ok(Command::Harden(options, polkit_user)) => harden(&options, polkit_user.as_deref()),
        Ok(Command::Keygen(path)) => keygen(&path),
        Ok(Command::Internal(role)) => internal(role),
        Err(error) => {
            let _ = error.print();
            if error.use_stderr() { Exit::Usage } else { Exit::Done }
        }
    }
}

fn with_settings(options: &Options, demand: Demand, body: impl FnOnce(Arc<Settings>) -> Exit) -> Exit {
    let (settings, warnings) = match config::load(&options.config, demand) {
        Ok(loaded) => loaded,
        Err(error) => {
            log::without_settings(options, Stream::Stdout);
            for line in error.to_string().lines() {
                tracing::error!("{line}");
            }
            return Exit::Failed;
        }
    };
    let log = log::policy(options, &settings.log);
    if let Err(error) = log::begin(&log) {
        log::without_settings(options, Stream::Stdout);
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

/// The receiver before its first peer. The log, as ours and with the files that were handed, must be open before the
/// sandbox closes.
fn receiver_begins(setup: &link::Setup, handed: &link::handover::Handover) -> std::io::Result<()> {
    log::of_receiver(&setup.log.policy(), handed.logs.clone());
    sandbox::receiver(&handed.incoming)?.say("receiver");
    Ok(())
}

/// How long a command may go on with what is under way after SIGTERM, SIGINT or SIGHUP; a second signal ends it at once.
const GRACE: Duration = Duration::from_secs(10);

/// Runs a command to its end, or until a signal ends it: with it ends what it has started.
fn to_the_end<F: Future<Output = Exit>>(body: impl FnOnce(Orders) -> F) -> Exit {
    block_on(async {
        let orders = match shutdown::of_command() {
            Ok(orders) => orders,
            Err(error) => {
                tracing::error!("Cannot start: {error}");
                return Exit::Failed;
            }
        };
        orders.run(body(orders.clone()), || GRACE).await.unwrap_or_else(by_hand::cut_off)
    })
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
    account::raise_descriptors();
    let begun = account::give_up_the_rest().and_then(|()| link::spawn::line());
    // The applier gets the same signals and says when to drain.
    let _deaf = shutdown::ignore();
    let served = match begun {
        Ok(line) => sftp::serve(line, receiver_begins).await,
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

/// One line to stdout: it is what `docker inspect` shows.
fn healthcheck(options: &Options, limit: Duration) -> Exit {
    log::without_settings(options, Stream::Stderr);
    block_on(async {
        let (line, exit) = match health::check(&options.config, limit).await {
            Ok(addresses) => {
                let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                (format!("healthy: listening at {}", addresses.join(", ")), Exit::Done)
            }
            Err(error) => (format!("unhealthy: {}", error.to_string().replace('\n', "; ")), Exit::Failed),
        };
        print(&format!("{line}\n"), exit)
    })
}

fn harden(options: &Options, polkit_user: Option<&str>) -> Exit {
    log::without_settings(options, Stream::Stderr);
    match harden::print(&options.config, polkit_user) {
        Ok(text) => print(&text, Exit::Done),
        Err(error) => {
            for line in error.lines() {
                tracing::error!("{line}");
            }
            Exit::Failed
        }
    }
}

fn print(text: &str, exit: Exit) -> Exit {
    use std::io::Write;
    let printed = std::io::stdout().write_all(text.as_bytes());
    if printed.is_ok() { exit } else { Exit::Failed }
}

fn keygen(path: &std::path::Path) -> Exit {
    logging::start(log::LOGGER, LogLevel::Error, Stream::Stderr);
    match key::generate(path, log::LOGGER) {
        Ok(line) => print(&format!("{line}\n"), Exit::Done),
        Err(error) => {
            tracing::error!("{error}");
            Exit::Failed
        }
    }
}
