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
    /// Its files.
    pub bundle: Bundle,
    /// What the certificate says.
    pub facts: Facts,
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
    let checked = if force { check::check_forgiving(&bundle, now) } else { check::check(&bundle, now) };
    match (Lineage::of_path(path), checked) {
        (Ok(lineage), Ok(facts)) => Ok(Readable { lineage, path: path.to_owned(), bundle, facts }),
        (_, Err(wrong)) => Err((fault(wrong), Some(bundle))),
        (Err(_), Ok(_)) => Err((fault(Fault::NoLeaf), Some(bundle))),
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
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const NOW: i64 = 1_750_000_000;

    /// A lineage as certbot lays it out, at `<dir>/live/x`, with versions 1 and 2 in the archive.
    fn made(dir: &Path) -> PathBuf {
        let (live, archive) = (dir.join("live/x"), dir.join("archive/x"));
        std::fs::create_dir_all(&live).unwrap();
        std::fs::create_dir_all(&archive).unwrap();
        for version in 1..=2 {
            let key = rcgen::KeyPair::generate().unwrap();
            let cert =
                rcgen::CertificateParams::new(vec!["a.example".into()]).unwrap().self_signed(&key).unwrap().pem();
            for (name, text) in [("cert", &cert), ("chain", &cert), ("fullchain", &format!("{cert}{cert}"))] {
                std::fs::write(archive.join(format!("{name}{version}.pem")), text).unwrap();
            }
            std::fs::write(archive.join(format!("privkey{version}.pem")), key.serialize_pem()).unwrap();
        }
        for name in FileName::ALL {
            point(&live, name, 1);
        }
        live
    }

    fn point(live: &Path, name: FileName, version: u32) {
        let link = live.join(name.as_str());
        let _ = std::fs::remove_file(&link);
        let stem = name.as_str().strip_suffix(".pem").unwrap();
        symlink(format!("../../archive/x/{stem}{version}.pem"), link).unwrap();
    }

    #[test]
    fn a_lineage_is_read_whole_and_a_mixed_one_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let live = made(dir.path());
        let readable = read(&live, &dir.path().join("live"), false, NOW).unwrap();
        assert_eq!((readable.lineage.as_str(), readable.bundle.names().len()), ("x", 4));
        point(&live, FileName::Privkey, 2);
        let (error, _) = read(&live, &dir.path().join("live"), false, NOW).unwrap_err();
        assert!(matches!(&error, LineageError::Mixed { versions, .. } if versions.contains("privkey2.pem")), "{error}");
        assert!(!error.is_permanent());
    }

    #[test]
    fn a_swap_in_progress_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let live = made(dir.path());
        point(&live, FileName::Privkey, 2);
        let finish = live.clone();
        let certbot = std::thread::spawn(move || {
            for name in [FileName::Cert, FileName::Chain, FileName::Fullchain] {
                point(&finish, name, 2);
            }
        });
        assert!(read(&live, &dir.path().join("live"), false, NOW).is_ok());
        certbot.join().unwrap();
    }

    #[test]
    fn another_certificates_key_an_expired_leaf_and_huge_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let live = made(dir.path());
        let parent = dir.path().join("live");
        let (error, bundle) = read(&live, &parent, false, 95_000_000_000).unwrap_err();
        assert!(error.is_permanent() && bundle.is_some() && error.to_string().contains("expired"), "{error}");
        assert!(read(&live, &parent, true, 95_000_000_000).is_ok());
        let archive = dir.path().join("archive/x");
        std::fs::copy(archive.join("privkey2.pem"), archive.join("privkey1.pem")).unwrap();
        let (error, _) = read(&live, &parent, true, NOW).unwrap_err();
        assert!(error.to_string().contains("does not belong to the certificate"), "{error}");
        std::fs::write(archive.join("chain1.pem"), vec![b'x'; 200_000]).unwrap();
        assert!(matches!(read(&live, &parent, false, NOW).unwrap_err().0, LineageError::TooLarge { .. }));
    }

    #[test]
    fn a_lineage_from_elsewhere_may_not_lead_out_of_its_tree() {
        let dir = tempfile::tempdir().unwrap();
        let live = made(dir.path());
        let other = Path::new("/somewhere/live");
        assert!(read(&live, other, false, NOW).is_ok());
        let outside = tempfile::tempdir().unwrap();
        std::fs::copy(dir.path().join("archive/x/privkey1.pem"), outside.path().join("privkey1.pem")).unwrap();
        std::fs::remove_file(live.join("privkey.pem")).unwrap();
        symlink(outside.path().join("privkey1.pem"), live.join("privkey.pem")).unwrap();
        let (error, _) = read(&live, other, false, NOW).unwrap_err();
        assert!(matches!(error, LineageError::Strange { .. }), "{error}");
        assert!(read(&live, &dir.path().join("live"), false, NOW).is_ok(), "live/ itself may link anywhere");
    }

    #[test]
    fn live_lists_directories_with_safe_names() {
        let dir = tempfile::tempdir().unwrap();
        made(dir.path());
        std::fs::write(dir.path().join("live/README"), "").unwrap();
        assert_eq!(all(&dir.path().join("live")).unwrap(), [dir.path().join("live/x")]);
        assert!(all(&dir.path().join("nothing")).is_err());
    }
}
