//! Entries of `client_configs` -> [`Target`]s that are valid by construction. Pure.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::time::Duration;

use certdeploy_common::cert::{Domain, FileName, Lineage};
use certdeploy_common::setting::{Complaint, Located, Place, Problems};
use russh::keys::PublicKey;

use super::address;
use super::file::TargetFile;
use super::pins::PinBook;
use super::settings::Timeouts;

/// What the queue and `status` call a target: `name`, else `user@address:port+path`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetId(String);

impl TargetId {
    /// An id as the queue has stored it.
    #[must_use]
    pub fn stored(text: String) -> Self {
        Self(text)
    }

    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TargetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A host that gets certificates.
#[derive(Debug, Clone)]
pub struct Target {
    /// What the queue knows it by.
    pub id: TargetId,
    /// Host name or address.
    pub address: String,
    /// SSH port.
    pub port: u16,
    /// User to log in as.
    pub username: String,
    /// The names it serves.
    pub domains: BTreeSet<Domain>,
    /// The host keys of which it must show one.
    pub pins: Vec<PublicKey>,
    /// Where plain peers stage lineages; '' is where the session begins.
    pub path: String,
    /// The files it gets, in the order of upload.
    pub wanted: Vec<FileName>,
    /// The lineages it gets by name.
    pub lineages: BTreeSet<Lineage>,
    /// How a failed push is repeated.
    pub burst: Burst,
    /// How long things may take.
    pub timeouts: Timeouts,
}

/// The first retries of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Burst {
    /// How many after the first attempt.
    pub retries: u32,
    /// How long between them.
    pub interval: Duration,
}

impl Target {
    /// `user@[host]:port`, as log lines have it.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}@[{}]:{}", self.username, self.address, self.port)
    }

    /// Where its files go: who is elsewhere, or puts them elsewhere, holds nothing of what was delivered here.
    #[must_use]
    pub fn whereabouts(&self) -> String {
        format!("{}+{}", self.place(), self.path)
    }

    /// [`Self::place`], with the name after it where the config gives one.
    #[must_use]
    pub fn shown(&self) -> String {
        let place = self.place();
        let unnamed = format!("{}@{}:{}+{}", self.username, self.address, self.port, self.path);
        if self.id.as_str() == unnamed { place } else { format!("{place} ({})", self.id) }
    }
}

/// Makes targets of the entries; what is wrong goes to `problems`.
pub fn targets(
    entries: Vec<Located<TargetFile>>,
    burst: Burst,
    timeouts: Timeouts,
    book: &mut PinBook,
    problems: &mut Problems,
) -> Vec<Target> {
    let mut targets: Vec<Target> = Vec::with_capacity(entries.len());
    let mut known: HashMap<TargetId, usize> = HashMap::with_capacity(entries.len());
    for Located { value: entry, place } in entries {
        let Some(target) = target(entry, place, (burst, timeouts), book, problems) else { continue };
        let Some(same) = known.get(&target.id).and_then(|at| targets.get_mut(*at)) else {
            known.insert(target.id.clone(), targets.len());
            targets.push(target);
            continue;
        };
        if same.is_same_but_names(&target) {
            if (same.burst, same.timeouts) != (target.burst, target.timeouts) {
                // No error: the Python program took such a pair, and what is delivered is the same.
                let message = format!(
                    "\"{}\" is written twice with different retries or timeouts; those of its first entry hold for both; \
                     write them alike, or give one entry a `name` of its own",
                    target.id
                );
                problems.warn(place, message);
            }
            same.domains.extend(target.domains);
            same.lineages.extend(target.lineages);
        } else {
            let message = format!(
                "Invalid client config option: two different entries are both called \"{}\"; give one a `name` of its own",
                target.id
            );
            problems.error(Complaint::new(place, message));
        }
    }
    targets
}

impl Target {
    fn is_same_but_names(&self, other: &Self) -> bool {
        let place = |target: &Self| (target.place(), target.path.clone(), target.wanted.clone());
        place(self) == place(other)
            && self.pins.iter().map(PublicKey::key_data).eq(other.pins.iter().map(PublicKey::key_data))
    }
}

fn target(
    entry: TargetFile,
    place: Place,
    (burst, timeouts): (Burst, Timeouts),
    book: &mut PinBook,
    problems: &mut Problems,
) -> Option<Target> {
    let before = problems.errors.len();
    let address = address::address(&entry.address, problems);
    if entry.username.value.is_empty() {
        problems.error(Complaint::value(entry.username.place, "", "username", "not be empty"));
    }
    let pins = book.pins(&entry, place, address.as_deref(), problems);
    let domains = domains(&entry.domains.value, problems);
    let lineages = lineages(&entry.lineages.value, problems);
    if entry.domains.value.is_empty() && entry.lineages.value.is_empty() {
        let rule = "missing required key `domains`: without `domains` and `lineages` this target would get nothing; give one of them or both";
        let at = [entry.domains.place, entry.lineages.place].into_iter().find(|at| at.line > 0).unwrap_or(place);
        problems.error(Complaint::new(at, format!("Invalid client config option: {rule}")));
    }
    let wanted = wanted(&entry, problems);
    let timeouts = own_timeouts(&entry, timeouts);
    let burst = Burst {
        retries: entry.push_retries.value.unwrap_or(burst.retries),
        interval: entry.push_retry_interval.value.unwrap_or(burst.interval),
    };
    let path = entry.path.value.unwrap_or_default();
    let (port, username) = (entry.port.value, entry.username.value);
    let address = address.filter(|_| problems.errors.len() == before)?;
    let name = entry.name.value.filter(|name| !name.is_empty());
    let id = TargetId(name.unwrap_or_else(|| format!("{username}@{address}:{port}+{path}")));
    Some(Target { id, address, port, username, domains, pins, path, wanted, lineages, burst, timeouts })
}

fn domains(written: &[Located<String>], problems: &mut Problems) -> BTreeSet<Domain> {
    let mut domains = BTreeSet::new();
    for Located { value, place } in written {
        match value.parse::<Domain>() {
            Ok(name) => _ = domains.insert(name),
            Err(_) => {
                let must = if value.is_ascii() {
                    "hold domain names only"
                } else {
                    "hold names as certificates carry them: in ASCII, `xn--...`"
                };
                problems.error(Complaint::value(*place, value, "domains", must));
            }
        }
    }
    domains
}

fn lineages(written: &[Located<String>], problems: &mut Problems) -> BTreeSet<Lineage> {
    let mut lineages = BTreeSet::new();
    for Located { value, place } in written {
        match value.parse::<Lineage>() {
            Ok(lineage) => _ = lineages.insert(lineage),
            Err(error) => {
                let message = format!("Invalid value \"{value}\" for `lineages`. {error}");
                problems.error(Complaint::new(*place, message));
            }
        }
    }
    lineages
}

/// The files of the target, in the order of upload: the key last.
fn wanted(entry: &TargetFile, problems: &mut Problems) -> Vec<FileName> {
    let files = [
        (entry.needs_cert.value, FileName::Cert),
        (entry.needs_chain.value, FileName::Chain),
        (entry.needs_fullchain.value, FileName::Fullchain),
        (entry.needs_privkey.value, FileName::Privkey),
    ];
    let wanted: Vec<FileName> = files.into_iter().filter_map(|(needed, name)| needed.then_some(name)).collect();
    if wanted.is_empty() {
        let message = "Invalid client config option: every `needs_...` is false, so there is nothing to push";
        problems.error(Complaint::new(entry.needs_fullchain.place, message));
    }
    wanted
}

fn own_timeouts(entry: &TargetFile, shared: Timeouts) -> Timeouts {
    Timeouts {
        connect: entry.sftp_tcp_timeout.value.unwrap_or(shared.connect),
        handshake: entry.sftp_banner_timeout.value.unwrap_or(shared.handshake),
        login: entry.sftp_auth_timeout.value.unwrap_or(shared.login),
        operation: entry.sftp_operation_timeout.value.unwrap_or(shared.operation),
        push: entry.push_timeout.value.unwrap_or(shared.push),
        visit: entry.join_timeout.value.unwrap_or(shared.visit),
    }
}
