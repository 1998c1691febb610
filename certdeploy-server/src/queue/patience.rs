//! Waiting for a busy database. SQLite's own busy timeout does not cover everything: changing to WAL, the clean-up of
//! the last connection and recovery answer "busy" at once (sqlite.org/wal.html), and a hook must not fail by that.

use std::time::{Duration, Instant};

use rusqlite::{Error, ErrorCode, Result};

/// How long a busy database is waited for, each time.
pub(super) const LIMIT: Duration = Duration::from_secs(10);
/// How long is waited between two tries.
pub(super) const STEP: Duration = Duration::from_millis(5);

/// Tries `work` until the database is not busy, within [`LIMIT`].
///
/// # Errors
/// As `work`; "busy" only after the limit.
pub(super) fn patiently<T>(mut work: impl FnMut() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    loop {
        match work() {
            Err(error) if is_busy(&error) && begun.elapsed() < LIMIT => std::thread::sleep(STEP),
            done => return done,
        }
    }
}

/// Whether somebody else has the database for the moment.
pub(super) fn is_busy(error: &Error) -> bool {
    // "Locking protocol" is what a reader is told who lost the race for the journal's start too often.
    let again = [ErrorCode::DatabaseBusy, ErrorCode::DatabaseLocked, ErrorCode::FileLockingProtocolFailed];
    error.sqlite_error_code().is_some_and(|code| again.contains(&code))
}
