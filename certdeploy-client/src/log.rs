//! Options and settings -> the log of this process. Must not decide what is worth a line.

use certdeploy_common::daemon::logging::{self, Handed, LogError, LogLevel, Setup, Stream};

use crate::cli::Options;
use crate::config::settings::LogPolicy;

/// Our name in each line.
pub(crate) const LOGGER: &str = "certdeploy-client";

/// The log before there are settings, or without any.
pub(crate) fn without_settings(options: &Options, stream: Stream) {
    logging::start(LOGGER, options.log_level.unwrap_or(LogLevel::Error), stream);
}

/// Starts the log, or changes it; files are opened anew.
///
/// # Errors
/// A log file cannot be written; then the log is as it was.
pub(crate) fn begin(log: &LogPolicy) -> Result<(), LogError> {
    logging::begin(&setup(log, Handed::default()))
}

/// The receiver's log: as ours, with the files that it was handed.
pub(crate) fn of_receiver(log: &LogPolicy, handed: Handed) {
    let _ = logging::begin(&setup(log, handed));
}

/// Options and variables beat the config.
pub(crate) fn policy(options: &Options, written: &LogPolicy) -> LogPolicy {
    LogPolicy {
        level: options.log_level.unwrap_or(written.level),
        format: written.format,
        file: options.log_filename.clone().or(written.file.clone()),
        library_level: options.sftp_log_level.unwrap_or(written.library_level),
        library_file: options.sftp_log_filename.clone().or(written.library_file.clone()),
    }
}

fn setup(log: &LogPolicy, handed: Handed) -> Setup {
    Setup {
        logger: LOGGER,
        stream: Stream::Stdout,
        format: log.format,
        level: log.level,
        file: log.file.clone(),
        library_level: log.library_level,
        library_file: log.library_file.clone(),
        handed,
    }
}
