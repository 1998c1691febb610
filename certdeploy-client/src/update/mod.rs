//! Poking what uses the files. Knows that lineages changed, not how; must not name deployment, staging or SFTP.

pub mod command;
pub mod delay;
pub mod docker;
mod error;
pub mod ledger;
pub mod rc;
mod said;
pub mod script;
pub mod systemd;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use certdeploy_common::cert::{Digest, Domain, Lineage};
use certdeploy_common::daemon::shutdown::Orders;

pub use error::UpdateError;

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
    /// A secret of a Docker swarm.
    Secret(docker::secret::Secret),
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
            Updater::Script(script) => match script.id() {
                Some(how) => format!("script {} {how}", script.path.display()),
                None => format!("script {}", script.path.display()),
            },
            Updater::Container(container) => {
                format!("docker_container {} {}", container.selection, container.action.id())
            }
            Updater::Service(service) => format!("docker_service {}", service.selection),
            Updater::Secret(secret) => format!("docker_secret {}", secret.name),
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

impl Batch {
    /// Of the things that an entry means, those that are due; `None` is all. What is due for one lineage is due.
    fn parts(&self, id: &str) -> Option<BTreeSet<String>> {
        let each = self.lineages.values().map(|due| due.parts.get(id).filter(|parts| !parts.is_empty()));
        let all: Option<Vec<&BTreeSet<String>>> = each.collect();
        all.map(|parts| parts.into_iter().flatten().cloned().collect())
    }

    /// Of the things that an entry means, those that failed and have not gone well since: they may lie still.
    fn fallen(&self, id: &str) -> BTreeSet<String> {
        self.lineages.values().filter_map(|due| due.fallen.get(id)).flatten().cloned().collect()
    }
}

/// What is due for one lineage.
#[derive(Debug, Clone)]
pub struct Due {
    /// Its current generation.
    pub generation: u64,
    /// The directory of this generation, inside the lineage's.
    pub folder: String,
    /// The serial number of its certificate, in hex; empty without one.
    pub serial: String,
    /// The names of its certificate.
    pub names: BTreeSet<Domain>,
    /// The entries that are due, by [`Entry::id`]; `None` is all.
    pub entries: Option<BTreeSet<String>>,
    /// Of an entry that means several things, those that are due; without a word about it, all.
    pub parts: BTreeMap<String, BTreeSet<String>>,
    /// Of an entry that means several things, those that failed and have not gone well since.
    pub fallen: BTreeMap<String, BTreeSet<String>>,
}

/// An entry that failed, or was not run because an earlier one failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its [`Entry::id`].
    pub entry: String,
    /// The lineages that it was run for.
    pub lineages: BTreeSet<Lineage>,
    /// Of several things that it means, those that failed; empty is all.
    pub parts: BTreeSet<String>,
    /// Why.
    pub reason: String,
    /// Whether the generation before is wanted back.
    pub rollback: bool,
    /// Whether it was only left to the next run, because this one is to end.
    pub left: bool,
}

/// Why an entry was left.
const LEFT: &str = "not run, because certdeploy-client was told to end";

/// What is due of entries that there are. One that is not known, because the config or the way we call it has changed,
/// may be any of them: all are due.
fn known(entries: &[Entry], batch: &Batch) -> Batch {
    let ids: BTreeSet<String> = entries.iter().map(Entry::id).collect();
    let mut batch = batch.clone();
    for due in batch.lineages.values_mut() {
        if due.entries.take_if(|entries| !entries.is_subset(&ids)).is_some() {
            due.parts.clear();
        }
    }
    batch
}

/// A few digits that tell these words from others: words may say too much for a log.
fn digest<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    // Each with its length: no two lists are one text.
    let text: String = words.into_iter().map(|word| format!("{}:{word}", word.len())).collect();
    Digest::of(text.as_bytes()).as_str().chars().take(8).collect()
}

/// Runs all entries in the order of the config, each once for what of the batch concerns it. With `fail_fast` the first
/// failure is the last that is run; the others fail with it. Once we are to end, none begins. Returns the failures.
pub async fn run(entries: &[Entry], batch: &Batch, fail_fast: bool, orders: &Orders) -> Vec<Failure> {
    if batch.lineages.is_empty() {
        return Vec::new();
    }
    tracing::info!("Updating services");
    let mut failures: Vec<Failure> = Vec::new();
    let batch = known(entries, batch);
    for entry in entries {
        let id = entry.id();
        let Some(own) = entry.only.of(&id, &batch) else { continue };
        if orders.stop.is_cancelled() {
            failures.push(left(id, own));
            continue;
        }
        if fail_fast && !failures.is_empty() {
            let reason = "not run, because an earlier one failed (fail_fast)".to_owned();
            failures.push(Failure { reason, left: false, parts: BTreeSet::new(), ..left(id, own) });
            continue;
        }
        let ended = tokio::select! {
            ended = update(entry, &own) => Some(ended),
            () = orders.cut.cancelled() => None,
        };
        match ended {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::error!("{error}");
                failures.push(failure(entry, own, &error, orders).await);
            }
            None => {
                tracing::warn!("`{id}` is cut off; the next run does it again");
                failures.push(left(id, own));
            }
        }
    }
    if failures.is_empty() {
        tracing::info!("Updated services");
    }
    failures
}

/// An entry that the next run does. Of several things that it means, those that are due stay due.
fn left(entry: String, own: Batch) -> Failure {
    let parts = own.parts(&entry).unwrap_or_default();
    let lineages = own.lineages.into_keys().collect();
    Failure { entry, lineages, parts, reason: LEFT.to_owned(), rollback: false, left: true }
}

/// How long an order to end, which what we have started has obeyed, may be on its way to us.
const SAME_SIGNAL: Duration = Duration::from_secs(1);

async fn failure(entry: &Entry, own: Batch, error: &UpdateError, orders: &Orders) -> Failure {
    let parts = error.parts();
    let mut lineages: BTreeSet<Lineage> = own.lineages.keys().cloned().collect();
    if matches!(entry.updater, Updater::Secret(_)) && !parts.is_empty() {
        // Each lineage has a secret of its own.
        lineages.retain(|lineage| parts.contains(lineage.as_str()));
    }
    let wanted = entry.on_failure == OnFailure::Rollback;
    let signalled = error.is_by_signal();
    if signalled || wanted && error.blames_files() {
        // Who ends a session, a service or a host tells everybody in it, us perhaps last.
        let told = tokio::time::timeout(SAME_SIGNAL, orders.stop.cancelled()).await.is_ok();
        if told && signalled {
            return left(entry.id(), own);
        }
    }
    let ending = orders.stop.is_cancelled();
    let rollback = wanted && error.blames_files() && !ending;
    if wanted && ending {
        tracing::warn!("Not rolled back: it failed when it was to end; the next run tries it again");
    } else if wanted && !rollback {
        tracing::warn!("Not rolled back: nobody could be asked, so the new files are not to blame");
    }
    Failure { entry: entry.id(), lineages, parts, reason: ledger::cut(&error.to_string()), rollback, left: false }
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
        Updater::Container(container) => {
            let id = entry.id();
            docker::container::run(container, batch.parts(&id).as_ref(), &batch.fallen(&id)).await
        }
        Updater::Service(service) => docker::service::run(service, batch.parts(&entry.id()).as_ref()).await,
        Updater::Secret(secret) => docker::secret::run(secret, batch).await,
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
            Due {
                generation: 1,
                folder: ".gen-1".into(),
                serial: "1".into(),
                names: names(text),
                entries,
                parts: BTreeMap::new(),
                fallen: BTreeMap::new(),
            }
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

    fn script(change: impl FnOnce(&mut script::Script)) -> Entry {
        let (args, env) = (Vec::new(), Vec::new());
        let mut script = script::Script { path: "/x".into(), args, env, cwd: None, user: None, timeout: None };
        change(&mut script);
        let (only, on_failure) = (Only::default(), OnFailure::Keep);
        Entry { updater: Updater::Script(script), only, check: None, on_failure }
    }

    #[test]
    fn two_ways_of_one_thing_are_two_entries() {
        let root = crate::account::Account::named("root");
        let all = [
            script(|_| {}),
            script(|script| script.args = vec!["a".into(), "b".into()]),
            script(|script| script.args = vec!["ab".into()]),
            script(|script| script.env = vec![("a".into(), "b".into())]),
            script(|script| script.cwd = Some("/".into())),
            script(|script| script.user = root),
        ];
        let ids: BTreeSet<String> = all.iter().map(Entry::id).collect();
        assert_eq!(ids.len(), all.len(), "{ids:?}");
        assert!(ids.contains("script /x"), "{ids:?}");
        use docker::container::Action;
        use docker::signal::Signal;
        let actions = [
            Action::Restart,
            Action::Stop,
            Action::Signal(Signal::parse("HUP").unwrap()),
            Action::Exec(vec!["pw".into()]),
        ];
        let ids: Vec<String> = actions.iter().map(Action::id).collect();
        assert_eq!(ids[..3], ["restart", "stop", "signal HUP"]);
        assert!(ids[3].starts_with("exec ") && !ids[3].contains("pw"), "{ids:?}");
    }

    #[test]
    fn an_entry_that_is_not_known_makes_all_due() {
        let due = |entry: &str| {
            let entries = Some(BTreeSet::from([entry.to_owned()]));
            let names = BTreeSet::new();
            let (folder, serial) = (".gen-1".into(), "1".into());
            Due { generation: 1, folder, serial, names, entries, parts: BTreeMap::new(), fallen: BTreeMap::new() }
        };
        let lineages =
            [("a".parse().unwrap(), due("script /x")), ("b".parse().unwrap(), due("docker_container name=old"))];
        let batch = known(&[script(|_| {})], &Batch { destination: "/d".into(), lineages: lineages.into() });
        let left: Vec<bool> = batch.lineages.values().map(|due| due.entries.is_some()).collect();
        assert_eq!(left, [true, false]);
    }
}
