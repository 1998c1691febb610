//! The open files of one session: uploads being written, virtual files being read, listings. Must not know paths.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;

use certdeploy_common::cert::Lineage;

use super::refusal::Refusal;

/// What a handle stands for.
#[derive(Debug)]
pub enum Open {
    /// A file that is being uploaded.
    Upload(Upload),
    /// A virtual file.
    Virtual(Vec<u8>),
    /// A directory listing; `None` once it was read.
    Listing(Option<Vec<(String, Entry)>>),
}

/// A file that is being uploaded.
#[derive(Debug)]
pub struct Upload {
    /// The file.
    pub file: File,
    /// The largest it may grow, in bytes.
    pub limit: u64,
    /// Whether each write goes to its end, wherever the peer says.
    pub append: bool,
    /// What it is, unless it is of a push, whose manifest tells what is whole.
    pub of: Option<Label>,
}

/// A file of a lineage, as it is called on disk.
pub type Label = (Lineage, &'static str);

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// A directory.
    Directory,
    /// A file with its length in bytes and modification time in Unix seconds.
    File {
        /// Length in bytes.
        length: u64,
        /// Unix seconds.
        modified: i64,
    },
}

/// The most bytes of virtual files that one session may have open: each is a copy.
const VIRTUAL_LIMIT: usize = 16 * 1024 * 1024;

/// The handles of one session, never more than its limit.
#[derive(Debug)]
pub struct Handles {
    most: usize,
    /// How many bytes may still be written.
    left: u64,
    /// Whether the disk has refused something: what was put is not what was sent.
    pub(super) torn: bool,
    /// Files of which a part was refused: what was put is a beginning, and may look like a whole.
    pub(super) cut: BTreeSet<Label>,
    next: u32,
    open: BTreeMap<u32, Open>,
}

impl Handles {
    /// No handles, at most `most` at once, and at most `bytes` written through all of them.
    #[must_use]
    pub fn new(most: u32, bytes: u64) -> Self {
        Self {
            most: usize::try_from(most).unwrap_or(usize::MAX),
            left: bytes,
            torn: false,
            cut: BTreeSet::new(),
            next: 0,
            open: BTreeMap::new(),
        }
    }

    /// Whether none is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Fails when there is no room for one more.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn room(&self) -> Result<(), Refusal> {
        if self.open.len() < self.most { Ok(()) } else { Err(Refusal::TooMany("open files")) }
    }

    /// Opens a handle.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn open(&mut self, what: Open) -> Result<u32, Refusal> {
        self.room()?;
        let size = |what: &Open| if let Open::Virtual(bytes) = what { bytes.len() } else { 0 };
        if size(&what) > 0 && self.open.values().chain([&what]).map(size).sum::<usize>() > VIRTUAL_LIMIT {
            return Err(Refusal::TooMany("open files"));
        }
        self.next = self.next.wrapping_add(1);
        self.open.insert(self.next, what);
        Ok(self.next)
    }

    /// Closes a handle.
    ///
    /// # Errors
    /// There is no such handle.
    pub fn close(&mut self, handle: u32) -> Result<Open, Refusal> {
        self.open.remove(&handle).ok_or(Refusal::Handle)
    }

    /// Writes into an upload.
    ///
    /// # Errors
    /// No such upload, beyond its limit or the session's, or the disk refuses.
    pub fn write(&mut self, handle: u32, offset: u64, bytes: &[u8]) -> Result<(), Refusal> {
        let upload = self.upload(handle)?;
        let offset = if upload.append { upload.file.metadata().map_err(Refusal::Io)?.len() } else { offset };
        let end = u64::try_from(bytes.len()).ok().and_then(|length| offset.checked_add(length));
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let left = match (end, self.left.checked_sub(length)) {
            (Some(end), Some(left)) if end <= upload.limit => left,
            (end, _) => {
                let large = end.is_none_or(|end| end > upload.limit);
                let refusal =
                    if large { Refusal::TooLarge(upload.limit) } else { Refusal::TooMany("bytes in one connection") };
                self.cut.extend(upload.of.clone());
                return Err(refusal);
            }
        };
        upload.file.write_all_at(bytes, offset).map_err(|error| {
            self.torn = true;
            Refusal::Io(error)
        })?;
        self.left = left;
        Ok(())
    }

    /// Cuts an upload, as `scp` does after it has written.
    ///
    /// # Errors
    /// No such upload, beyond its limit, or the disk refuses.
    pub fn truncate(&self, handle: u32, length: u64) -> Result<(), Refusal> {
        let upload = self.upload(handle)?;
        if length > upload.limit {
            return Err(Refusal::TooLarge(upload.limit));
        }
        upload.file.set_len(length).map_err(Refusal::Io)
    }

    /// What an open file is like.
    ///
    /// # Errors
    /// No such handle, or the disk refuses.
    pub fn stat(&self, handle: u32) -> Result<Entry, Refusal> {
        match self.open.get(&handle) {
            Some(Open::Upload(upload)) => {
                let meta = upload.file.metadata().map_err(Refusal::Io)?;
                Ok(Entry::File { length: meta.len(), modified: std::os::unix::fs::MetadataExt::mtime(&meta) })
            }
            Some(Open::Virtual(bytes)) => {
                Ok(Entry::File { length: u64::try_from(bytes.len()).unwrap_or(u64::MAX), modified: 0 })
            }
            Some(Open::Listing(_)) => Ok(Entry::Directory),
            None => Err(Refusal::Handle),
        }
    }

    /// Reads from a virtual file; `None` at its end. Uploads cannot be read back: nothing hands out key bytes.
    ///
    /// # Errors
    /// No such virtual file.
    pub fn read(&self, handle: u32, offset: u64, length: u32) -> Result<Option<Vec<u8>>, Refusal> {
        let Some(Open::Virtual(bytes)) = self.open.get(&handle) else { return Err(Refusal::Handle) };
        let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
        let piece: Vec<u8> = rest.iter().copied().take(usize::try_from(length).unwrap_or(usize::MAX)).collect();
        Ok((!piece.is_empty()).then_some(piece))
    }

    /// The whole listing the first time, then `None`.
    ///
    /// # Errors
    /// No such listing.
    pub fn list(&mut self, handle: u32) -> Result<Option<Vec<(String, Entry)>>, Refusal> {
        match self.open.get_mut(&handle) {
            Some(Open::Listing(entries)) => Ok(entries.take()),
            Some(Open::Upload(_) | Open::Virtual(_)) | None => Err(Refusal::Handle),
        }
    }

    fn upload(&self, handle: u32) -> Result<&Upload, Refusal> {
        match self.open.get(&handle) {
            Some(Open::Upload(upload)) => Ok(upload),
            Some(Open::Virtual(_) | Open::Listing(_)) | None => Err(Refusal::Handle),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_one_session_writes_or_has_read_to_it_is_bounded() {
        let mut handles = Handles::new(4, 100_000);
        let file = tempfile::tempfile().unwrap();
        let one = handles.open(Open::Upload(Upload { file, limit: 16_384, append: false, of: None })).unwrap();
        // The same file over and over.
        let written = (0..20).take_while(|_| handles.write(one, 0, &[b'x'; 10_000]).is_ok()).count();
        assert_eq!(written, 10);
        let large = || Open::Virtual(vec![0; 9 * 1024 * 1024]);
        let handle = handles.open(large()).unwrap();
        assert!(matches!(handles.open(large()), Err(Refusal::TooMany(_))));
        handles.close(handle).unwrap();
        handles.open(large()).unwrap();
    }
}
