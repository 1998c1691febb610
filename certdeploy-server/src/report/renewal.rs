//! What `status` says of the last run of certbot and of the next one. Pure.

use certdeploy_common::cert::check::show_time;
use certdeploy_common::daemon::logging::escape;
use serde::Serialize;

use crate::renew::civil::Zone;
use crate::renew::record::Record;
use crate::renew::schedule::Interval;

/// All times are Unix seconds. The field names are those of the JSON and do not change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastRun {
    /// `none`, `running`, `ok` or `failed`.
    pub state: &'static str,
    /// When it began.
    pub started: Option<i64>,
    /// When it ended.
    pub ended: Option<i64>,
    /// When one last ended well.
    pub succeeded: Option<i64>,
    /// Why it failed.
    pub error: Option<String>,
    /// When the next one is due by the schedule, if a daemon runs.
    pub next: i64,
}

/// Puts it together.
#[must_use]
pub fn last_run(record: &Record, interval: Interval, zone: &Zone) -> LastRun {
    let state = match record.last() {
        None => "none",
        Some(_) if record.is_running() => "running",
        Some(_) if record.error.is_some() => "failed",
        Some(_) => "ok",
    };
    LastRun {
        state,
        started: record.started.map(|at| at.seconds()),
        ended: record.ended.map(|at| at.seconds()),
        succeeded: record.succeeded.map(|at| at.seconds()),
        error: record.error.clone(),
        next: interval.next(record.last().unwrap_or(record.since), zone).seconds(),
    }
}

impl LastRun {
    /// As one line for people, with its end. Times are UTC.
    #[must_use]
    pub fn line(&self) -> String {
        let begun = self.started.map_or_else(|| "none yet".to_owned(), show_time);
        let how = match (&self.error, self.started) {
            (Some(error), _) => format!(" {}: {}", self.state, escape(error)),
            (None, Some(_)) => format!(" {}", self.state),
            (None, None) => String::new(),
        };
        format!("Last renewal (UTC): {begun}{how}; next: {}\n", show_time(self.next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Millis;
    use crate::config::kinds::Unit;

    #[test]
    fn each_state_of_a_run_is_said() {
        let fresh = Record::new(Millis(0));
        let running = fresh.begun(Millis::of_seconds(60));
        let ok = running.ended(None, Millis::of_seconds(70));
        let failed = running.ended(Some("exit 1\nno".into()), Millis::of_seconds(70));
        let day = Interval { count: 1, unit: Unit::Day, at: None };
        let table = [
            (&fresh, "none", "Last renewal (UTC): none yet; next: 1970-01-02 00:00:00\n"),
            (&running, "running", "Last renewal (UTC): 1970-01-01 00:01:00 running; next: 1970-01-02 00:01:00\n"),
            (&ok, "ok", "Last renewal (UTC): 1970-01-01 00:01:00 ok; next: 1970-01-02 00:01:10\n"),
            (
                &failed,
                "failed",
                "Last renewal (UTC): 1970-01-01 00:01:00 failed: exit 1\\nno; next: 1970-01-02 00:01:10\n",
            ),
        ];
        for (record, state, line) in table {
            let last = last_run(record, day, &Zone::posix("UTC0").unwrap());
            assert_eq!((last.state, last.line().as_str()), (state, line));
        }
    }
}
