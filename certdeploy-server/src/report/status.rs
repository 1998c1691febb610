//! The table of `status`: who holds what, what is owed and why. Pure: rows in, text out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

use certdeploy_common::cert::check::show_time;
use certdeploy_common::daemon::logging::escape;
use certdeploy_common::wire::Update;
use serde::Serialize;

use super::renewal::LastRun;
use crate::clock::Millis;
use crate::config::Target;
use crate::queue::{Delivery, Holding, State};

/// One line: a lineage at a target. The field names are those of the JSON and do not change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The target's id.
    pub target: String,
    /// Where it is.
    pub address: String,
    /// The lineage; none for a target that never got one.
    pub lineage: Option<String>,
    /// `delivered`, `owed`, `host key` (the target shows another one than is pinned), `failed`, `refused`, `gone` (its
    /// files are no longer there: nothing is owed any more), or `none`.
    pub state: &'static str,
    /// The serial number of what the target holds.
    pub serial: Option<String>,
    /// Until when that is valid, in Unix seconds.
    pub expires: Option<i64>,
    /// `good`, `soon` (within a week), `expired`, or `not yet` (it is valid from a later time on).
    pub expiry: Option<&'static str>,
    /// The generation the target gave it.
    pub generation: Option<u64>,
    /// `done`, `pending`, `failed`; none for targets that cannot say.
    pub update: Option<&'static str>,
    /// When pending updates run, in Unix seconds.
    pub update_due: Option<i64>,
    /// Why updates failed.
    pub update_reason: Option<String>,
    /// When it was acknowledged, in Unix seconds.
    pub acknowledged: Option<i64>,
    /// The digest of what the target holds.
    pub digest: Option<String>,
    /// The serial number of what it should hold, while that is owed.
    pub owed_serial: Option<String>,
    /// Attempts made at what is owed.
    pub attempts: u32,
    /// When the next one is due, in Unix seconds.
    pub next_try: Option<i64>,
    /// Why the last one failed.
    pub last_error: Option<String>,
}

/// The whole status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Renewals that nobody has looked at yet.
    pub renewals: usize,
    /// Whether nothing is owed, failed or refused, no update failed, and nothing that a target holds is expired.
    pub fine: bool,
    /// The last run of certbot; none if there was never a daemon that had one.
    pub renewal: Option<LastRun>,
    /// All lines, by target and lineage.
    pub deliveries: Vec<Line>,
}

/// What the queue holds.
#[derive(Debug, Default)]
pub struct Rows {
    /// What is owed.
    pub deliveries: Vec<Delivery>,
    /// What was acknowledged.
    pub holdings: Vec<Holding>,
    /// How many renewals nobody has looked at.
    pub renewals: usize,
}

/// A certificate that ends sooner than this is marked; certbot renews long before.
const SOON: i64 = 7 * 86_400;

/// Puts the rows together, at the time `now`; the lineages in `gone` have left `live_directory`.
#[must_use]
pub fn status(targets: &[Target], rows: Rows, gone: &BTreeSet<PathBuf>, now: Millis) -> Status {
    let Rows { deliveries, holdings, renewals } = rows;
    let mut lines: BTreeMap<(String, Option<String>), Line> = BTreeMap::new();
    for target in targets {
        let line = Line { target: target.id.to_string(), address: target.place(), state: "none", ..Line::default() };
        lines.insert((line.target.clone(), None), line);
    }
    let by_id: HashMap<&str, &Target> = targets.iter().map(|target| (target.id.as_str(), target)).collect();
    let find = |target: &str| by_id.get(target).copied();
    for holding in holdings {
        let Some(target) = find(holding.target.as_str()) else { continue };
        let line = of_holding(target, holding, now);
        lines.insert((line.target.clone(), line.lineage.clone()), line);
    }
    for delivery in deliveries {
        let Some(target) = find(delivery.target.as_str()) else { continue };
        let key = (delivery.target.to_string(), Some(delivery.lineage.to_string()));
        let line = lines.entry(key).or_default();
        (line.target, line.address) = (target.id.to_string(), target.place());
        line.lineage = Some(delivery.lineage.to_string());
        let is_gone = gone.contains(&delivery.path);
        line.state = if is_gone { "gone" } else { state(&delivery) };
        line.owed_serial = delivery.serial;
        line.attempts = delivery.attempts;
        line.next_try = (delivery.state != State::Refused && !is_gone).then(|| delivery.next_at.seconds());
        line.last_error = delivery.last_error;
    }
    let served: BTreeSet<String> =
        lines.keys().filter(|(_, lineage)| lineage.is_some()).map(|(id, _)| id.clone()).collect();
    lines.retain(|(id, lineage), _| lineage.is_some() || !served.contains(id));
    let lines: Vec<Line> = lines.into_values().collect();
    let good = |line: &Line| {
        matches!(line.state, "delivered" | "none" | "gone")
            && line.update != Some("failed")
            && line.expiry != Some("expired")
    };
    Status { renewals, fine: renewals == 0 && lines.iter().all(good), renewal: None, deliveries: lines }
}

/// The word for how a delivery stands. A host key that does not match is for a person to look at.
fn state(delivery: &Delivery) -> &'static str {
    let other_key = delivery.last_error.as_ref().is_some_and(|error| error.starts_with("BadHostKeyException"));
    if delivery.state == State::Failed && other_key { "host key" } else { delivery.state.as_str() }
}

fn expiry(not_before: Option<i64>, not_after: i64, now: i64) -> &'static str {
    match not_after - now {
        _ if not_before.is_some_and(|begins| begins > now) => "not yet",
        left if left < 0 => "expired",
        left if left < SOON => "soon",
        _ => "good",
    }
}

fn of_holding(target: &Target, holding: Holding, now: Millis) -> Line {
    let (update, update_due, update_reason) = match holding.update {
        None => (None, None, None),
        Some(Update::Pending { due }) => (Some("pending"), Some(due), None),
        Some(Update::Done) => (Some("done"), None, None),
        Some(Update::Failed { reason }) => (Some("failed"), None, Some(reason)),
    };
    Line {
        target: target.id.to_string(),
        address: target.place(),
        lineage: Some(holding.lineage.to_string()),
        state: "delivered",
        serial: Some(holding.serial),
        expires: Some(holding.not_after),
        expiry: Some(expiry(holding.not_before, holding.not_after, now.seconds())),
        generation: holding.generation,
        update,
        update_due,
        update_reason,
        acknowledged: Some(holding.acked_at.seconds()),
        digest: Some(holding.digest.to_string()),
        ..Line::default()
    }
}

impl Status {
    /// With what is known of certbot's last run; a failed one is not fine.
    #[must_use]
    pub fn with(mut self, renewal: Option<LastRun>) -> Self {
        self.fine &= renewal.as_ref().is_none_or(|run| run.state != "failed");
        self.renewal = renewal;
        self
    }

    /// As JSON, with a line's end.
    #[must_use]
    pub fn json(&self) -> String {
        // Strings and numbers only: there is nothing here that serde_json could refuse.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// As a table for people. Times are UTC.
    #[must_use]
    pub fn table(&self) -> String {
        let head = [
            "TARGET",
            "LINEAGE",
            "STATE",
            "SERIAL",
            "EXPIRES (UTC)",
            "GEN",
            "UPDATE",
            "TRIES",
            "NEXT TRY (UTC)",
            "LAST ERROR",
        ];
        let mut rows: Vec<Vec<String>> = vec![head.map(str::to_owned).to_vec()];
        rows.extend(self.deliveries.iter().map(row));
        let width =
            |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..head.len()).map(|column| width(column).unwrap_or_default()).collect();
        let mut text = String::new();
        for row in &rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        match self.renewals {
            0 => {}
            1 => text.push_str("1 renewal waits in the queue\n"),
            more => text.push_str(&format!("{more} renewals wait in the queue\n")),
        }
        text.extend(self.renewal.iter().map(LastRun::line));
        text
    }
}

fn row(line: &Line) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let update = match (line.update, line.update_due, &line.update_reason) {
        (Some("pending"), Some(due), _) => format!("pending, due {}", show_time(due)),
        (Some(state), _, Some(reason)) => format!("{state}: {}", escape(reason)),
        (state, _, _) => or_dash(state.map(str::to_owned)),
    };
    vec![
        escape(&line.target),
        or_dash(line.lineage.clone()),
        line.state.to_owned(),
        or_dash(line.serial.clone()),
        or_dash(line.expires.map(|time| format!("{}{}", show_time(time), mark(line.expiry)))),
        or_dash(line.generation.map(|number| number.to_string())),
        update,
        line.attempts.to_string(),
        or_dash(line.next_try.map(show_time)),
        or_dash(line.last_error.as_deref().map(escape)),
    ]
}

fn mark(expiry: Option<&str>) -> &'static str {
    match expiry {
        Some("expired") => " EXPIRED",
        Some("soon") => " soon",
        Some("not yet") => " NOT YET VALID",
        _ => "",
    }
}

#[cfg(test)]
mod tests;
