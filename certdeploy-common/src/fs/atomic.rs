//! Write, sync, rename: a reader sees the old file or the new one, also after a power cut. The one owner of
//! `rename`; must not decide what is written where.
#![expect(clippy::disallowed_methods, reason = "the owner of rename: every other file goes through here")]

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Puts `bytes` at `path` with `mode`, replacing what was there, durably.
///
/// # Errors
/// Any step failing; the old file is then still there, the temporary one is gone.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::other("not the path of a file"));
    };
    let temporary = parent.join(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
    let _ = std::fs::remove_file(&temporary);
    let written = create(&temporary, bytes, mode).and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written?;
    sync_directory(parent)
}

/// Makes a new file with exactly `mode` whatever the umask, and syncs it; its name is durable after
/// [`sync_directory`] only.
///
/// # Errors
/// The file exists, or cannot be written whole.
pub fn create(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode & 0o600).open(path)?;
    rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Renames within one file system and makes it durable.
///
/// # Errors
/// As `rename(2)` and `fsync(2)`.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)?;
    to.parent().map_or(Ok(()), sync_directory)
}

/// Makes the names in a directory durable.
///
/// # Errors
/// As `open(2)` and `fsync(2)`.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes a directory and its missing parents with `mode`, durably; one that exists is left as it is.
///
/// # Errors
/// As `mkdir(2)` and `fsync(2)`.
pub fn create_directory(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_directory(parent, 0o755)?;
    }
    match std::fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        made => made?,
    }
    parent.map_or(Ok(()), sync_directory)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_with_its_mode_and_without_leftovers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/state");
        create_directory(path.parent().unwrap(), 0o700).unwrap();
        write(&path, b"one", 0o600).unwrap();
        write(&path, b"two", 0o640).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(path.parent().unwrap().read_dir().unwrap().count(), 1);
    }
}
