//! Options and settings -> the log of this process. It must not decide what is worth a line.

use std::path::PathBuf;

use certdeploy_common::daemon::logging::{self, Handed, LogError, LogFile, LogLevel, Setup, Stream};

use crate::Failure;
use crate::cli::LogOptions;
use crate::config::Settings;
use crate::config::log::LogPolicy;

/// Our name in each line.
pub(crate) const LOGGER: &str = "certdeploy-server";

/// What a command needs of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Stdout carries data: lines go to stderr, and no file is opened, so that anybody may look.
    Stderr,
    /// Stdout and the files; without them it does not start.
    Files,
    /// Stdout and the files; but a renewal is not lost for want of a log.
    FilesIfPossible,
}

/// The log before there are settings, or without any.
pub(crate) fn without_settings(options: &LogOptions, stream: Stream) {
    let level = options.level.unwrap_or(LogLevel::Error);
    let plain = Setup::plain(LOGGER, level, stream);
    if logging::begin(&Setup { file: options.file.clone(), ..plain }).is_err() {
        logging::start(LOGGER, level, stream);
    }
}

/// Starts the log, or changes it; files are opened anew.
///
/// # Errors
/// A log file cannot be written; then the log is as it was, or goes to the stream alone.
pub(crate) fn begin(options: &LogOptions, settings: &Settings, need: Need) -> Result<(), Failure> {
    let setup = setup(options, &settings.log, need);
    match logging::begin(&setup) {
        Ok(()) => Ok(()),
        Err(error) if need == Need::FilesIfPossible => {
            let without = Setup { file: None, library_file: None, ..setup };
            logging::begin(&without)?;
            // An error, so that it is seen at the default level: nobody reads this until something else went wrong.
            tracing::error!("The log goes to stdout alone: {error}");
            Ok(())
        }
        Err(error) => Err(refuse(options, &settings.log, &error)),
    }
}

fn refuse(options: &LogOptions, policy: &LogPolicy, error: &LogError) -> Failure {
    let given: &Option<PathBuf> = match error.file {
        LogFile::Own => &options.file,
        LogFile::Library => &options.library_file,
    };
    if given.is_some() { format!("the log file {error}").into() } else { policy.refuse(error).into() }
}

fn setup(options: &LogOptions, policy: &LogPolicy, need: Need) -> Setup {
    let files = need != Need::Stderr;
    let file = |given: &Option<PathBuf>, written: &Option<PathBuf>| given.clone().or(written.clone()).filter(|_| files);
    Setup {
        logger: LOGGER,
        stream: if files { Stream::Stdout } else { Stream::Stderr },
        format: policy.format,
        level: options.level.unwrap_or(policy.level),
        file: file(&options.file, &policy.file.value),
        library_level: options.library_level.unwrap_or(policy.library_level),
        library_file: file(&options.library_file, &policy.library_file.value),
        handed: Handed::default(),
    }
}
