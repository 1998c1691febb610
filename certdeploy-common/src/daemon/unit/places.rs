//! What the file system says about the paths in a sandbox: where links lead, where programs are, which modes directories
//! have. It must not write anything, and what is not there is no error.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::Needs;

/// Where systemd's own programs have the library that only they share, on systems that keep it apart.
const SYSTEMD_LIBRARIES: &str = "/usr/lib/systemd";

/// The needs with everything under the name it really has as well: `search` is a `PATH`, for programs without a directory.
#[must_use]
pub fn resolved(mut needs: Needs, search: &OsStr) -> Needs {
    needs.writes = both(&needs.writes);
    needs.reads = both(&needs.reads);
    needs.executes = needs.executes.map(|programs| executed(&programs, search));
    needs.makes.extend(needs.writes.iter().filter(|path| is_volatile(path)).cloned());
    needs.modes = needs.makes.iter().filter_map(|path| Some((path.clone(), mode(path)?))).collect();
    needs
}

/// What is empty after the next boot, or may be emptied by whoever wants.
fn is_volatile(path: &Path) -> bool {
    // Somebody else's is made by somebody else: systemd would make it the unit's user's.
    let ours = path.metadata().map_or(true, |meta| meta.is_dir() && meta.uid() == 0);
    ours && ["/run", "/var/run", "/var/cache"].iter().any(|place| path.starts_with(place))
}

fn mode(path: &Path) -> Option<u32> {
    let meta = path.metadata().ok().filter(std::fs::Metadata::is_dir)?;
    Some(meta.permissions().mode() & 0o7777)
}

fn both(paths: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
    paths.iter().flat_map(|path| [path.clone(), end(path)]).collect()
}

/// Where a path leads when its links are followed, as far as they lead; what they lead to need not exist.
#[must_use]
pub fn end(path: &Path) -> PathBuf {
    /// As many as the kernel follows (`path_resolution(7)`).
    const LINKS: usize = 40;
    let mut at = path.to_owned();
    for _ in 0..LINKS {
        let there = at.ancestors().find(|there| there.symlink_metadata().is_ok());
        let Some((there, rest)) = there.and_then(|there| Some((there, at.strip_prefix(there).ok()?))) else { break };
        let with_rest = |real: PathBuf| if rest.as_os_str().is_empty() { real } else { real.join(rest) };
        if let Ok(real) = there.canonicalize() {
            return with_rest(real);
        }
        let Ok(to) = there.read_link() else { break };
        at = with_rest(there.parent().unwrap_or(Path::new("/")).join(to));
    }
    at
}

/// The directories of files that are written, and those of what links in their place lead to: a file that was rotated
/// away is made anew. What is none, as standard output, has none.
#[must_use]
pub fn of_files<'a>(files: impl IntoIterator<Item = &'a PathBuf>) -> BTreeSet<PathBuf> {
    let written = files.into_iter().filter(|path| path.is_absolute() && !path.starts_with("/dev"));
    let names = written.flat_map(|path| [path.clone(), end(path)]);
    names.filter_map(|path| path.parent().map(Path::to_owned)).collect()
}

/// The program of this name: itself if it has a directory, else the first in `search`.
#[must_use]
pub fn program(name: &Path, search: &OsStr) -> Option<PathBuf> {
    if name.is_absolute() {
        return Some(name.to_owned());
    }
    let runs = |path: &Path| path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    let found = std::env::split_paths(search).map(|directory| directory.join(name)).find(|path| runs(path));
    found.or_else(|| std::path::absolute(name).ok().filter(|path| runs(path)))
}

fn executed(programs: &BTreeSet<PathBuf>, search: &OsStr) -> BTreeSet<PathBuf> {
    let found: BTreeSet<PathBuf> = programs.iter().filter_map(|name| program(name, search)).collect();
    let mut all = both(&found);
    let systemctl = found.iter().any(|path| path.file_name().is_some_and(|name| name == "systemctl"));
    if systemctl && Path::new(SYSTEMD_LIBRARIES).is_dir() {
        all.insert(SYSTEMD_LIBRARIES.into());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_as_far_as_there_is_something() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().canonicalize().unwrap();
        std::fs::create_dir(at.join("real")).unwrap();
        std::os::unix::fs::symlink(at.join("real"), at.join("link")).unwrap();
        assert_eq!(end(&at.join("link")), at.join("real"));
        assert_eq!(end(&at.join("link/not/there")), at.join("real/not/there"));
        std::os::unix::fs::symlink("real/later/file", at.join("dangling")).unwrap();
        assert_eq!(end(&at.join("dangling")), at.join("real/later/file"));
        std::os::unix::fs::symlink("circle", at.join("circle")).unwrap();
        assert_eq!(end(&at.join("circle")), at.join("circle"));
        let needs = Needs { writes: [at.join("link/x")].into(), ..Needs::default() };
        let writes = resolved(needs, OsStr::new("")).writes;
        assert_eq!(writes, [at.join("link/x"), at.join("real/x")].into());
        std::fs::write(at.join("real/log"), "").unwrap();
        std::os::unix::fs::symlink(at.join("real/log"), at.join("log")).unwrap();
        let files = [at.join("log"), at.join("link/new"), "/dev/stderr".into(), "relative".into()];
        assert_eq!(of_files(&files), [at.clone(), at.join("real"), at.join("link")].into());
    }

    #[test]
    fn programs_without_a_directory_are_found_and_bring_their_libraries() {
        let search = OsStr::new("/nonexistent:/usr/bin:/bin");
        assert_eq!(program(Path::new("true"), search), Some("/usr/bin/true".into()));
        assert_eq!(program(Path::new("no-such-program"), search), None);
        let folder = tempfile::tempdir().unwrap();
        let systemctl = folder.path().join("systemctl");
        let needs = Needs { executes: Some([systemctl.clone(), "true".into()].into()), ..Needs::default() };
        let executes = resolved(needs, search).executes.unwrap();
        assert!(executes.contains(&systemctl) && executes.contains(Path::new("/usr/bin/true")), "{executes:?}");
        assert!(executes.iter().all(|path| path.is_absolute()), "{executes:?}");
        assert_eq!(executes.contains(Path::new(SYSTEMD_LIBRARIES)), Path::new(SYSTEMD_LIBRARIES).is_dir());
    }
}
