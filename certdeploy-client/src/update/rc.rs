//! Updates of type `rc`: `service NAME restart`, for SysV init and OpenRC.

use std::path::PathBuf;
use std::time::Duration;

use super::UpdateError;
use super::command::{self, Surroundings};

/// A service, what to do with it, and the program that does it.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// What to do.
    pub action: Action,
    /// `service`.
    pub executable: PathBuf,
    /// How long it may take; `None` for ever.
    pub timeout: Option<Duration>,
}

/// What can be done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Stop and start.
    Restart,
    /// Read the files anew.
    Reload,
}

impl Action {
    /// Reads it as the config writes it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "restart" => Some(Self::Restart),
            "reload" => Some(Self::Reload),
            _ => None,
        }
    }

    /// The name in the config.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Reload => "reload",
        }
    }
}

/// Runs it and waits for the end.
///
/// # Errors
/// It cannot be started, fails, or takes too long.
pub async fn run(service: &Service) -> Result<(), UpdateError> {
    let Service { name, action, executable, timeout } = service;
    let words = [name.clone(), action.as_str().to_owned()];
    let failed = |source| UpdateError::Rc { name: name.clone(), action: action.as_str(), source };
    command::run(executable, &words, &Surroundings::default(), *timeout).await.map_err(failed)?;
    tracing::info!("Rc service {name} {}ed.", action.as_str());
    Ok(())
}
