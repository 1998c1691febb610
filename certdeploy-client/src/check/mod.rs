//! `check`: config, keys, directories, and everybody who is to be asked later, looked at without acting; everything that is
//! wrong is said at once. Nothing is made, changed or locked; whom it asks, it asks for nothing.

mod deployed;
mod places;
mod reach;

use std::path::PathBuf;
use std::sync::Arc;

use certdeploy_common::daemon::exit::Exit;
use certdeploy_common::daemon::findings::Findings;
use certdeploy_common::daemon::logging::{LogLevel, Stream};

use crate::cli::Options;
use crate::config::effective::{Overrides, effective};
use crate::config::{self, Examined, Settings};
use crate::{log, print};

/// Looks, and prints what was found; with `show`, stdout is the config as it holds and the rest goes to stderr.
pub(crate) fn check(options: &Options, show: bool) -> Exit {
    log::without_settings(options, Stream::Stderr);
    let text = match config::text(&options.config) {
        Ok(text) => text,
        Err(error) => {
            tracing::error!("{error}");
            return Exit::Failed;
        }
    };
    let Examined { settings, errors, warnings } = config::examine(&options.config, &text);
    let mut findings = Findings { errors, warnings, notes: Vec::new() };
    if let Some(settings) = settings {
        look(options, &Arc::new(settings), &mut findings);
    }
    let exit = if findings.errors.is_empty() { Exit::Done } else { Exit::Failed };
    if !show {
        return print(&findings.text(), exit);
    }
    use std::io::Write;
    // If stderr is closed, the config is still what was asked for.
    let _ = std::io::stderr().write_all(findings.text().as_bytes());
    if exit == Exit::Done { print(&effective(&text, &overrides(options)), exit) } else { exit }
}

fn overrides(options: &Options) -> Overrides {
    let level = |level: LogLevel| level.name().to_owned();
    let path = |path: &PathBuf| path.display().to_string();
    let given = |level: Option<String>, file: Option<String>| {
        let all = [("log_level", level), ("log_filename", file)];
        all.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    };
    Overrides {
        own: given(options.log_level.map(level), options.log_filename.as_ref().map(path)),
        sftpd: given(options.sftp_log_level.map(level), options.sftp_log_filename.as_ref().map(path)),
    }
}

fn look(options: &Options, settings: &Arc<Settings>, findings: &mut Findings) {
    places::directories(settings, findings);
    places::logs(&log::policy(options, &settings.log), findings);
    places::account(settings, findings);
    let _ = crate::block_on(async {
        deployed::look(settings, findings).await;
        reach::listening(options, settings, findings).await;
        reach::systemd(settings, findings).await;
        reach::docker(settings, findings).await;
        reach::rc(settings, findings);
        Exit::Done
    });
}
