//! Reads files that must be private: refuses what others can read, with the exact way out. Looks at the open file,
//! not at its name, so nothing can be swapped in between.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Why a private file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    /// It cannot be opened or read.
    #[error("cannot read `{}`: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is a directory, a device, a FIFO.
    #[error("`{}` is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// Group or others may read it.
    #[error("`{}` can be read by others (mode {mode:04o}); mend it with: chmod 600 {}", path.display(), path.display())]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its mode now.
        mode: u32,
    },
    /// It is larger than anything that belongs there.
    #[error("`{}` is larger than {limit} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
}

/// Reads a file that only its owner may read, of at most `limit` bytes.
///
/// # Errors
/// See [`PrivateFileError`].
pub fn read(path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, PrivateFileError> {
    let unreadable = |source| PrivateFileError::Unreadable { path: path.to_owned(), source };
    // O_NONBLOCK: a FIFO in the key's place must not hang us.
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).map_err(|e| unreadable(e.into()))?;
    let file = File::from(fd);
    let meta = file.metadata().map_err(unreadable)?;
    if !meta.is_file() {
        return Err(PrivateFileError::NotAFile(path.to_owned()));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(PrivateFileError::TooOpen { path: path.to_owned(), mode: meta.mode() & 0o7777 });
    }
    if meta.len() > limit {
        return Err(PrivateFileError::TooLarge { path: path.to_owned(), limit });
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(meta.len()).unwrap_or_default() + 1));
    file.take(limit).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_command_that_mends_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "secret").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let message = read(&path, 100).unwrap_err().to_string();
        assert!(message.ends_with(&format!("(mode 0640); mend it with: chmod 600 {}", path.display())), "{message}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(read(&path, 100).unwrap().as_slice(), b"secret");
        assert!(matches!(read(&path, 3), Err(PrivateFileError::TooLarge { .. })));
        assert!(matches!(read(dir.path(), 3), Err(PrivateFileError::NotAFile(_))));
    }
}
