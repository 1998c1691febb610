//! argv + environment -> [`Command`]. Pure: reads neither by itself.

mod arguments;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use certdeploy_common::cert::Lineage;
use certdeploy_common::cert::lineage::UnsafeLineage;
use certdeploy_common::daemon::logging::LogLevel;
use clap::Parser;

pub use arguments::command;
use arguments::{Args, Sub, level};

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// The daemon: the embedded SFTP server, deployments, updates.
    Daemon(Options),
    /// One pass over the staging directory, then the updates.
    Pass(Options),
    /// Run the updates of what is in place; only those that failed, if so asked.
    Update(Options, bool),
    /// Go back one generation of a lineage.
    Rollback(Options, Lineage),
    /// Look at everything without acting; print what holds, defaults included, if so asked.
    Check(Options, bool),
    /// Ask the daemon whether it works, and wait for at most so long.
    Healthcheck(Options, Duration),
    /// Print the systemd drop-in that fits the config; or the polkit rule for a client that runs as this user.
    Harden(Options, Option<String>),
    /// Make an SSH key pair.
    Keygen(PathBuf),
    /// Our own other process; nobody else calls it.
    Internal(Role),
}

/// Our own other processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Talks to peers.
    Receiver,
    /// Examines one upload.
    Validator,
}

/// What both ways to run have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The config file.
    pub config: PathBuf,
    /// What is logged, if not as the config says.
    pub log_level: Option<LogLevel>,
    /// The log file, if not as the config says.
    pub log_filename: Option<PathBuf>,
    /// The same for the SSH and SFTP library.
    pub sftp_log_level: Option<LogLevel>,
    /// Its file.
    pub sftp_log_filename: Option<PathBuf>,
}

const CONFIG: &str = "/etc/certdeploy/client.yml";

const LOG_LEVEL: &[&str] = &["CERTDEPLOY_CLIENT_LOG_LEVEL", "CERTDEPLOY_LOG_LEVEL"];
/// The misspelt names are the ones that certdeploy 0.3 to 0.5 read.
const SFTP_LOG_LEVEL: &[&str] = &["CERTDEPLOY_CLIENT_SFTP_LOG_LEVEL", "CERTDEPOLY_CLIENT_SFTP_LOG_LEVEL"];
const SFTP_LOG_FILENAME: &[&str] = &["CERTDEPLOY_CLIENT_SFTP_LOG_FILENAME", "CERTDEPOLY_CLIENT_SFTP_LOG_FILENAME"];

/// Reads the command line and the environment; options beat variables.
///
/// # Errors
/// A sentence for stderr (exit 2); or the text of `--help` and `--version` (exit 0), which [`clap::Error`] knows.
pub fn parse(
    argv: impl IntoIterator<Item = OsString>,
    environment: &BTreeMap<String, String>,
) -> Result<Command, clap::Error> {
    let args = Args::try_parse_from(argv)?;
    match &args.command {
        Some(Sub::Keygen { path }) => return Ok(Command::Keygen(path.clone())),
        Some(Sub::Receiver) => return Ok(Command::Internal(Role::Receiver)),
        Some(Sub::Validator) => return Ok(Command::Internal(Role::Validator)),
        Some(
            Sub::Update { .. }
            | Sub::Rollback { .. }
            | Sub::Check { .. }
            | Sub::Healthcheck { .. }
            | Sub::Harden { .. },
        )
        | None => {}
    }
    let variable = |names: &[&'static str]| {
        names.iter().find_map(|name| environment.get(*name).filter(|value| !value.is_empty()).map(|v| (*name, v)))
    };
    let level_of = |given: Option<LogLevel>, names| match (given, variable(names)) {
        (Some(level), _) => Ok(Some(level)),
        (None, Some((name, value))) => level(value).map(Some).map_err(|error| bad(name, value, &error)),
        (None, None) => Ok(None),
    };
    // An empty option says "no file but that of the config", and the variable is not asked either.
    let path_of = |given: Option<PathBuf>, names| match given {
        Some(path) => Some(path).filter(|path| !path.as_os_str().is_empty()),
        None => variable(names).map(|(_, path)| path.into()),
    };
    let weakest = || variable(&["LOG_LEVEL"]).and_then(|(_, name)| level(&name.to_ascii_uppercase()).ok());
    let log_level = level_of(args.log_level, LOG_LEVEL)?.or_else(weakest);
    let daemon = wants_daemon(&args, environment)?;
    let config = args.config.or_else(|| variable(&["CERTDEPLOY_CLIENT_CONFIG"]).map(|(_, path)| path.into()));
    let options = Options {
        config: config.unwrap_or_else(|| CONFIG.into()),
        log_level,
        log_filename: path_of(args.log_filename, &["CERTDEPLOY_CLIENT_LOG_FILENAME"]),
        sftp_log_level: level_of(args.sftp_log_level, SFTP_LOG_LEVEL)?,
        sftp_log_filename: path_of(args.sftp_log_filename, SFTP_LOG_FILENAME),
    };
    match args.command {
        Some(Sub::Update { failed }) => return Ok(Command::Update(options, failed)),
        Some(Sub::Check { effective }) => return Ok(Command::Check(options, effective)),
        Some(Sub::Healthcheck { timeout }) => return Ok(Command::Healthcheck(options, Duration::from_secs(timeout))),
        Some(Sub::Harden { polkit }) => return Ok(Command::Harden(options, polkit)),
        Some(Sub::Rollback { lineage }) => {
            let lineage = lineage.parse().map_err(|error: UnsafeLineage| {
                clap::Error::raw(clap::error::ErrorKind::InvalidValue, format!("{error}\n"))
            })?;
            return Ok(Command::Rollback(options, lineage));
        }
        Some(Sub::Keygen { .. } | Sub::Receiver | Sub::Validator) | None => {}
    }
    Ok(if daemon { Command::Daemon(options) } else { Command::Pass(options) })
}

/// Options beat the variable; blanks around its value mean nothing.
fn wants_daemon(args: &Args, environment: &BTreeMap<String, String>) -> Result<bool, clap::Error> {
    const NAME: &str = "CERTDEPLOY_CLIENT_DAEMON";
    let value = environment.get(NAME).map_or("", |value| value.trim());
    match (args.daemon, args.no_daemon) {
        (true, _) => Ok(true),
        (false, no_daemon) if no_daemon || value.is_empty() => Ok(false),
        (false, _) => boolean(value).ok_or_else(|| bad(NAME, value, "expected true or false")),
    }
}

fn bad(name: &str, value: &str, expected: &str) -> clap::Error {
    let message = format!("Invalid value '{value}' for the variable {name}: {expected}\n");
    clap::Error::raw(clap::error::ErrorKind::InvalidValue, message)
}

fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "t" | "true" | "y" | "yes" | "on" => Some(true),
        "0" | "f" | "false" | "n" | "no" | "off" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(argv: &[&str], environment: &[(&str, &str)]) -> Result<Command, String> {
        let argv = std::iter::once("certdeploy-client").chain(argv.iter().copied()).map(OsString::from);
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        parse(argv, &environment).map_err(|error| error.to_string())
    }

    fn options(config: &str, log_level: Option<LogLevel>) -> Options {
        Options { config: config.into(), log_level, log_filename: None, sftp_log_level: None, sftp_log_filename: None }
    }

    #[test]
    fn options_beat_variables_and_variables_beat_defaults() {
        let daemon = ("CERTDEPLOY_CLIENT_DAEMON", "TRUE");
        assert_eq!(read(&[], &[]), Ok(Command::Pass(options(CONFIG, None))));
        assert_eq!(read(&[], &[daemon]), Ok(Command::Daemon(options(CONFIG, None))));
        assert_eq!(read(&["--no-daemon"], &[daemon]), Ok(Command::Pass(options(CONFIG, None))));
        assert_eq!(
            read(&["--daemon", "--config=/c", "--log-level", "INFO"], &[("CERTDEPLOY_CLIENT_CONFIG", "/e")]),
            Ok(Command::Daemon(options("/c", Some(LogLevel::Info))))
        );
        let variables = [("CERTDEPLOY_CLIENT_CONFIG", "/e"), ("CERTDEPLOY_LOG_LEVEL", "DEBUG")];
        assert_eq!(read(&[], &variables), Ok(Command::Pass(options("/e", Some(LogLevel::Debug)))));
        assert_eq!(read(&["keygen", "/k"], &[]), Ok(Command::Keygen("/k".into())));
    }

    #[test]
    fn blanks_and_empty_texts_say_nothing() {
        for (value, daemon) in [(" true ", true), ("no\n", false), (" ", false), ("", false)] {
            let command = read(&[], &[("CERTDEPLOY_CLIENT_DAEMON", value)]).unwrap();
            assert_eq!(matches!(command, Command::Daemon(_)), daemon, "{value:?}");
        }
        let variable = ("CERTDEPLOY_CLIENT_LOG_FILENAME", "/l");
        for argv in [&["--log-filename", ""][..], &["--log-filename=", "--sftp-log-filename="]] {
            assert_eq!(read(argv, &[variable]), Ok(Command::Pass(options(CONFIG, None))));
        }
        let Ok(Command::Pass(with)) = read(&[], &[variable]) else { panic!("a pass") };
        assert_eq!(with.log_filename, Some("/l".into()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(read(&["--log-level", "debug"], &[]).unwrap_err().contains("expected one of DEBUG, INFO"));
        let error = read(&[], &[("CERTDEPLOY_CLIENT_DAEMON", "maybe")]).unwrap_err();
        assert!(error.contains("Invalid value 'maybe' for the variable CERTDEPLOY_CLIENT_DAEMON"), "{error}");
        assert!(read(&["--deamon"], &[]).unwrap_err().contains("--daemon"));
    }
}
