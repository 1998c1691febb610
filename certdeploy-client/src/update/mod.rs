//! Poking what uses the files. Knows that lineages changed, not how; must not name deployment, staging or SFTP.

pub mod command;
pub mod delay;
pub mod docker;
pub mod ledger;
pub mod rc;
pub mod script;
pub mod systemd;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use certdeploy_common::cert::{Domain, Lineage};

/// One thing that is updated. A closed set, one file each.
#[derive(Debug, Clone)]
pub enum Updater {
    /// A unit of systemd.
    Unit(systemd::Unit),
    /// A service of another init system.
    Rc(rc::Service),
    /// An executable of the user's.
    Script(script::Script),
    /// Docker containers.
    Container(docker::container::Container),
    /// Services of a Docker swarm.
    Service(docker::service::Service),
}

/// An entry of `update_services`.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What is updated.
    pub updater: Updater,
    /// For which lineages.
    pub only: Only,
}

/// The lineages that an entry is for; empty is all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Only {
    /// By name.
    pub lineages: BTreeSet<Lineage>,
    /// By a name of the certificate.
    pub domains: BTreeSet<Domain>,
}

impl Only {
    /// What of the batch concerns the entry; `None` if nothing does.
    fn of(&self, batch: &Batch) -> Option<Batch> {
        let all = self.lineages.is_empty() && self.domains.is_empty();
        let concerns = |lineage: &Lineage, names: &BTreeSet<Domain>| {
            let covered = |domain: &Domain| names.iter().any(|name| name.covers(domain));
            all || self.lineages.contains(lineage) || self.domains.iter().any(covered)
        };
        let mut own = batch.clone();
        own.lineages.retain(|lineage, (_, names)| concerns(lineage, names));
        (!own.lineages.is_empty()).then_some(own)
    }
}

/// The lineages that changed since the last updates.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// The directory the lineages are in.
    pub destination: PathBuf,
    /// Each lineage with its current generation and the names of its certificate.
    pub lineages: BTreeMap<Lineage, (u64, BTreeSet<Domain>)>,
}

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
    /// Containers or services.
    #[error("DockerError: Failed to update {what} {name}: {source}")]
    Docker {
        /// Which kind.
        what: &'static str,
        /// Which.
        name: String,
        /// Why.
        source: docker::DockerError,
    },
}

/// Runs all entries in the order of the config, each once for what of the batch concerns it; stops at the first failure only
/// with `fail_fast`. Returns the failures.
pub async fn run(entries: &[Entry], batch: &Batch, fail_fast: bool) -> Vec<UpdateError> {
    tracing::debug!("Updating services");
    let mut failures = Vec::new();
    for Entry { updater, only } in entries {
        let Some(own) = only.of(batch) else { continue };
        let outcome = match updater {
            Updater::Unit(unit) => systemd::run(unit).await,
            Updater::Rc(service) => rc::run(service).await,
            Updater::Script(script) => script::run(script, &own).await,
            Updater::Container(container) => docker::container::run(container).await,
            Updater::Service(service) => docker::service::run(service).await,
        };
        if let Err(error) = outcome {
            tracing::error!("{error}");
            failures.push(error);
            if fail_fast {
                break;
            }
        }
    }
    if failures.is_empty() {
        tracing::info!("Updated services");
    }
    failures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_run_for_its_own_lineages_and_names_only() {
        let names = |text: &[&str]| text.iter().map(|name| name.parse().unwrap()).collect();
        let batch = Batch {
            destination: "/d".into(),
            lineages: [
                ("a".parse().unwrap(), (1, names(&["a.example", "*.w.example"]))),
                ("b".parse().unwrap(), (1, names(&["b.example"]))),
            ]
            .into(),
        };
        let of = |lineages: &[&str], domains: &[&str]| {
            let lineages = lineages.iter().map(|name| name.parse().unwrap()).collect();
            let only = Only { lineages, domains: names(domains) };
            only.of(&batch).map(|batch| batch.lineages.keys().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(of(&[], &[]).as_deref(), Some("a b"));
        assert_eq!(of(&["b"], &[]).as_deref(), Some("b"));
        assert_eq!(of(&[], &["x.w.example"]).as_deref(), Some("a"));
        assert_eq!(of(&["b"], &["a.example"]).as_deref(), Some("a b"));
        assert_eq!(of(&["c"], &["c.example"]), None);
    }
}
