//! The table of `status`: who holds what, what is owed and why. Pure: rows in, text out.

use std::collections::BTreeMap;

use certdeploy_common::cert::check::show_time;
use certdeploy_common::daemon::logging::escape;
use certdeploy_common::wire::Update;
use serde::Serialize;

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
    /// `delivered`, `owed`, `failed`, `refused`, or `none`.
    pub state: &'static str,
    /// The serial number of what the target holds.
    pub serial: Option<String>,
    /// Until when that is valid, in Unix seconds.
    pub expires: Option<i64>,
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
    /// Whether nothing is owed, failed or refused.
    pub fine: bool,
    /// All lines, by target and lineage.
    pub deliveries: Vec<Line>,
}

/// Puts the rows together.
#[must_use]
pub fn status(targets: &[Target], deliveries: Vec<Delivery>, holdings: Vec<Holding>, renewals: usize) -> Status {
    let mut lines: BTreeMap<(String, Option<String>), Line> = BTreeMap::new();
    for target in targets {
        let line = Line { target: target.id.to_string(), address: target.place(), state: "none", ..Line::default() };
        lines.insert((line.target.clone(), None), line);
    }
    let find = |target: &str| targets.iter().find(|known| known.id.as_str() == target);
    for holding in holdings {
        let Some(target) = find(holding.target.as_str()) else { continue };
        let line = of_holding(target, holding);
        lines.insert((line.target.clone(), line.lineage.clone()), line);
    }
    for delivery in deliveries {
        let Some(target) = find(delivery.target.as_str()) else { continue };
        let key = (delivery.target.to_string(), Some(delivery.lineage.to_string()));
        let line = lines.entry(key).or_default();
        (line.target, line.address) = (target.id.to_string(), target.place());
        line.lineage = Some(delivery.lineage.to_string());
        line.state = delivery.state.as_str();
        line.owed_serial = delivery.serial;
        line.attempts = delivery.attempts;
        line.next_try = (delivery.state != State::Refused).then(|| delivery.next_at.seconds());
        line.last_error = delivery.last_error;
    }
    let served: Vec<String> = lines.keys().filter(|(_, lineage)| lineage.is_some()).map(|(id, _)| id.clone()).collect();
    lines.retain(|(id, lineage), _| lineage.is_some() || !served.contains(id));
    let lines: Vec<Line> = lines.into_values().collect();
    let good = |line: &Line| matches!(line.state, "delivered" | "none") && line.update != Some("failed");
    Status { renewals, fine: renewals == 0 && lines.iter().all(good), deliveries: lines }
}

fn of_holding(target: &Target, holding: Holding) -> Line {
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
        if self.renewals > 0 {
            text.push_str(&format!("{} renewals wait in the queue\n", self.renewals));
        }
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
        or_dash(line.expires.map(show_time)),
        or_dash(line.generation.map(|number| number.to_string())),
        update,
        line.attempts.to_string(),
        or_dash(line.next_try.map(show_time)),
        or_dash(line.last_error.as_deref().map(escape)),
    ]
}

#[cfg(test)]
mod tests {
    use certdeploy_common::cert::Digest;

    use super::*;
    use crate::clock::Millis;
    use crate::config::TargetId;

    fn targets() -> Vec<Target> {
        let pin = "AAAAC3NzaC1lZDI1NTE5AAAAIP+H3Nk/9uSa7LHNt8fvCPKKkNFnVE5SGC5tnthf6/OK";
        let text = format!(
            "{{privkey_filename: /k, client_configs: [{{name: one, address: h, domains: [a.b], pubkey: {pin}}}, \
             {{name: two, address: i, domains: [a.b], pubkey: {pin}}}]}}"
        );
        crate::config::parse(std::path::Path::new("s.yml"), &text).unwrap().0.targets
    }

    fn holding(update: Update) -> Holding {
        Holding {
            target: TargetId::stored("one".into()),
            lineage: "x".parse().unwrap(),
            digest: Digest::of(b""),
            serial: "0a".into(),
            not_after: 86_400,
            generation: Some(2),
            acked_at: Millis(5_000),
            update: Some(update),
            ask_at: None,
        }
    }

    fn delivery(target: &str) -> Delivery {
        Delivery {
            id: 1,
            target: TargetId::stored(target.into()),
            lineage: "x".parse().unwrap(),
            path: "/live/x".into(),
            digest: None,
            serial: Some("0b".into()),
            not_after: None,
            force: false,
            state: State::Owed,
            attempts: 3,
            next_at: Millis(7_000),
            last_error: Some("no\nway".into()),
        }
    }

    #[test]
    fn all_is_fine_when_everything_is_delivered_and_updated() {
        let status = status(&targets(), vec![], vec![holding(Update::Done)], 0);
        assert!(status.fine);
        let states: Vec<_> = status.deliveries.iter().map(|line| (line.target.as_str(), line.state)).collect();
        assert_eq!(states, [("one", "delivered"), ("two", "none")]);
        assert!(
            status.table().contains("one     x        delivered  0a      1970-01-02 00:00:00  2    done"),
            "{}",
            status.table()
        );
    }

    #[test]
    fn what_is_owed_failed_or_waiting_is_not_fine_and_is_shown() {
        let owed = status(&targets(), vec![delivery("one"), delivery("gone")], vec![holding(Update::Done)], 0);
        assert!(!owed.fine && owed.deliveries.len() == 2, "a target that left the config is not shown");
        let line = &owed.deliveries[0];
        assert_eq!((line.state, line.serial.as_deref(), line.owed_serial.as_deref()), ("owed", Some("0a"), Some("0b")));
        assert!(owed.table().contains("no\\nway"));
        assert!(owed.json().contains("\"next_try\": 7"));
        let failed = Update::Failed { reason: "script".into() };
        assert!(!status(&targets(), vec![], vec![holding(failed)], 0).fine);
        assert!(status(&targets(), vec![], vec![holding(Update::Pending { due: 9 })], 0).fine);
        assert!(!status(&targets(), vec![], vec![], 1).fine);
    }
}
