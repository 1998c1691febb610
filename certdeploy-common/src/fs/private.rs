//! Reads files that must be private: refuses what others can read, with the exact way out. Looks at the open file,
//! not at its name, so nothing can be swapped in between.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::bounded::{self, ReadError};
use super::modes;

/// Why a private file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] ReadError),
    /// Group or others may read it.
    #[error("`{}` can be read by others (mode {mode:04o}); mend it with: chmod 600 {}", path.display(), path.display())]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its mode now.
        mode: u32,
    },
}

/// Reads a file that only its owner may read, of at most `limit` bytes. What a container engine hands in as a secret may be
/// read by everybody in there.
///
/// # Errors
/// See [`PrivateFileError`].
pub fn read(path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, PrivateFileError> {
    let (file, meta) = bounded::open(path, limit)?;
    let handed_in = || path.canonicalize().is_ok_and(|real| modes::is_handed_in(&real));
    if meta.mode() & 0o022 != 0 || (meta.mode() & 0o077 != 0 && !handed_in()) {
        return Err(PrivateFileError::TooOpen { path: path.to_owned(), mode: meta.mode() & 0o7777 });
    }
    Ok(whole(path, file, &meta, limit)?)
}

/// Reads a secret whose directory keeps others out, whatever its own mode says (systemd's credentials show the mask of
/// an ACL as the group's rights), of at most `limit` bytes.
///
/// # Errors
/// See [`ReadError`].
pub fn read_guarded(path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, ReadError> {
    let (file, meta) = bounded::open(path, limit)?;
    whole(path, file, &meta, limit)
}

fn whole(path: &Path, file: File, meta: &Metadata, limit: u64) -> Result<Zeroizing<Vec<u8>>, ReadError> {
    // Room for all of it from the start: a vector that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(meta.len()).unwrap_or_default() + 1));
    file.take(limit)
        .read_to_end(&mut bytes)
        .map_err(|source| ReadError::Unreadable { path: path.to_owned(), source })?;
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
        assert!(matches!(read(&path, 3), Err(PrivateFileError::File(ReadError::TooLarge { .. }))));
        assert!(matches!(read(dir.path(), 3), Err(PrivateFileError::File(ReadError::NotAFile(_)))));
    }
}
