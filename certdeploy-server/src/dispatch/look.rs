//! Renewals and `live/` -> changes of the queue, one lineage after another: each is read beside the loop, and the loop is
//! handed what was read. It asks [`plan`] what changes; it pushes nothing.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use certdeploy_common::cert::{Lineage, check};
use tokio::task::JoinHandle;

use super::shelf::{Read, Shelf};
use crate::clock::Millis;
use crate::config::{Settings, Target, TargetId};
use crate::hook::Renewal;
use crate::lineage::{self, LineageError, Readable};
use crate::plan::{self, Cause, Known};
use crate::queue::{Change, Delivery, Holding, Queue, QueueError};

/// Why a lineage is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    /// It was handed over; the number is the renewal's.
    Renewal(i64, Renewal),
    /// What is in `live/` is compared with what the targets acknowledged.
    Compare(PathBuf),
    /// One target has lost it.
    Lost(PathBuf, usize),
}

/// What is to be looked at, and what is being read.
#[derive(Debug)]
pub(super) struct Look {
    /// Renewals come before all else.
    renewals: VecDeque<Item>,
    /// Those that are in the queue still, though they are being looked at.
    seen: BTreeSet<i64>,
    items: VecDeque<Item>,
    reading: Option<JoinHandle<(Item, Arc<Read>)>>,
    index: Index,
    shelf: Arc<Shelf>,
}

impl Look {
    /// Looks at nothing yet.
    pub(super) fn new(targets: &[Target], shelf: Arc<Shelf>) -> Self {
        let (renewals, items) = (VecDeque::new(), VecDeque::new());
        let seen = BTreeSet::new();
        Self { renewals, seen, items, reading: None, index: Index::new(targets), shelf }
    }

    /// Whether there is something to look at.
    pub(super) fn is_busy(&self) -> bool {
        self.reading.is_some() || !self.items.is_empty() || !self.renewals.is_empty()
    }

    /// Takes the renewals that are in the queue.
    pub(super) fn renewals(&mut self, queue: &mut Queue) -> Result<(), QueueError> {
        for (id, renewal) in queue.renewals()? {
            if self.seen.insert(id) {
                self.renewals.push_back(Item::Renewal(id, renewal));
            }
        }
        Ok(())
    }

    /// Takes everything in `live/`, and ends what is owed of lineages that were there and are not any more.
    pub(super) fn everything(&mut self, queue: &mut Queue, settings: &Settings) -> Result<(), QueueError> {
        let live = &settings.live_directory;
        let paths = match lineage::all(live) {
            Ok(paths) => paths,
            Err(error) => {
                tracing::error!("live_directory `{}` cannot be read: {error}", live.display());
                return Ok(());
            }
        };
        let there: BTreeSet<&PathBuf> = paths.iter().collect();
        for lineage in queue.owed_lineages()? {
            let path = live.join(&lineage);
            if !there.contains(&path) && queue.drop_lineage(&lineage, &path)? > 0 {
                tracing::info!("`{}` is not there any more; it is owed to nobody", path.display());
            }
        }
        self.items.retain(|item| !matches!(item, Item::Compare(_)));
        self.items.extend(paths.into_iter().map(Item::Compare));
        Ok(())
    }

    /// Takes a lineage that a target has lost.
    pub(super) fn lost(&mut self, path: PathBuf, target: usize) {
        let item = Item::Lost(path, target);
        if !self.items.contains(&item) {
            self.items.push_back(item);
        }
    }

    /// Whether a target has lost something that was not looked at yet.
    pub(super) fn has_lost(&self) -> bool {
        self.items.iter().any(|item| matches!(item, Item::Lost(..)))
    }

    /// Reads the next one. It can be dropped and called again.
    pub(super) async fn read(&mut self, now: Millis) -> Option<(Item, Arc<Read>)> {
        if self.reading.is_none() {
            let item = self.renewals.pop_front().or_else(|| self.items.pop_front())?;
            let shelf = Arc::clone(&self.shelf);
            self.reading = Some(tokio::spawn(async move {
                let (path, force) = match &item {
                    Item::Renewal(_, renewal) => (&renewal.path, renewal.force),
                    Item::Compare(path) | Item::Lost(path, _) => (path, false),
                };
                let read = shelf.read(path, force, now).await;
                (item, read)
            }));
        }
        let read = match &mut self.reading {
            Some(reading) => reading.await,
            None => return None,
        };
        self.reading = None;
        read.inspect_err(|broke| tracing::error!("A lineage could not be looked at: {broke}")).ok()
    }

    /// Writes down what follows from what was read; says which targets that concerns.
    pub(super) fn take(
        &mut self,
        queue: &mut Queue,
        targets: &[Arc<Target>],
        (item, read): (Item, Arc<Read>),
        now: Millis,
    ) -> Result<BTreeSet<usize>, QueueError> {
        let Some(lineage) = item.lineage() else { return Ok(BTreeSet::new()) };
        let (deliveries, holdings) = (queue.deliveries_of(&lineage)?, queue.holdings_of(&lineage)?);
        let by_id: HashMap<i64, TargetId> = deliveries.iter().map(|owed| (owed.id, owed.target.clone())).collect();
        let among: BTreeSet<usize> = match (&item, &*read) {
            (Item::Lost(_, target), _) => BTreeSet::from([*target]),
            (_, Ok(readable)) => {
                let owed = deliveries.iter().filter_map(|owed| self.index.ids.get(&owed.target).copied());
                self.index.concerned(readable).chain(owed).collect()
            }
            (_, Err(_)) => (0..targets.len()).collect(),
        };
        let among = among.into_iter().filter_map(|index| targets.get(index).map(|target| &**target));
        let changes = changes(among, &item, &read, known(deliveries, holdings));
        match &item {
            Item::Renewal(id, renewal) => {
                tell(renewal, &read, &changes);
                queue.settle(*id, &changes, now)?;
                self.seen.remove(id);
            }
            Item::Compare(_) | Item::Lost(..) => {
                if let Err((error, _)) = &*read {
                    complain(error);
                }
                queue.apply(&changes, now)?;
            }
        }
        let touched = changes.iter().filter_map(|change| match change {
            Change::Owe(owed) => self.index.ids.get(&owed.target),
            Change::Hasten { id } | Change::Drop { id } => self.index.ids.get(by_id.get(id)?),
        });
        Ok(touched.copied().collect())
    }
}

impl Item {
    fn lineage(&self) -> Option<Lineage> {
        match self {
            Self::Renewal(_, renewal) => Some(renewal.lineage.clone()),
            Self::Compare(path) | Self::Lost(path, _) => Lineage::of_path(path).ok(),
        }
    }
}

/// Which targets a certificate may concern, without asking them all.
#[derive(Debug, Default)]
struct Index {
    names: HashMap<String, Vec<usize>>,
    /// By the name without its first label: what a wildcard certificate is good for.
    below: HashMap<String, Vec<usize>>,
    lineages: HashMap<Lineage, Vec<usize>>,
    ids: HashMap<TargetId, usize>,
}

impl Index {
    fn new(targets: &[Target]) -> Self {
        let mut index = Self::default();
        for (number, target) in targets.iter().enumerate() {
            index.ids.insert(target.id.clone(), number);
            for domain in &target.domains {
                let name = domain.as_str();
                index.names.entry(name.to_owned()).or_default().push(number);
                if let Some((_, rest)) = name.split_once('.') {
                    index.below.entry(rest.to_owned()).or_default().push(number);
                }
            }
            for lineage in &target.lineages {
                index.lineages.entry(lineage.clone()).or_default().push(number);
            }
        }
        index
    }

    /// At least those that [`plan::gets`] says it of.
    fn concerned<'a>(&'a self, readable: &'a Readable) -> impl Iterator<Item = usize> + 'a {
        let exact = readable.facts.names.iter().filter_map(|name| self.names.get(name.as_str()));
        let wild = readable.facts.names.iter().filter_map(|name| name.as_str().strip_prefix("*."));
        let wild = wild.filter_map(|rest| self.below.get(rest));
        let named = self.lineages.get(&readable.lineage);
        exact.chain(wild).chain(named).flatten().copied()
    }
}

fn changes<'a>(
    targets: impl Iterator<Item = &'a Target>,
    item: &Item,
    read: &Read,
    known: HashMap<TargetId, Known>,
) -> Vec<Change> {
    let nothing = Known::default();
    let of = |target: &Target| known.get(&target.id).unwrap_or(&nothing);
    match (read, item) {
        (Ok(readable), Item::Renewal(_, renewal)) => {
            for warning in &readable.facts.warnings {
                tracing::warn!("{}: {warning}", renewal.path.display());
            }
            let targets = telling_of_older(targets, of, readable, renewal.anew && renewal.force);
            targets.filter_map(|target| plan::change(target, of(target), readable, Cause::Hint(renewal))).collect()
        }
        (Ok(readable), Item::Compare(_) | Item::Lost(..)) => {
            let targets = telling_of_older(targets, of, readable, false);
            targets.filter_map(|target| plan::change(target, of(target), readable, Cause::Reconcile)).collect()
        }
        (Err((error, _)), Item::Renewal(_, renewal)) => {
            let changes: Vec<Change> =
                targets.filter_map(|target| plan::change_unread(target, of(target), renewal)).collect();
            if changes.is_empty() {
                tracing::debug!("Nobody needs {}: {error}", renewal.path.display());
            }
            changes
        }
        // Nothing else remembers it: the attempt says what is wrong, or comes again.
        (Err(_), Item::Lost(path, _)) => {
            targets.filter_map(|target| plan::change_lost(target, of(target), path)).collect()
        }
        // Who holds it waits for its renewal: that it cannot be had is no matter of the log alone.
        (Err((error, Some(bundle))), Item::Compare(path)) if error.is_permanent() && !error.is_expiry() => {
            let names = check::leaf_names(bundle);
            targets.filter_map(|target| plan::change_spoiled(target, of(target), path, &names)).collect()
        }
        (Err(_), Item::Compare(_)) => Vec::new(),
    }
}

/// Says once for all of them that they are not given what is older than what they hold.
fn telling_of_older<'a, 'k>(
    targets: impl Iterator<Item = &'a Target>,
    of: impl Fn(&Target) -> &'k Known,
    readable: &Readable,
    forced: bool,
) -> impl Iterator<Item = &'a Target> {
    let targets: Vec<&Target> = targets.collect();
    let gets = |target: &&&Target| plan::gets(target, &readable.lineage, &readable.facts.names);
    let older = targets.iter().filter(gets).filter(|target| plan::is_older(target, of(target), readable));
    let older: Vec<&str> = older.map(|target| target.id.as_str()).collect();
    if let (Some(first), false) = (older.first(), forced) {
        let (path, count) = (readable.path.display(), older.len());
        tracing::warn!(
            "{path} is older than what {count} targets hold ({first}{}); it is pushed to them only with --force",
            if count > 1 { ", ..." } else { "" }
        );
    }
    targets.into_iter()
}

fn tell(renewal: &Renewal, read: &Read, changes: &[Change]) {
    if changes.is_empty() && renewal.anew {
        let path = renewal.path.display();
        // Errors, so that who did it by hand sees them at the default level.
        match read {
            Ok(_) => tracing::error!(
                "No target gets {path}: none has a domain that its certificate and --domains both name, or those that have \
                 one hold a newer certificate"
            ),
            Err((error, _)) => {
                tracing::error!("No target gets {path}: none has a domain that --domains names; and: {error}");
            }
        }
    }
    for change in changes {
        if let Change::Owe(owed) = change {
            tracing::info!("Queued lineage {} for client {}", owed.path.display(), owed.target);
        }
    }
}

/// certbot keeps what it no longer renews: that is worth a line, but not at every hour's comparison.
fn complain(error: &LineageError) {
    if error.is_permanent() {
        tracing::warn!("Not compared: {error}");
    } else {
        tracing::info!("Not compared: {error}");
    }
}

fn known(deliveries: Vec<Delivery>, holdings: Vec<Holding>) -> HashMap<TargetId, Known> {
    let mut known = HashMap::<TargetId, Known>::new();
    for delivery in deliveries {
        known.entry(delivery.target.clone()).or_default().deliveries.push(delivery);
    }
    for holding in holdings {
        known.entry(holding.target.clone()).or_default().holdings.push(holding);
    }
    known
}
