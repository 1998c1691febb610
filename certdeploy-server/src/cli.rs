//! argv and environment -> what to do. Pure: it prints nothing, opens nothing, and reads no variable that it was not
//! handed.

mod arguments;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use certdeploy_common::daemon::logging::LogLevel;
use clap::ArgMatches;

pub use arguments::command;

/// The environment, as far as it is text.
pub type Environment = BTreeMap<String, String>;

/// A whole command line, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// The config file.
    pub config: PathBuf,
    /// What was given about the log; it beats the config.
    pub log: LogOptions,
    /// What to do.
    pub command: Command,
}

/// What was given about the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// The level.
    pub level: Option<LogLevel>,
    /// A file besides the stream.
    pub file: Option<PathBuf>,
    /// The level of the SSH and SFTP library.
    pub library_level: Option<LogLevel>,
    /// A file for what it says.
    pub library_file: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Put one renewal into the queue: the hook, or `--lineage` with `--domains`.
    Enqueue(Enqueue),
    /// Deliver what is owed, then end.
    Push,
    /// Go on delivering and renewing.
    Daemon,
    /// Run certbot once.
    Renew,
    /// Show who holds what.
    Status {
        /// As JSON instead of a table.
        json: bool,
    },
    /// Make a key pair.
    Keygen {
        /// Where to.
        path: PathBuf,
    },
    /// Look at everything without acting.
    Check {
        /// Print what holds, defaults included.
        effective: bool,
    },
    /// Ask the daemon whether it works.
    Healthcheck {
        /// How long it may take to answer.
        limit: Duration,
    },
    /// Print the systemd drop-in that fits the config.
    Harden,
    /// Take a target or a lineage out of the queue.
    Forget {
        /// The target's or the lineage's name.
        name: String,
    },
    /// Fetch a host key and, on a yes, pin it.
    Enroll {
        /// `HOST[:PORT]`.
        host: String,
        /// The fingerprint that is known beforehand, instead of a question.
        fingerprint: Option<String>,
    },
}

/// A renewal, as it was handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enqueue {
    /// The lineage's directory.
    pub lineage: String,
    /// The names, separated by blanks.
    pub domains: String,
    /// `--force`.
    pub force: bool,
    /// Given by flags: deliver even what was acknowledged before.
    pub anew: bool,
    /// Deliver right after queueing.
    pub push: bool,
}

/// Why there is nothing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Usage {
    /// Help or version was asked for: text for stdout, exit 0.
    Asked(String),
    /// The command line or a variable is wrong: text for stderr, exit 2.
    Wrong(String),
    /// Neither a mode nor a renewal: an error line, exit 1.
    NothingToDo {
        /// The lineage, if there was one.
        lineage: Option<String>,
        /// The names, if there were any.
        domains: Option<String>,
    },
}

const CONFIG: &str = "/etc/certdeploy/server.yml";
const DAEMON: &[&str] = &["CERTDEPLOY_SERVER_DAEMON"];
const RENEW: &[&str] = &["CERTDEPLOY_SERVER_RENEW_ONLY", "CERTDEPLOY_RENEW_ONLY"];
/// The misspelt names are the ones that certdeploy 0.2 to 0.5 read.
const PUSH: &[&str] =
    &["CERTDEPLOY_SERVER_PUSH_ONLY", "CERTDEPOLY_SERVER_PUSH_ONLY", "CERTDEPLOY_PUSH_ONLY", "CERTDEPOLY_PUSH_ONLY"];
const LOG_LEVEL: &[&str] = &["CERTDEPLOY_SERVER_LOG_LEVEL", "CERTDEPLOY_LOG_LEVEL"];
/// The weakest name of the level. Others use it too, so what is no level of ours is none.
const ANYBODYS_LOG_LEVEL: &str = "LOG_LEVEL";
const LOG_FILE: &[&str] = &["CERTDEPLOY_SERVER_LOG_FILENAME"];
/// The first is what the documentation says, the last what certdeploy 0.3 to 0.5 read.
const SFTP_LOG_LEVEL: &[&str] = &[
    "CERTDEPLOY_SERVER_SFTP_LOG_LEVEL",
    "CERTDEPOLY_SERVER_SFTP_LOG_LEVEL",
    "CERTDEPLOY_SFTP_LOG_LEVEL",
    "CERTDEPOLY_SFTP_LOG_LEVEL",
];
const SFTP_LOG_FILE: &[&str] = &[
    "CERTDEPLOY_SERVER_SFTP_LOG_FILENAME",
    "CERTDEPOLY_SERVER_SFTP_LOG_FILENAME",
    "CERTDEPLOY_SFTP_LOG_FILENAME",
    "CERTDEPOLY_SFTP_LOG_FILENAME",
];

/// Understands a command line (the first word is the program's name) in its environment.
///
/// # Errors
/// See [`Usage`].
pub fn parse(argv: &[String], environment: &Environment) -> Result<Invocation, Usage> {
    let matches = command().try_get_matches_from(argv).map_err(|error| {
        let text = error.render().to_string();
        if error.use_stderr() { Usage::Wrong(text) } else { Usage::Asked(text) }
    })?;
    let config = text(&matches, "config").or_else(|| variable(environment, &["CERTDEPLOY_SERVER_CONFIG"]));
    let log = log(&matches, environment)?;
    let command = match matches.subcommand() {
        Some(("status", sub)) => Command::Status { json: sub.get_flag("json") },
        Some(("keygen", sub)) => Command::Keygen { path: sub.get_one::<PathBuf>("path").cloned().unwrap_or_default() },
        Some(("check", sub)) => Command::Check { effective: sub.get_flag("effective") },
        Some(("healthcheck", sub)) => Command::Healthcheck {
            limit: Duration::from_secs(sub.get_one::<u64>("timeout").copied().unwrap_or_default()),
        },
        Some(("harden", _)) => Command::Harden,
        Some(("forget", sub)) => Command::Forget { name: text(sub, "name").unwrap_or_default() },
        Some(("enroll", sub)) => {
            Command::Enroll { host: text(sub, "host").unwrap_or_default(), fingerprint: text(sub, "fingerprint") }
        }
        _ => mode(&matches, environment)?,
    };
    Ok(Invocation { config: config.unwrap_or_else(|| CONFIG.to_owned()).into(), log, command })
}

fn log(matches: &ArgMatches, environment: &Environment) -> Result<LogOptions, Usage> {
    let file =
        |option, variables| text(matches, option).or_else(|| variable(environment, variables)).map(PathBuf::from);
    let level = |option: &'static str, variables: &[&'static str]| {
        let given = text(matches, option).map(|value| (format!("--{option}"), value));
        let given = given.or_else(|| named_variable(environment, variables));
        given.map(|(name, value)| level(&name, &value)).transpose()
    };
    let anybodys = || environment.get(ANYBODYS_LOG_LEVEL).and_then(|name| LogLevel::parse(&name.to_ascii_uppercase()));
    Ok(LogOptions {
        level: level("log-level", LOG_LEVEL)?.or_else(anybodys),
        file: file("log-filename", LOG_FILE),
        library_level: level("sftp-log-level", SFTP_LOG_LEVEL)?,
        library_file: file("sftp-log-filename", SFTP_LOG_FILE),
    })
}

fn mode(matches: &ArgMatches, environment: &Environment) -> Result<Command, Usage> {
    let flag = |name| switch(matches, name);
    let given = text(matches, "lineage").is_some() || text(matches, "domains").is_some();
    let force = matches.get_flag("force");
    if flag("renew") == Some(true) || (flag("daemon") == Some(true) && flag("push") != Some(true)) {
        if given || force {
            return Err(wrong("--lineage, --domains and --force cannot be used with --daemon or --renew"));
        }
        return Ok(if flag("renew") == Some(true) { Command::Renew } else { Command::Daemon });
    }
    let lineage = text(matches, "lineage").or_else(|| variable(environment, &["RENEWED_LINEAGE"]));
    let domains = text(matches, "domains").or_else(|| variable(environment, &["RENEWED_DOMAINS"]));
    // certbot's child inherits the variables that made its parent a daemon or a renewal: they must not make the
    // hook one. Only "push" is heeded.
    let push = flag("push").map_or_else(|| boolean(environment, PUSH), Ok)?;
    match (lineage, domains) {
        (Some(lineage), Some(domains)) => Ok(Command::Enqueue(Enqueue { lineage, domains, force, anew: given, push })),
        (lineage, domains) if given || lineage.is_some() || domains.is_some() => {
            Err(Usage::NothingToDo { lineage, domains })
        }
        (lineage, domains) => {
            let renew = flag("renew").map_or_else(|| boolean(environment, RENEW), Ok)?;
            let daemon = flag("daemon").map_or_else(|| boolean(environment, DAEMON), Ok)?;
            let pushed_by_flag = flag("push") == Some(true);
            match (renew && !pushed_by_flag, push, daemon) {
                _ if force && (renew || push || daemon) => Err(wrong("--force needs --lineage and --domains")),
                (true, _, _) => Ok(Command::Renew),
                (false, true, _) => Ok(Command::Push),
                (false, false, true) => Ok(Command::Daemon),
                (false, false, false) => Err(Usage::NothingToDo { lineage, domains }),
            }
        }
    }
}

fn wrong(message: &str) -> Usage {
    Usage::Wrong(format!(
        "Usage: certdeploy-server [OPTIONS]\nTry 'certdeploy-server --help' for help.\n\nError: {message}\n"
    ))
}

fn text(matches: &ArgMatches, name: &str) -> Option<String> {
    matches.try_get_one::<String>(name).ok().flatten().filter(|text| !text.is_empty()).cloned()
}

fn switch(matches: &ArgMatches, name: &str) -> Option<bool> {
    let off = format!("no-{name}");
    if matches.get_flag(name) {
        Some(true)
    } else if matches.get_flag(&off) {
        Some(false)
    } else {
        None
    }
}

/// Whether a variable of this name can mean something to us.
#[must_use]
pub fn is_read(name: &str) -> bool {
    ["CERTDEPLOY_", "CERTDEPOLY_", "RENEWED_"].iter().any(|prefix| name.starts_with(prefix))
}

fn variable(environment: &Environment, names: &[&str]) -> Option<String> {
    named_variable(environment, names).map(|(_, value)| value)
}

fn named_variable(environment: &Environment, names: &[&str]) -> Option<(String, String)> {
    let set = |name: &&str| environment.get(*name).filter(|value| !value.is_empty()).cloned();
    names.iter().find_map(|name| Some(((*name).to_owned(), set(name)?)))
}

fn boolean(environment: &Environment, names: &[&str]) -> Result<bool, Usage> {
    let Some((name, value)) = named_variable(environment, names) else { return Ok(false) };
    match value.to_ascii_lowercase().as_str() {
        "1" | "t" | "true" | "y" | "yes" | "on" => Ok(true),
        "0" | "f" | "false" | "n" | "no" | "off" => Ok(false),
        _ => Err(wrong(&format!("Invalid value for {name}: '{value}' is not a valid boolean."))),
    }
}

/// Upper case alone, as in certdeploy 0.5.
fn level(name: &str, value: &str) -> Result<LogLevel, Usage> {
    let known = LogLevel::NAMES.contains(&value);
    LogLevel::parse(value).filter(|_| known).ok_or_else(|| {
        let choices = LogLevel::NAMES.join("', '");
        wrong(&format!("Invalid value for '{name}': '{value}' is not one of '{choices}'."))
    })
}

#[cfg(test)]
mod tests;
