//! Staged files -> [`Upload`]: copies across the boundary between who wrote them and us. Reads size-capped plain
//! files through held directories; parses nothing.

use std::path::Path;

use certdeploy_common::cert::{Bundle, FileName, Lineage};
use certdeploy_common::wire::{PushId, layout};

use crate::dir::{Dir, Identity, Unfit};
use crate::staging::Staged;
use crate::validate::{Origin, Upload};

/// Why an upload cannot be taken in.
#[derive(Debug, thiserror::Error)]
#[error("`{name}` {unfit}")]
pub struct IntakeError {
    name: String,
    unfit: Unfit,
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
    /// When the youngest of them was written, in Unix seconds.
    pub youngest: i64,
}

/// Takes in a push of one of ours.
///
/// # Errors
/// A file is not a plain file of `owners`, or too large.
pub fn push(incoming: &Dir, push: &PushId, owners: &[u32]) -> Result<Upload, IntakeError> {
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
    Ok(Upload { origin: Origin::Manifest { push: Some(push.clone()), bytes: manifest.to_vec() }, bundle })
}

/// Takes in what plain peers have put of a lineage: the newest file of each name over all complete uploads that wait.
/// Returns the directories it is made of too.
///
/// # Errors
/// As [`push`]; or the incoming directory cannot be read.
pub fn plain(incoming: &Dir, lineage: &Lineage, owners: &[u32]) -> Result<(Upload, Vec<String>), IntakeError> {
    let mut bundle = Bundle::default();
    let mut directories = Vec::new();
    let entries = incoming.entries().map_err(|error| unfit(".incoming", Unfit::Io(error)))?;
    // Names sort by time, so a later file replaces an earlier one.
    for (name, _) in entries {
        if !matches!(Staged::parse(&name), Some(Staged::Plain(_, of)) if of == *lineage) {
            continue;
        }
        let directory = incoming.child(&name).map_err(|error| unfit(&name, Unfit::Io(error)))?;
        for file in FileName::ALL {
            if directory.has(file.as_str()) {
                let read = directory.read(file.as_str(), file.limit(), owners);
                bundle.insert(file, read.map_err(|error| unfit(file.as_str(), error))?.0);
            }
        }
        directories.push(name);
    }
    Ok((Upload { origin: Origin::Plain { lineage: lineage.clone() }, bundle }, directories))
}

/// The lineages that a plain sshd has put below `source`, in order.
///
/// # Errors
/// `source` cannot be read.
pub fn lineages(source: &Path) -> std::io::Result<Vec<Lineage>> {
    let names = Dir::open(source)?.entries()?;
    Ok(names.into_iter().filter_map(|(name, kind)| name.parse().ok().filter(|_| kind.is_dir())).collect())
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
    let mut youngest = 0;
    let mut take = |name: &str, limit| match directory.read(name, limit, &owners) {
        Ok((bytes, identity)) => {
            youngest = youngest.max(identity.modified());
            read.0.push((name.to_owned(), identity));
            Ok(Some(bytes))
        }
        Err(Unfit::Missing) => Ok(None),
        Err(error) => Err(unfit(&format!("{lineage}/{name}"), error)),
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
    Ok(Some(Found { upload: Upload { origin, bundle }, read, youngest }))
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
    IntakeError { name: name.to_owned(), unfit }
}
