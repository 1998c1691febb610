//! The rows of the queue as plain values, and their text in the database. Pure.

use std::path::PathBuf;

use certdeploy_common::cert::{Digest, Domain, Lineage};
use certdeploy_common::wire::Update;
use rusqlite::types::Type;
use rusqlite::{Connection, Row};

use crate::clock::Millis;
use crate::config::TargetId;
use crate::hook::Renewal;

/// The duty to bring one lineage to one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Changes whenever the duty is renewed, so that the end of an older push cannot end a newer duty.
    pub id: i64,
    /// Whom to.
    pub target: TargetId,
    /// What.
    pub lineage: Lineage,
    /// Where its files are.
    pub path: PathBuf,
    /// What the target should hold; unknown while the lineage cannot be read.
    pub digest: Option<Digest>,
    /// The leaf's serial number.
    pub serial: Option<String>,
    /// When the leaf ends, in Unix seconds.
    pub not_after: Option<i64>,
    /// Deliver though older, expired or refused.
    pub force: bool,
    /// How it stands.
    pub state: State,
    /// Attempts made.
    pub attempts: u32,
    /// When to try next.
    pub next_at: Millis,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
}

/// How a delivery stands. A delivered one has no row: its holding says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// To be tried, or tried again.
    Owed,
    /// Failed for a reason that another attempt will hardly mend (another host key): tried again, but rarely.
    Failed,
    /// The same files would be refused again; not tried until they change or are forced.
    Refused,
}

impl State {
    /// The word in the database, in `status` and in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owed => "owed",
            Self::Failed => "failed",
            Self::Refused => "refused",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Owed, Self::Failed, Self::Refused].into_iter().find(|state| state.as_str() == text)
    }
}

/// What a target acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// Who.
    pub target: TargetId,
    /// Of what.
    pub lineage: Lineage,
    /// The files.
    pub digest: Digest,
    /// The leaf's serial number.
    pub serial: String,
    /// When the leaf ends, in Unix seconds.
    pub not_after: i64,
    /// The client's generation; a plain peer has none.
    pub generation: Option<u64>,
    /// When it was acknowledged.
    pub acked_at: Millis,
    /// Whether what uses the files was told; a plain peer cannot say.
    pub update: Option<Update>,
    /// When to ask for news.
    pub ask_at: Option<Millis>,
    /// When the leaf begins, in Unix seconds; unknown of what an earlier version wrote.
    pub not_before: Option<i64>,
    /// Where the target was when it acknowledged: under its name there may be another host now.
    pub place: Option<String>,
}

pub(super) fn delivery(row: &Row<'_>) -> rusqlite::Result<Delivery> {
    let digest: Option<String> = row.get("digest")?;
    let state: String = row.get("state")?;
    Ok(Delivery {
        id: row.get("id")?,
        target: TargetId::stored(row.get("target")?),
        lineage: lineage(row)?,
        path: PathBuf::from(row.get::<_, String>("path")?),
        digest: digest.map(|text| Digest::try_from(text).map_err(unreadable)).transpose()?,
        serial: row.get("serial")?,
        not_after: row.get("not_after")?,
        force: row.get("force")?,
        state: State::parse(&state).ok_or_else(|| unreadable("an unknown state"))?,
        attempts: row.get("attempts")?,
        next_at: Millis(row.get("next_at")?),
        last_error: row.get("last_error")?,
    })
}

pub(super) fn holding(row: &Row<'_>) -> rusqlite::Result<Holding> {
    let update: String = row.get("update_state")?;
    let update = match update.as_str() {
        "pending" => Some(Update::Pending { due: row.get::<_, Option<i64>>("update_due")?.unwrap_or_default() }),
        "done" => Some(Update::Done),
        "failed" => Some(Update::Failed { reason: row.get::<_, Option<String>>("update_reason")?.unwrap_or_default() }),
        _ => None,
    };
    Ok(Holding {
        target: TargetId::stored(row.get("target")?),
        lineage: lineage(row)?,
        digest: Digest::try_from(row.get::<_, String>("digest")?).map_err(unreadable)?,
        serial: row.get("serial")?,
        not_after: row.get("not_after")?,
        generation: row.get::<_, Option<i64>>("generation")?.map(|number| u64::try_from(number).unwrap_or_default()),
        acked_at: Millis(row.get("acked_at")?),
        update,
        ask_at: row.get::<_, Option<i64>>("ask_at")?.map(Millis),
        not_before: row.get("not_before")?,
        place: row.get("place")?,
    })
}

pub(super) fn renewal(row: &Row<'_>) -> rusqlite::Result<(i64, Renewal)> {
    let path = PathBuf::from(row.get::<_, String>("path")?);
    let domains: String = row.get("domains")?;
    let renewal = Renewal {
        lineage: Lineage::of_path(&path).map_err(|_| unreadable("not a lineage"))?,
        path,
        domains: domains.split_whitespace().filter_map(|name| name.parse::<Domain>().ok()).collect(),
        force: row.get("force")?,
        anew: row.get("anew")?,
    };
    Ok((row.get("id")?, renewal))
}

/// The three columns of an update.
pub(super) fn update_columns(update: Option<&Update>) -> (&'static str, Option<i64>, Option<&str>) {
    match update {
        None => ("unknown", None, None),
        Some(Update::Pending { due }) => ("pending", Some(*due), None),
        Some(Update::Done) => ("done", None, None),
        Some(Update::Failed { reason }) => ("failed", None, Some(reason)),
    }
}

/// Reads every row, to see whether all can be.
pub(super) fn read_all(connection: &Connection) -> rusqlite::Result<()> {
    fn all<T>(connection: &Connection, sql: &str, read: fn(&Row<'_>) -> rusqlite::Result<T>) -> rusqlite::Result<()> {
        connection.prepare(sql)?.query_map([], read)?.try_for_each(|row| row.map(drop))
    }
    all(connection, "SELECT * FROM renewal", renewal)?;
    all(connection, "SELECT * FROM delivery", delivery)?;
    all(connection, "SELECT * FROM holding", holding)
}

fn lineage(row: &Row<'_>) -> rusqlite::Result<Lineage> {
    Lineage::try_from(row.get::<_, String>("lineage")?).map_err(|_| unreadable("not a lineage"))
}

fn unreadable(what: &'static str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Text, what.into())
}
