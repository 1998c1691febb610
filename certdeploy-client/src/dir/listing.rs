//! What lies in a held directory, by name. Opens nothing of it.

use std::ffi::OsStr;
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
                    kind = self.kind(name, AtFlags::SYMLINK_NOFOLLOW).unwrap_or(kind);
                }
                entries.push((name.to_owned(), kind));
            }
        }
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(entries)
    }

    /// The directories inside whose names are no UTF-8, as far as they can be shown; hidden ones are left out.
    ///
    /// # Errors
    /// As `getdents(2)`.
    pub fn directories_without_text(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.0)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_text = name.to_str().is_ok();
            let is_hidden = name.to_bytes().starts_with(b".");
            if !is_text && !is_hidden && self.kind(name, AtFlags::SYMLINK_NOFOLLOW) == Some(FileType::Directory) {
                names.push(name.to_string_lossy().into_owned());
            }
        }
        Ok(names)
    }

    /// Whether a link inside leads to a directory.
    #[must_use]
    pub fn leads_to_directory(&self, name: &str) -> bool {
        self.kind(name, AtFlags::empty()) == Some(FileType::Directory)
    }

    fn kind(&self, name: impl rustix::path::Arg, how: AtFlags) -> Option<FileType> {
        let stat = rustix::fs::statat(&self.0, name, how).ok()?;
        Some(FileType::from_raw_mode(stat.st_mode))
    }
}
