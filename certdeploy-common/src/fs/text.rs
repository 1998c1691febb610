//! Reads a text file that people write: a plain file of a sensible size, in UTF-8. Says where it is not.

use std::io::{self, Read};
use std::path::Path;

use super::bounded::{self, ReadError};

/// The largest text file that is read: some ten thousand targets fit five times.
pub const LIMIT: u64 = 16 * 1024 * 1024;

/// Why a text file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// It cannot be read, is no plain file, or is too large.
    #[error(transparent)]
    Unreadable(#[from] ReadError),
    /// A byte is no UTF-8.
    #[error("not valid UTF-8 (byte 0x{byte:02x}); save the file as UTF-8")]
    NotUtf8 {
        /// The line of the byte, from 1.
        line: u64,
        /// Its column in characters, from 1.
        column: u64,
        /// The byte.
        byte: u8,
    },
}

impl TextError {
    /// Whether there is no such file.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Unreadable(error) if error.is_missing())
    }
}

/// Reads the whole file.
///
/// # Errors
/// See [`TextError`].
pub fn read(path: &Path) -> Result<String, TextError> {
    let (file, _) = bounded::open(path, LIMIT)?;
    let unreadable = |source: io::Error| ReadError::Unreadable { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    // One byte more than the limit, whatever size the file claims: files of /proc claim none.
    file.take(LIMIT + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LIMIT {
        return Err(ReadError::TooLarge { path: path.to_owned(), limit: LIMIT }.into());
    }
    String::from_utf8(bytes).map_err(|error| {
        let (good, bad) = error.as_bytes().split_at(error.utf8_error().valid_up_to());
        let good = String::from_utf8_lossy(good);
        let last = good.rsplit('\n').next().unwrap_or_default();
        let line = good.bytes().filter(|byte| *byte == b'\n').count() as u64 + 1;
        let column = last.chars().count() as u64 + 1;
        TextError::NotUtf8 { line, column, byte: bad.first().copied().unwrap_or_default() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_utf_8_files_of_a_sensible_size_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("good"), "a: \u{fc}\n").unwrap();
        std::fs::write(path("latin"), b"a: 1\nb: \xfc\n").unwrap();
        std::fs::File::create(path("huge")).unwrap().set_len(LIMIT + 1).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert_eq!(read(&path("good")).unwrap(), "a: \u{fc}\n");
        for (name, want) in [("huge", "larger than"), ("pipe", "not a regular file"), (".", "not a regular file")] {
            let message = read(&path(name)).unwrap_err().to_string();
            assert!(message.contains(want), "{name}: {message}");
        }
        assert!(read(Path::new("/dev/zero")).unwrap_err().to_string().contains("not a regular file"));
        assert!(read(&path("missing")).unwrap_err().is_missing());
        let place = read(&path("latin")).unwrap_err();
        assert!(matches!(place, TextError::NotUtf8 { line: 2, column: 4, byte: 0xfc }), "{place:?}");
    }
}
