//! argv + environment -> [`Command`]. Pure: reads neither by itself.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use certdeploy_common::cert::Lineage;
use certdeploy_common::cert::lineage::UnsafeLineage;
use certdeploy_common::daemon::logging::LogLevel;
use clap::{ArgAction, Parser, Subcommand};

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

/// Receives certificates from a certdeploy-server, puts them in place and updates what uses them.
///
/// Without --daemon: one pass over the staging directory that a plain sshd has filled, then the updates.
#[derive(Debug, Parser)]
#[command(name = "certdeploy-client", version, after_help = AFTER_HELP, args_override_self = true)]
struct Args {
    /// The config file [env: CERTDEPLOY_CLIENT_CONFIG]
    #[arg(long, value_name = "PATH", global = true)]
    config: Option<PathBuf>,
    /// Run the daemon with the embedded SFTP server [env: CERTDEPLOY_CLIENT_DAEMON]
    #[arg(long, action = ArgAction::SetTrue, overrides_with = "no_daemon")]
    daemon: bool,
    /// Do one pass, whatever the environment says
    #[arg(long, action = ArgAction::SetTrue, overrides_with = "daemon", hide = true)]
    no_daemon: bool,
    /// DEBUG, INFO, WARNING, ERROR or CRITICAL [env: CERTDEPLOY_CLIENT_LOG_LEVEL]
    #[arg(long, value_name = "LEVEL", value_parser = level, global = true)]
    log_level: Option<LogLevel>,
    /// A file for the log as well [env: CERTDEPLOY_CLIENT_LOG_FILENAME]
    #[arg(long, value_name = "PATH", global = true)]
    log_filename: Option<PathBuf>,
    /// As --log-level, for the SSH and SFTP library [env: CERTDEPLOY_CLIENT_SFTP_LOG_LEVEL]
    #[arg(long, value_name = "LEVEL", value_parser = level, global = true)]
    sftp_log_level: Option<LogLevel>,
    /// As --log-filename, for the SSH and SFTP library [env: CERTDEPLOY_CLIENT_SFTP_LOG_FILENAME]
    #[arg(long, value_name = "PATH", global = true)]
    sftp_log_filename: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Sub>,
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// Put the generation before the current one back and run its updates
    Rollback {
        /// The lineage
        lineage: String,
    },
    /// Run the updates of what is in place, without a new deployment
    Update {
        /// Only those that failed
        #[arg(long)]
        failed: bool,
    },
    /// Make an ed25519 key pair: PATH (0600) and PATH.pub
    Keygen {
        /// Where the private key goes
        path: PathBuf,
    },
    #[command(name = crate::link::spawn::COMMAND, hide = true)]
    Receiver,
    #[command(name = crate::validate::process::COMMAND, hide = true)]
    Validator,
}

const AFTER_HELP: &str = "Exit codes: 0 nothing to do or all done, 1 it could not be done or an upload is invalid, 2 wrong \
    options, 3 an update failed.";
const CONFIG: &str = "/etc/certdeploy/client.yml";

const LOG_LEVEL: &[&str] = &["CERTDEPLOY_CLIENT_LOG_LEVEL", "CERTDEPLOY_LOG_LEVEL"];
/// The misspelt names are the ones that certdeploy 0.3 to 0.5 read.
const SFTP_LOG_LEVEL: &[&str] = &["CERTDEPLOY_CLIENT_SFTP_LOG_LEVEL", "CERTDEPOLY_CLIENT_SFTP_LOG_LEVEL"];
const SFTP_LOG_FILENAME: &[&str] = &["CERTDEPLOY_CLIENT_SFTP_LOG_FILENAME", "CERTDEPOLY_CLIENT_SFTP_LOG_FILENAME"];

fn level(text: &str) -> Result<LogLevel, String> {
    LogLevel::parse(text).ok_or_else(|| format!("expected one of {}", LogLevel::NAMES.join(", ")))
}

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
        Some(Sub::Update { .. } | Sub::Rollback { .. }) | None => {}
    }
    let variable = |names: &[&'static str]| {
        names.iter().find_map(|name| environment.get(*name).filter(|value| !value.is_empty()).map(|v| (*name, v)))
    };
    let level_of = |given: Option<LogLevel>, names| match (given, variable(names)) {
        (Some(level), _) => Ok(Some(level)),
        (None, Some((name, value))) => level(value).map(Some).map_err(|error| bad(name, value, &error)),
        (None, None) => Ok(None),
    };
    let path_of = |given: Option<PathBuf>, names| given.or_else(|| variable(names).map(|(_, path)| path.into()));
    let weakest = || variable(&["LOG_LEVEL"]).and_then(|(_, name)| level(&name.to_ascii_uppercase()).ok());
    let log_level = level_of(args.log_level, LOG_LEVEL)?.or_else(weakest);
    let daemon = match (args.daemon, args.no_daemon, variable(&["CERTDEPLOY_CLIENT_DAEMON"])) {
        (true, ..) => true,
        (false, true, _) | (false, false, None) => false,
        (false, false, Some((name, value))) => {
            boolean(value).ok_or_else(|| bad(name, value, "expected true or false"))?
        }
    };
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
    fn what_is_wrong_is_named() {
        assert!(read(&["--log-level", "debug"], &[]).unwrap_err().contains("expected one of DEBUG, INFO"));
        let error = read(&[], &[("CERTDEPLOY_CLIENT_DAEMON", "maybe")]).unwrap_err();
        assert!(error.contains("Invalid value 'maybe' for the variable CERTDEPLOY_CLIENT_DAEMON"), "{error}");
        assert!(read(&["--deamon"], &[]).unwrap_err().contains("--daemon"));
    }
}
