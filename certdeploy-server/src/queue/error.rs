//! Why there is no queue, in words that name the file, the cause and the way out. Pure.

use std::io;
use std::path::PathBuf;

use rusqlite::ErrorCode;

/// Why there is no queue.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The directory cannot be used.
    #[error("queue_dir `{}`: {source}", path.display())]
    Directory {
        /// The directory, or what is in it.
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
    /// It is somebody else's database, or no file at all.
    #[error(
        "`{}` is not a queue of certdeploy-server; move it away, or let the daemon or --push set it aside", .0.display()
    )]
    Foreign(PathBuf),
    /// It was removed or replaced while we had it open.
    #[error("the queue `{}` was removed or replaced while this daemon had it open; start the daemon again", .0.display())]
    Gone(PathBuf),
    /// It was damaged while we had it open.
    #[error("the queue `{}` was damaged while it was open: {found}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What shows it.
        found: String,
    },
    /// It is damaged and others hold it.
    #[error("`{}` is damaged and in use by another process; stop that one, then start this again", .0.display())]
    InUse(PathBuf),
    /// Whoever sets a damaged database aside does not come to an end.
    #[error("another process holds `{}` for too long; is it stopped or stuck? `fuser -v` names it", .0.display())]
    Held(PathBuf),
    /// SQLite says no.
    #[error("queue `{}`: {}", path.display(), said(source))]
    Database {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
}

impl QueueError {
    /// Whether the database is damaged: opening it with [`Check::Whole`](super::Check::Whole) sets it aside.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. }) || matches!(self, Self::Database { source, .. } if is_damage(source))
    }

    /// Whether the same may work later without anybody doing anything here: a full disk, a busy file, a disk that
    /// was not to be had for a moment.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        let code = match self {
            Self::Database { source, .. } => code(source),
            Self::Directory { source, .. } => return source.raw_os_error().is_some(),
            Self::InUse(_) | Self::Held(_) => return true,
            Self::Owner { .. } | Self::Newer { .. } | Self::Foreign(_) | Self::Gone(_) | Self::Damaged { .. } => None,
        };
        matches!(
            code,
            Some(
                ErrorCode::DiskFull
                    | ErrorCode::SystemIoFailure
                    | ErrorCode::ReadOnly
                    | ErrorCode::CannotOpen
                    | ErrorCode::DatabaseBusy
                    | ErrorCode::DatabaseLocked
                    | ErrorCode::FileLockingProtocolFailed
            )
        )
    }
}

/// Whether the database, and not its surroundings, is what is wrong.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    let unreadable = matches!(
        error,
        rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::Utf8Error(..)
    );
    // Our statements are constant: if one of them makes no sense, a table is not ours.
    let shapeless = matches!(code(error), Some(ErrorCode::Unknown | ErrorCode::ConstraintViolation));
    unreadable || shapeless || matches!(code(error), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// SQLite's code, also of a statement that it cannot read.
pub(super) fn code(error: &rusqlite::Error) -> Option<ErrorCode> {
    if let rusqlite::Error::SqlInputError { error, .. } = error {
        return Some(error.code);
    }
    error.sqlite_error_code()
}

/// SQLite's words, without the text of our statement, and what to do.
fn said(error: &rusqlite::Error) -> String {
    let words = if let rusqlite::Error::SqlInputError { msg, .. } = error { msg.clone() } else { error.to_string() };
    let way_out = match code(error) {
        Some(ErrorCode::DiskFull) => "no space is left there: make room, or put `queue_dir` elsewhere",
        Some(ErrorCode::SystemIoFailure) => "the disk cannot be written or read: look at its space and its health",
        Some(ErrorCode::ReadOnly) => "nothing can be written there: is the file system mounted read-only?",
        Some(ErrorCode::CannotOpen) => "its directory or its file cannot be written: look at space, owner and modes",
        Some(ErrorCode::PermissionDenied) => "run hook and daemon as the user that owns `queue_dir`",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed) => {
            "another process holds it for too long; is one of them stopped or stuck?"
        }
        _ if is_damage(error) => "it is damaged; the daemon and --push set it aside when they start",
        _ => return words,
    };
    format!("{words}; {way_out}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(code: i32) -> QueueError {
        let source = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
        QueueError::Database { path: "/q/queue.sqlite".into(), source }
    }

    #[test]
    fn each_cause_has_its_way_out_and_says_what_follows() {
        // SQLite's result code, what the line says, whether it passes, whether it is damage.
        let cases = [
            (rusqlite::ffi::SQLITE_FULL, "make room", true, false),
            (rusqlite::ffi::SQLITE_IOERR_FSYNC, "look at its space and its health", true, false),
            (rusqlite::ffi::SQLITE_READONLY, "mounted read-only", true, false),
            (rusqlite::ffi::SQLITE_CANTOPEN, "look at space, owner and modes", true, false),
            (rusqlite::ffi::SQLITE_BUSY, "stopped or stuck", true, false),
            (rusqlite::ffi::SQLITE_PROTOCOL, "stopped or stuck", true, false),
            (rusqlite::ffi::SQLITE_CORRUPT, "set it aside", false, true),
            (rusqlite::ffi::SQLITE_NOTADB, "set it aside", false, true),
        ];
        for (code, words, passing, damage) in cases {
            let error = database(code);
            let line = error.to_string();
            assert!(line.starts_with("queue `/q/queue.sqlite`: ") && line.contains(words), "{line}");
            assert_eq!((error.is_passing(), error.is_damage()), (passing, damage), "{line}");
        }
    }

    #[test]
    fn a_foreign_table_is_damage_and_no_statement_is_repeated() {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        let source = connection.prepare("SELECT some, columns FROM nowhere").unwrap_err();
        let error = QueueError::Database { path: "/q".into(), source };
        assert!(error.is_damage());
        assert!(!error.to_string().contains("SELECT"), "{error}");
    }
}
