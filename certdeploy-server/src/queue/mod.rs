//! The durable store: renewals as the hook left them, deliveries, and what the targets acknowledged. Rows in, rows
//! out; when a call returns, its rows are on the disk. It decides nothing and names nothing behind it.

mod batch;
pub mod error;
pub mod import;
mod lock;
mod patience;
pub mod place;
mod read;
pub mod rows;
pub mod schema;
pub mod strike;

use std::path::{Path, PathBuf};

use certdeploy_common::cert::{Digest, Lineage};
use rusqlite::{OptionalExtension, Transaction, TransactionBehavior, params};

pub use batch::{Standing, Write};
pub use error::QueueError;
pub use place::Check;
pub use rows::{Delivery, Holding, State};

use crate::clock::Millis;
use crate::config::TargetId;
use crate::hook::Renewal;
use patience::patiently;
use place::Place;

/// The queue of one `queue_dir`.
#[derive(Debug)]
pub struct Queue {
    place: Place,
}

/// A change to the deliveries, decided elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A new duty, in the place of an older one for the same lineage and target.
    Owe(Owed),
    /// Try this one again now, from the first attempt.
    Hasten {
        /// The delivery.
        id: i64,
    },
    /// There is nothing to deliver any more.
    Drop {
        /// The delivery.
        id: i64,
    },
}

/// A new duty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owed {
    /// Whom to.
    pub target: TargetId,
    /// What.
    pub lineage: Lineage,
    /// Where its files are.
    pub path: PathBuf,
    /// What the target should hold, when the lineage could be read.
    pub digest: Option<Digest>,
    /// The leaf's serial number.
    pub serial: Option<String>,
    /// When the leaf ends, in Unix seconds.
    pub not_after: Option<i64>,
    /// Deliver though older, expired or refused.
    pub force: bool,
}

/// How an attempt ended that did not deliver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setback {
    /// How the delivery stands now.
    pub state: State,
    /// Attempts made.
    pub attempts: u32,
    /// When to try next.
    pub next_at: Millis,
    /// Why.
    pub error: String,
    /// What was refused, so that the same is not tried again.
    pub digest: Option<Digest>,
}

type Outcome<T> = Result<T, QueueError>;

/// How often a hook tries to get into a damaged queue that others hold; each time takes about a second.
const PATIENT_TRIES: u32 = 14;

impl Queue {
    /// Opens the queue of `directory`, making it when it is missing.
    ///
    /// # Errors
    /// See [`QueueError`].
    pub fn open(directory: &Path, check: Check, now: Millis) -> Outcome<Self> {
        place::open(directory, check, now).map(|place| Self { place })
    }

    /// Opens the queue only if there is one, to look at it.
    ///
    /// # Errors
    /// See [`QueueError`].
    pub fn look(directory: &Path) -> Outcome<Option<Self>> {
        Ok(place::look(directory)?.map(|place| Self { place }))
    }

    /// Makes sure that this is still the queue that hooks write to, and that nobody wrote over it.
    ///
    /// # Errors
    /// Its file was removed, replaced or damaged.
    pub fn still_there(&mut self) -> Outcome<()> {
        self.place.examine()
    }

    /// Appends a renewal.
    ///
    /// # Errors
    /// The row is not on the disk.
    pub fn append(&mut self, renewal: &Renewal, now: Millis) -> Outcome<()> {
        let domains: Vec<&str> = renewal.domains.iter().map(certdeploy_common::cert::Domain::as_str).collect();
        let path = renewal.path.to_string_lossy();
        self.run(|connection| {
            connection
                .prepare_cached("INSERT INTO renewal (path, domains, force, anew, at) VALUES (?1, ?2, ?3, ?4, ?5)")?
                .execute(params![path, domains.join(" "), renewal.force, renewal.anew, now.0])
                .map(drop)
        })
    }

    /// Opens the queue and appends a renewal, whatever state it is in: a damaged one is set aside, and who still has that
    /// one open is told by `knock` to let go. Waits for at most some seconds.
    ///
    /// # Errors
    /// The row is not on the disk.
    pub fn add(directory: &Path, renewal: &Renewal, now: Millis, knock: impl Fn()) -> Outcome<()> {
        let mut check = Check::Opening;
        for _ in 0..PATIENT_TRIES {
            match Self::open(directory, check, now).and_then(|mut queue| queue.append(renewal, now)) {
                // Damage that opening does not show: looked for, and set aside.
                Err(error) if error.is_damage() => check = Check::Whole,
                // Kept busy beyond all patience: by somebody who is at work on a damaged one, most likely.
                Err(QueueError::Database { source, .. })
                    if patience::is_busy(&source) && matches!(check, Check::Opening) =>
                {
                    knock();
                    check = Check::Whole;
                }
                Err(QueueError::InUse(_)) => knock(),
                done => return done,
            }
        }
        Self::open(directory, check, now)?.append(renewal, now)
    }

    /// The renewals that nobody has looked at, oldest first, with their numbers.
    ///
    /// # Errors
    /// The database.
    pub fn renewals(&mut self) -> Outcome<Vec<(i64, Renewal)>> {
        self.run(|connection| {
            let mut statement = connection.prepare_cached("SELECT * FROM renewal ORDER BY id LIMIT 1000")?;
            statement.query_map([], rows::renewal)?.collect()
        })
    }

    /// Turns a renewal into changes, unless another process has done so.
    ///
    /// # Errors
    /// The database; then nothing has changed.
    pub fn settle(&mut self, renewal: i64, changes: &[Change], now: Millis) -> Outcome<()> {
        self.run(|connection| {
            if connection.execute("DELETE FROM renewal WHERE id = ?1", [renewal])? == 1 {
                apply(connection, changes, now)?;
            }
            Ok(())
        })
    }

    /// Makes changes that no renewal asked for.
    ///
    /// # Errors
    /// The database; then nothing has changed.
    pub fn apply(&mut self, changes: &[Change], now: Millis) -> Outcome<()> {
        if changes.is_empty() {
            return Ok(());
        }
        self.run(|connection| apply(connection, changes, now))
    }

    /// Makes everybody who can say what they hold due to be asked.
    ///
    /// # Errors
    /// The database.
    pub fn ask_all(&mut self, at: Millis) -> Outcome<()> {
        const SQL: &str = "UPDATE holding SET ask_at = ?1 WHERE generation IS NOT NULL";
        self.run(|connection| connection.execute(SQL, [at.0]).map(drop))
    }

    /// Ends a delivery, unless it was renewed meanwhile, and records what is held.
    ///
    /// # Errors
    /// The database; then nothing has changed.
    pub fn acknowledge(&mut self, delivery: i64, holding: &Holding) -> Outcome<()> {
        self.run(|connection| {
            connection.execute("DELETE FROM delivery WHERE id = ?1", [delivery])?;
            hold(connection, holding)
        })
    }

    /// Records what a target says it holds.
    ///
    /// # Errors
    /// The database; then nothing has changed.
    pub fn hold(&mut self, holdings: &[Holding]) -> Outcome<()> {
        self.run(|connection| holdings.iter().try_for_each(|holding| hold(connection, holding)))
    }

    /// Forgets what a target does not hold any more.
    ///
    /// # Errors
    /// The database.
    pub fn forget(&mut self, target: &TargetId, lineage: &Lineage) -> Outcome<()> {
        self.run(|connection| {
            let both = params![target.as_str(), lineage.as_str()];
            connection.execute("DELETE FROM holding WHERE target = ?1 AND lineage = ?2", both).map(drop)
        })
    }

    /// Records an attempt that did not deliver.
    ///
    /// # Errors
    /// The database.
    pub fn set_back(&mut self, delivery: i64, setback: &Setback, now: Millis) -> Outcome<()> {
        self.run(|connection| set_back(connection, delivery, setback, now))
    }

    /// A remark of ours, by name.
    ///
    /// # Errors
    /// The database.
    pub fn note(&mut self, name: &str) -> Outcome<Option<String>> {
        self.run(|connection| {
            connection.query_row("SELECT value FROM note WHERE name = ?1", [name], |row| row.get(0)).optional()
        })
    }

    /// Writes a remark of ours.
    ///
    /// # Errors
    /// The database.
    pub fn write_note(&mut self, name: &str, value: &str) -> Outcome<()> {
        self.run(|connection| {
            connection.execute("INSERT OR REPLACE INTO note (name, value) VALUES (?1, ?2)", [name, value]).map(drop)
        })
    }

    fn run<T>(&mut self, work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Outcome<T> {
        let place = &mut self.place;
        // The borrow of the whole queue is what makes sure that no transaction is inside another.
        let begin = || Transaction::new_unchecked(&place.connection, TransactionBehavior::Immediate);
        let done = patiently(begin)
            .and_then(|transaction| work(&transaction).and_then(|value| transaction.commit().map(|()| value)));
        done.map_err(|source| QueueError::Database { path: place.file.clone(), source })
    }
}

fn apply(connection: &Transaction<'_>, changes: &[Change], now: Millis) -> rusqlite::Result<()> {
    for change in changes {
        match change {
            Change::Owe(owed) => owe(connection, owed, now)?,
            Change::Hasten { id } => {
                const SQL: &str =
                    "UPDATE delivery SET state = 'owed', attempts = 0, next_at = ?2, updated_at = ?2 WHERE id = ?1";
                connection.prepare_cached(SQL)?.execute(params![id, now.0])?;
            }
            Change::Drop { id } => _ = connection.execute("DELETE FROM delivery WHERE id = ?1", [id])?,
        }
    }
    Ok(())
}

fn set_back(connection: &Transaction<'_>, delivery: i64, setback: &Setback, now: Millis) -> rusqlite::Result<()> {
    const SQL: &str = "UPDATE delivery SET state = ?2, attempts = ?3, next_at = ?4, last_error = ?5, \
                       digest = CASE ?2 WHEN 'refused' THEN ?6 ELSE coalesce(?6, digest) END, \
                       updated_at = ?7 WHERE id = ?1";
    let Setback { state, attempts, next_at, error, digest } = setback;
    let digest = digest.as_ref().map(Digest::as_str);
    connection
        .prepare_cached(SQL)?
        .execute(params![delivery, state.as_str(), attempts, next_at.0, error, digest, now.0])
        .map(drop)
}

fn owe(connection: &Transaction<'_>, owed: &Owed, now: Millis) -> rusqlite::Result<()> {
    const SQL: &str = "INSERT OR REPLACE INTO delivery \
        (target, lineage, path, digest, serial, not_after, force, state, attempts, next_at, created_at, updated_at) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'owed', 0, ?8, ?8, ?8)";
    let Owed { target, lineage, path, digest, serial, not_after, force } = owed;
    let digest = digest.as_ref().map(Digest::as_str);
    let path = path.to_string_lossy();
    connection.prepare_cached(SQL)?.execute(params![
        target.as_str(),
        lineage.as_str(),
        path,
        digest,
        serial,
        not_after,
        force,
        now.0
    ])?;
    Ok(())
}

fn hold(connection: &Transaction<'_>, holding: &Holding) -> rusqlite::Result<()> {
    const SQL: &str = "INSERT OR REPLACE INTO holding (target, lineage, digest, serial, not_after, generation, \
        acked_at, update_state, update_due, update_reason, ask_at, not_before, place) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
    let (state, due, reason) = rows::update_columns(holding.update.as_ref());
    connection.prepare_cached(SQL)?.execute(params![
        holding.target.as_str(),
        holding.lineage.as_str(),
        holding.digest.as_str(),
        holding.serial,
        holding.not_after,
        holding.generation.map(|number| i64::try_from(number).unwrap_or(i64::MAX)),
        holding.acked_at.0,
        state,
        due,
        reason,
        holding.ask_at.map(|at| at.0),
        holding.not_before,
        holding.place
    ])?;
    Ok(())
}

#[cfg(test)]
mod tests;
