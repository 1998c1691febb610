//! Why an update failed, in the words that people look for, and whether the new files can be to blame. Pure.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::{command, docker, systemd};

/// Why an update failed.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// A script.
    #[error("ScriptError: Script {} failed to update: {source}", path.display())]
    Script {
        /// The executable.
        path: PathBuf,
        /// Why.
        source: command::CommandError,
    },
    /// The check of an entry.
    #[error("CheckError: `{}` failed, so `{entry}` was not touched: {source}", path.display())]
    Check {
        /// The check.
        path: PathBuf,
        /// The entry's id.
        entry: String,
        /// Why.
        source: command::CommandError,
    },
    /// A unit.
    #[error("SystemdError: Failed to {action} {name}: {source}")]
    Systemd {
        /// The unit.
        name: String,
        /// What was to be done.
        action: &'static str,
        /// Why.
        source: systemd::SystemdError,
    },
    /// A service.
    #[error("RcError: Failed to {action} {name}: {source}")]
    Rc {
        /// The service.
        name: String,
        /// What was to be done.
        action: &'static str,
        /// Why.
        source: command::CommandError,
    },
    /// Containers, services or secrets.
    #[error("DockerError: Failed to update {what} {name}: {source}")]
    Docker {
        /// Which kind.
        what: &'static str,
        /// Which.
        name: String,
        /// Why.
        source: docker::DockerError,
    },
    /// Some of several containers, services or secrets.
    #[error("DockerError: Failed to update {what} {name}: {failed}")]
    Some {
        /// Which kind.
        what: &'static str,
        /// Which.
        name: String,
        /// Why each of them.
        failed: docker::Failed,
    },
}

impl UpdateError {
    /// Whether the new files can be to blame. They are not when nobody could even be asked: nothing was touched then.
    #[must_use]
    pub fn blames_files(&self) -> bool {
        use command::CommandError::Wait;
        use docker::DockerError::Unreachable;
        use systemd::SystemdError::{Bus, Silent};
        !matches!(
            self,
            Self::Docker { source: Unreachable { .. }, .. }
                | Self::Systemd { source: Bus(_) | Silent(_), .. }
                | Self::Script { source: Wait(_), .. }
                | Self::Check { source: Wait(_), .. }
                | Self::Rc { source: Wait(_), .. }
        )
    }

    /// Whether a signal ended what we had started.
    #[must_use]
    pub fn is_by_signal(&self) -> bool {
        match self {
            Self::Script { source, .. } | Self::Check { source, .. } | Self::Rc { source, .. } => source.is_by_signal(),
            Self::Systemd { source: systemd::SystemdError::Command(source), .. } => source.is_by_signal(),
            Self::Systemd { .. } | Self::Docker { .. } | Self::Some { .. } => false,
        }
    }

    /// Of several things that an entry means, those that failed; empty is all.
    pub(super) fn parts(&self) -> BTreeSet<String> {
        if let Self::Some { failed, .. } = self { failed.parts() } else { BTreeSet::new() }
    }
}
