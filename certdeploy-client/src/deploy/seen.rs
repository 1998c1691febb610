//! What readers find behind the names in a lineage's directory: links of ours, files of the Python program, files and
//! links that somebody put there. Read only.

use std::io;
use std::path::{Path, PathBuf};

use certdeploy_common::cert::{Bundle, FileName};
use zeroize::Zeroizing;

use super::state::{DATA, generation_of};
use crate::dir::{Dir, Unfit};

/// There is something behind a name that cannot be kept. Nobody may go on as if nothing were there: readers would lose
/// it.
#[derive(Debug, thiserror::Error)]
#[error("`{}` {why}, so it cannot be kept beside what came; put a copy of the file in its place, or remove it", path.display())]
pub struct Unkept {
    path: PathBuf,
    /// Why.
    pub why: String,
}

/// The files behind `names`, as far as there are any.
///
/// # Errors
/// The first that is there and cannot be kept.
pub fn files(directory: &Path, names: &[FileName]) -> Result<Bundle, Unkept> {
    let mut bundle = Bundle::default();
    let held = match Dir::open(directory) {
        Ok(held) => held,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(bundle),
        Err(error) => return Err(Unkept { path: directory.to_owned(), why: Unfit::Io(error).to_string() }),
    };
    for name in names {
        if let Some(bytes) = file(directory, &held, *name)? {
            bundle.insert(*name, bytes);
        }
    }
    Ok(bundle)
}

/// The file behind a name: the file itself, or that of the current generation; `None` if there is none. Any other link
/// is followed only in a directory that nobody else can change, or its owner could have us copy what he may not read.
///
/// # Errors
/// It is there and cannot be kept.
pub fn file(directory: &Path, held: &Dir, name: FileName) -> Result<Option<Zeroizing<Vec<u8>>>, Unkept> {
    let path = directory.join(name.as_str());
    let ours = || held.owner().is_ok_and(|owner| owner == rustix::process::geteuid().as_raw());
    let read = match held.link(name.as_str()) {
        None => held.deployed(name.as_str(), name.limit()),
        Some(link) if link == format!("{DATA}/{name}") => match held.link(DATA) {
            None => Err(Unfit::Missing),
            Some(data) if generation_of(&data).is_some() => {
                held.child(&data).map_err(Unfit::of).and_then(|within| within.deployed(name.as_str(), name.limit()))
            }
            Some(data) => Err(Unfit::Elsewhere(data)),
        },
        Some(_) if ours() => followed(&path, name.limit()),
        Some(link) => Err(Unfit::Elsewhere(link)),
    };
    match read {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Unfit::Missing) => Ok(None),
        Err(error) => Err(Unkept { path, why: error.to_string() }),
    }
}

fn followed(path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, Unfit> {
    let target = path.canonicalize().map_err(Unfit::of)?;
    match (target.parent(), target.file_name().and_then(|name| name.to_str())) {
        (Some(parent), Some(name)) => Dir::open(parent).map_err(Unfit::of)?.deployed(name, limit),
        _ => Err(Unfit::NotPlain),
    }
}
