//! What a lineage's directory holds now: read only, and never trusted to be whole. A crash, an administrator or the
//! Python program may have been there since.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use certdeploy_common::cert::{Bundle, Digest, Domain, FileName, Lineage};
use serde::{Deserialize, Serialize};

use crate::dir::Dir;

/// The link to the current generation.
pub const DATA: &str = "..data";
/// What is known of a generation, inside it.
pub const RECORD: &str = ".record.json";
/// The largest record, in bytes.
const RECORD_LIMIT: u64 = 1024 * 1024;

/// What was deployed as one generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The digest of the files that came.
    pub digest: Digest,
    /// The files that came (`cert.pem` may be there without having come).
    pub files: Vec<FileName>,
    /// The leaf's serial number, in hex; empty when no certificate came.
    pub serial: String,
    /// The leaf's notBefore, in Unix seconds.
    pub not_before: i64,
    /// The leaf's notAfter, in Unix seconds.
    pub not_after: i64,
    /// The leaf's names.
    pub names: BTreeSet<Domain>,
    /// What it was put back in the place of, when it is a rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instead: Option<Instead>,
}

/// What a rollback took out of use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instead {
    /// The digest of what is not wanted here.
    pub digest: Digest,
    /// The generation whose files were put back.
    pub from: u64,
}

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
    /// The PEM files that are no such links: from the Python program, or put there by hand.
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
    /// Whether the files still have the recorded digest.
    pub intact: bool,
}

/// The directory of a generation.
#[must_use]
pub fn generation_name(number: u64) -> String {
    format!(".gen-{number}")
}

/// The number of a generation that we can have made: there is room for the next ones.
fn generation_number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number| *number < u64::MAX / 2)
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
    /// It exists but cannot be read.
    pub fn read(directory: &Path) -> io::Result<Self> {
        let entries = match directory.read_dir() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            entries => entries?,
        };
        let mut state = Self { exists: true, ..Self::default() };
        for entry in entries {
            let entry = entry?;
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            if let Some(number) = name.strip_prefix(".gen-").and_then(generation_number) {
                state.generations.push((number, modified(&entry)));
            } else if let Ok(file) = name.parse::<FileName>() {
                let ours = entry.path().read_link().is_ok_and(|to| to == Path::new(DATA).join(file.as_str()));
                if ours { &mut state.links } else { &mut state.foreign }.push(file);
            }
        }
        state.generations.sort_unstable();
        state.links.sort_unstable();
        state.foreign.sort_unstable();
        state.current = current(directory);
        Ok(state)
    }

    /// The lineages under `destination` that have a generation, in order.
    ///
    /// # Errors
    /// `destination` cannot be read.
    pub fn lineages(destination: &Path) -> io::Result<Vec<Lineage>> {
        let mut lineages = Vec::new();
        for entry in destination.read_dir()? {
            let entry = entry?;
            let name = entry.file_name().to_str().and_then(|name| name.parse::<Lineage>().ok());
            lineages.extend(name.filter(|_| entry.path().join(DATA).is_symlink()));
        }
        lineages.sort();
        Ok(lineages)
    }
}

fn modified(entry: &std::fs::DirEntry) -> i64 {
    let time = entry.metadata().and_then(|meta| meta.modified()).ok();
    let since = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.and_then(|since| i64::try_from(since.as_secs()).ok()).unwrap_or_default()
}

fn current(directory: &Path) -> Option<Current> {
    let target = directory.join(DATA).read_link().ok()?;
    generation(directory, target.to_str()?.strip_prefix(".gen-").and_then(generation_number)?)
}

/// What one generation is, current or not; `None` if it is not there.
#[must_use]
pub fn generation(directory: &Path, number: u64) -> Option<Current> {
    let generation = directory.join(generation_name(number));
    if !generation.is_dir() {
        return None;
    }
    let files: Vec<FileName> = FileName::ALL.into_iter().filter(|f| generation.join(f.as_str()).is_file()).collect();
    let record = Dir::open(&generation).ok().and_then(|within| within.read(RECORD, RECORD_LIMIT, &[]).ok());
    let record: Option<Record> = record.and_then(|(bytes, _)| serde_json::from_slice(&bytes).ok());
    let intact =
        record.as_ref().is_some_and(|record| digest(&generation, &record.files).as_ref() == Some(&record.digest));
    Some(Current { number, record, files, intact })
}

fn digest(generation: &Path, files: &[FileName]) -> Option<Digest> {
    let mut bundle = Bundle::default();
    let directory = Dir::open(generation).ok()?;
    for name in files {
        bundle.insert(*name, directory.read(name.as_str(), name.limit(), &[]).ok()?.0);
    }
    Some(bundle.digest())
}
