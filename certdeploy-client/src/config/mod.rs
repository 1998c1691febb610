//! Config: the file as written -> [`Settings`], valid by construction. Only `Settings` leaves this folder.

pub mod effective;
pub mod file;
pub mod kinds;
pub mod listen;
mod modes;
pub mod permissions;
pub mod pushers;
pub mod settings;
pub mod sftpd;
mod updates;

use std::path::{Path, PathBuf};

use certdeploy_common::fs::bounded::ReadError;
use certdeploy_common::fs::text::{self, TextError};
use certdeploy_common::setting::list::read_section;
use certdeploy_common::setting::place::{ConfigError, ConfigWarning};
use certdeploy_common::setting::{Complaint, Place, Problems, yaml};

pub use file::ClientFile;
pub use permissions::Permissions;
pub use settings::{Demand, Settings};
pub use sftpd::Sftpd;

/// Why there is no config.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("Config file \"{}\" not found: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is wrong.
    #[error(transparent)]
    Invalid(#[from] ConfigError),
}

/// Reads and checks the config file, for what it must be good for; key files and directories it names are looked at too.
/// What is wrong inside `sftpd` is a warning for a pass, and in [`Settings::no_sftpd`].
///
/// # Errors
/// See [`Error`].
pub fn load(path: &Path, demand: Demand) -> Result<(Settings, Vec<ConfigWarning>), Error> {
    let text = text(path)?;
    let (file, mut warnings) = parse(&text, path)?;
    let (settings, more) = settings::check(file, path, demand)?;
    warnings.extend(more);
    Ok((settings, warnings))
}

/// A config with all that is wrong with it.
#[derive(Debug)]
pub struct Examined {
    /// What it says, if it can be used.
    pub settings: Option<Settings>,
    /// What refuses it, a line each.
    pub errors: Vec<String>,
    /// What does not, a line each.
    pub warnings: Vec<String>,
}

/// Understands as much of the config's text as can be.
#[must_use]
pub fn examine(path: &Path, text: &str) -> Examined {
    let mut problems = Problems::default();
    let file = match yaml::parse(text) {
        Ok(node) => read_section::<ClientFile>(node, &mut problems),
        Err(complaint) => {
            problems.error(complaint);
            None
        }
    };
    let settings = file.and_then(|file| settings::settings(path, file, Demand::All, &mut problems));
    let (errors, warnings) = problems.lines(path);
    Examined { settings: settings.filter(|_| errors.is_empty()), errors, warnings }
}

/// Reads the config's text.
///
/// # Errors
/// See [`Error`].
pub fn text(path: &Path) -> Result<String, Error> {
    let unreadable = |source| Error::Unreadable { path: path.to_owned(), source };
    text::read(path).map_err(|error| match error {
        TextError::NotUtf8 { line, column, .. } => {
            let place = Place { line, column, ..Place::default() };
            ConfigError::single(path, Complaint::new(place, error.to_string())).into()
        }
        TextError::Unreadable(ReadError::Unreadable { source, .. }) => unreadable(source),
        TextError::Unreadable(error) => unreadable(std::io::Error::other(error)),
    })
}

/// Reads the text of a config file; touches nothing else.
///
/// # Errors
/// All that is wrong with it, with places.
pub fn parse(text: &str, path: &Path) -> Result<(ClientFile, Vec<ConfigWarning>), ConfigError> {
    let mut problems = Problems::default();
    let node = yaml::parse(text).map_err(|complaint| ConfigError::single(path, complaint))?;
    let file = read_section(node, &mut problems);
    problems.finish(path, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(text: &str) -> String {
        parse(text, Path::new("client.yml")).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once_with_its_place() {
        let text = "sorce: /x\nupdate_delay: 5\nupdate_services:\n  - type: scrip\n    name: x\n";
        assert_eq!(
            errors(text),
            "client.yml:1:1: Invalid config option: missing required key `destination`\n\
             client.yml:1:1: Invalid config option: unknown key \"sorce\" (did you mean \"source\"?)\n\
             client.yml:2:15: Invalid value \"5\" for `update_delay`. `update_delay` must be numbers with units w, d, \
             h, m or s, like \"1h30m\".\n\
             client.yml:4:11: Invalid value \"scrip\" for `type`. `type` must be systemd, rc, \
             script, docker_container, docker_service or docker_secret."
        );
    }

    #[test]
    fn the_misspelt_key_of_the_old_readme_works_with_a_warning() {
        let text = "destination: /d\nupdate_sevices:\n  - {type: script, name: /bin/true}\n";
        let (file, warnings) = parse(text, Path::new("client.yml")).unwrap();
        assert_eq!(file.update_services.value.len(), 1);
        assert_eq!(
            warnings[0].to_string(),
            "client.yml:2:1: `update_sevices` works, but its name is `update_services` now"
        );
    }
}
