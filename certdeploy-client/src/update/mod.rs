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

use certdeploy_common::cert::{Digest, Domain, Lineage};

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
    /// What must go well before it is touched.
    pub check: Option<script::Script>,
    /// What follows when it, or the check, fails.
    pub on_failure: OnFailure,
}

/// What follows when an entry fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// The new files stay.
    Keep,
    /// The generation before comes back, and everybody is told again.
    Rollback,
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
    fn of(&self, id: &str, batch: &Batch) -> Option<Batch> {
        let all = self.lineages.is_empty() && self.domains.is_empty();
        let concerns = |lineage: &Lineage, names: &BTreeSet<Domain>| {
            let covered = |domain: &Domain| names.iter().any(|name| name.covers(domain));
            all || self.lineages.contains(lineage) || self.domains.iter().any(covered)
        };
        let mut own = batch.clone();
        own.lineages.retain(|lineage, due| {
            due.entries.as_ref().is_none_or(|entries| entries.contains(id)) && concerns(lineage, &due.names)
        });
        (!own.lineages.is_empty()).then_some(own)
    }
}

impl Entry {
    /// What the ledger calls it: a failed one is found again by this, also after a restart.
    #[must_use]
    pub fn id(&self) -> String {
        match &self.updater {
            Updater::Unit(unit) => format!("systemd {} {}", unit.name, unit.action.as_str()),
            Updater::Rc(service) => format!("rc {} {}", service.name, service.action.as_str()),
            Updater::Script(script) if script.args.is_empty() => format!("script {}", script.path.display()),
            // Arguments may say too much for a log, but two calls of one script are two entries.
            Updater::Script(script) => {
                let args = Digest::of(script.args.join("\0").as_bytes());
                format!("script {} {}", script.path.display(), args.as_str().get(..8).unwrap_or_default())
            }
            Updater::Container(container) => format!("docker_container {}", container.selection),
            Updater::Service(service) => format!("docker_service {}", service.selection),
        }
    }
}

/// The lineages whose users are to be told.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// The directory the lineages are in.
    pub destination: PathBuf,
    /// Each lineage and what is due for it.
    pub lineages: BTreeMap<Lineage, Due>,
}

/// What is due for one lineage.
#[derive(Debug, Clone)]
pub struct Due {
    /// Its current generation.
    pub generation: u64,
    /// The names of its certificate.
    pub names: BTreeSet<Domain>,
    /// The entries that are due, by [`Entry::id`]; `None` is all.
    pub entries: Option<BTreeSet<String>>,
}

/// An entry that failed, or was not run because an earlier one failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its [`Entry::id`].
    pub entry: String,
    /// The lineages that it was run for.
    pub lineages: BTreeSet<Lineage>,
    /// Why.
    pub reason: String,
    /// Whether the generation before is wanted back.
    pub rollback: bool,
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

/// Runs all entries in the order of the config, each once for what of the batch concerns it. With `fail_fast` the first
/// failure is the last that is run; the others fail with it. Returns the failures.
pub async fn run(entries: &[Entry], batch: &Batch, fail_fast: bool) -> Vec<Failure> {
    tracing::debug!("Updating services");
    let mut failures: Vec<Failure> = Vec::new();
    for entry in entries {
        let id = entry.id();
        let Some(own) = entry.only.of(&id, batch) else { continue };
        let skipped = fail_fast && !failures.is_empty();
        let outcome = if skipped {
            Err("not run, because an earlier one failed (fail_fast)".to_owned())
        } else {
            update(entry, &own).await.map_err(|error| {
                tracing::error!("{error}");
                error.to_string()
            })
        };
        if let Err(reason) = outcome {
            let rollback = !skipped && entry.on_failure == OnFailure::Rollback;
            failures.push(Failure { entry: id, lineages: own.lineages.into_keys().collect(), reason, rollback });
        }
    }
    if failures.is_empty() {
        tracing::info!("Updated services");
    }
    failures
}

async fn update(entry: &Entry, batch: &Batch) -> Result<(), UpdateError> {
    if let Some(check) = &entry.check {
        script::check(check, batch).await.map_err(|source| UpdateError::Check {
            path: check.path.clone(),
            entry: entry.id(),
            source,
        })?;
    }
    match &entry.updater {
        Updater::Unit(unit) => systemd::run(unit).await,
        Updater::Rc(service) => rc::run(service).await,
        Updater::Script(script) => script::run(script, batch).await,
        Updater::Container(container) => docker::container::run(container).await,
        Updater::Service(service) => docker::service::run(service).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_run_for_its_own_lineages_and_names_only() {
        let names = |text: &[&str]| text.iter().map(|name| name.parse().unwrap()).collect();
        let due = |text: &[&str], entry: Option<&str>| {
            let entries = entry.map(|entry| BTreeSet::from([entry.to_owned()]));
            Due { generation: 1, names: names(text), entries }
        };
        let batch = Batch {
            destination: "/d".into(),
            lineages: [
                ("a".parse().unwrap(), due(&["a.example", "*.w.example"], None)),
                ("b".parse().unwrap(), due(&["b.example"], Some("script /x"))),
            ]
            .into(),
        };
        let of = |lineages: &[&str], domains: &[&str]| {
            let lineages = lineages.iter().map(|name| name.parse().unwrap()).collect();
            let only = Only { lineages, domains: names(domains) };
            only.of("script /x", &batch)
                .map(|batch| batch.lineages.keys().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(of(&[], &[]).as_deref(), Some("a b"));
        assert_eq!(of(&["b"], &[]).as_deref(), Some("b"));
        assert_eq!(of(&[], &["x.w.example"]).as_deref(), Some("a"));
        assert_eq!(of(&["b"], &["a.example"]).as_deref(), Some("a b"));
        assert_eq!(of(&["c"], &["c.example"]), None);
        assert_eq!(Only::default().of("script /y", &batch).unwrap().lineages.len(), 1, "only what failed is run again");
    }
}
