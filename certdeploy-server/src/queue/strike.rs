//! Taking rows out because a person says so. It must not decide whether they come back.

use certdeploy_common::cert::Lineage;
use rusqlite::{Transaction, params};

use super::{Delivery, Holding, Outcome, Queue, rows};
use crate::config::TargetId;

/// What is to be forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Struck {
    /// All of a target.
    Target(TargetId),
    /// All of a lineage.
    Lineage(Lineage),
}

/// What was in the queue of it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Forgotten {
    /// What was owed.
    pub deliveries: Vec<Delivery>,
    /// What was acknowledged.
    pub holdings: Vec<Holding>,
    /// How many renewals were waiting.
    pub renewals: usize,
}

impl Forgotten {
    /// Whether there was nothing.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.deliveries.is_empty() && self.holdings.is_empty() && self.renewals == 0
    }
}

impl Queue {
    /// Forgets what targets acknowledged elsewhere than where they are now, as the config says; says whose.
    ///
    /// # Errors
    /// The database; then nothing has changed.
    pub fn moved<'a>(&mut self, now: impl IntoIterator<Item = (&'a TargetId, String)>) -> Outcome<Vec<TargetId>> {
        const ELSEWHERE: &str = "DELETE FROM holding WHERE target = ?1 AND place <> ?2";
        const UNKNOWN: &str = "UPDATE holding SET place = ?2 WHERE target = ?1 AND place IS NULL";
        self.run(|connection| {
            let (mut elsewhere, mut unknown) =
                (connection.prepare_cached(ELSEWHERE)?, connection.prepare_cached(UNKNOWN)?);
            let mut moved = Vec::new();
            for (target, place) in now {
                if elsewhere.execute(params![target.as_str(), place])? > 0 {
                    moved.push(target.clone());
                }
                unknown.execute(params![target.as_str(), place])?;
            }
            Ok(moved)
        })
    }

    /// What the queue holds of it; nothing changes.
    ///
    /// # Errors
    /// The database.
    pub fn about(&mut self, what: &Struck) -> Outcome<Forgotten> {
        self.run(|connection| about(connection, what).map(|(found, _)| found))
    }

    /// Takes everything of it out, and says what that was.
    ///
    /// # Errors
    /// The database; then nothing has changed.
    pub fn strike(&mut self, what: &Struck) -> Outcome<Forgotten> {
        self.run(|connection| {
            let (found, renewals) = about(connection, what)?;
            for delivery in &found.deliveries {
                connection.prepare_cached("DELETE FROM delivery WHERE id = ?1")?.execute([delivery.id])?;
            }
            for Holding { target, lineage, .. } in &found.holdings {
                connection
                    .prepare_cached("DELETE FROM holding WHERE target = ?1 AND lineage = ?2")?
                    .execute(params![target.as_str(), lineage.as_str()])?;
            }
            for renewal in renewals {
                connection.prepare_cached("DELETE FROM renewal WHERE id = ?1")?.execute([renewal])?;
            }
            Ok(found)
        })
    }

    /// Every target and every lineage that the queue knows of.
    ///
    /// # Errors
    /// The database.
    pub fn names(&mut self) -> Outcome<Vec<String>> {
        const SQL: &str = "SELECT target FROM delivery UNION SELECT lineage FROM delivery \
                           UNION SELECT target FROM holding UNION SELECT lineage FROM holding";
        self.run(|connection| connection.prepare(SQL)?.query_map([], |row| row.get(0))?.collect())
    }
}

/// What is found, and the numbers of the renewals.
fn about(connection: &Transaction<'_>, what: &Struck) -> rusqlite::Result<(Forgotten, Vec<i64>)> {
    let (column, name) = match what {
        Struck::Target(target) => ("target", target.as_str()),
        Struck::Lineage(lineage) => ("lineage", lineage.as_str()),
    };
    let select = |table: &str| format!("SELECT * FROM {table} WHERE {column} = ?1");
    let deliveries = connection.prepare(&select("delivery"))?.query_map([name], rows::delivery)?.collect();
    let deliveries: rusqlite::Result<Vec<Delivery>> = deliveries;
    let holdings = connection.prepare(&select("holding"))?.query_map([name], rows::holding)?.collect();
    let holdings: rusqlite::Result<Vec<Holding>> = holdings;
    let mut renewals = Vec::new();
    if let Struck::Lineage(lineage) = what {
        let mut statement = connection.prepare("SELECT * FROM renewal")?;
        for row in statement.query_map([], rows::renewal)? {
            let (id, renewal) = row?;
            if renewal.lineage == *lineage {
                renewals.push(id);
            }
        }
    }
    Ok((Forgotten { deliveries: deliveries?, holdings: holdings?, renewals: renewals.len() }, renewals))
}
