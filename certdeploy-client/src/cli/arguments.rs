//! The command line as clap sees it, and the words of its help. Pure.

use std::path::PathBuf;

use certdeploy_common::daemon::logging::LogLevel;
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{ArgAction, CommandFactory, Parser, Subcommand};

/// Receives certificates from a certdeploy-server, puts them in place and updates what uses them.
///
/// Without --daemon: one pass over the staging directory that a plain sshd has filled, then the updates.
#[derive(Debug, Parser)]
#[command(name = "certdeploy-client", version, disable_help_subcommand = true, after_help = AFTER_HELP, args_override_self = true)]
pub(super) struct Args {
    /// The config file [env: CERTDEPLOY_CLIENT_CONFIG]
    #[arg(long, value_name = "PATH", global = true)]
    pub(super) config: Option<PathBuf>,
    /// Run the daemon with the embedded SFTP server [env: CERTDEPLOY_CLIENT_DAEMON]
    #[arg(long, action = ArgAction::SetTrue, overrides_with = "no_daemon")]
    pub(super) daemon: bool,
    /// Do one pass, whatever the environment says
    #[arg(long, action = ArgAction::SetTrue, overrides_with = "daemon")]
    pub(super) no_daemon: bool,
    /// DEBUG, INFO, WARNING, ERROR or CRITICAL [env: CERTDEPLOY_CLIENT_LOG_LEVEL]
    #[arg(long, value_name = "LEVEL", value_parser = level, global = true)]
    pub(super) log_level: Option<LogLevel>,
    /// A file for the log as well [env: CERTDEPLOY_CLIENT_LOG_FILENAME]
    #[arg(long, value_name = "PATH", value_parser = path(), global = true)]
    pub(super) log_filename: Option<PathBuf>,
    /// As --log-level, for the SSH and SFTP library [env: CERTDEPLOY_CLIENT_SFTP_LOG_LEVEL]
    #[arg(long, value_name = "LEVEL", value_parser = level, global = true)]
    pub(super) sftp_log_level: Option<LogLevel>,
    /// As --log-filename, for the SSH and SFTP library [env: CERTDEPLOY_CLIENT_SFTP_LOG_FILENAME]
    #[arg(long, value_name = "PATH", value_parser = path(), global = true)]
    pub(super) sftp_log_filename: Option<PathBuf>,
    #[command(subcommand)]
    pub(super) command: Option<Sub>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Sub {
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
    /// Check config, keys, directories and whom it will ask, without acting
    #[command(after_help = CHECK)]
    Check {
        /// Print the config as it holds, as YAML: every key, defaults and overrides included
        #[arg(long)]
        effective: bool,
    },
    /// Ask the running daemon whether it works; exit code 0 if so, else 1
    Healthcheck {
        /// How long it may take to answer, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
        timeout: u64,
    },
    /// Print a systemd drop-in that leaves the client just what this config needs
    Harden {
        /// Print a polkit rule instead, for a client that runs as USER and may do with units what the config says
        #[arg(long, value_name = "USER", num_args = 0..=1, default_missing_value = "certdeploy")]
        polkit: Option<String>,
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

const CHECK: &str = "\
Everything that is wrong is printed at once, problems first (`file:line:column: what`), then warnings, then what is in place. \
Nothing is made, changed or locked. With --effective, stdout is the config and the rest goes to stderr.

Exit codes: 0 good (there may be warnings), 1 something is wrong, 2 wrong command line.";

const AFTER_HELP: &str = "Exit codes: 0 nothing to do or all done, 1 it could not be done or an upload is invalid, 2 wrong \
    options, 3 an update failed.";

/// A path that may be empty, which says that there is none.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

pub(super) fn level(text: &str) -> Result<LogLevel, String> {
    LogLevel::parse(text).ok_or_else(|| format!("expected one of {}", LogLevel::NAMES.join(", ")))
}

/// The command line as clap sees it, also for manual pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Args::command()
}
