//! `check`: config, keys, reachable files and lineages are looked at, and everything that is wrong is said at once.
//! Nothing is changed, made or connected to.

mod lineages;
mod places;

use std::path::PathBuf;

use certdeploy_common::daemon::exit::Exit;
use certdeploy_common::daemon::findings::Findings;
use certdeploy_common::daemon::logging::{LogLevel, Stream};

use crate::cli::{Invocation, LogOptions};
use crate::config::effective;
use crate::config::{self, Examined, Settings};
use crate::{Failure, log};

pub(crate) fn check(invocation: &Invocation, effective: bool) -> Result<Exit, Failure> {
    log::without_settings(&invocation.log, Stream::Stderr);
    let text = config::text(&invocation.config)?;
    let file = &invocation.config;
    let Examined { settings, errors, warnings } = config::examine(file, &text);
    let mut findings = Findings { errors, warnings, notes: Vec::new() };
    if let Some(settings) = &settings {
        look(invocation, &text, settings, &mut findings);
    }
    let fine = findings.errors.is_empty();
    if effective && settings.is_some() && fine {
        // If stderr is closed, the config is still what was asked for.
        let _ = say(&findings.text());
        return Ok(crate::print(&effective::effective(file, &text, &overrides(&invocation.log))));
    }
    let printed = if effective { say(&findings.text()) } else { crate::print(&findings.text()) };
    Ok(if fine { printed } else { Exit::Failed })
}

/// What command line and environment say instead of the config.
fn overrides(log: &LogOptions) -> Vec<(&'static str, String)> {
    let level = |level: LogLevel| level.name().to_owned();
    let path = |path: &PathBuf| path.display().to_string();
    let all = [
        ("log_level", log.level.map(level)),
        ("log_filename", log.file.as_ref().map(path)),
        ("sftp_log_level", log.library_level.map(level)),
        ("sftp_log_filename", log.library_file.as_ref().map(path)),
    ];
    all.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

/// To stderr, where stdout is for the config.
fn say(text: &str) -> Exit {
    use std::io::Write as _;
    match std::io::stderr().write_all(text.as_bytes()) {
        Ok(()) => Exit::Done,
        Err(_) => Exit::Failed,
    }
}

fn look(invocation: &Invocation, text: &str, settings: &Settings, findings: &mut Findings) {
    let file = &invocation.config;
    let at = config::Places::of(file, text);
    places::key(settings, findings);
    places::queue(settings, &at, findings);
    places::logs(settings, &invocation.log, &at, findings);
    places::certbot(settings, &at, findings);
    places::zone(findings);
    places::hook(settings, findings);
    lineages::look(settings, &at, findings);
}
