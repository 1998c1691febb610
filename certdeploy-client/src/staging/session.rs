//! One peer's staging: each verb of SFTP that means something here, on files below the incoming directory. Blocking;
//! does not know SFTP's numbers, nor what happens to an upload.

mod plain;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use certdeploy_common::cert::{FileName, Lineage};
use certdeploy_common::ssh::key;
use certdeploy_common::wire::{PushId, layout};

use super::Staged;
use super::files::{Entry, Handles, Open, Upload};
use super::path::{PushName, UploadPath};
use super::refusal::{Refusal, refusal};
use super::scope;
use crate::config::pushers::Scope;
use crate::dir::Dir;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// For reading.
    Read,
    /// A new file.
    Create,
    /// The file anew, whether it is there or not.
    Replace,
    /// The file as it is, for writing.
    Modify,
    /// The file as it is, or a new one.
    Make,
}

/// The most that one peer may have.
#[derive(Debug, Clone, Copy)]
pub struct Most {
    /// Open files at once.
    pub handles: u32,
    /// Lineages and pushes.
    pub lineages: u32,
    /// Bytes, all together.
    pub bytes: u64,
}

/// One peer's staging. Dropped without [`finish`](Session::finish), its rests stay until the next sweep.
#[derive(Debug)]
pub struct Session {
    incoming: Arc<Dir>,
    max_lineages: usize,
    scope: Scope,
    id: PushId,
    own: Option<Dir>,
    lineages: BTreeSet<Lineage>,
    pushes: BTreeMap<PushId, Push>,
    /// The open files.
    pub handles: Handles,
}

/// How far a push is. Its directory is not held: a session may have a thousand, and descriptors are few.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Push {
    Open,
    Committed,
}

impl Session {
    /// A session that has not staged anything.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn new(incoming: Arc<Dir>, most: Most, scope: Scope) -> io::Result<Self> {
        Ok(Self {
            incoming,
            max_lineages: usize::try_from(most.lineages).unwrap_or(usize::MAX),
            scope,
            id: PushId::new(key::random()?),
            own: None,
            lineages: BTreeSet::new(),
            pushes: BTreeMap::new(),
            handles: Handles::new(most.handles, most.bytes),
        })
    }

    /// `MKDIR`.
    ///
    /// # Errors
    /// It exists, is none of ours to make, or there are too many.
    pub fn make_directory(&mut self, path: &UploadPath) -> Result<(), Refusal> {
        if self.lineages.len() + self.pushes.len() >= self.max_lineages {
            return Err(Refusal::TooMany("lineages"));
        }
        match path {
            UploadPath::Push(push) => {
                let directory = self.incoming.make(&push.directory()).map_err(refusal)?;
                // Which lineage it is of is only in its manifest, and the applier reads that, maybe after a restart.
                scope::write(&directory, &self.scope).map_err(refusal)?;
                self.pushes.insert(push.clone(), Push::Open);
                Ok(())
            }
            UploadPath::Lineage(lineage) => {
                if !self.scope.allows(lineage) {
                    return Err(Refusal::Denied(scope::refusal(lineage)));
                }
                self.own()?.make(lineage.as_str()).map_err(refusal)?;
                self.lineages.insert(lineage.clone());
                Ok(())
            }
            UploadPath::Root | UploadPath::Holdings | UploadPath::PushFile(..) | UploadPath::LineageFile(..) => {
                Err(Refusal::Denied("no directory can be made there".to_owned()))
            }
        }
    }

    fn own(&mut self) -> Result<&Dir, Refusal> {
        let name = Staged::session(&self.id);
        match &mut self.own {
            Some(own) => Ok(own),
            own @ None => Ok(own.insert(self.incoming.make(&name).map_err(refusal)?)),
        }
    }

    /// The directory of a lineage that this session has made.
    fn lineage(&self, lineage: &Lineage) -> Result<Dir, Refusal> {
        let own = self.own.as_ref().filter(|_| self.lineages.contains(lineage)).ok_or(Refusal::Missing)?;
        own.child(lineage.as_str()).map_err(refusal)
    }

    /// The directory of a push that this session has begun, and how far that is.
    fn push(&self, push: &PushId) -> Result<(Dir, Push), Refusal> {
        let state = *self.pushes.get(push).ok_or(Refusal::Missing)?;
        Ok((self.incoming.child(push.directory()).map_err(refusal)?, state))
    }

    /// `OPEN` of a real file.
    ///
    /// # Errors
    /// It cannot be opened that way.
    pub fn open(&mut self, path: &UploadPath, mode: Mode, append: bool) -> Result<u32, Refusal> {
        self.handles.room()?;
        let (directory, name, limit) = match path {
            UploadPath::PushFile(id, name) => {
                let (directory, push) = self.push(id)?;
                if push == Push::Committed || matches!(mode, Mode::Modify | Mode::Make) {
                    return Err(Refusal::Denied("a push is written once".to_owned()));
                }
                let (name, limit) = match name {
                    PushName::File(file) => (file.as_str(), file.limit()),
                    PushName::ManifestPart => (layout::MANIFEST_PART, layout::MANIFEST_LIMIT),
                    PushName::Manifest | PushName::Receipt => {
                        return Err(Refusal::Denied("this file cannot be written".to_owned()));
                    }
                };
                (directory, name, limit)
            }
            UploadPath::LineageFile(lineage, file) => (self.lineage(lineage)?, file.on_disk(), file.limit()),
            UploadPath::Root | UploadPath::Holdings | UploadPath::Push(_) | UploadPath::Lineage(_) => {
                return Err(Refusal::Denied("this is a directory".to_owned()));
            }
        };
        let file = match mode {
            Mode::Read => return Err(Refusal::Denied("uploads cannot be read back".to_owned())),
            Mode::Create => directory.create(name),
            Mode::Replace => directory.remove_file(name).and_then(|()| directory.create(name)),
            Mode::Modify => directory.existing(name, true),
            Mode::Make if directory.has(name) => directory.existing(name, true),
            Mode::Make => directory.create(name),
        };
        let of = self.begins(path, mode);
        self.handles.open(Open::Upload(Upload { file: file.map_err(refusal)?, limit, append, of }))
    }

    /// `CLOSE`: an upload is on disk when this returns.
    ///
    /// # Errors
    /// No such handle, or the disk refuses.
    pub fn close(&mut self, handle: u32) -> Result<(), Refusal> {
        match self.handles.close(handle)? {
            Open::Upload(upload) => upload.file.sync_all().map_err(|error| {
                self.handles.torn = true;
                Refusal::Io(error)
            }),
            Open::Virtual(_) | Open::Listing(_) => Ok(()),
        }
    }

    /// `STAT`, `LSTAT`.
    ///
    /// # Errors
    /// It is not there, as far as this peer is concerned.
    pub fn stat(&self, path: &UploadPath) -> Result<Entry, Refusal> {
        let file = |directory: Dir, name: &str| {
            let (length, modified) = directory.stat(name).ok_or(Refusal::Missing)?;
            Ok(Entry::File { length, modified })
        };
        match path {
            UploadPath::Root => Ok(Entry::Directory),
            UploadPath::Lineage(lineage) if self.lineages.contains(lineage) => Ok(Entry::Directory),
            UploadPath::Push(push) if self.pushes.contains_key(push) => Ok(Entry::Directory),
            UploadPath::LineageFile(lineage, name) => file(self.lineage(lineage)?, name.on_disk()),
            UploadPath::PushFile(push, PushName::File(name)) => file(self.push(push)?.0, name.as_str()),
            UploadPath::Lineage(_) | UploadPath::Push(_) | UploadPath::PushFile(..) | UploadPath::Holdings => {
                Err(Refusal::Missing)
            }
        }
    }

    /// `OPENDIR`: what this very session has put, nobody else's.
    ///
    /// # Errors
    /// It is no directory of this session, or there is no room.
    pub fn open_directory(&mut self, path: &UploadPath) -> Result<u32, Refusal> {
        let mut entries = vec![(".".to_owned(), Entry::Directory), ("..".to_owned(), Entry::Directory)];
        match path {
            UploadPath::Root => entries.extend(self.lineages.iter().map(|l| (l.to_string(), Entry::Directory))),
            UploadPath::Lineage(lineage) => {
                let directory = self.lineage(lineage)?;
                for name in FileName::ALL {
                    if let Some((length, modified)) = directory.stat(name.as_str()) {
                        entries.push((name.to_string(), Entry::File { length, modified }));
                    }
                }
            }
            UploadPath::Push(_) | UploadPath::PushFile(..) | UploadPath::LineageFile(..) | UploadPath::Holdings => {
                return Err(Refusal::Missing);
            }
        }
        self.handles.open(Open::Listing(Some(entries)))
    }

    /// The `RENAME` that commits a push. The upload is durable when this returns.
    ///
    /// # Errors
    /// Not that rename, not complete, or the disk refuses.
    pub fn commit(&mut self, from: &UploadPath, to: &UploadPath) -> Result<PushId, Refusal> {
        let (UploadPath::PushFile(id, PushName::ManifestPart), UploadPath::PushFile(other, PushName::Manifest)) =
            (from, to)
        else {
            return Err(Refusal::Unsupported);
        };
        if id != other {
            return Err(Refusal::Unsupported);
        }
        if !self.handles.is_empty() {
            return Err(Refusal::Denied("a file of the push is still open".to_owned()));
        }
        let (directory, push) = self.push(id)?;
        if push == Push::Committed {
            return Err(Refusal::Denied("the push is complete already".to_owned()));
        }
        // The names of the files first: what the manifest promises must be there when it is.
        directory.sync().map_err(refusal)?;
        directory.rename(layout::MANIFEST_PART, &directory, layout::MANIFEST).map_err(refusal)?;
        directory.sync().and_then(|()| self.incoming.sync()).map_err(refusal)?;
        self.pushes.insert(id.clone(), Push::Committed);
        Ok(id.clone())
    }

    /// The end of the session. After a clean one what a plain peer has put becomes complete, each lineage by one
    /// rename; returned are these lineages. Everything else that is not complete goes.
    pub fn finish(mut self, clean: bool) -> Vec<Lineage> {
        let mut complete = Vec::new();
        if let Some(own) = self.own.take() {
            for lineage in std::mem::take(&mut self.lineages) {
                let Ok(directory) = own.child(lineage.as_str()) else { continue };
                if !FileName::ALL.into_iter().any(|name| plain::has(&directory, name)) {
                    continue;
                }
                if let Some(why) = self.not_whole(&lineage, &directory, clean) {
                    tracing::warn!("Dropped the upload of {lineage}: {why}");
                    continue;
                }
                match self.complete(&own, &lineage, &directory) {
                    Ok(()) => complete.push(lineage),
                    Err(error) => tracing::error!("Cannot keep the upload of {lineage}: {error}"),
                }
            }
            self.discard(&Staged::session(&self.id));
        }
        for (id, push) in &self.pushes {
            if *push == Push::Open {
                self.discard(&id.directory());
            }
        }
        complete
    }

    fn complete(&self, own: &Dir, lineage: &Lineage, directory: &Dir) -> io::Result<()> {
        directory.sync()?;
        let random: [u8; 8] = key::random()?;
        let mut id = [0; 16];
        for (to, from) in id.iter_mut().zip(crate::clock::stamp().into_iter().chain(random)) {
            *to = from;
        }
        own.rename(lineage.as_str(), &self.incoming, &Staged::plain(&PushId::new(id), lineage))?;
        self.incoming.sync()
    }

    fn discard(&self, name: &str) {
        if let Err(error) = self.incoming.remove_tree(name) {
            tracing::warn!("Cannot remove the rest of an upload `{name}`: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place {
        temp: tempfile::TempDir,
        session: Session,
    }

    const MOST: Most = Most { handles: 2, lineages: 4, bytes: 100_000 };

    fn place() -> Place {
        let temp = tempfile::tempdir().unwrap();
        let incoming = Arc::new(Dir::open(temp.path()).unwrap());
        Place { session: Session::new(incoming, MOST, Scope::All).unwrap(), temp }
    }

    fn path(text: &str) -> UploadPath {
        super::super::path::parse(text, "/source").unwrap()
    }

    fn names(place: &tempfile::TempDir) -> Vec<String> {
        let mut names: Vec<String> =
            place.path().read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn put(session: &mut Session, name: &str, text: &str) {
        let handle = session.open(&path(name), Mode::Replace, false).unwrap();
        session.handles.write(handle, 0, text.as_bytes()).unwrap();
        session.close(handle).unwrap();
    }

    #[test]
    fn a_plain_upload_is_complete_only_after_a_clean_end() {
        for (clean, open, want) in [(true, false, 1), (false, false, 0), (true, true, 0)] {
            let Place { temp, mut session } = place();
            session.make_directory(&path("a.example")).unwrap();
            put(&mut session, "a.example/fullchain.pem", "x");
            if open {
                session.open(&path("a.example/privkey.pem"), Mode::Create, false).unwrap();
            }
            assert_eq!(session.finish(clean).len(), want);
            assert_eq!(names(&temp).len(), want, "clean {clean} open {open}");
        }
    }

    #[test]
    fn a_push_is_complete_by_its_manifest_and_written_once() {
        let Place { temp, mut session } = place();
        let id = PushId::new([7; 16]);
        let at = |name: &str| path(&id.path(name));
        session.make_directory(&path(&id.directory())).unwrap();
        put(&mut session, &id.path("privkey.pem"), "key");
        put(&mut session, &id.path(layout::MANIFEST_PART), "{}");
        assert_eq!(session.commit(&at(layout::MANIFEST_PART), &at(layout::MANIFEST)).unwrap(), id);
        assert!(session.open(&at("privkey.pem"), Mode::Replace, false).is_err());
        assert!(session.commit(&at(layout::MANIFEST_PART), &at(layout::MANIFEST)).is_err());
        assert!(session.finish(false).is_empty());
        assert_eq!(names(&temp), [id.directory()]);
    }

    #[test]
    fn limits_hold() {
        let Place { temp: _temp, mut session } = place();
        session.make_directory(&path("a.example")).unwrap();
        let one = session.open(&path("a.example/privkey.pem"), Mode::Create, false).unwrap();
        assert!(matches!(session.handles.write(one, 16 * 1024, b"x"), Err(Refusal::TooLarge(16384))));
        assert!(matches!(session.handles.write(one, u64::MAX, b"x"), Err(Refusal::TooLarge(16384))));
        session.open(&path("a.example/cert.pem"), Mode::Create, false).unwrap();
        assert!(matches!(session.open(&path("a.example/chain.pem"), Mode::Create, false), Err(Refusal::TooMany(_))));
        for name in ["b", "c", "d"] {
            session.make_directory(&path(name)).unwrap();
        }
        assert!(matches!(session.make_directory(&path("e")), Err(Refusal::TooMany(_))));
    }

    #[test]
    fn nobody_reads_back_and_sessions_do_not_see_each_other() {
        let Place { temp, mut session } = place();
        session.make_directory(&path("a.example")).unwrap();
        put(&mut session, "a.example/privkey.pem", "key");
        assert!(matches!(session.open(&path("a.example/privkey.pem"), Mode::Read, false), Err(Refusal::Denied(_))));
        let other = Session::new(Arc::new(Dir::open(temp.path()).unwrap()), MOST, Scope::All).unwrap();
        assert!(matches!(other.stat(&path("a.example")), Err(Refusal::Missing)));
        assert_eq!(session.stat(&path("a.example")).unwrap(), Entry::Directory);
    }
}
