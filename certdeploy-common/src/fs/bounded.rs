//! Reads plain files up to a size that is known beforehand: what people point a setting at may be a FIFO, a device or
//! a log. Knows nothing of what is inside.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
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
    /// It is larger than anything that belongs there.
    #[error("`{}` is larger than {limit} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// It is not text.
    #[error("`{}` is not text", .0.display())]
    NotText(PathBuf),
}

impl ReadError {
    /// Whether there is no such file.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Unreadable { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Reads a text of at most `limit` bytes.
///
/// # Errors
/// See [`ReadError`].
pub fn text(path: &Path, limit: u64) -> Result<String, ReadError> {
    let (file, meta) = open(path, limit)?;
    let mut bytes = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or_default());
    file.take(limit)
        .read_to_end(&mut bytes)
        .map_err(|source| ReadError::Unreadable { path: path.to_owned(), source })?;
    String::from_utf8(bytes).map_err(|_| ReadError::NotText(path.to_owned()))
}

/// Opens a plain file that has at most `limit` bytes now.
///
/// # Errors
/// See [`ReadError`].
pub fn open(path: &Path, limit: u64) -> Result<(File, Metadata), ReadError> {
    let unreadable = |source| ReadError::Unreadable { path: path.to_owned(), source };
    // O_NONBLOCK: a FIFO in the file's place must not hang us.
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).map_err(|e| unreadable(e.into()))?;
    let file = File::from(fd);
    let meta = file.metadata().map_err(unreadable)?;
    if !meta.is_file() {
        return Err(ReadError::NotAFile(path.to_owned()));
    }
    if meta.len() > limit {
        return Err(ReadError::TooLarge { path: path.to_owned(), limit });
    }
    Ok((file, meta))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_small_text_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        assert!(text(&path, 10).unwrap_err().is_missing());
        std::fs::write(&path, "0123456789").unwrap();
        assert_eq!(text(&path, 10).unwrap(), "0123456789");
        assert!(matches!(text(&path, 9), Err(ReadError::TooLarge { limit: 9, .. })));
        assert!(matches!(text(dir.path(), 9), Err(ReadError::NotAFile(_))));
        std::fs::write(&path, [0xff]).unwrap();
        assert!(matches!(text(&path, 9), Err(ReadError::NotText(_))));
    }
}
