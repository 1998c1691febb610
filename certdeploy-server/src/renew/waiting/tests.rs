//! The wait for a renewal under clocks that change, jump and stop.

use super::*;
use crate::renew::schedule::{At, Interval};

fn at(text: &str) -> Millis {
    Millis(text.parse::<chrono::DateTime<chrono::Utc>>().unwrap().timestamp_millis())
}

fn policy(unit: Unit, count: u32, time: Option<&str>) -> RenewPolicy {
    RenewPolicy {
        interval: Interval { count, unit, at: time.map(|text| At::parse(text, unit).unwrap()) },
        program: None,
        arguments: Vec::new(),
        timeout: None,
        on_start: OnStart::Overdue,
        jitter: Duration::ZERO,
    }
}

/// The same rules as in the time zone database for these years.
const BERLIN: &str = "CET-1CEST,M3.5.0,M10.5.0/3";
const NEW_YORK: &str = "EST5EDT,M3.2.0,M11.1.0";
const LORD_HOWE: &str = "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0";

fn zone(rule: &str) -> Zone {
    Zone::posix(rule).unwrap()
}

/// A host: its clock can be set while the daemon runs. A run takes two seconds.
struct Host {
    zone: Zone,
    clock: Millis,
    waiting: Waiting,
    policy: RenewPolicy,
    runs: Vec<String>,
}

impl Host {
    fn new(rule: &str, policy: RenewPolicy, record: &Record, clock: Millis) -> Self {
        let zone = zone(rule);
        let waiting = Waiting::start(&policy, record, 7, clock, &zone);
        Self { zone, clock, waiting, policy, runs: Vec::new() }
    }

    fn go(&mut self, time: Duration) -> &mut Self {
        let end = self.clock.after(time);
        while self.clock < end {
            self.waiting.look(self.clock);
            if self.waiting.is_due(&self.policy, self.clock, &self.zone) {
                self.runs.push(self.zone.civil(self.clock).format("%dT%H:%M:%S").to_string());
                self.waiting.ran(self.clock.after(Duration::from_secs(2)));
            }
            // In the seconds until then nothing changes.
            let next = self.waiting.next(&self.policy, &self.zone).after(Duration::from_millis(999)).seconds();
            self.clock = Millis::of_seconds(next.max(self.clock.seconds() + 1)).min(end);
        }
        self
    }

    fn set(&mut self, seconds: i64) -> &mut Self {
        self.clock = Millis(self.clock.0 + seconds * 1000);
        self
    }
}

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// With history, so that nothing is due at the start.
fn host(rule: &str, unit: Unit, count: u32, time: Option<&str>, start: &str) -> Host {
    let record = Record::new(at(start));
    let ran = record.begun(at(start)).ended(None, at(start));
    Host::new(rule, policy(unit, count, time), &ran, at(start))
}

#[test]
fn there_is_one_run_a_day_in_each_zone_over_both_changes() {
    // The zone, noon (local) of the day before the change, `renew_at`, and the runs of two days.
    let table = [
        (BERLIN, "2026-03-28T11:00:00Z", "02:30", ["29T03:00:00", "30T02:30:00"]),
        (BERLIN, "2026-03-28T11:00:00Z", "02:00", ["29T03:00:00", "30T02:00:00"]),
        (BERLIN, "2026-03-28T11:00:00Z", "03:00", ["29T03:00:00", "30T03:00:00"]),
        (BERLIN, "2026-10-24T10:00:00Z", "02:30", ["25T02:30:00", "26T02:30:00"]),
        (BERLIN, "2026-10-24T10:00:00Z", "03:00", ["25T03:00:00", "26T03:00:00"]),
        (NEW_YORK, "2026-03-07T17:00:00Z", "02:30", ["08T03:00:00", "09T02:30:00"]),
        (NEW_YORK, "2026-10-31T16:00:00Z", "01:30", ["01T01:30:00", "02T01:30:00"]),
        (NEW_YORK, "2026-10-31T16:00:00Z", "01:59:59", ["01T01:59:59", "02T01:59:59"]),
        (LORD_HOWE, "2026-10-03T01:30:00Z", "02:15", ["04T02:30:00", "05T02:15:00"]),
        (LORD_HOWE, "2026-04-04T01:00:00Z", "01:45", ["05T01:45:00", "06T01:45:00"]),
    ];
    for (rule, start, time, want) in table {
        let mut host = host(rule, Unit::Day, 1, Some(time), start);
        assert_eq!(host.go(2 * DAY).runs, want, "{rule} at {time} from {start}");
    }
}

#[test]
fn days_of_the_week_and_plain_days_keep_their_time_over_both_changes() {
    let sunday = Unit::Weekday(6);
    for (start, want) in [
        ("2026-03-28T11:00:00Z", ["29T03:00:00", "05T02:30:00"]),
        ("2026-10-24T10:00:00Z", ["25T02:30:00", "01T02:30:00"]),
    ] {
        assert_eq!(host(BERLIN, sunday, 1, Some("02:30"), start).go(9 * DAY).runs, want);
    }
    // The last run ended at noon; the days between are 23, 25 and 24 hours long.
    for (start, want) in [("2026-03-28T11:00:00Z", "29T12:00:00"), ("2026-10-24T10:00:00Z", "25T12:00:00")] {
        assert_eq!(host(BERLIN, Unit::Day, 1, None, start).go(26 * HOUR).runs, [want]);
    }
}

#[test]
fn hours_and_minutes_are_true_over_both_changes() {
    // The hour that comes twice has its runs twice, the one that does not come has none.
    let mut autumn = host(BERLIN, Unit::Hour, 1, Some(":30"), "2026-10-24T23:00:00Z");
    assert_eq!(autumn.go(4 * HOUR).runs, ["25T01:30:00", "25T02:30:00", "25T02:30:00", "25T03:30:00"]);
    let mut spring = host(BERLIN, Unit::Hour, 1, Some(":30"), "2026-03-29T00:00:00Z");
    assert_eq!(spring.go(2 * HOUR).runs, ["29T01:30:00", "29T03:30:00"]);
    // Half an hour: ":30" is what the clock on the wall says, before and after.
    let mut autumn = host(LORD_HOWE, Unit::Hour, 1, Some(":30"), "2026-04-04T14:00:00Z");
    assert_eq!(autumn.go(4 * HOUR).runs, ["05T01:30:00", "05T01:30:00", "05T02:30:00", "05T03:30:00"]);
    let mut spring = host(LORD_HOWE, Unit::Hour, 1, Some(":30"), "2026-10-03T14:45:00Z");
    assert_eq!(spring.go(2 * HOUR).runs, ["04T01:30:00", "04T02:30:00", "04T03:30:00"]);
    for (rule, start) in [
        (BERLIN, "2026-03-28T22:00:00Z"),
        (BERLIN, "2026-10-24T22:00:00Z"),
        (NEW_YORK, "2026-03-08T05:00:00Z"),
        (NEW_YORK, "2026-11-01T04:00:00Z"),
        (LORD_HOWE, "2026-10-03T13:00:00Z"),
        (LORD_HOWE, "2026-04-04T12:00:00Z"),
    ] {
        assert_eq!(host(rule, Unit::Minute, 10, None, start).go(6 * HOUR).runs.len(), 35, "{rule} {start}");
        assert_eq!(host(rule, Unit::Minute, 1, Some(":30"), start).go(6 * HOUR).runs.len(), 360, "{rule} {start}");
        assert_eq!(host(rule, Unit::Hour, 2, None, start).go(7 * HOUR).runs.len(), 3, "{rule} {start}");
    }
}

#[test]
fn a_clock_that_jumps_makes_one_run_in_each_window() {
    let daily = || host(BERLIN, Unit::Day, 1, Some("03:00"), "2026-11-20T11:00:00Z");
    // Ahead: what was missed is one run, at once.
    let mut host = daily();
    host.go(HOUR).set(3 * 86_400).go(HOUR);
    assert_eq!(host.runs, ["23T13:00:00"]);
    assert_eq!(host.go(DAY).runs, ["23T13:00:00", "24T03:00:00"]);
    // Back by a day, before and after the run of that night.
    let mut host = daily();
    host.go(HOUR).set(-86_400).go(DAY);
    assert_eq!(host.runs, ["20T03:00:00"]);
    let mut host = daily();
    host.go(20 * HOUR).set(-86_400).go(HOUR);
    assert_eq!(host.runs, ["21T03:00:00"], "the schedule starts anew, and nothing runs because of that");
    assert_eq!(host.go(DAY).runs.len(), 2, "it is not starved until the clock has caught up");
    // Back by years, as when a battery is empty, and ahead again.
    let mut host = daily();
    host.go(HOUR).set(-10 * 365 * 86_400).go(DAY).set(10 * 365 * 86_400).go(HOUR);
    assert_eq!(host.runs.len(), 2);
    // Back and forth by a second for a day, as a clock that is being corrected.
    let mut host = daily();
    for minute in 0..(24 * 60) {
        host.set(if minute % 2 == 0 { -1 } else { 1 }).go(Duration::from_secs(60));
    }
    assert_eq!(host.runs, ["21T03:00:00"]);
}

#[test]
fn what_was_missed_while_the_daemon_was_down_is_made_up_at_its_start() {
    let now = at("2026-11-22T10:00:00Z");
    let before = |hours: u64| Millis(now.0 - i64::try_from(hours * 3_600_000).unwrap());
    let ran = |hours: u64| Record::new(before(9_999)).begun(before(hours)).ended(None, before(hours));
    let fresh = Record::new(now);
    let monday = Unit::Weekday(0);
    // overdue, always, never
    let cut_off = ran(30).begun(before(1)).found(now);
    let twice = cut_off.begun(before(1));
    let table: [(&str, RenewPolicy, &Record, [bool; 3]); 14] = [
        ("cut off", policy(Unit::Day, 1, None), &ran(30).begun(before(1)), [true, true, false]),
        ("cut off twice", policy(Unit::Day, 1, None), &twice, [false, true, false]),
        ("no history, plain interval", policy(Unit::Day, 1, None), &fresh, [true, true, false]),
        ("no history, time of day", policy(Unit::Day, 1, Some("09:00")), &fresh, [false, true, false]),
        ("no history, day of the week", policy(monday, 1, None), &fresh, [false, true, false]),
        ("no history, minutes at", policy(Unit::Minute, 1, Some(":30")), &fresh, [false, true, false]),
        ("first start long ago, never ran", policy(monday, 1, None), &Record::new(before(200)), [true, true, false]),
        ("a day ago", policy(Unit::Day, 1, None), &ran(25), [true, true, false]),
        ("not yet a day", policy(Unit::Day, 1, None), &ran(23), [false, true, false]),
        ("09:00 was missed", policy(Unit::Day, 1, Some("09:00")), &ran(2), [true, true, false]),
        ("09:00 was not missed", policy(Unit::Day, 1, Some("09:00")), &ran(1), [false, true, false]),
        ("Monday was missed", policy(monday, 1, Some("09:00")), &ran(7 * 24), [true, true, false]),
        ("Monday was not missed", policy(monday, 1, Some("09:00")), &ran(6 * 24), [false, true, false]),
        (
            "history of the future",
            policy(Unit::Day, 1, Some("09:00")),
            &ran(0).begun(now.after(DAY)),
            [false, true, false],
        ),
    ];
    for (what, policy, record, want) in table {
        for (on_start, want) in [OnStart::Overdue, OnStart::Always, OnStart::Never].into_iter().zip(want) {
            let policy = RenewPolicy { on_start, ..policy.clone() };
            let waiting = Waiting::start(&policy, &record.clone().found(now), 7, now, &zone("UTC0"));
            assert_eq!(waiting.is_due(&policy, now, &zone("UTC0")), want, "{what}, {on_start:?}");
        }
    }
}

#[test]
fn a_daemon_that_starts_again_and_again_comes_to_its_run() {
    let first = at("2026-11-22T10:00:00Z");
    for policy in [policy(Unit::Weekday(0), 1, None), policy(Unit::Week, 1, Some("09:00"))] {
        let record = Record::new(first);
        let started = |hours| {
            let now = first.after(hours * HOUR);
            Waiting::start(&policy, &record, 7, now, &zone("UTC0")).is_due(&policy, now, &zone("UTC0"))
        };
        assert!(!started(20) && (21..=168).any(started), "{policy:?}");
    }
    let skipped = RenewPolicy { on_start: OnStart::Never, ..policy(Unit::Day, 1, None) };
    let mut host = Host::new("UTC0", skipped, &Record::new(first), first.after(23 * HOUR));
    assert_eq!(host.go(2 * HOUR).runs, ["23T10:00:00"], "`never` is about the start alone");
}

#[test]
fn jitter_delays_scheduled_runs_alone_and_is_spread() {
    let start = at("2026-11-22T10:00:00Z");
    let policy = RenewPolicy { jitter: HOUR, ..policy(Unit::Day, 1, Some("12:00")) };
    let noon = at("2026-11-22T12:00:00Z");
    let waiting = |seed| Waiting::start(&policy, &Record::new(start), seed, start, &zone("UTC0"));
    let delays: Vec<i64> = (0..200).map(|seed| waiting(seed).next(&policy, &zone("UTC0")).0 - noon.0).collect();
    assert!(delays.iter().all(|delay| (0..=3_600_000).contains(delay)), "{delays:?}");
    for quarter in 0..4 {
        let within =
            delays.iter().filter(|delay| (quarter * 900_000..(quarter + 1) * 900_000).contains(*delay)).count();
        assert!((25..=75).contains(&within), "{within} of 200 in quarter {quarter}");
    }
    assert_eq!(waiting(1).next(&policy, &zone("UTC0")), waiting(1).next(&policy, &zone("UTC0")));
    let late = Waiting::start(&policy, &Record::new(start), 1, start.after(DAY), &zone("UTC0"));
    assert!(late.is_due(&policy, start.after(DAY), &zone("UTC0")), "what is made up is late enough");
    let mut host = Host::new("UTC0", policy, &Record::new(start), start);
    assert_eq!(host.go(5 * DAY).runs.len(), 5, "one run in each window");
}
