//! What a lineage's directory holds now: read only, and never trusted to be whole. A crash, an administrator or the
//! Python program may have been there since.

use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use certdeploy_common::cert::{Bundle, FileName, Lineage};

use super::record::Record;
use crate::dir::{Dir, Unfit};

/// The link to the current generation.
pub const DATA: &str = "..data";
/// What is known of a generation, inside it.
pub const RECORD: &str = ".record.json";
/// The largest record, in bytes.
const RECORD_LIMIT: u64 = 1024 * 1024;

/// A lineage's directory as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Whether it exists.
    pub exists: bool,
    /// The generation that `..data` names, if it is there.
    pub current: Option<Current>,
    /// All generations with the time they were made (Unix seconds), smallest first, broken ones included.
    pub generations: Vec<(u64, i64)>,
    /// The links that lead through `..data`.
    pub links: Vec<FileName>,
    /// Plain files in the place of links, with the very bytes that the links lead to: readers see what was deployed.
    pub copies: Vec<FileName>,
    /// The PEM files that are neither: from the Python program, or put there by hand.
    pub foreign: Vec<FileName>,
}

/// A generation, most often the current one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Current {
    /// Its number.
    pub number: u64,
    /// What was deployed, if it says so.
    pub record: Option<Record>,
    /// The names of the files in it.
    pub files: Vec<FileName>,
    /// Whether the files still have the recorded digests.
    pub intact: bool,
}

/// What is not as it was deployed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// `..data` leads to no generation, so readers find nothing.
    Lost,
    /// Only names are wrong: these are missing, and these lead nowhere.
    Names {
        /// Files of the generation that readers do not find.
        missing: Vec<FileName>,
        /// Links without a file behind them.
        dangling: Vec<FileName>,
    },
    /// Readers find other files than those that were deployed.
    Changed,
}

/// The directory of a generation.
#[must_use]
pub fn generation_name(number: u64) -> String {
    format!(".gen-{number}")
}

/// The number in the name of a generation that we can have made: there is room for the next ones.
pub(super) fn generation_of(name: &str) -> Option<u64> {
    name.strip_prefix(".gen-")?.parse().ok().filter(|number| *number < u64::MAX / 2)
}

/// The directory of a lineage.
#[must_use]
pub fn lineage_directory(destination: &Path, lineage: &Lineage) -> PathBuf {
    destination.join(lineage.as_str())
}

impl State {
    /// Reads `directory`.
    ///
    /// # Errors
    /// It exists but cannot be read; or the current generation is none of our business.
    pub fn read(directory: &Path) -> io::Result<Self> {
        let entries = match directory.read_dir() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            entries => entries?,
        };
        let mut state = Self { exists: true, ..Self::default() };
        for entry in entries {
            let entry = entry?;
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            if let Some(number) = generation_of(&name) {
                state.generations.push((number, modified(&entry)));
            } else if let Ok(file) = name.parse::<FileName>() {
                let ours = entry.path().read_link().is_ok_and(|to| to == Path::new(DATA).join(file.as_str()));
                if ours { &mut state.links } else { &mut state.foreign }.push(file);
            }
        }
        state.generations.sort_unstable();
        state.links.sort_unstable();
        state.foreign.sort_unstable();
        if let Some(number) = current_number(directory)
            && let Some((current, files)) = may_read(directory, number)?
        {
            state.sort_out(directory, &files);
            state.current = Some(current);
        }
        Ok(state)
    }

    /// Tells copies of what is current from other files.
    fn sort_out(&mut self, directory: &Path, current: &Bundle) {
        if self.foreign.is_empty() {
            return;
        }
        let Ok(held) = Dir::open(directory) else { return };
        let same = |name: &FileName| {
            let there = held.deployed(name.as_str(), name.limit()).ok();
            there.is_some_and(|there| current.file(*name) == Some(&there[..]))
        };
        (self.copies, self.foreign) = self.foreign.iter().partition(|name| same(name));
    }

    /// What was deployed, if a reader sees just that: the current generation, whole and behind every name.
    #[must_use]
    pub fn held(&self) -> Option<&Current> {
        let names = self.current.as_ref().filter(|_| self.foreign.is_empty()).map(|_| self.names());
        self.current.as_ref().filter(|current| names.as_ref() == Some(&current.files) && current.intact)
    }

    /// What is wrong with it.
    #[must_use]
    pub fn damage(&self) -> Option<Damage> {
        // Without links nobody looks there: a first deployment broke off, and its upload comes again.
        let lost = Some(Damage::Lost).filter(|_| !self.links.is_empty());
        let Some(current) = &self.current else { return lost };
        if self.held().is_some() {
            return None;
        }
        if current.files.is_empty() && self.foreign.is_empty() {
            return lost;
        }
        if !self.foreign.is_empty() || !current.intact {
            return Some(Damage::Changed);
        }
        let names = self.names();
        let without =
            |names: &[FileName], others: &[FileName]| names.iter().copied().filter(|n| !others.contains(n)).collect();
        let (missing, dangling) = (without(&current.files, &names), without(&names, &current.files));
        Some(Damage::Names { missing, dangling })
    }

    /// What can be served when `..data` leads to no generation: the newest below `directory` that is as it was deployed,
    /// one that is good at `now` (Unix seconds) and was not taken out before any other.
    #[must_use]
    pub fn next_best(&self, directory: &Path, now: i64) -> Option<Current> {
        let found = self.generations.iter().rev().filter_map(|(number, _)| generation(directory, *number));
        let all: Vec<Current> = found.collect();
        let intact: Vec<&Current> = all.iter().filter(|generation| generation.intact).collect();
        let is_out = |one: &Current, record: &Record| {
            let later = all.iter().filter(|later| later.number > one.number);
            later.filter_map(|later| later.record.as_ref()?.instead.as_ref()).any(|instead| instead.is_about(record))
        };
        let good =
            |one: &Current| one.record.as_ref().is_some_and(|record| record.not_after > now && !is_out(one, record));
        intact.iter().find(|one| good(one)).or(intact.first()).copied().cloned()
    }

    /// Another generation below `directory` with the very files that the current one should have.
    #[must_use]
    pub fn twin(&self, directory: &Path) -> Option<(Record, Bundle)> {
        let lost = self.current.as_ref().and_then(|current| Some((current.number, current.record.as_ref()?)));
        let (number, record) = lost?;
        let others = self.generations.iter().rev().map(|(number, _)| *number).filter(|other| *other != number);
        let found = others.filter_map(|other| with_files(directory, other)).find(|(other, _)| {
            let same = |other: &Record| other.digest == record.digest && other.all == record.all;
            other.intact && other.record.as_ref().is_some_and(same)
        });
        let (twin, files) = found?;
        Some((Record { instead: record.instead.clone(), ..twin.record? }, files))
    }

    /// The generation that was deployed last, whether it is there or not.
    #[must_use]
    pub fn last(&self, directory: &Path) -> Option<u64> {
        current_number(directory).or(self.generations.last().map(|(number, _)| *number))
    }

    /// The names that readers find something behind, in order.
    #[must_use]
    pub fn names(&self) -> Vec<FileName> {
        let mut names = [self.links.as_slice(), self.copies.as_slice(), self.foreign.as_slice()].concat();
        names.sort_unstable();
        names
    }

    /// The directories under `destination` that could be lineages, and that we have no right to look into.
    #[must_use]
    pub fn closed(destination: &Path) -> Vec<Lineage> {
        let names = destination
            .read_dir()
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let denied = |name: &Lineage| {
            let data = lineage_directory(destination, name).join(DATA).symlink_metadata();
            data.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
        };
        names.filter(denied).collect()
    }

    /// The lineages under `destination` that have a generation, or had one that is current, in order.
    ///
    /// # Errors
    /// `destination` cannot be read.
    pub fn lineages(destination: &Path) -> io::Result<Vec<Lineage>> {
        let mut lineages = Vec::new();
        for entry in destination.read_dir()? {
            let entry = entry?;
            let name = entry.file_name().to_str().and_then(|name| name.parse::<Lineage>().ok());
            lineages.extend(name.filter(|_| is_ours(&entry.path())));
        }
        lineages.sort();
        Ok(lineages)
    }
}

/// Whether there is something of ours, `..data` first: it is there unless somebody took it away.
fn is_ours(directory: &Path) -> bool {
    let generation = |entry: std::fs::DirEntry| {
        let name = entry.file_name();
        name.to_str().and_then(generation_of).is_some()
    };
    let generations = || directory.read_dir().is_ok_and(|entries| entries.flatten().any(generation));
    directory.join(DATA).is_symlink() || generations()
}

fn modified(entry: &std::fs::DirEntry) -> i64 {
    let time = entry.metadata().and_then(|meta| meta.modified()).ok();
    let since = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.and_then(|since| i64::try_from(since.as_secs()).ok()).unwrap_or_default()
}

/// The number of the generation that `..data` names, whether it is there or not.
#[must_use]
pub fn current_number(directory: &Path) -> Option<u64> {
    let target = directory.join(DATA).read_link().ok()?;
    generation_of(target.to_str()?)
}

/// Whether something that is no link has the name of the link to the current generation.
#[must_use]
pub fn is_blocked(directory: &Path) -> bool {
    directory.join(DATA).symlink_metadata().is_ok_and(|data| !data.is_symlink())
}

/// What one generation is, current or not; `None` if it is not there.
#[must_use]
pub fn generation(directory: &Path, number: u64) -> Option<Current> {
    with_files(directory, number).map(|(generation, _)| generation)
}

/// The same, with the very files that were looked at. Nobody who owns the lineage's directory leads us elsewhere: nothing
/// is followed.
#[must_use]
pub fn with_files(directory: &Path, number: u64) -> Option<(Current, Bundle)> {
    may_read(directory, number).ok().flatten()
}

/// The same. What we have no right to read is not taken for something that is not there.
///
/// # Errors
/// We have no right to read some of it.
fn may_read(directory: &Path, number: u64) -> io::Result<Option<(Current, Bundle)>> {
    let name = generation_name(number);
    let Some(within) = unless_denied(Dir::open(directory).and_then(|held| held.child(&name)).map_err(Unfit::of))?
    else {
        return Ok(None);
    };
    let mut found = Bundle::default();
    for name in FileName::ALL {
        if let Some(bytes) = unless_denied(within.deployed(name.as_str(), name.limit()))? {
            found.insert(name, bytes);
        }
    }
    let record = unless_denied(within.deployed(RECORD, RECORD_LIMIT))?;
    let record: Option<Record> = record.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let intact = record.as_ref().is_some_and(|record| {
        let whole = record.all.as_ref().is_none_or(|all| found.digest() == *all);
        whole
            && record.files.iter().all(|name| found.file(*name).is_some())
            && found.only(&record.files).digest() == record.digest
    });
    Ok(Some((Current { number, record, files: found.names(), intact }, found)))
}

/// What was read, if it could be; whatever is wrong with it but our rights makes it something that is not there.
fn unless_denied<T>(read: Result<T, Unfit>) -> io::Result<Option<T>> {
    match read {
        Err(Unfit::Io(error)) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        other => Ok(other.ok()),
    }
}
