//! The other process: what it is handed, how it is started, how its end is seen. Must not decide when it is to end.

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use certdeploy_common::daemon::logging::{self, Handed, LogError, LogFile};
use certdeploy_common::ssh::key;
use tokio::task::JoinHandle;

use super::DaemonError;
use crate::account::Account;
use crate::config::pushers::Pusher;
use crate::config::{Settings, Sftpd};
use crate::dir::Dir;
use crate::link::{self, PusherLine, Setup, handover, spawn};
use crate::sftp;
use crate::staging::INCOMING;

/// Makes the directory that belongs to the receiver, whatever `source` itself allows.
pub(super) fn prepare(source: &Path, account: Option<&Account>) -> Result<Dir, DaemonError> {
    let path = source.join(INCOMING);
    let failed = |error: io::Error| DaemonError::Incoming(path.display().to_string(), error);
    certdeploy_common::fs::atomic::create_directory(&path, 0o700).map_err(failed)?;
    // The descriptor, not the path, is given away: nothing can be put in its place meanwhile.
    let incoming = Dir::open(source).and_then(|source| source.child(INCOMING)).map_err(failed)?;
    let own = || {
        if let Some(account) = account {
            let (uid, gid) = (rustix::fs::Uid::from_raw(account.uid), rustix::fs::Gid::from_raw(account.gid));
            rustix::fs::fchown(&incoming, Some(uid), Some(gid))?;
        }
        rustix::fs::fchmod(&incoming, rustix::fs::Mode::RWXU)
    };
    own().map_err(|error| failed(error.into()))?;
    Ok(incoming)
}

/// The log files, open: the receiver may not open them itself.
pub(super) fn logs(settings: &Settings) -> Result<Handed, DaemonError> {
    let open = |path: &Option<PathBuf>, file| match path {
        Some(path) if !logging::is_stream(path) => {
            let opened = logging::open(path).map(|file| Some(Arc::new(file)));
            opened.map_err(|source| DaemonError::Log(LogError { file, path: path.clone(), source }))
        }
        Some(_) | None => Ok(None),
    };
    let log = &settings.log;
    Ok(Handed { own: open(&log.file, LogFile::Own)?, library: open(&log.library_file, LogFile::Library)? })
}

pub(super) fn setup(settings: &Settings, sftpd: &Sftpd) -> Result<Setup, DaemonError> {
    Ok(Setup {
        host_key: key::encode_private(&sftpd.host_key)?,
        pushers: sftpd.pushers.iter().map(line).collect::<Result<_, _>>()?,
        source: settings.source.display().to_string(),
        limits: sftpd.limits.clone(),
        log: link::Log::of(&settings.log),
    })
}

fn line(pusher: &Pusher) -> Result<PusherLine, key::KeyError> {
    let key = key::public_line(&pusher.key)?;
    Ok(PusherLine { username: pusher.username.clone(), key, scope: pusher.scope.clone() })
}

/// The receiver, as a process or as a task; it ends with this value.
pub(super) enum Other {
    Process(tokio::process::Child),
    Task(JoinHandle<io::Result<()>>),
}

impl Other {
    /// Starts it at the other end of a new line; ours is returned. It holds the directory, the sockets and the log
    /// files from now on.
    pub(super) fn start(
        account: Option<&Account>,
        incoming: &Dir,
        listeners: &[TcpListener],
        logs: &Handed,
    ) -> io::Result<(Self, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        handover::send(&ours, incoming, listeners, logs)?;
        let other = match account {
            Some(account) => Self::Process(spawn::receiver(account, theirs)?),
            None => Self::Task(tokio::spawn(sftp::serve(theirs, |_, _| Ok(())))),
        };
        ours.set_nonblocking(true)?;
        Ok((other, ours))
    }

    /// Returns when it has ended, with how.
    pub(super) async fn ended(&mut self) -> String {
        match self {
            Self::Process(child) => {
                child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string())
            }
            Self::Task(task) => match task.await {
                Ok(Ok(())) => "it has drained".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            },
        }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        match self {
            Self::Process(child) => _ = child.start_kill(),
            Self::Task(task) => task.abort(),
        }
    }
}

/// Whether the directory that the receiver holds is still the one below `source`: what is staged in one that was removed
/// is lost, and nobody would notice.
pub(super) fn still_there(source: &Path, incoming: &Dir) -> Result<(), DaemonError> {
    let path = source.join(INCOMING);
    let same = rustix::fs::fstat(incoming).and_then(|held| {
        let found = rustix::fs::lstat(&path)?;
        Ok((held.st_dev, held.st_ino) == (found.st_dev, found.st_ino))
    });
    if same == Ok(true) { Ok(()) } else { Err(DaemonError::Removed(path.display().to_string())) }
}
