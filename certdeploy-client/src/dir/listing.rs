//! What lies in a held directory, by name. Opens nothing of it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType};

use super::Dir;

impl Dir {
    /// The names inside that are UTF-8, with what they are; sorted, so that every run sees the same order.
    ///
    /// # Errors
    /// As `getdents(2)`.
    pub fn entries(&self) -> io::Result<Vec<(String, FileType)>> {
        let mut entries = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.0)? {
            let entry = entry?;
            let Some(name) = OsStr::from_bytes(entry.file_name().to_bytes()).to_str() else { continue };
            if !matches!(name, "." | "..") {
                let mut kind = entry.file_type();
                if kind == FileType::Unknown {
                    kind = self.kind(name).unwrap_or(kind);
                }
                entries.push((name.to_owned(), kind));
            }
        }
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(entries)
    }

    /// The names inside that are no UTF-8; hidden ones are left out.
    ///
    /// # Errors
    /// As `getdents(2)`.
    pub fn names_without_text(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.0)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_str().is_err() && !name.to_bytes().starts_with(b".") {
                names.push(OsStr::from_bytes(name.to_bytes()).to_owned());
            }
        }
        Ok(names)
    }

    /// What something inside is; a link is not followed.
    fn kind(&self, name: &str) -> Option<FileType> {
        let stat = rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some(FileType::from_raw_mode(stat.st_mode))
    }
}
