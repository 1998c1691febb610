//! Staged files -> [`Upload`]: copies across the boundary between who wrote them and us. Reads size-capped plain
//! files through held directories; parses nothing.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use certdeploy_common::cert::{Bundle, FileName, Lineage};
use certdeploy_common::wire::{PushId, layout};

use crate::config::pushers::Scope;
use crate::dir::{Dir, Identity, Unfit};
use crate::staging::{Staged, scope};
use crate::validate::{Origin, Upload};

/// Why an upload cannot be taken in.
#[derive(Debug, thiserror::Error)]
#[error("`{name}` {unfit}{hint}")]
pub struct IntakeError {
    name: String,
    unfit: Unfit,
    hint: &'static str,
}

impl IntakeError {
    /// Whether the disk is to blame and not the upload: then it may go well later.
    #[must_use]
    pub fn is_io(&self) -> bool {
        matches!(self.unfit, Unfit::Io(_))
    }
}

/// Files that were read, so that these very files are removed and no others.
#[derive(Debug, Default)]
pub struct Read(Vec<(String, Identity)>);

/// What lies in a directory of a lineage.
#[derive(Debug)]
pub struct Found {
    /// The upload.
    pub upload: Upload,
    /// The files it is made of.
    pub read: Read,
    /// When one of them was changed last, in Unix seconds.
    pub changed: i64,
}

impl Found {
    /// What came and what is missing, where a service could use neither alone and nothing of the lineage is in
    /// `destination`. Somebody who sends a manifest has said what is whole.
    #[must_use]
    pub fn first_half(&self, destination: &Path, lineage: &Lineage) -> Option<(&'static str, &'static str)> {
        let has = |name| self.upload.bundle.file(name).is_some();
        let certificate = has(FileName::Fullchain) || has(FileName::Cert);
        let half = match (certificate, has(FileName::Privkey)) {
            (true, false) => ("its certificate", "its key"),
            (false, true) => ("its key", "its certificate"),
            _ => return None,
        };
        let is_plain = matches!(self.upload.origin, Origin::Plain { .. });
        (is_plain && !destination.join(lineage.as_str()).exists()).then_some(half)
    }
}

/// Takes in a push of one of ours, with what its pusher may upload.
///
/// # Errors
/// A file is not a plain file of `owners`, or too large.
pub fn push(incoming: &Dir, push: &PushId, owners: &[u32]) -> Result<(Upload, Scope), IntakeError> {
    let name = push.directory();
    let directory = incoming.child(&name).map_err(|error| unfit(&name, Unfit::Io(error)))?;
    let mut bundle = Bundle::default();
    for file in FileName::ALL {
        if directory.has(file.as_str()) {
            let (bytes, _) =
                directory.read(file.as_str(), file.limit(), owners).map_err(|e| unfit(file.as_str(), e))?;
            bundle.insert(file, bytes);
        }
    }
    let (manifest, _) = directory
        .read(layout::MANIFEST, layout::MANIFEST_LIMIT, owners)
        .map_err(|error| unfit(layout::MANIFEST, error))?;
    let scope = scope::read(&directory, owners).map_err(|error| unfit("scope.json", error))?;
    Ok((Upload { origin: Origin::Manifest { push: Some(push.clone()), bytes: manifest.to_vec() }, bundle }, scope))
}

/// A complete upload of a plain peer that waits.
#[derive(Debug)]
pub struct Waiting {
    /// Its directory.
    pub directory: String,
    /// Its files.
    pub files: Bundle,
}

/// What plain peers have put of a lineage.
#[derive(Debug, Default)]
pub struct Put {
    /// All complete uploads that wait, oldest first.
    pub waiting: Vec<Waiting>,
    /// The directories of those that will never be fit to be taken, with why.
    pub unfit: Vec<(String, IntakeError)>,
}

/// Takes in what plain peers have put of a lineage. One that is unfit is none of the others' business.
///
/// # Errors
/// The incoming directory or a file in it cannot be read.
pub fn plain(incoming: &Dir, lineage: &Lineage, owners: &[u32]) -> Result<Put, IntakeError> {
    let mut put = Put::default();
    let entries = incoming.entries().map_err(|error| unfit(".incoming", Unfit::Io(error)))?;
    // Names sort by time.
    for (name, _) in entries {
        if !matches!(Staged::parse(&name), Some(Staged::Plain(_, of)) if of == *lineage) {
            continue;
        }
        match one(incoming, &name, owners) {
            Ok(files) => put.waiting.push(Waiting { directory: name, files }),
            Err(error) if error.is_io() => return Err(error),
            Err(error) => put.unfit.push((name, error)),
        }
    }
    Ok(put)
}

fn one(incoming: &Dir, name: &str, owners: &[u32]) -> Result<Bundle, IntakeError> {
    let directory = incoming.child(name).map_err(|error| {
        // A link or a file, which only the receiver's user can have put there.
        let planted = error.kind() == std::io::ErrorKind::NotADirectory;
        unfit(name, if planted { Unfit::NotPlain } else { Unfit::Io(error) })
    })?;
    let mut files = Bundle::default();
    for file in FileName::ALL {
        if directory.has(file.as_str()) {
            let read = directory.read(file.as_str(), file.limit(), owners);
            files.insert(file, read.map_err(|error| unfit(file.as_str(), error))?.0);
        }
    }
    Ok(files)
}

/// The newest file of each name: what came in two sessions belongs together.
#[must_use]
pub fn join(waiting: &[Waiting]) -> Bundle {
    let mut bundle = Bundle::default();
    for (name, bytes) in waiting.iter().flat_map(|upload| upload.files.files()) {
        bundle.insert(name, bytes.to_vec().into());
    }
    bundle
}

/// What a plain sshd has put below `source`, in order.
#[derive(Debug, Default)]
pub struct Below {
    /// The directories of lineages.
    pub lineages: Vec<Lineage>,
    /// Directories that hold such files under a name that is no lineage's, with why and the way out.
    pub strange: Vec<(String, String)>,
    /// Such files in `source` itself.
    pub loose: Vec<FileName>,
    /// Links, which are not followed: whoever could put them there could lead us anywhere.
    pub links: Vec<String>,
}

impl Below {
    /// What is not looked at, with why and the way out.
    pub fn ignored(&self) -> impl Iterator<Item = (&str, &'static str)> {
        let links = self.links.iter().map(|name| (name.as_str(), "it is a link, which is not followed"));
        let loose = self.loose.iter().map(|name| {
            (name.as_str(), "it lies in `source` itself; it belongs into a directory with its lineage's name")
        });
        links.chain(loose)
    }
}

/// Looks at what is in `source`; what is hidden, and directories that hold none of our files, are somebody else's.
///
/// # Errors
/// `source` cannot be read.
pub fn below(source: &Path) -> std::io::Result<Below> {
    let source = Dir::open(source)?;
    let mut below = Below::default();
    for (name, kind) in source.entries()? {
        match name.parse::<Lineage>() {
            _ if name.starts_with('.') => {}
            _ if kind.is_symlink() => below.links.push(name),
            _ if !kind.is_dir() => below.loose.extend(name.parse::<FileName>()),
            Ok(lineage) => below.lineages.push(lineage),
            Err(why) if holds_files(&source, &name) => {
                below.strange.push((name, format!("{why}; rename the directory")))
            }
            Err(_) => {}
        }
    }
    let unnamed = source.names_without_text()?.into_iter().filter(|name| holds_files(&source, name));
    let why = |name: OsString| {
        (name.to_string_lossy().into_owned(), "the name is not UTF-8; rename the directory".to_owned())
    };
    below.strange.extend(unnamed.map(why));
    Ok(below)
}

/// The directories in `source` that have a lineage's name.
fn lineages(source: &Dir) -> std::io::Result<Vec<Lineage>> {
    let directories = source.entries()?.into_iter().filter(|(_, kind)| kind.is_dir());
    Ok(directories.filter_map(|(name, _)| name.parse().ok()).collect())
}

/// What there is of a lineage, as far as it shows whether something has changed: how many files, how many bytes, and the
/// newest change in Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp(usize, u64, i64);

/// The lineages that have files in `source`. Nothing of what cannot be read.
#[must_use]
pub fn stamps(source: &Path) -> BTreeMap<Lineage, Stamp> {
    let Ok(held) = Dir::open(source) else { return BTreeMap::new() };
    let lineages = lineages(&held).unwrap_or_default();
    let stamp = |lineage: &Lineage| {
        let directory = held.child(lineage.as_str()).ok()?;
        let files: Vec<(u64, i64)> =
            FileName::ALL.into_iter().filter_map(|file| directory.stat(file.as_str())).collect();
        let newest = files.iter().map(|(_, changed)| *changed).max()?;
        Some(Stamp(files.len(), files.iter().map(|(size, _)| size).sum(), newest))
    };
    lineages.into_iter().filter_map(|lineage| stamp(&lineage).map(|stamp| (lineage, stamp))).collect()
}

fn holds_files(source: &Dir, name: impl AsRef<OsStr>) -> bool {
    source
        .child(name.as_ref())
        .is_ok_and(|directory| FileName::ALL.into_iter().any(|file| directory.has(file.as_str())))
}

/// Takes in what a plain sshd has put of a lineage; `None` when there is no file of it.
///
/// # Errors
/// As [`push`].
pub fn source(source: &Path, lineage: &Lineage) -> Result<Option<Found>, IntakeError> {
    let failed = |error| unfit(lineage.as_str(), Unfit::Io(error));
    let root = Dir::open(source).map_err(failed)?;
    let directory = root.child(lineage.as_str()).map_err(failed)?;
    let owners = [root.owner().map_err(failed)?, rustix::process::geteuid().as_raw()];
    let mut bundle = Bundle::default();
    let mut read = Read::default();
    let mut changed = 0;
    let mut take = |name: &str, limit| match directory.read(name, limit, &owners) {
        Ok((bytes, identity)) => {
            changed = changed.max(identity.changed());
            read.0.push((name.to_owned(), identity));
            Ok(Some(bytes))
        }
        Err(Unfit::Missing) => Ok(None),
        Err(error) => {
            let hint = if matches!(error, Unfit::Owner(_)) { "; mend it with chown" } else { "" };
            Err(IntakeError { hint, ..unfit(&format!("{lineage}/{name}"), error) })
        }
    };
    for file in FileName::ALL {
        if let Some(bytes) = take(file.as_str(), file.limit())? {
            bundle.insert(file, bytes);
        }
    }
    let manifest = take(layout::MANIFEST, layout::MANIFEST_LIMIT)?;
    if bundle.is_empty() {
        return Ok(None);
    }
    let origin = match manifest {
        Some(bytes) => Origin::Manifest { push: None, bytes: bytes.to_vec() },
        None => Origin::Plain { lineage: lineage.clone() },
    };
    Ok(Some(Found { upload: Upload { origin, bundle }, read, changed }))
}

/// Removes the files of an upload from a lineage's directory below `source`; newer ones stay.
///
/// # Errors
/// They cannot be removed.
pub fn remove(source: &Path, lineage: &Lineage, read: &Read) -> std::io::Result<()> {
    let directory = Dir::open(source)?.child(lineage.as_str())?;
    read.0.iter().try_for_each(|(name, identity)| directory.remove_read(name, *identity))
}

fn unfit(name: &str, unfit: Unfit) -> IntakeError {
    IntakeError { name: name.to_owned(), unfit, hint: "" }
}
