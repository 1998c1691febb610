//! The command line as clap sees it, and the words of its help. Pure.

use std::path::PathBuf;

use clap::{Arg, ArgAction};

/// The command line as clap sees it, also for manual pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    let on = |name: &'static str, off: &'static str, help: &'static str| {
        Arg::new(name).long(name).help(help).action(ArgAction::SetTrue).overrides_with(off)
    };
    let off = |name: &'static str, on: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).overrides_with(on).hide(true)
    };
    clap::Command::new("certdeploy-server")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Delivers renewed certificates to the hosts that use them")
        .after_help(HELP)
        .disable_help_subcommand(true)
        // The last one counts, as it did with the Python program: an image's options are followed by a person's.
        .args_override_self(true)
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
        .arg(option("log-filename", "PATH", "Append the log to this file as well").global(true))
        .arg(option("sftp-log-level", "LEVEL", "The same for the SSH and SFTP library").global(true))
        .arg(option("sftp-log-filename", "PATH", "Append what that library says to this file as well").global(true))
        .subcommands(subcommands())
}

fn option(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help).action(ArgAction::Set)
}

fn subcommands() -> [clap::Command; 7] {
    let sub = |name: &'static str, about: &'static str| clap::Command::new(name).about(about);
    let json = Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print JSON instead of a table");
    let path = Arg::new("path")
        .value_name("PATH")
        .required(true)
        .value_parser(clap::value_parser!(PathBuf))
        .help("Where to write the private key; the public key goes to PATH.pub");
    let effective = Arg::new("effective")
        .long("effective")
        .action(ArgAction::SetTrue)
        .help("Print the config as it holds, as YAML: every key, defaults and overrides included");
    let timeout = option("timeout", "SECONDS", "How long it may take to answer, in seconds")
        .default_value("5")
        .value_parser(clap::value_parser!(u64).range(1..=3600));
    [
        sub("status", "Show which target holds what, and what is owed").arg(json),
        sub("keygen", "Make an SSH key pair (ed25519)").arg(path),
        sub("check", "Check config, keys and lineages without acting").after_help(CHECK).arg(effective),
        sub("healthcheck", "Ask the running daemon whether it works; exit code 0 if so, else 1").arg(timeout),
        sub("harden", "Print a systemd drop-in that leaves the server just what this config and certbot's need"),
        sub("forget", "Take what is owed to a target, or of a lineage, out of the queue")
            .arg(Arg::new("name").value_name("TARGET|LINEAGE").required(true)),
        sub("enroll", "Fetch the SSH host key of a target and, on a yes, pin it")
            .arg(Arg::new("host").value_name("HOST[:PORT]").required(true))
            .arg(option("fingerprint", "SHA256:...", "Pin without a question if the key has this fingerprint")),
    ]
}

const CHECK: &str = "\
Everything that is wrong is printed at once, problems first (`file:line:column: what`), then warnings, then which lineage \
goes to which target. Nothing is made, changed, locked or connected to. With --effective, stdout is the config and the \
rest goes to stderr.

Exit codes: 0 good (there may be warnings), 1 something is wrong, 2 wrong command line.";

const HELP: &str = "\
Run by certbot as a deploy hook (RENEWED_LINEAGE and RENEWED_DOMAINS in the environment), it puts the renewal into \
its queue and ends, whatever mode the environment names.

Environment, weaker than options and stronger than the config:
  CERTDEPLOY_SERVER_CONFIG             --config
  CERTDEPLOY_SERVER_DAEMON             --daemon
  CERTDEPLOY_SERVER_PUSH_ONLY          --push
  CERTDEPLOY_SERVER_RENEW_ONLY         --renew
  CERTDEPLOY_SERVER_LOG_LEVEL          --log-level, also LOG_LEVEL
  CERTDEPLOY_SERVER_LOG_FILENAME       --log-filename
  CERTDEPLOY_SERVER_SFTP_LOG_LEVEL     --sftp-log-level
  CERTDEPLOY_SERVER_SFTP_LOG_FILENAME  --sftp-log-filename
The names that earlier versions read work as well.

Signals: SIGTERM and SIGINT end a run; what is being pushed has `stop_timeout`, and a second one does not wait. SIGHUP \
makes the daemon read its config and key again and open its log files anew.

Exit codes:
  0  all is done; the hook: the renewal is on disk; the daemon: it was told to end
  1  it could not be done: config, key, files, no mode and no lineage; or the first failure with `fail_fast`
  2  the command line or a variable is wrong
  3  it ended, but something failed, was refused or is still owed (--push, --renew, status)";
