//! The tables of the queue and its version. No key bytes ever go in here.

use rusqlite::{Connection, ErrorCode, Result};

/// The version that this program writes; a newer one is left alone.
pub const VERSION: i64 = 2;

/// What makes the file ours ("CDQ1").
const APPLICATION: i64 = 0x4344_5131;

/// What a database turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Ours, with all tables.
    Ours,
    /// Ours, as the first version had it.
    Older,
    /// Ours, but written by a later version.
    Newer(i64),
    /// Somebody else's.
    Foreign,
}

const TABLES: &str = "
CREATE TABLE renewal (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    path    TEXT NOT NULL,
    domains TEXT NOT NULL,
    force   INTEGER NOT NULL,
    anew    INTEGER NOT NULL,
    at      INTEGER NOT NULL
);
CREATE TABLE delivery (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    target     TEXT NOT NULL,
    lineage    TEXT NOT NULL,
    path       TEXT NOT NULL,
    digest     TEXT,
    serial     TEXT,
    not_after  INTEGER,
    force      INTEGER NOT NULL,
    state      TEXT NOT NULL,
    attempts   INTEGER NOT NULL,
    next_at    INTEGER NOT NULL,
    last_error TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (target, lineage)
);
CREATE INDEX delivery_lineage ON delivery (lineage);
CREATE TABLE holding (
    target        TEXT NOT NULL,
    lineage       TEXT NOT NULL,
    digest        TEXT NOT NULL,
    serial        TEXT NOT NULL,
    not_after     INTEGER NOT NULL,
    generation    INTEGER,
    acked_at      INTEGER NOT NULL,
    update_state  TEXT NOT NULL,
    update_due    INTEGER,
    update_reason TEXT,
    ask_at        INTEGER,
    not_before    INTEGER,
    place         TEXT,
    PRIMARY KEY (target, lineage)
) WITHOUT ROWID;
CREATE INDEX holding_lineage ON holding (lineage);
CREATE TABLE note (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
";

/// From the first version to this one.
const UPGRADE: &str = "
ALTER TABLE holding ADD COLUMN not_before INTEGER;
ALTER TABLE holding ADD COLUMN place TEXT;
";

/// Sets the connection up: a commit is on the disk when it returns, and a busy file is waited for.
///
/// # Errors
/// Not a database, or damaged.
pub fn prepare(connection: &Connection) -> Result<()> {
    connection.busy_timeout(super::patience::LIMIT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")
}

/// Makes the tables if there are none, and brings those of the first version up to date.
///
/// # Errors
/// Not a database, damaged, or not writable.
pub fn migrate(connection: &mut Connection) -> Result<Found> {
    match found(connection)? {
        Some(found @ (Found::Ours | Found::Newer(_) | Found::Foreign)) => Ok(found),
        Some(Found::Older) | None => {
            let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            // Another process may have made them while we waited for the lock.
            match found(&transaction)? {
                None => transaction.execute_batch(TABLES)?,
                Some(Found::Older) => transaction.execute_batch(UPGRADE)?,
                Some(found) => return Ok(found),
            }
            transaction.pragma_update(None, "application_id", APPLICATION)?;
            transaction.pragma_update(None, "user_version", VERSION)?;
            transaction.commit()?;
            Ok(Found::Ours)
        }
    }
}

/// What is in the file; `None` when it is empty.
///
/// # Errors
/// Not a database, or damaged.
pub fn found(connection: &Connection) -> Result<Option<Found>> {
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    Ok(match (number("application_id")?, number("user_version")?) {
        (APPLICATION, VERSION) if has_our_tables(connection, HOLDING)? => Some(Found::Ours),
        (APPLICATION, 1) if has_our_tables(connection, FORMER_HOLDING)? => Some(Found::Older),
        (APPLICATION, newer) if newer > VERSION => Some(Found::Newer(newer)),
        (0, 0) if connection.query_row("SELECT count(*) = 0 FROM sqlite_master", [], |row| row.get(0))? => None,
        _ => Some(Found::Foreign),
    })
}

const FORMER_HOLDING: &str = "SELECT target, lineage, digest, serial, not_after, generation, acked_at, update_state, \
                              update_due, update_reason, ask_at FROM holding";
const HOLDING: &str = "SELECT target, lineage, digest, serial, not_after, generation, acked_at, update_state, \
                       update_due, update_reason, ask_at, not_before, place FROM holding";

/// Whether every table has the columns that we ask for.
fn has_our_tables(connection: &Connection, holding: &str) -> Result<bool> {
    let asked = [
        "SELECT id, path, domains, force, anew, at FROM renewal",
        "SELECT id, target, lineage, path, digest, serial, not_after, force, state, attempts, next_at, last_error, \
         created_at, updated_at FROM delivery",
        holding,
        "SELECT name, value FROM note",
    ];
    for sql in asked {
        match connection.prepare(sql) {
            Ok(_) => {}
            Err(error) if super::error::code(&error) == Some(ErrorCode::Unknown) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}
