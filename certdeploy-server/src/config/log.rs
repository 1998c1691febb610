//! What `server.yml` says about the log, and where it says so. It opens no log.

use std::path::{Path, PathBuf};

use certdeploy_common::daemon::logging::{LogError, LogFile, LogFormat, LogLevel};
use certdeploy_common::setting::{Complaint, ConfigError, Located, Problems};

use super::file::ServerFile;

/// What is logged, where and how.
#[derive(Debug, Clone)]
pub struct LogPolicy {
    config: PathBuf,
    /// `log_level`.
    pub level: LogLevel,
    /// `log_format`.
    pub format: LogFormat,
    /// `log_filename`.
    pub file: Located<Option<PathBuf>>,
    /// `sftp_log_level`.
    pub library_level: LogLevel,
    /// `sftp_log_filename`.
    pub library_file: Located<Option<PathBuf>>,
}

impl LogPolicy {
    /// What `config` says.
    pub(super) fn of(config: &Path, written: &ServerFile, problems: &mut Problems) -> Self {
        let file = absolute(config, "log_filename", &written.log_filename, problems);
        let library_file = absolute(config, "sftp_log_filename", &written.sftp_log_filename, problems);
        Self {
            config: config.to_owned(),
            level: written.log_level.value,
            format: written.log_format.value,
            file,
            library_level: written.sftp_log_level.value,
            library_file,
        }
    }

    /// A log file that cannot be written, with the place of its setting.
    #[must_use]
    pub fn refuse(&self, error: &LogError) -> ConfigError {
        let (key, place) = match error.file {
            LogFile::Own => ("log_filename", self.file.place),
            LogFile::Library => ("sftp_log_filename", self.library_file.place),
        };
        let (path, cause) = (error.path.display(), &error.source);
        let message =
            format!("Invalid value \"{path}\" for `{key}`. `{key}` must be a file that can be written: {cause}");
        ConfigError::single(&self.config, Complaint::new(place, message))
    }
}

/// Hook and daemon must mean the same file wherever they are started.
fn absolute(
    config: &Path,
    key: &str,
    written: &Located<Option<PathBuf>>,
    problems: &mut Problems,
) -> Located<Option<PathBuf>> {
    let mut file = written.clone();
    if let Some(path) = file.value.as_mut().filter(|path| path.is_relative() && !is_stream(path)) {
        let beside = config.parent().unwrap_or(Path::new("")).join(&*path);
        *path = std::path::absolute(&beside).unwrap_or(beside);
        problems.warn(file.place, format!("`{key}` is relative; it is taken as `{}`", path.display()));
    }
    file
}

fn is_stream(path: &Path) -> bool {
    matches!(path.to_str(), Some("stdout" | "stderr"))
}
