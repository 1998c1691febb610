//! argv and environment -> what to do. Pure: it prints nothing, opens nothing, and reads no variable that it was not
//! handed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use certdeploy_common::daemon::logging::LogLevel;
use clap::{Arg, ArgAction, ArgMatches};

/// The environment, as far as it is text.
pub type Environment = BTreeMap<String, String>;

/// A whole command line, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// The config file.
    pub config: PathBuf,
    /// The level of the log, when given; it beats the config.
    pub log_level: Option<LogLevel>,
    /// What to do.
    pub command: Command,
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
    let log_level = text(&matches, "log-level").or_else(|| variable(environment, LOG_LEVEL));
    let log_level = log_level.map(|name| level(&name)).transpose()?;
    let command = match matches.subcommand() {
        Some(("status", sub)) => Command::Status { json: sub.get_flag("json") },
        Some(("keygen", sub)) => Command::Keygen { path: sub.get_one::<PathBuf>("path").cloned().unwrap_or_default() },
        Some(("check", sub)) => Command::Check { effective: sub.get_flag("effective") },
        Some(("forget", sub)) => Command::Forget { name: text(sub, "name").unwrap_or_default() },
        Some(("enroll", sub)) => {
            Command::Enroll { host: text(sub, "host").unwrap_or_default(), fingerprint: text(sub, "fingerprint") }
        }
        _ => mode(&matches, environment)?,
    };
    Ok(Invocation { config: config.unwrap_or_else(|| CONFIG.to_owned()).into(), log_level, command })
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

fn variable(environment: &Environment, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| environment.get(*name).filter(|value| !value.is_empty()).cloned())
}

fn boolean(environment: &Environment, names: &[&str]) -> Result<bool, Usage> {
    let found = names.iter().find_map(|name| Some((name, environment.get(*name).filter(|value| !value.is_empty())?)));
    let Some((name, value)) = found else { return Ok(false) };
    match value.to_ascii_lowercase().as_str() {
        "1" | "t" | "true" | "y" | "yes" | "on" => Ok(true),
        "0" | "f" | "false" | "n" | "no" | "off" => Ok(false),
        _ => Err(wrong(&format!("Invalid value for {name}: '{value}' is not a valid boolean."))),
    }
}

fn level(name: &str) -> Result<LogLevel, Usage> {
    let known = LogLevel::NAMES.contains(&name);
    LogLevel::parse(name).filter(|_| known).ok_or_else(|| {
        let choices = LogLevel::NAMES.join("', '");
        wrong(&format!("Invalid value for '--log-level': '{name}' is not one of '{choices}'."))
    })
}

/// The command line as clap sees it, also for manual pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    let option = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help).action(ArgAction::Set)
    };
    let on = |name: &'static str, off: &'static str, help: &'static str| {
        Arg::new(name).long(name).help(help).action(ArgAction::SetTrue).overrides_with(off)
    };
    let off = |name: &'static str, on: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).overrides_with(on).hide(true)
    };
    let json = Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print JSON instead of a table");
    let path = Arg::new("path")
        .value_name("PATH")
        .required(true)
        .value_parser(clap::value_parser!(PathBuf))
        .help("Where to write the private key; the public key goes to PATH.pub");
    clap::Command::new("certdeploy-server")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Delivers renewed certificates to the hosts that use them")
        .after_help(HELP)
        .disable_help_subcommand(true)
        .arg(option("config", "PATH", "The config file [default: /etc/certdeploy/server.yml]").global(true))
        .arg(option("lineage", "DIRECTORY", "Deliver this lineage; needs --domains"))
        .arg(option("domains", "NAMES", "Deliver it to the targets of these names, separated by blanks"))
        .arg(on("push", "no-push", "Deliver what is owed, then end"))
        .arg(on("daemon", "no-daemon", "Keep delivering and renewing"))
        .arg(on("renew", "no-renew", "Run certbot once, then end"))
        .arg(on("force", "no-force", "Deliver it even if older or expired, and run the updates again"))
        .arg(off("no-push", "push"))
        .arg(off("no-daemon", "daemon"))
        .arg(off("no-renew", "renew"))
        .arg(off("no-force", "force"))
        .arg(option("log-level", "LEVEL", "DEBUG, INFO, WARNING, ERROR or CRITICAL").global(true))
        .subcommand(clap::Command::new("status").about("Show which target holds what, and what is owed").arg(json))
        .subcommand(clap::Command::new("keygen").about("Make an SSH key pair (ed25519)").arg(path))
        .subcommand(
            clap::Command::new("check").about("Check config, keys and lineages without acting").arg(
                Arg::new("effective")
                    .long("effective")
                    .action(ArgAction::SetTrue)
                    .help("Print the effective config, defaults included"),
            ),
        )
        .subcommand(
            clap::Command::new("forget")
                .about("Take what is owed to a target, or of a lineage, out of the queue")
                .arg(Arg::new("name").value_name("TARGET|LINEAGE").required(true)),
        )
        .subcommand(
            clap::Command::new("enroll")
                .about("Fetch the SSH host key of a target and, on a yes, pin it")
                .arg(Arg::new("host").value_name("HOST[:PORT]").required(true))
                .arg(option("fingerprint", "SHA256:...", "Pin without a question if the key has this fingerprint")),
        )
}

const HELP: &str = "\
Run by certbot as a deploy hook (RENEWED_LINEAGE and RENEWED_DOMAINS in the environment), it puts the renewal into \
its queue and ends.

Environment: CERTDEPLOY_SERVER_CONFIG, CERTDEPLOY_SERVER_DAEMON, CERTDEPLOY_SERVER_PUSH_ONLY, \
CERTDEPLOY_SERVER_RENEW_ONLY, CERTDEPLOY_SERVER_LOG_LEVEL.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 something is still owed or was refused.";

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &str, variables: &[(&str, &str)]) -> Result<Command, Usage> {
        let argv: Vec<String> =
            std::iter::once("certdeploy-server").chain(args.split_whitespace()).map(str::to_owned).collect();
        let environment = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        parse(&argv, &environment).map(|invocation| invocation.command)
    }

    fn enqueue(anew: bool, push: bool) -> Command {
        Command::Enqueue(Enqueue { lineage: "/l".into(), domains: "d".into(), force: false, anew, push })
    }

    const HOOK: [(&str, &str); 2] = [("RENEWED_LINEAGE", "/l"), ("RENEWED_DOMAINS", "d")];

    fn hook_and(more: (&'static str, &'static str)) -> Vec<(&'static str, &'static str)> {
        HOOK.into_iter().chain([more]).collect()
    }

    #[test]
    fn flags_beat_variables_and_the_hook_beats_inherited_modes() {
        type Case = (&'static str, Vec<(&'static str, &'static str)>, Command);
        let cases: Vec<Case> = vec![
            ("", HOOK.to_vec(), enqueue(false, false)),
            ("", hook_and(("CERTDEPLOY_SERVER_DAEMON", "true")), enqueue(false, false)),
            ("", hook_and(("CERTDEPLOY_RENEW_ONLY", "nonsense")), enqueue(false, false)),
            ("", hook_and(("CERTDEPOLY_PUSH_ONLY", "yes")), enqueue(false, true)),
            ("--daemon", HOOK.to_vec(), Command::Daemon),
            ("--renew", HOOK.to_vec(), Command::Renew),
            ("--push", HOOK.to_vec(), enqueue(false, true)),
            ("--no-push", hook_and(("CERTDEPLOY_PUSH_ONLY", "1")), enqueue(false, false)),
            ("--lineage /l --domains d", vec![("CERTDEPLOY_SERVER_DAEMON", "1")], enqueue(true, false)),
            ("--push --daemon", vec![], Command::Push),
            ("--daemon --no-daemon --push", vec![], Command::Push),
            ("", vec![("CERTDEPLOY_SERVER_DAEMON", "On")], Command::Daemon),
            ("", vec![("CERTDEPLOY_SERVER_RENEW_ONLY", "t")], Command::Renew),
            ("", vec![("CERTDEPOLY_SERVER_PUSH_ONLY", "y"), ("CERTDEPLOY_SERVER_DAEMON", "y")], Command::Push),
            ("--push", vec![("CERTDEPLOY_RENEW_ONLY", "y")], Command::Push),
            ("--daemon", vec![("CERTDEPLOY_PUSH_ONLY", "y")], Command::Daemon),
            ("status --json", vec![("CERTDEPLOY_SERVER_DAEMON", "y")], Command::Status { json: true }),
            ("keygen k", vec![], Command::Keygen { path: "k".into() }),
        ];
        for (args, variables, want) in cases {
            assert_eq!(parsed(args, &variables), Ok(want), "{args} {variables:?}");
        }
    }

    #[test]
    fn wrong_usage_is_told_apart_from_nothing_to_do() {
        for (args, variables) in [
            ("--daemon --lineage /l --domains d", vec![]),
            ("--daemon --force", vec![]),
            ("--push --force", vec![]),
            ("--nonsense", vec![]),
            ("--log-level debug", vec![]),
            ("", vec![("CERTDEPLOY_SERVER_DAEMON", "maybe")]),
            ("keygen", vec![]),
        ] {
            assert!(matches!(parsed(args, &variables), Err(Usage::Wrong(_))), "{args} {variables:?}");
        }
        for (args, variables) in
            [("", vec![]), ("--lineage /l", vec![]), ("", vec![("RENEWED_LINEAGE", "/l"), ("RENEWED_DOMAINS", "")])]
        {
            assert!(matches!(parsed(args, &variables), Err(Usage::NothingToDo { .. })), "{args}");
        }
        assert_eq!(parsed("--version", &[]), Err(Usage::Asked("certdeploy-server 0.6.0\n".into())));
        assert!(
            matches!(parsed("--help", &[]), Err(Usage::Asked(text)) if text.contains("Usage: certdeploy-server [OPTIONS]"))
        );
    }

    #[test]
    fn the_config_comes_from_flag_variable_or_default() {
        let of = |args: &[&str], variables: &[(&str, &str)]| {
            let argv: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
            let environment = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let invocation = parse(&argv, &environment).unwrap();
            (invocation.config.display().to_string(), invocation.log_level)
        };
        let both = [("CERTDEPLOY_SERVER_CONFIG", "/v"), ("CERTDEPLOY_LOG_LEVEL", "INFO")];
        assert_eq!(of(&["x", "--push"], &[]), (CONFIG.into(), None));
        assert_eq!(of(&["x", "--push"], &both), ("/v".into(), Some(LogLevel::Info)));
        assert_eq!(
            of(&["x", "status", "--config=/f", "--log-level", "DEBUG"], &both),
            ("/f".into(), Some(LogLevel::Debug))
        );
    }
}
