//! The queries of the queue: each is answered from an index, so that a million deliveries cost what is asked for.

use certdeploy_common::cert::Lineage;

use super::{Delivery, Holding, Outcome, Queue, rows};
use crate::config::TargetId;

impl Queue {
    /// All deliveries.
    ///
    /// # Errors
    /// The database.
    pub fn deliveries(&mut self) -> Outcome<Vec<Delivery>> {
        self.run(|connection| {
            let mut statement = connection.prepare_cached("SELECT * FROM delivery ORDER BY id")?;
            statement.query_map([], rows::delivery)?.collect()
        })
    }

    /// The deliveries to one target, oldest first.
    ///
    /// # Errors
    /// The database.
    pub fn deliveries_to(&mut self, target: &TargetId) -> Outcome<Vec<Delivery>> {
        self.run(|connection| {
            let mut statement = connection.prepare_cached("SELECT * FROM delivery WHERE target = ?1 ORDER BY id")?;
            statement.query_map([target.as_str()], rows::delivery)?.collect()
        })
    }

    /// All that was acknowledged.
    ///
    /// # Errors
    /// The database.
    pub fn holdings(&mut self) -> Outcome<Vec<Holding>> {
        self.run(|connection| {
            let mut statement = connection.prepare_cached("SELECT * FROM holding ORDER BY target, lineage")?;
            statement.query_map([], rows::holding)?.collect()
        })
    }

    /// The deliveries of one lineage.
    ///
    /// # Errors
    /// The database.
    pub fn deliveries_of(&mut self, lineage: &Lineage) -> Outcome<Vec<Delivery>> {
        self.run(|connection| {
            let mut statement = connection.prepare_cached("SELECT * FROM delivery WHERE lineage = ?1 ORDER BY id")?;
            statement.query_map([lineage.as_str()], rows::delivery)?.collect()
        })
    }

    /// Who acknowledged what of one lineage.
    ///
    /// # Errors
    /// The database.
    pub fn holdings_of(&mut self, lineage: &Lineage) -> Outcome<Vec<Holding>> {
        self.run(|connection| {
            let mut statement =
                connection.prepare_cached("SELECT * FROM holding WHERE lineage = ?1 ORDER BY target")?;
            statement.query_map([lineage.as_str()], rows::holding)?.collect()
        })
    }

    /// What one target acknowledged.
    ///
    /// # Errors
    /// The database.
    pub fn held_by(&mut self, target: &TargetId) -> Outcome<Vec<Holding>> {
        self.run(|connection| {
            let mut statement =
                connection.prepare_cached("SELECT * FROM holding WHERE target = ?1 ORDER BY lineage")?;
            statement.query_map([target.as_str()], rows::holding)?.collect()
        })
    }

    /// How many renewals nobody has looked at.
    ///
    /// # Errors
    /// The database.
    pub fn waiting(&mut self) -> Outcome<usize> {
        self.run(|connection| {
            let count: i64 = connection.query_row("SELECT count(*) FROM renewal", [], |row| row.get(0))?;
            Ok(usize::try_from(count).unwrap_or_default())
        })
    }

    /// Whether nothing is left: no renewal, and nothing owed, failed or refused.
    ///
    /// # Errors
    /// The database.
    pub fn is_empty(&mut self) -> Outcome<bool> {
        const SQL: &str = "SELECT NOT EXISTS (SELECT 1 FROM renewal) AND NOT EXISTS (SELECT 1 FROM delivery)";
        self.run(|connection| connection.query_row(SQL, [], |row| row.get(0)))
    }
}
