//! Where the queue lives: a private directory, and the database in it. A damaged database is set aside here, under a
//! lock, because others may hold the file. It must not know what the rows mean.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use certdeploy_common::fs::atomic;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::patience::patiently;
use super::rows;
use super::schema::{self, Found};
use crate::clock::Millis;

/// Why there is no queue.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The directory cannot be used.
    #[error("queue_dir `{}`: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It belongs to somebody else.
    #[error(
        "queue_dir `{}` belongs to user {owner}, but this process runs as user {us}; run hook and daemon as one user, or: chown {us} {}",
        path.display(), path.display()
    )]
    Owner {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who we are.
        us: u32,
    },
    /// A later version wrote it.
    #[error("`{}` was written by a newer certdeploy-server (version {version}); it is left as it is", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: i64,
    },
    /// It is somebody else's database.
    #[error("`{}` is not a queue of certdeploy-server; move it away", .0.display())]
    Foreign(PathBuf),
    /// It was removed or replaced while we had it open.
    #[error("the queue `{}` was removed or replaced while this daemon had it open; start the daemon again", .0.display())]
    Gone(PathBuf),
    /// It is damaged and others hold it.
    #[error("`{}` is damaged and in use by another process; stop that one, then start this again", .0.display())]
    InUse(PathBuf),
    /// SQLite says no.
    #[error("queue `{}`: {source}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
}

impl QueueError {
    /// Whether the database is damaged: opening it with [`Check::Whole`] sets it aside.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Database { source, .. } if is_damage(source))
    }
}

const FILE: &str = "queue.sqlite";
/// Held shared by everyone who has the database open; exclusively by the one who sets it aside.
const LOCK: &str = "queue.lock";
/// How long a damaged database is waited for until the others have let go.
const WAIT: Duration = Duration::from_secs(5);

/// An open database and the lock that says so.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) connection: Connection,
    pub(super) file: PathBuf,
    identity: (u64, u64),
    _lock: File,
}

impl Place {
    /// Whether the file that is open is still the one that others find by its name.
    pub(super) fn is_there(&self) -> bool {
        self.file.metadata().is_ok_and(|meta| (meta.dev(), meta.ino()) == self.identity)
    }
}

/// Whether the rows are looked at as well when the database is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Only what opening shows.
    Opening,
    /// All of it: at the start of the daemon.
    Whole,
}

/// Opens the database in `directory`, making both when they are missing.
pub(super) fn open(directory: &Path, check: Check, now: Millis) -> Result<Place, QueueError> {
    prepare_directory(directory)?;
    let file = resolved(directory)?.join(FILE);
    for _ in 0..2 {
        let lock = shared_lock(directory)?;
        match patiently(|| connect(&file, check)) {
            Ok((connection, Found::Ours)) => return place(connection, file, lock),
            Ok((_, Found::Newer(version))) => return Err(QueueError::Newer { path: file, version }),
            Ok((connection, Found::Foreign)) => drop(connection),
            Err(error) if is_damage(&error) => {}
            Err(source) => return Err(QueueError::Database { path: file, source }),
        }
        drop(lock);
        set_aside(directory, &file, check, now)?;
    }
    Err(QueueError::InUse(file))
}

/// Opens the database for looking only; `None` when there is none.
pub(super) fn look(directory: &Path) -> Result<Option<Place>, QueueError> {
    if directory.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(None);
    }
    is_usable(directory)?;
    if !directory.join(FILE).exists() {
        return Ok(None);
    }
    let file = resolved(directory)?.join(FILE);
    let lock = shared_lock(directory)?;
    let database = |source| QueueError::Database { path: file.clone(), source };
    // Not read-only: looking into a WAL database writes its index, and may be the first to recover it.
    let connection = Connection::open_with_flags(&file, flags(false)).map_err(database)?;
    patiently(|| schema::prepare(&connection)).map_err(database)?;
    match patiently(|| schema::found(&connection)).map_err(database)? {
        Some(Found::Ours) => {}
        Some(Found::Newer(version)) => return Err(QueueError::Newer { path: file, version }),
        None => return Ok(None),
        Some(Found::Foreign) => return Err(QueueError::Foreign(file)),
    }
    place(connection, file, lock).map(Some)
}

fn place(connection: Connection, file: PathBuf, lock: File) -> Result<Place, QueueError> {
    let meta = file.metadata().map_err(|source| QueueError::Directory { path: file.clone(), source })?;
    Ok(Place { connection, file, identity: (meta.dev(), meta.ino()), _lock: lock })
}

/// SQLite refuses a path with any link in it; the directory may be behind one (`/var/run`), the file may not.
fn resolved(directory: &Path) -> Result<PathBuf, QueueError> {
    directory.canonicalize().map_err(|source| QueueError::Directory { path: directory.to_owned(), source })
}

fn prepare_directory(path: &Path) -> Result<(), QueueError> {
    let failed = |source| QueueError::Directory { path: path.to_owned(), source };
    let missing = !path.exists();
    if missing {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        atomic::create_directory(parent, 0o755).map_err(failed)?;
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => atomic::sync_directory(parent).map_err(failed)?,
        }
    }
    let meta = is_usable(path)?;
    if meta.mode() & 0o077 != 0 {
        tighten(path, meta.mode()).map_err(failed)?;
    }
    Ok(())
}

/// A directory, and our own.
fn is_usable(path: &Path) -> Result<std::fs::Metadata, QueueError> {
    let failed = |source| QueueError::Directory { path: path.to_owned(), source };
    let meta = path.metadata().map_err(failed)?;
    if !meta.is_dir() {
        return Err(failed(io::ErrorKind::NotADirectory.into()));
    }
    let us = rustix::process::geteuid().as_raw();
    if meta.uid() != us {
        return Err(QueueError::Owner { path: path.to_owned(), owner: meta.uid(), us });
    }
    Ok(meta)
}

/// Takes away what group and others may do; a directory that others put things into is left as it is.
fn tighten(path: &Path, mode: u32) -> io::Result<()> {
    let ours = |name: &str| name.starts_with("queue.") || ["lock", "daemon.lock", "wake.sock", "test"].contains(&name);
    let mut others = path.read_dir()?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let shown = path.display();
    if mode & 0o1000 != 0 || others.any(|name| !ours(&name)) {
        tracing::warn!(
            "queue_dir `{shown}` can be entered by others (mode {:04o}) and holds other things",
            mode & 0o7777
        );
        return Ok(());
    }
    tracing::warn!("queue_dir `{shown}` could be entered by others (mode {:04o}); it is 0700 now", mode & 0o7777);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
}

fn shared_lock(directory: &Path) -> Result<File, QueueError> {
    let failed = |source| QueueError::Directory { path: directory.to_owned(), source };
    let file = lock_file(directory).map_err(failed)?;
    file.lock_shared().map_err(failed)?;
    Ok(file)
}

fn lock_file(directory: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(directory.join(LOCK))
}

fn flags(create: bool) -> OpenFlags {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    if create { flags | OpenFlags::SQLITE_OPEN_CREATE } else { flags }
}

fn connect(file: &Path, check: Check) -> rusqlite::Result<(Connection, Found)> {
    let made = !file.exists();
    let mut connection = Connection::open_with_flags(file, flags(true))?;
    schema::prepare(&connection)?;
    let found = schema::migrate(&mut connection)?;
    if made && let Some(parent) = file.parent() {
        // The file's name must survive a power cut as well as its rows.
        let _ = atomic::sync_directory(parent);
    }
    if check == Check::Whole && found == Found::Ours {
        let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if verdict != "ok" {
            let damage = rusqlite::ffi::Error { code: ErrorCode::DatabaseCorrupt, extended_code: 11 };
            return Err(rusqlite::Error::SqliteFailure(damage, Some(verdict)));
        }
        rows::read_all(&connection)?;
    }
    Ok((connection, found))
}

fn is_damage(error: &rusqlite::Error) -> bool {
    let unreadable = matches!(
        error,
        rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::Utf8Error(..)
    );
    unreadable || matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// Renames a damaged database, with everything that belongs to it, once nobody else has it open.
fn set_aside(directory: &Path, file: &Path, check: Check, now: Millis) -> Result<(), QueueError> {
    let failed = |source| QueueError::Directory { path: directory.to_owned(), source };
    let lock = lock_file(directory).map_err(failed)?;
    let start = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if start.elapsed() < WAIT => std::thread::sleep(Duration::from_millis(50)),
            Err(TryLockError::WouldBlock) => return Err(QueueError::InUse(file.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
    // Another process may have done it while we waited.
    if matches!(patiently(|| connect(file, check)), Ok((_, Found::Ours))) {
        return Ok(());
    }
    let stamp = format!("{}.damaged-{}", file.display(), now.0);
    for ending in ["-wal", "-shm", ""] {
        let from = PathBuf::from(format!("{}{ending}", file.display()));
        if from.symlink_metadata().is_ok() {
            atomic::rename(&from, Path::new(&format!("{stamp}{ending}"))).map_err(failed)?;
        }
    }
    tracing::error!(
        "The queue was damaged; it is kept as `{stamp}` and a new one is built from the config and the lineages"
    );
    Ok(())
}
