//! Who else can change, or read, what we trust: a config, a key, a script, and the directories above them. Looks at the
//! file that is open, not at its name. Must not decide whether that is an error.

use std::collections::BTreeSet;
use std::fs::{File, Metadata};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What others may not do with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// Write it.
    Trusted,
    /// Write or read it.
    Secret,
}

/// Where container engines put secrets, readable by everybody inside: the container is the guard.
const SECRETS: &str = "/run/secrets";

/// What is wrong with who may do what, one sentence for each thing with the command that mends it. A file that cannot be
/// opened has nothing wrong here: whoever reads it says so.
#[must_use]
pub fn look(path: &Path, guard: Guard) -> Vec<String> {
    let Ok((meta, real)) = open(path) else { return Vec::new() };
    let shown = path.display();
    let mut found = Vec::new();
    let mode = meta.mode() & 0o7777;
    if let Some(owner) = foreign(&meta) {
        let us = us();
        found.push(format!("`{shown}` belongs to user {owner}, who can change it; mend it with: chown {us} {shown}"));
    }
    if guard == Guard::Secret && mode & 0o077 != 0 && !is_handed_in(&real) {
        found.push(format!("`{shown}` can be read by others (mode {mode:04o}); mend it with: chmod 600 {shown}"));
    } else if mode & 0o022 != 0 {
        found.push(format!("`{shown}` can be written by others (mode {mode:04o}); mend it with: chmod go-w {shown}"));
    }
    let named = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let above: BTreeSet<&Path> = [&real, &named].into_iter().flat_map(|path| path.ancestors().skip(1)).collect();
    found.extend(above.into_iter().filter_map(|directory| loose(directory, path)));
    found
}

/// Whether a file is one that was mounted into the container we run in: its owner and modes are the host's.
#[must_use]
pub fn is_mounted(path: &Path) -> bool {
    let contained = ["/.dockerenv", "/run/.containerenv"].iter().any(|mark| Path::new(mark).exists());
    let device = |path: &Path| path.metadata().map(|meta| meta.dev()).ok();
    contained && device(path) != device(Path::new("/"))
}

/// Whether the real path of a file is where container engines put secrets.
#[must_use]
pub fn is_handed_in(real: &Path) -> bool {
    real.starts_with(SECRETS)
}

/// The file behind a name, held while it is looked at, and its real name.
fn open(path: &Path) -> std::io::Result<(Metadata, PathBuf)> {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, rustix::fs::Mode::empty())?);
    let real = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).or_else(|_| path.canonicalize())?;
    Ok((file.metadata()?, real))
}

/// Who owns it, if that is neither root nor us.
fn foreign(meta: &Metadata) -> Option<u32> {
    let owner = meta.uid();
    (owner != 0 && owner != rustix::process::geteuid().as_raw()).then_some(owner)
}

fn us() -> String {
    match rustix::process::geteuid() {
        us if us.is_root() => "root".to_owned(),
        us => us.as_raw().to_string(),
    }
}

fn loose(directory: &Path, below: &Path) -> Option<String> {
    let meta = directory.metadata().ok()?;
    let (shown, below, mode) = (directory.display(), below.display(), meta.mode() & 0o7777);
    if let Some(owner) = foreign(&meta) {
        return Some(format!(
            "the directory `{shown}` belongs to user {owner}, who can replace `{below}`; mend it with: chown {} {shown}",
            us()
        ));
    }
    // In a sticky directory of root's, like /tmp, nobody replaces what is another's.
    let sticky = mode & 0o1000 != 0 && meta.uid() == 0;
    (mode & 0o022 != 0 && !sticky).then(|| {
        format!(
            "others can replace `{below}` in the directory `{shown}` (mode {mode:04o}); mend it with: chmod go-w {shown}"
        )
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn file_and_parents_are_looked_at_by_both_names() {
        let dir = tempfile::tempdir().unwrap();
        let (conf, far) = (dir.path().join("conf"), dir.path().join("far"));
        for folder in [&conf, &far] {
            std::fs::create_dir(folder).unwrap();
            chmod(folder, 0o755);
        }
        let (link, file) = (conf.join("key"), far.join("key"));
        std::fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let found = |mode, guard| {
            chmod(&file, mode);
            look(&link, guard)
        };
        assert_eq!(found(0o644, Guard::Trusted), Vec::<String>::new());
        assert_eq!(found(0o600, Guard::Secret), Vec::<String>::new());
        let shown = link.display();
        assert_eq!(
            found(0o664, Guard::Trusted),
            [format!("`{shown}` can be written by others (mode 0664); mend it with: chmod go-w {shown}")]
        );
        assert_eq!(
            found(0o640, Guard::Secret),
            [format!("`{shown}` can be read by others (mode 0640); mend it with: chmod 600 {shown}")]
        );
        for folder in [&conf, &far] {
            chmod(folder, 0o775);
            let said = found(0o600, Guard::Secret);
            let end = format!("(mode 0775); mend it with: chmod go-w {}", folder.display());
            assert!(said.len() == 1 && said[0].ends_with(&end), "{said:?}");
            chmod(folder, 0o755);
        }
        chmod(&far, 0o1777);
        let sticky = found(0o600, Guard::Secret);
        assert_eq!(sticky.is_empty(), rustix::process::geteuid().is_root(), "{sticky:?}");
        assert!(look(Path::new("/nowhere/at/all"), Guard::Secret).is_empty());
    }

    #[test]
    fn a_foreign_owner_is_named() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("script");
        std::fs::write(&file, "").unwrap();
        std::os::unix::fs::chown(&file, Some(4711), None).unwrap();
        let said = look(&file, Guard::Trusted);
        assert!(said[0].contains("belongs to user 4711") && said[0].contains("chown root "), "{said:?}");
        std::os::unix::fs::chown(&file, Some(0), None).unwrap();
        std::os::unix::fs::chown(dir.path(), Some(4711), None).unwrap();
        let said = look(&file, Guard::Trusted);
        assert!(said.len() == 1 && said[0].contains("who can replace `"), "{said:?}");
    }

    #[test]
    fn secrets_of_a_container_may_be_read_inside() {
        assert!(is_handed_in(Path::new("/run/secrets/host_key")));
        assert!(!is_handed_in(Path::new("/run/secrets.d/host_key")));
    }
}
