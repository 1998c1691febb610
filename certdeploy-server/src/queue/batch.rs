//! What the loop asks and writes for many targets at once: one transaction each, however many they are. A million
//! deliveries are never in memory together. It decides nothing.

use std::path::Path;

use certdeploy_common::cert::Lineage;
use rusqlite::{Transaction, params};

use super::{Change, Delivery, Holding, Outcome, Queue, Setback, rows};
use crate::clock::Millis;
use crate::config::TargetId;

/// How one target stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// When its next delivery is to be tried.
    pub tries: Option<Millis>,
    /// How many deliveries are to be tried, sooner or later.
    pub due: usize,
    /// When it is to be asked for news.
    pub asks: Option<Millis>,
    /// Anything is known of what it holds.
    pub known: bool,
    /// It has said what it holds, so it can be asked.
    pub says: bool,
    /// Updates there are known to have failed.
    pub updates_failed: bool,
}

/// One thing that follows from a visit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// The target has it: the delivery ends, unless it was renewed meanwhile, and what is held is recorded.
    Acknowledge(i64, Holding),
    /// An attempt that did not deliver.
    SetBack(i64, Setback),
    /// Something else.
    Change(Change),
    /// What a target says it holds.
    Hold(Holding),
    /// What a target does not hold any more.
    Forget(TargetId, Lineage),
}

impl Queue {
    /// How each of these targets stands.
    ///
    /// # Errors
    /// The database.
    pub fn standing<'a>(&mut self, targets: impl IntoIterator<Item = &'a TargetId>) -> Outcome<Vec<Standing>> {
        const TRIES: &str = "SELECT min(next_at), count(*) FROM delivery \
                             WHERE target = ?1 AND state IN ('owed', 'failed')";
        const ASKS: &str = "SELECT min(ask_at), count(*) > 0, coalesce(max(generation IS NOT NULL), 0), \
                            coalesce(max(update_state = 'failed'), 0) FROM holding WHERE target = ?1";
        self.run(|connection| {
            let (mut tries, mut asks) = (connection.prepare_cached(TRIES)?, connection.prepare_cached(ASKS)?);
            let mut all = Vec::new();
            for target in targets {
                let (tries, due): (Option<i64>, i64) =
                    tries.query_row([target.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
                all.push(asks.query_row([target.as_str()], |row| {
                    Ok(Standing {
                        tries: tries.map(Millis),
                        due: usize::try_from(due).unwrap_or_default(),
                        asks: row.get::<_, Option<i64>>(0)?.map(Millis),
                        known: row.get(1)?,
                        says: row.get(2)?,
                        updates_failed: row.get(3)?,
                    })
                })?);
            }
            Ok(all)
        })
    }

    /// At most `limit` deliveries to a target that are due at `now`, or due at all without a time; those that were
    /// tried last come last. What is due later than `horizon` was written under another clock, and is due.
    ///
    /// # Errors
    /// The database.
    pub fn due_to(&mut self, target: &TargetId, due: Option<(Millis, Millis)>, limit: usize) -> Outcome<Vec<Delivery>> {
        const SQL: &str = "SELECT * FROM delivery WHERE target = ?1 AND state IN ('owed', 'failed') \
                           AND (next_at <= ?2 OR next_at > ?3) ORDER BY updated_at, id LIMIT ?4";
        let (now, horizon) = due.unwrap_or((Millis(i64::MAX), Millis(i64::MAX)));
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.run(|connection| {
            let mut statement = connection.prepare_cached(SQL)?;
            statement.query_map(params![target.as_str(), now.0, horizon.0, limit], rows::delivery)?.collect()
        })
    }

    /// Writes down what follows from visits, all or nothing.
    ///
    /// # Errors
    /// The database; then nothing has changed.
    pub fn write(&mut self, writes: &[Write], now: Millis) -> Outcome<()> {
        if writes.is_empty() {
            return Ok(());
        }
        self.run(|connection| writes.iter().try_for_each(|write| carry_out(connection, write, now)))
    }

    /// Makes everything that waits in a pause due at once, from its first attempt.
    ///
    /// # Errors
    /// The database.
    pub fn hasten_all(&mut self, now: Millis) -> Outcome<()> {
        const SQL: &str = "UPDATE delivery SET state = 'owed', attempts = 0, next_at = ?1 \
                           WHERE state IN ('owed', 'failed') AND (attempts > 0 OR next_at > ?1)";
        self.run(|connection| connection.execute(SQL, [now.0]).map(drop))
    }

    /// Moves everything that is to happen later by so many milliseconds: the clock was set. No sum can leave what a
    /// whole number holds: SQLite would write it as another kind of number, and the row could not be read again.
    ///
    /// # Errors
    /// The database.
    pub fn shift(&mut self, by: i64, before: Millis) -> Outcome<()> {
        const FAR: i64 = i64::MAX / 4;
        const DELIVERIES: &str = "UPDATE delivery SET next_at = min(next_at, ?3) + ?1 WHERE next_at > ?2";
        const HOLDINGS: &str = "UPDATE holding SET ask_at = min(ask_at, ?3) + ?1 WHERE ask_at > ?2";
        self.run(|connection| {
            let pending = params![by.clamp(-FAR, FAR), before.0, FAR];
            connection.execute(DELIVERIES, pending)?;
            connection.execute(HOLDINGS, pending).map(drop)
        })
    }

    /// The targets that something is owed to.
    ///
    /// # Errors
    /// The database.
    pub fn owed_targets(&mut self) -> Outcome<Vec<TargetId>> {
        self.run(|connection| Ok(distinct(connection, "target")?.into_iter().map(TargetId::stored).collect()))
    }

    /// The lineages that are owed.
    ///
    /// # Errors
    /// The database.
    pub fn owed_lineages(&mut self) -> Outcome<Vec<String>> {
        self.run(|connection| distinct(connection, "lineage"))
    }

    /// Takes out all that is owed to a target; says how much.
    ///
    /// # Errors
    /// The database.
    pub fn drop_target(&mut self, target: &TargetId) -> Outcome<usize> {
        self.run(|connection| connection.execute("DELETE FROM delivery WHERE target = ?1", [target.as_str()]))
    }

    /// Takes out all that is owed of a lineage with its files at `path`; says how much.
    ///
    /// # Errors
    /// The database.
    pub fn drop_lineage(&mut self, lineage: &str, path: &Path) -> Outcome<usize> {
        const SQL: &str = "DELETE FROM delivery WHERE lineage = ?1 AND path = ?2";
        self.run(|connection| connection.execute(SQL, params![lineage, path.to_string_lossy()]))
    }
}

/// The values of an indexed column, each found from the one before.
fn distinct(connection: &Transaction<'_>, column: &str) -> rusqlite::Result<Vec<String>> {
    let sql = format!(
        "WITH RECURSIVE each(value) AS (SELECT min({column}) FROM delivery UNION ALL \
         SELECT (SELECT min({column}) FROM delivery WHERE {column} > value) FROM each WHERE value IS NOT NULL) \
         SELECT value FROM each WHERE value IS NOT NULL"
    );
    connection.prepare_cached(&sql)?.query_map([], |row| row.get(0))?.collect()
}

fn carry_out(connection: &Transaction<'_>, write: &Write, now: Millis) -> rusqlite::Result<()> {
    match write {
        Write::Acknowledge(delivery, holding) => {
            connection.prepare_cached("DELETE FROM delivery WHERE id = ?1")?.execute([delivery])?;
            super::hold(connection, holding)
        }
        Write::SetBack(delivery, setback) => super::set_back(connection, *delivery, setback, now),
        Write::Change(change) => super::apply(connection, std::slice::from_ref(change), now),
        Write::Hold(holding) => super::hold(connection, holding),
        Write::Forget(target, lineage) => {
            const SQL: &str = "DELETE FROM holding WHERE target = ?1 AND lineage = ?2";
            connection.prepare_cached(SQL)?.execute(params![target.as_str(), lineage.as_str()]).map(drop)
        }
    }
}
