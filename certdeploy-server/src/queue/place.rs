//! Where the queue lives: a private directory, and the database in it. A damaged database is set aside here, under a
//! lock, because others may hold the file. It must not know what the rows mean.

use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use certdeploy_common::fs::atomic;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::error::{QueueError, is_damage};
use super::lock::{lock_file, new_file, shared_lock};
use super::patience::{self, patiently};
use super::rows;
use super::schema::{self, Found};
use crate::clock::Millis;

const FILE: &str = "queue.sqlite";
/// Held by the one who makes the tables.
const MAKING: &str = "queue.making";
/// Put there by who found damage while others hold the file: they look at it with fresh eyes and let go.
const SUSPECT: &str = "queue.suspect";
/// How long a damaged database is waited for until the others have let go.
const WAIT: Duration = Duration::from_secs(1);
/// Up to this size all of the file is looked at, indexes included; above, only what is quick.
const SMALL: u64 = 8 * 1024 * 1024;

/// An open database and the lock that says so.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) connection: Connection,
    pub(super) file: PathBuf,
    identity: (u64, u64),
    /// The file as it was when it was last looked at.
    seen: Stamp,
    _lock: File,
}

/// What changes when somebody writes into the file: its length and its time.
type Stamp = (u64, i64, i64);

fn stamp(meta: &std::fs::Metadata) -> Stamp {
    (meta.len(), meta.mtime(), meta.mtime_nsec())
}

impl Place {
    /// Makes sure that the file that is open is the one that others find by its name, and that nobody wrote over it.
    /// An open database reads its own memory, not the file: damage shows only to fresh eyes.
    pub(super) fn examine(&mut self) -> Result<(), QueueError> {
        let gone = || QueueError::Gone(self.file.clone());
        let meta = self.file.metadata().map_err(|_| gone())?;
        if (meta.dev(), meta.ino()) != self.identity {
            return Err(gone());
        }
        let suspect = self.file.with_file_name(SUSPECT).symlink_metadata().is_ok();
        if !suspect && stamp(&meta) == self.seen {
            return Ok(());
        }
        let check = if suspect || meta.len() <= SMALL { Check::Whole } else { Check::Opening };
        // Never by opening the file ourselves: closing it again would drop SQLite's locks on it (POSIX).
        match existing(&self.file, check) {
            Ok(Found::Ours) => {}
            // Whoever keeps it busy may be looking as well; the next look will tell.
            Err(error) if patience::is_busy(&error) => return Ok(()),
            Ok(Found::Older | Found::Newer(_) | Found::Foreign) => {
                return Err(self.damaged("it is another database now".to_owned()));
            }
            Err(error) if is_damage(&error) => return Err(self.damaged(error.to_string())),
            Err(source) => return Err(QueueError::Database { path: self.file.clone(), source }),
        }
        if suspect {
            let _ = std::fs::remove_file(self.file.with_file_name(SUSPECT));
        }
        self.seen = stamp(&meta);
        Ok(())
    }

    fn damaged(&self, found: String) -> QueueError {
        QueueError::Damaged { path: self.file.clone(), found }
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
        let lock = shared_lock(directory, patience::LIMIT)?;
        let wrong = match what_is_there(&file) {
            There::Other(kind) => format!("it is {kind}"),
            There::Nothing | There::File => match patiently(|| connect(&file, check)) {
                Ok((connection, Found::Ours)) => return place(connection, file, lock),
                Ok((_, Found::Newer(version))) => return Err(QueueError::Newer { path: file, version }),
                Ok((_, Found::Older | Found::Foreign)) => "it has other tables".to_owned(),
                Err(error) if is_damage(&error) || is_sealed(&error, &file) => error.to_string(),
                Err(source) => return Err(QueueError::Database { path: file, source }),
            },
        };
        drop(lock);
        set_aside(directory, &file, check, &wrong, now)?;
    }
    Err(QueueError::InUse(file))
}

/// Opens the database for looking only; `None` when there is none.
pub(super) fn look(directory: &Path) -> Result<Option<Place>, QueueError> {
    if directory.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(None);
    }
    is_usable(directory)?;
    let file = resolved(directory)?.join(FILE);
    match what_is_there(&file) {
        There::Nothing => return Ok(None),
        There::Other(_) => return Err(QueueError::Foreign(file)),
        There::File => {}
    }
    let lock = shared_lock(directory, patience::LIMIT)?;
    let database = |source| QueueError::Database { path: file.clone(), source };
    // Not read-only: looking into a WAL database writes its index, and may be the first to recover it.
    let mut connection = Connection::open_with_flags(&file, flags(false)).map_err(database)?;
    patiently(|| schema::prepare(&connection)).map_err(database)?;
    let mut found = patiently(|| schema::found(&connection)).map_err(database)?;
    if found == Some(Found::Older) {
        found = Some(patiently(|| schema::migrate(&mut connection)).map_err(database)?);
    }
    match found {
        Some(Found::Ours) => {}
        Some(Found::Newer(version)) => return Err(QueueError::Newer { path: file, version }),
        None => return Ok(None),
        Some(Found::Older | Found::Foreign) => return Err(QueueError::Foreign(file)),
    }
    place(connection, file, lock).map(Some)
}

fn place(connection: Connection, file: PathBuf, lock: File) -> Result<Place, QueueError> {
    let meta = file.metadata().map_err(|source| QueueError::Directory { path: file.clone(), source })?;
    Ok(Place { connection, file, identity: (meta.dev(), meta.ino()), seen: stamp(&meta), _lock: lock })
}

/// What stands in the place of the database.
enum There {
    Nothing,
    File,
    /// Something that must not be opened: reading a FIFO waits for ever, a link may lead anywhere.
    Other(&'static str),
}

fn what_is_there(file: &Path) -> There {
    let Ok(meta) = file.symlink_metadata() else { return There::Nothing };
    if meta.is_file() {
        make_private(file, &meta);
        return There::File;
    }
    There::Other(if meta.is_symlink() {
        "a symlink"
    } else if meta.is_dir() {
        "a directory"
    } else {
        "no regular file"
    })
}

/// 0600, whoever changed it: names of hosts and certificates are nobody's business, and we must get in ourselves.
fn make_private(file: &Path, meta: &std::fs::Metadata) {
    let mode = meta.mode() & 0o7777;
    if mode != 0o600 && std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).is_ok() {
        tracing::warn!("The queue `{}` had the mode {mode:04o}; it is 0600 now", file.display());
    }
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
    let ours = |name: &str| {
        name.starts_with("queue.")
            || ["lock", "daemon.lock", "renew.lock", "wake.sock", "health.sock", "test"].contains(&name)
    };
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

fn flags(create: bool) -> OpenFlags {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    if create { flags | OpenFlags::SQLITE_OPEN_CREATE } else { flags }
}

fn connect(file: &Path, check: Check) -> rusqlite::Result<(Connection, Found)> {
    let made = !file.exists();
    if is_cut(file) {
        return Err(damage("the file is empty"));
    }
    let mut connection = Connection::open_with_flags(file, flags(true))?;
    connection.busy_timeout(patience::LIMIT)?;
    let found = match schema::found(&connection)? {
        // Before anything is set up: what is not ours to write is not written to.
        Some(found @ (Found::Newer(_) | Found::Foreign)) => return Ok((connection, found)),
        Some(Found::Ours) => {
            schema::prepare(&connection)?;
            Found::Ours
        }
        Some(Found::Older) | None => {
            // One at a time: who changes an empty file to WAL beside another who does the same may wait for that one's
            // shared lock, which a WAL connection keeps for as long as it is open.
            let _alone = making(file)?;
            schema::prepare(&connection)?;
            schema::migrate(&mut connection)?
        }
    };
    // A header that speaks of a future format opens, but for reading only.
    connection.execute("DELETE FROM note WHERE name = ''", [])?;
    if made && let Some(parent) = file.parent() {
        // The file's name must survive a power cut as well as its rows.
        let _ = atomic::sync_directory(parent);
    }
    if check == Check::Whole && found == Found::Ours {
        read_whole(&connection, file)?;
    }
    Ok((connection, found))
}

/// Whether SQLite takes the file for one of a future format, which it only reads, though it could be written to.
fn is_sealed(error: &rusqlite::Error, file: &Path) -> bool {
    let may_write = |path: &Path| rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok();
    error.sqlite_error_code() == Some(ErrorCode::ReadOnly) && may_write(file) && file.parent().is_some_and(may_write)
}

/// The lock of whoever makes the tables; "busy" while another does, so that it is waited for like everything else.
fn making(file: &Path) -> rusqlite::Result<File> {
    let failed = |code| rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
    let lock = new_file(&file.with_file_name(MAKING)).map_err(|_| failed(rusqlite::ffi::SQLITE_CANTOPEN))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(failed(rusqlite::ffi::SQLITE_BUSY)),
        Err(TryLockError::Error(_)) => Err(failed(rusqlite::ffi::SQLITE_IOERR)),
    }
}

/// Whether the file was emptied while somebody has it open. SQLite would take it for a new one and wait for ever for
/// that other one to let go.
fn is_cut(file: &Path) -> bool {
    let beside = |ending: &str| PathBuf::from(format!("{}{ending}", file.display())).exists();
    file.metadata().is_ok_and(|meta| meta.len() == 0) && (beside("-shm") || beside("-wal"))
}

fn damage(found: &str) -> rusqlite::Error {
    let code = rusqlite::ffi::Error { code: ErrorCode::DatabaseCorrupt, extended_code: rusqlite::ffi::SQLITE_CORRUPT };
    rusqlite::Error::SqliteFailure(code, Some(found.to_owned()))
}

/// What a database that is there turns out to be to fresh eyes.
fn existing(file: &Path, check: Check) -> rusqlite::Result<Found> {
    if is_cut(file) {
        return Err(damage("the file is empty"));
    }
    let connection = Connection::open_with_flags(file, flags(false))?;
    connection.busy_timeout(WAIT)?;
    let found = schema::found(&connection)?.unwrap_or(Found::Foreign);
    if check == Check::Whole && found == Found::Ours {
        read_whole(&connection, file)?;
    }
    Ok(found)
}

/// Reads all of it. The long check compares the indexes with the rows as well: a row that no index leads to would never
/// be delivered.
fn read_whole(connection: &Connection, file: &Path) -> rusqlite::Result<()> {
    let small = file.metadata().is_ok_and(|meta| meta.len() <= SMALL);
    let pragma = if small { "PRAGMA integrity_check(1)" } else { "PRAGMA quick_check(1)" };
    let verdict: String = connection.query_row(pragma, [], |row| row.get(0))?;
    if verdict != "ok" {
        return Err(damage(&verdict));
    }
    rows::read_all(connection)
}

/// Renames a damaged database, with everything that belongs to it, once nobody else has it open.
fn set_aside(directory: &Path, file: &Path, check: Check, wrong: &str, now: Millis) -> Result<(), QueueError> {
    let failed = |source| QueueError::Directory { path: directory.to_owned(), source };
    let lock = lock_file(directory).map_err(failed)?;
    let start = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if start.elapsed() < WAIT => std::thread::sleep(Duration::from_millis(20)),
            Err(TryLockError::WouldBlock) => {
                new_file(&directory.join(SUSPECT)).map_err(failed)?;
                return Err(QueueError::InUse(file.to_owned()));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
    // Another process may have done it while we waited.
    if matches!(what_is_there(file), There::File) && matches!(patiently(|| connect(file, check)), Ok((_, Found::Ours)))
    {
        return Ok(());
    }
    let stamp = format!("{}.damaged-{}", file.display(), now.0);
    for ending in ["-wal", "-shm", ""] {
        let from = PathBuf::from(format!("{}{ending}", file.display()));
        if from.symlink_metadata().is_ok() {
            atomic::rename(&from, Path::new(&format!("{stamp}{ending}"))).map_err(failed)?;
        }
    }
    let _ = std::fs::remove_file(directory.join(SUSPECT));
    tracing::error!(
        "The queue was damaged ({wrong}); it is kept as `{stamp}` and a new one is built from the config and the lineages"
    );
    Ok(())
}
