//! What a plain peer does with its files besides writing them: takes them back, gives them their final names. Must not
//! touch a push.

use certdeploy_common::cert::{FileName, Lineage};

use super::{Mode, Session};
use crate::dir::Dir;
use crate::staging::files::Label;
use crate::staging::path::{PlainName, UploadPath};
use crate::staging::refusal::{Refusal, refusal};

/// Whether the file is there, under its own name or a temporary one.
pub(super) fn has(directory: &Dir, name: FileName) -> bool {
    directory.has(name.as_str()) || directory.has(PlainName::Part(name).on_disk())
}

impl Session {
    /// What is written there, unless it is a push's; one that begins anew has lost nothing yet.
    pub(super) fn begins(&mut self, path: &UploadPath, mode: Mode) -> Option<Label> {
        let UploadPath::LineageFile(lineage, file) = path else { return None };
        let label = (lineage.clone(), file.on_disk());
        if matches!(mode, Mode::Create | Mode::Replace) {
            self.handles.cut.remove(&label);
        }
        Some(label)
    }

    /// `REMOVE` of a file that this session has put.
    ///
    /// # Errors
    /// It is not this session's, or the disk refuses.
    pub fn remove(&mut self, path: &UploadPath) -> Result<(), Refusal> {
        let UploadPath::LineageFile(lineage, name) = path else { return Err(Refusal::Unsupported) };
        let directory = self.lineage(lineage)?;
        if !directory.has(name.on_disk()) {
            return Err(Refusal::Missing);
        }
        directory.remove_file(name.on_disk()).map_err(refusal)?;
        self.handles.cut.remove(&(lineage.clone(), name.on_disk()));
        Ok(())
    }

    /// `RMDIR` of a lineage's directory that this session has made, and that is empty.
    ///
    /// # Errors
    /// It is not this session's, not empty, or the disk refuses.
    pub fn remove_directory(&mut self, path: &UploadPath) -> Result<(), Refusal> {
        let UploadPath::Lineage(lineage) = path else { return Err(Refusal::Unsupported) };
        let directory = self.lineage(lineage)?;
        if !directory.entries().map_err(refusal)?.is_empty() {
            return Err(Refusal::Denied("it is not empty".to_owned()));
        }
        if let Some(own) = &self.own {
            own.remove_tree(lineage.as_str()).map_err(refusal)?;
        }
        self.lineages.remove(lineage);
        Ok(())
    }

    /// `RENAME` among the files that this session has put; what was there under the new name goes.
    ///
    /// # Errors
    /// They are not this session's, it is larger than anything of the new name, or the disk refuses.
    pub fn rename(&mut self, from: &UploadPath, to: &UploadPath) -> Result<(), Refusal> {
        let (UploadPath::LineageFile(lineage, name), UploadPath::LineageFile(into, new)) = (from, to) else {
            return Err(Refusal::Unsupported);
        };
        let (old_label, new_label) = ((lineage.clone(), name.on_disk()), (into.clone(), new.on_disk()));
        let (directory, into) = (self.lineage(lineage)?, self.lineage(into)?);
        if !directory.has(name.on_disk()) {
            return Err(Refusal::Missing);
        }
        if directory.stat(name.on_disk()).is_some_and(|(length, _)| length > new.limit()) {
            return Err(Refusal::TooLarge(new.limit()));
        }
        directory.rename(name.on_disk(), &into, new.on_disk()).map_err(refusal)?;
        if self.handles.cut.remove(&old_label) {
            self.handles.cut.insert(new_label);
        } else {
            self.handles.cut.remove(&new_label);
        }
        Ok(())
    }

    /// Why what a plain peer has put of a lineage cannot be taken for complete.
    pub(super) fn not_whole(&self, lineage: &Lineage, directory: &Dir, clean: bool) -> Option<&'static str> {
        let parts = FileName::ALL.into_iter().any(|name| directory.has(PlainName::Part(name).on_disk()));
        if self.handles.torn {
            return Some("the disk could not take all of it");
        }
        let readme = [PlainName::Readme, PlainName::ReadmePart].map(PlainName::on_disk);
        if self.handles.cut.iter().any(|(of, name)| of == lineage && !readme.contains(name)) {
            return Some("a file of it is larger than is taken, and only its beginning was");
        }
        match (clean, self.handles.is_empty(), parts) {
            (false, _, _) => Some("the connection broke before the session was ended"),
            (true, false, _) => Some("the session ended with a file still open"),
            (true, true, true) => Some("a file was not renamed from its temporary name"),
            (true, true, false) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::pushers::Scope;
    use crate::staging::session::Most;

    fn path(text: &str) -> UploadPath {
        crate::staging::path::parse(text, "/source").unwrap()
    }

    fn session(temp: &tempfile::TempDir) -> Session {
        let incoming = Arc::new(Dir::open(temp.path()).unwrap());
        Session::new(incoming, Most { handles: 2, lineages: 4, bytes: 1_000_000 }, Scope::All).unwrap()
    }

    fn put(session: &mut Session, name: &str) {
        let handle = session.open(&path(name), Mode::Replace, false).unwrap();
        session.close(handle).unwrap();
    }

    #[test]
    fn a_file_counts_under_its_final_name_only() {
        for renamed in [true, false] {
            let temp = tempfile::tempdir().unwrap();
            let mut session = session(&temp);
            session.make_directory(&path("a.example")).unwrap();
            put(&mut session, "a.example/fullchain.pem");
            put(&mut session, "a.example/.in.privkey.pem");
            if renamed {
                session.rename(&path("a.example/.in.privkey.pem"), &path("/a.example/privkey.pem")).unwrap();
                assert!(session.stat(&path("a.example/privkey.pem")).is_ok());
            }
            assert_eq!(session.finish(true).len(), usize::from(renamed));
        }
    }

    #[test]
    fn a_beginning_does_not_count_unless_the_whole_follows() {
        type Mend = fn(&mut Session);
        let again: Mend = |session| put(session, "a.example/fullchain.pem");
        let removed: Mend = |session| {
            session.remove(&path("a.example/fullchain.pem")).unwrap();
            put(session, "a.example/cert.pem");
        };
        let replaced: Mend = |session| {
            put(session, "a.example/.in.fullchain.pem");
            session.rename(&path("a.example/.in.fullchain.pem"), &path("a.example/fullchain.pem")).unwrap();
        };
        let moved: Mend = |session| {
            session.rename(&path("a.example/fullchain.pem"), &path("a.example/chain.pem")).unwrap();
            put(session, "a.example/fullchain.pem");
        };
        let nothing: Mend = |_| ();
        for (mend, want) in [(nothing, 1), (again, 2), (removed, 2), (replaced, 2), (moved, 1)] {
            for beyond in [131_072, 999_999] {
                let temp = tempfile::tempdir().unwrap();
                let mut session = session(&temp);
                for lineage in ["a.example", "b.example"] {
                    session.make_directory(&path(lineage)).unwrap();
                }
                put(&mut session, "b.example/fullchain.pem");
                let handle = session.open(&path("a.example/fullchain.pem"), Mode::Replace, false).unwrap();
                session.handles.write(handle, 0, b"x").unwrap();
                assert!(session.handles.write(handle, beyond, b"xx").is_err());
                session.close(handle).unwrap();
                mend(&mut session);
                assert_eq!(session.finish(true).len(), want, "b.example, and a.example if it is whole");
            }
        }
    }

    #[test]
    fn a_new_name_has_its_own_limit() {
        let temp = tempfile::tempdir().unwrap();
        let mut session = session(&temp);
        session.make_directory(&path("a.example")).unwrap();
        let handle = session.open(&path("a.example/.in.fullchain.pem"), Mode::Replace, false).unwrap();
        session.handles.write(handle, 0, &[b'x'; 60_000]).unwrap();
        session.close(handle).unwrap();
        let (from, to) = (path("a.example/.in.fullchain.pem"), path("a.example/privkey.pem"));
        assert!(matches!(session.rename(&from, &to), Err(Refusal::TooLarge(16384))));
        session.rename(&from, &path("a.example/fullchain.pem")).unwrap();
    }

    #[test]
    fn only_an_empty_directory_of_this_session_can_be_removed() {
        let temp = tempfile::tempdir().unwrap();
        let mut session = session(&temp);
        assert!(matches!(session.remove_directory(&path("a.example")), Err(Refusal::Missing)));
        session.make_directory(&path("a.example")).unwrap();
        put(&mut session, "a.example/fullchain.pem");
        assert!(matches!(session.remove_directory(&path("a.example")), Err(Refusal::Denied(_))));
        session.remove(&path("a.example/fullchain.pem")).unwrap();
        session.remove_directory(&path("a.example")).unwrap();
        assert!(matches!(session.stat(&path("a.example")), Err(Refusal::Missing)));
        assert!(session.finish(true).is_empty());
    }
}
