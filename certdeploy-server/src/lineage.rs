//! A lineage's directory -> [`Bundle`]: all four files of one archive version, or none. It reads and compares; what the
//! files are good for is decided elsewhere.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use certdeploy_common::cert::{Bundle, Facts, Fault, FileName, Lineage, check};
use zeroize::Zeroizing;

/// A lineage that was read whole and found good.
#[derive(Debug, Clone)]
pub struct Readable {
    /// Its name.
    pub lineage: Lineage,
    /// Its directory.
    pub path: PathBuf,
    /// Its files, but for those of no use.
    pub bundle: Bundle,
    /// What the certificate says.
    pub facts: Facts,
    /// Files that are there and hold nothing that belongs there: whoever does not need them gets the others.
    pub spoiled: Vec<(FileName, Fault)>,
}

/// Why a lineage cannot be pushed.
#[derive(Debug, thiserror::Error)]
pub enum LineageError {
    /// A file cannot be read.
    #[error("lineage `{}`: {}: {source}", path.display(), file.map_or("directory", FileName::as_str))]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// The file, or the directory itself.
        file: Option<FileName>,
        /// Why.
        source: io::Error,
    },
    /// A file is larger than anything that belongs there.
    #[error("lineage `{}`: {file} is larger than {limit} bytes", path.display())]
    TooLarge {
        /// The directory.
        path: PathBuf,
        /// The file.
        file: FileName,
        /// The limit in bytes.
        limit: u64,
    },
    /// Somebody else's file, or one outside the lineage's own tree.
    #[error("lineage `{}`: {file} {reason}", path.display())]
    Strange {
        /// The directory.
        path: PathBuf,
        /// The file.
        file: FileName,
        /// What is strange.
        reason: String,
    },
    /// certbot is changing it, or was killed while it did.
    #[error("lineage `{}`: its files belong to different versions ({versions}); certbot is or was in the middle of changing them", path.display())]
    Mixed {
        /// The directory.
        path: PathBuf,
        /// What was found.
        versions: String,
    },
    /// The files are no good.
    #[error("lineage `{}`: {fault}", path.display())]
    Fault {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        fault: Fault,
    },
}

impl LineageError {
    /// Whether the same files will always fail, so that trying again is of no use until they change.
    #[must_use]
    pub const fn is_permanent(&self) -> bool {
        matches!(self, Self::Fault { .. } | Self::TooLarge { .. })
    }

    /// Whether it was good until it ran out.
    #[must_use]
    pub const fn is_expiry(&self) -> bool {
        matches!(self, Self::Fault { fault: Fault::Expired { .. }, .. })
    }
}

/// How often and how long a lineage in change is waited for.
const LOOKS: u32 = 20;
const BETWEEN: Duration = Duration::from_millis(50);

/// Reads and checks a lineage at the time `now` (Unix seconds). Blocks, for at most a second while certbot changes it.
///
/// # Errors
/// See [`LineageError`]; beside it the files, where they could be read, so that a refusal can be remembered.
pub fn read(path: &Path, live: &Path, force: bool, now: i64) -> Result<Readable, (LineageError, Option<Bundle>)> {
    let fault = |fault| LineageError::Fault { path: path.to_owned(), fault };
    let elsewhere = path.parent() != Some(live);
    let bundle = whole(path, elsewhere).map_err(|error| (error, None))?;
    match (Lineage::of_path(path), usable(&bundle, force, now)) {
        (Ok(lineage), Ok((facts, spoiled))) => {
            let bad = |name: &FileName| spoiled.iter().any(|(spoiled, _)| spoiled == name);
            let good: Vec<FileName> = bundle.names().into_iter().filter(|name| !bad(name)).collect();
            Ok(Readable { lineage, path: path.to_owned(), bundle: bundle.only(&good), facts, spoiled })
        }
        (_, Err(wrong)) => Err((fault(wrong), Some(bundle))),
        (Err(_), Ok(_)) => Err((fault(Fault::NoLeaf), Some(bundle))),
    }
}

/// What the bundle says, and its files that are left out for it: an empty `chain.pem` beside a self-signed certificate
/// is nobody's loss. What holds the leaf and what fits it, `fullchain.pem` and `privkey.pem`, are good or nothing is.
fn usable(bundle: &Bundle, force: bool, now: i64) -> Result<(Facts, Vec<(FileName, Fault)>), Fault> {
    let mut names = bundle.names();
    let mut spoiled: Vec<(FileName, Fault)> = Vec::new();
    loop {
        let bundle = bundle.only(&names);
        let checked = if force { check::check_forgiving(&bundle, now) } else { check::check(&bundle, now) };
        match checked {
            Ok(facts) => return Ok((facts, spoiled)),
            Err(Fault::NoLeaf) if !spoiled.is_empty() => return Err(spoiled.swap_remove(0).1),
            Err(fault) => {
                let spare = |file: &FileName| matches!(file, FileName::Chain | FileName::Cert) && names.contains(file);
                let Some(file) = fault.unreadable().filter(spare) else { return Err(fault) };
                names.retain(|name| *name != file);
                spoiled.push((file, fault));
            }
        }
    }
}

/// The lineages in certbot's `live/`, by path.
///
/// # Errors
/// The directory cannot be read.
pub fn all(live: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in live.read_dir()? {
        let path = entry?.path();
        if path.is_dir() && Lineage::of_path(&path).is_ok() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The directories in certbot's `live/` whose names are none of a lineage; nothing of them is ever delivered.
#[must_use]
pub fn strange(live: &Path) -> Vec<PathBuf> {
    let entries = live.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    let mut strange: Vec<PathBuf> = entries.filter(|path| path.is_dir() && Lineage::of_path(path).is_err()).collect();
    strange.sort();
    strange
}

/// Which of `paths` lay in certbot's `live/` and are no longer there; none if `live/` itself cannot be seen.
#[must_use]
pub fn gone<'a>(live: &Path, paths: impl Iterator<Item = &'a Path>) -> BTreeSet<PathBuf> {
    if !live.is_dir() {
        return BTreeSet::new();
    }
    let is_gone = |path: &&Path| {
        let missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        path.parent() == Some(live) && path.metadata().as_ref().err().is_some_and(missing)
    };
    let named: BTreeSet<&Path> = paths.collect();
    named.into_iter().filter(is_gone).map(Path::to_owned).collect()
}

fn whole(path: &Path, elsewhere: bool) -> Result<Bundle, LineageError> {
    let mut found = String::new();
    for look in 0..LOOKS {
        if look > 0 {
            std::thread::sleep(BETWEEN);
        }
        let before = Versions::of(path)?;
        match before.one() {
            Ok(()) => {
                let bundle = files(path, elsewhere)?;
                if Versions::of(path)? == before {
                    return Ok(bundle);
                }
                found = before.to_string();
            }
            Err(mixed) => found = mixed,
        }
    }
    Err(LineageError::Mixed { path: path.to_owned(), versions: found })
}

/// What the names of a lineage point to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Versions(Vec<(FileName, Option<PathBuf>, Stamp)>);

/// Tells a file from its successor: device, inode, length, change time.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

impl Versions {
    pub(crate) fn of(path: &Path) -> Result<Self, LineageError> {
        let unreadable = |file, source| LineageError::Unreadable { path: path.to_owned(), file, source };
        path.read_dir().map_err(|source| unreadable(None, source))?;
        let mut all = Vec::with_capacity(4);
        for name in FileName::ALL {
            let file = path.join(name.as_str());
            let stamp = match file.metadata() {
                Ok(meta) => Some((meta.dev(), meta.ino(), meta.len(), meta.ctime(), meta.ctime_nsec())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(unreadable(Some(name), error)),
            };
            all.push((name, file.read_link().ok(), stamp));
        }
        Ok(Self(all))
    }

    /// Whether all links point to one version; files that are no links have none.
    fn one(&self) -> Result<(), String> {
        let mut numbers = self.0.iter().filter_map(|(name, link, _)| number(*name, link.as_deref()?));
        let Some(first) = numbers.next() else { return Ok(()) };
        if numbers.all(|number| number == first) { Ok(()) } else { Err(self.to_string()) }
    }
}

impl std::fmt::Display for Versions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = self.0.iter().filter_map(|(_, link, _)| Some(link.as_ref()?.file_name()?.to_string_lossy()));
        f.write_str(&shown.collect::<Vec<_>>().join(", "))
    }
}

/// 12 of `../../archive/x/privkey12.pem`.
fn number(name: FileName, link: &Path) -> Option<u64> {
    let stem = link.file_stem()?.to_str()?;
    stem.strip_prefix(name.as_str().strip_suffix(".pem")?)?.parse().ok()
}

fn files(path: &Path, elsewhere: bool) -> Result<Bundle, LineageError> {
    let tree = if elsewhere { own_tree(path) } else { None };
    if elsewhere {
        is_trusted(path)?;
    }
    let mut bundle = Bundle::default();
    for name in FileName::ALL {
        let unreadable = |source| LineageError::Unreadable { path: path.to_owned(), file: Some(name), source };
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
        let file = path.join(name.as_str());
        let opened = match rustix::fs::open(&file, flags, rustix::fs::Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(rustix::io::Errno::NOENT) => continue,
            Err(error) => return Err(unreadable(error.into())),
        };
        let meta = opened.metadata().map_err(unreadable)?;
        let strange = |reason| LineageError::Strange { path: path.to_owned(), file: name, reason };
        if !meta.is_file() {
            return Err(strange("is not a regular file".to_owned()));
        }
        if elsewhere {
            let us = rustix::process::geteuid().as_raw();
            if meta.uid() != 0 && meta.uid() != us {
                return Err(strange(format!("belongs to user {}, not to root or to us ({us})", meta.uid())));
            }
            let real = file.canonicalize().map_err(unreadable)?;
            if tree.as_ref().is_some_and(|tree| !real.starts_with(tree)) {
                return Err(strange(format!("leads out of the lineage's own tree, to `{}`", real.display())));
            }
        }
        let limit = name.limit();
        let too_large = || LineageError::TooLarge { path: path.to_owned(), file: name, limit };
        if meta.len() > limit {
            return Err(too_large());
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(limit).unwrap_or_default() + 1));
        opened.take(limit + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if u64::try_from(bytes.len()).is_ok_and(|length| length > limit) {
            return Err(too_large());
        }
        bundle.insert(name, bytes);
    }
    Ok(bundle)
}

/// Whoever owns a directory decides what its names lead to.
fn is_trusted(path: &Path) -> Result<(), LineageError> {
    let unreadable = |source| LineageError::Unreadable { path: path.to_owned(), file: None, source };
    let owner = path.metadata().map_err(unreadable)?.uid();
    let us = rustix::process::geteuid().as_raw();
    if owner == 0 || owner == us {
        return Ok(());
    }
    let words = format!("the directory belongs to user {owner}, not to root or to us ({us})");
    Err(unreadable(io::Error::new(io::ErrorKind::PermissionDenied, words)))
}

/// What a lineage outside `live_directory` may link into: the directory that holds `live/` and `archive/`, else itself.
fn own_tree(path: &Path) -> Option<PathBuf> {
    let real = path.canonicalize().ok()?;
    let live = real.parent().filter(|parent| parent.file_name().is_some_and(|name| name == "live"));
    Some(live.and_then(Path::parent).map_or_else(|| real.clone(), Path::to_owned))
}

#[cfg(test)]
mod tests;
