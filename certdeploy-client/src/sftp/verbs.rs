//! SFTP's verbs -> [`Session`]'s: translation only, both ways. Decides nothing about files.

use std::collections::HashMap;
use std::sync::Arc;

use certdeploy_common::wire::{PushId, Receipt, Verdict, layout};
use russh_sftp::protocol::{
    Attrs, Data, File, FileAttributes, Handle, Name, OpenFlags, Packet, Status, StatusCode, Version,
};
use russh_sftp::server::Handler;
use tokio::sync::oneshot;

use super::refusals::{self, Refusals};
use super::shared::Shared;
use super::status::No;
use crate::config::pushers::Scope;
use crate::link::Commit;
use crate::staging::files::{Entry, Open};
use crate::staging::path::{self, PushName, UploadPath};
use crate::staging::refusal::Refusal;
use crate::staging::session::{Mode, Session};

/// One SFTP session. When the library drops it, the staging goes back to whoever waits for it.
pub struct Verbs {
    shared: Arc<Shared>,
    session: Option<Session>,
    scope: Scope,
    refusals: Arc<Refusals>,
    pushes: Vec<PushId>,
    back: Option<oneshot::Sender<Session>>,
}

impl Verbs {
    /// Verbs on `session`, which comes back through `back`; what is refused is written down in `refusals`.
    #[must_use]
    pub fn new(
        shared: Arc<Shared>,
        session: Session,
        scope: Scope,
        refusals: Arc<Refusals>,
        back: oneshot::Sender<Session>,
    ) -> Self {
        Self { shared, session: Some(session), scope, refusals, pushes: Vec::new(), back: Some(back) }
    }

    /// Writes a refusal down. That a file is not there, or at its end, is none.
    fn noted<T>(&self, verb: &str, on: &str, done: Result<T, No>) -> Result<T, No> {
        if let Err(no) = &done
            && let Some(cause) = no.cause()
        {
            self.refusals.note(|| format!("{verb} `{}`: {cause}", refusals::cut(on)));
        }
        done
    }

    fn session(&mut self) -> Result<&mut Session, No> {
        self.session.as_mut().ok_or_else(|| Refusal::Handle.into())
    }

    fn path(&self, text: &str) -> Result<UploadPath, No> {
        Ok(path::parse(text, &self.shared.source)?)
    }

    /// Runs what waits for the disk on a thread that may wait.
    async fn waiting<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Session) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, No> {
        let mut session = self.session.take().ok_or(Refusal::Handle)?;
        let done = tokio::task::spawn_blocking(move || {
            let result = work(&mut session);
            (session, result)
        });
        let (session, result) = done.await.map_err(|error| Refusal::Io(std::io::Error::other(error)))?;
        self.session = Some(session);
        Ok(result?)
    }

    async fn opened(&mut self, filename: &str, flags: OpenFlags) -> Result<u32, No> {
        let path = self.path(filename)?;
        let mode = mode(flags);
        let found = if mode == Mode::Read { self.open_virtual(&path).await? } else { None };
        match found {
            Some(handle) => Ok(handle),
            None => Ok(self.session()?.open(&path, mode, flags.contains(OpenFlags::APPEND))?),
        }
    }

    async fn renamed(&mut self, from: &str, to: &str) -> Result<Option<PushId>, No> {
        let (from, to) = (self.path(from)?, self.path(to)?);
        let commits = matches!(from, UploadPath::PushFile(..));
        self.waiting(move |session| match commits {
            true => session.commit(&from, &to).map(Some),
            false => session.rename(&from, &to).map(|()| None),
        })
        .await
    }

    async fn open_virtual(&mut self, path: &UploadPath) -> Result<Option<u32>, No> {
        let bytes = match path {
            UploadPath::Holdings => serde_json::to_vec(&self.shared.holdings(&self.scope).await),
            UploadPath::PushFile(push, PushName::Receipt) => {
                if !self.pushes.contains(push) {
                    return Err(No::missing());
                }
                let staged = || Receipt { push: push.clone(), lineage: None, verdict: Verdict::Staged, held: None };
                serde_json::to_vec(&self.shared.verdict(push).await.unwrap_or_else(staged))
            }
            UploadPath::Root
            | UploadPath::Push(_)
            | UploadPath::PushFile(..)
            | UploadPath::Lineage(_)
            | UploadPath::LineageFile(..) => return Ok(None),
        };
        let bytes = bytes.map_err(|error| Refusal::Io(error.into()))?;
        Ok(Some(self.session()?.handles.open(Open::Virtual(bytes))?))
    }
}

impl Drop for Verbs {
    fn drop(&mut self) {
        self.shared.forget(&self.pushes);
        if let (Some(session), Some(back)) = (self.session.take(), self.back.take()) {
            let _ = back.send(session);
        }
    }
}

fn ok(id: u32) -> Status {
    Status { id, status_code: StatusCode::Ok, error_message: "Ok".to_owned(), language_tag: "en-US".to_owned() }
}

/// Two strings of SSH (RFC 4251, section 5) and nothing after them.
fn strings(data: &[u8]) -> Option<[String; 2]> {
    let string = |data: &[u8]| {
        let (length, rest) = data.split_first_chunk::<4>()?;
        let (text, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        Some((String::from_utf8(text.to_vec()).ok()?, rest.to_vec()))
    };
    let (one, rest) = string(data)?;
    let (two, rest) = string(&rest)?;
    rest.is_empty().then_some([one, two])
}

fn number(handle: &str) -> Result<u32, No> {
    handle.parse().map_err(|_| Refusal::Handle.into())
}

fn attributes(entry: Entry) -> FileAttributes {
    let mut attributes = FileAttributes::empty();
    let (kind, length, modified) = match entry {
        Entry::Directory => (0o040_700, 0, 0),
        Entry::File { length, modified } => (0o100_600, length, u32::try_from(modified).unwrap_or_default()),
    };
    attributes.permissions = Some(kind);
    attributes.size = Some(length);
    attributes.uid = Some(0);
    attributes.gid = Some(0);
    attributes.atime = Some(modified);
    attributes.mtime = Some(modified);
    attributes
}

fn mode(flags: OpenFlags) -> Mode {
    if !flags.intersects(OpenFlags::WRITE | OpenFlags::APPEND | OpenFlags::CREATE) {
        Mode::Read
    } else if flags.contains(OpenFlags::EXCLUDE) {
        Mode::Create
    } else if flags.contains(OpenFlags::TRUNCATE) {
        Mode::Replace
    } else if flags.contains(OpenFlags::CREATE) {
        Mode::Make
    } else {
        Mode::Modify
    }
}

impl Handler for Verbs {
    type Error = No;

    fn unimplemented(&self) -> No {
        self.refusals.note(|| "an operation that this program does not know".to_owned());
        No::unsupported()
    }

    async fn init(&mut self, _: u32, _: HashMap<String, String>) -> Result<Version, No> {
        let mut version = Version::new();
        version.extensions.insert(layout::EXTENSION.to_owned(), layout::VERSION.to_owned());
        Ok(version)
    }

    async fn open(&mut self, id: u32, filename: String, flags: OpenFlags, _: FileAttributes) -> Result<Handle, No> {
        let opened = self.opened(&filename, flags).await;
        let handle = self.noted("OPEN", &filename, opened)?;
        Ok(Handle { id, handle: handle.to_string() })
    }

    async fn close(&mut self, id: u32, handle: String) -> Result<Status, No> {
        let handle = number(&handle)?;
        let closed = self.waiting(move |session| session.close(handle)).await;
        self.noted("CLOSE", "", closed)?;
        Ok(ok(id))
    }

    async fn read(&mut self, id: u32, handle: String, offset: u64, len: u32) -> Result<Data, No> {
        let read = self.session()?.handles.read(number(&handle)?, offset, len)?;
        read.map(|data| Data { id, data }).ok_or_else(No::end)
    }

    async fn write(&mut self, id: u32, handle: String, offset: u64, data: Vec<u8>) -> Result<Status, No> {
        let data = zeroize::Zeroizing::new(data);
        let handle = number(&handle)?;
        let written = self.session()?.handles.write(handle, offset, &data).map_err(No::from);
        self.noted("WRITE", &format!("at {offset}"), written)?;
        Ok(ok(id))
    }

    async fn stat(&mut self, id: u32, path: String) -> Result<Attrs, No> {
        let found = self.path(&path).and_then(|path| Ok(self.session()?.stat(&path)?));
        Ok(Attrs { id, attrs: attributes(self.noted("STAT", &path, found)?) })
    }

    async fn lstat(&mut self, id: u32, path: String) -> Result<Attrs, No> {
        self.stat(id, path).await
    }

    async fn fstat(&mut self, id: u32, handle: String) -> Result<Attrs, No> {
        Ok(Attrs { id, attrs: attributes(self.session()?.handles.stat(number(&handle)?)?) })
    }

    /// Modes and times of staged files are ours to choose: agreed to, and not followed.
    async fn setstat(&mut self, id: u32, path: String, attrs: FileAttributes) -> Result<Status, No> {
        if attrs.size.is_some() {
            return Err(Refusal::Unsupported.into());
        }
        let path = self.path(&path)?;
        self.session()?.stat(&path)?;
        Ok(ok(id))
    }

    async fn fsetstat(&mut self, id: u32, handle: String, attrs: FileAttributes) -> Result<Status, No> {
        let handle = number(&handle)?;
        let session = self.session()?;
        session.handles.stat(handle)?;
        if let Some(length) = attrs.size {
            session.handles.truncate(handle, length)?;
        }
        Ok(ok(id))
    }

    async fn opendir(&mut self, id: u32, path: String) -> Result<Handle, No> {
        let opened = self.path(&path).and_then(|path| Ok(self.session()?.open_directory(&path)?));
        let handle = self.noted("OPENDIR", &path, opened)?;
        Ok(Handle { id, handle: handle.to_string() })
    }

    async fn readdir(&mut self, id: u32, handle: String) -> Result<Name, No> {
        let entries = self.session()?.handles.list(number(&handle)?)?.ok_or_else(No::end)?;
        let files = entries.into_iter().map(|(name, entry)| File::new(name, attributes(entry))).collect();
        Ok(Name { id, files })
    }

    async fn remove(&mut self, id: u32, filename: String) -> Result<Status, No> {
        let removed = self.path(&filename).and_then(|path| Ok(self.session()?.remove(&path)?));
        self.noted("REMOVE", &filename, removed)?;
        Ok(ok(id))
    }

    async fn rmdir(&mut self, id: u32, path: String) -> Result<Status, No> {
        let removed = self.path(&path).and_then(|path| Ok(self.session()?.remove_directory(&path)?));
        self.noted("RMDIR", &path, removed)?;
        Ok(ok(id))
    }

    async fn mkdir(&mut self, id: u32, path: String, _: FileAttributes) -> Result<Status, No> {
        let made = self.path(&path).and_then(|path| Ok(self.session()?.make_directory(&path)?));
        self.noted("MKDIR", &path, made)?;
        Ok(ok(id))
    }

    /// Relative to the root, whatever the peer calls it; only words, so `cd ..` may go up, and from the root to itself.
    async fn realpath(&mut self, id: u32, path: String) -> Result<Name, No> {
        let mut parts = Vec::new();
        for part in path.split('/').filter(|part| !matches!(*part, "" | ".")) {
            if part == ".." {
                parts.pop();
            } else {
                parts.push(part);
            }
        }
        Ok(Name { id, files: vec![File::dummy(format!("/{}", parts.join("/")))] })
    }

    async fn rename(&mut self, id: u32, oldpath: String, newpath: String) -> Result<Status, No> {
        let renamed = self.renamed(&oldpath, &newpath).await;
        if let Some(push) = self.noted("RENAME", &newpath, renamed)? {
            self.pushes.push(push.clone());
            self.shared.commit(Commit::Push(push)).await;
        }
        Ok(ok(id))
    }

    /// The one of OpenSSH that `paramiko` asks for without looking whether it is offered.
    async fn extended(&mut self, id: u32, request: String, data: Vec<u8>) -> Result<Packet, No> {
        let words = (request == "posix-rename@openssh.com").then(|| strings(&data)).flatten();
        let Some([from, to]) = words else { return Err(No::unsupported()) };
        self.rename(id, from, to).await.map(Packet::Status)
    }
}
