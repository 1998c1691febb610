//! When certbot runs: `renew_every`, `renew_unit` and `renew_at` -> a clokwerk schedule. It must not run anything.
//!
//! Days and weeks are counted on the *civil* clock, handed to clokwerk as if it were UTC: it then never meets an hour
//! that does not exist or exists twice. Minutes and hours are counted on true UTC, or a repeated hour would starve them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, Local, NaiveTime, TimeZone, Utc};
use clokwerk::timeprovider::{ChronoTimeProvider, TimeProvider};
use clokwerk::{Interval as Every, Job, Scheduler};

use crate::clock::Millis;
use crate::config::kinds::Unit;

/// How often, and at what time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    /// How many units.
    pub count: u32,
    /// Of what.
    pub unit: Unit,
    /// The time within it.
    pub at: Option<At>,
}

/// A time within a day, an hour or a minute; what is above the unit is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    hour: u32,
    minute: u32,
    second: u32,
}

impl At {
    /// Reads `renew_at` as the unit wants it; a bare number of minutes is how YAML 1.1 reads an unquoted `15:00`.
    #[must_use]
    pub fn parse(text: &str, unit: Unit) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let number = |part: &str, limit: u32| {
            let fine = (1..=2).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
            part.parse::<u32>().ok().filter(|n| fine && *n < limit)
        };
        let at = |hour, minute, second| Some(Self { hour, minute, second });
        match (unit, parts.as_slice()) {
            (Unit::Minute, ["", second]) => at(0, 0, number(second, 60)?),
            (Unit::Hour, ["", minute]) => at(0, number(minute, 60)?, 0),
            (Unit::Hour, [minute, second]) => at(0, number(minute, 60)?, number(second, 60)?),
            (Unit::Day | Unit::Week | Unit::Weekday(_), [hour, minute]) => {
                at(number(hour, 24)?, number(minute, 60)?, 0)
            }
            (Unit::Day | Unit::Week | Unit::Weekday(_), [hour, minute, second]) => {
                at(number(hour, 24)?, number(minute, 60)?, number(second, 60)?)
            }
            (Unit::Day | Unit::Week | Unit::Weekday(_), [minutes]) => {
                let minutes = minutes.parse::<u32>().ok().filter(|minutes| *minutes < 24 * 60)?;
                at(minutes / 60, minutes % 60, 0)
            }
            _ => None,
        }
    }

    /// Ends the sentence "`renew_at` must ...".
    #[must_use]
    pub const fn expected(unit: Unit) -> &'static str {
        match unit {
            Unit::Minute => "be `:SS` when `renew_unit` is minute",
            Unit::Hour => "be `:MM` or `MM:SS` when `renew_unit` is hour",
            Unit::Day | Unit::Week | Unit::Weekday(_) => "be a time of day, `HH:MM` or `HH:MM:SS`",
        }
    }

    fn time(self) -> NaiveTime {
        NaiveTime::from_hms_opt(self.hour, self.minute, self.second).unwrap_or_default()
    }
}

impl Interval {
    /// Whether a renewal is due at the start of the daemon, given when the last one ran: intervals catch up, times of
    /// day and days of the week wait for their time.
    #[must_use]
    pub fn overdue(&self, last: Option<Millis>, now: Millis) -> bool {
        let seconds: u64 = match self.unit {
            _ if self.at.is_some() => return false,
            Unit::Weekday(_) => return false,
            Unit::Minute => 60,
            Unit::Hour => 3_600,
            Unit::Day => 86_400,
            Unit::Week => 604_800,
        };
        let period = Duration::from_secs(seconds * u64::from(self.count));
        last.is_none_or(|last| last.after(period) <= now)
    }
}

/// The local civil time, labelled as UTC.
#[derive(Debug)]
pub struct Civil;

impl TimeProvider for Civil {
    fn now<Tz: TimeZone + Sync + Send>(tz: &Tz) -> DateTime<Tz> {
        Local::now().naive_local().and_utc().with_timezone(tz)
    }
}

/// A running schedule; somebody has to ask it.
pub struct Schedule {
    clock: Clock,
}

enum Clock {
    Civil(Ticking<Civil>),
    True(Ticking<ChronoTimeProvider>),
}

impl Schedule {
    /// Starts counting now.
    #[must_use]
    pub fn new(interval: Interval) -> Self {
        let clock = match interval.unit {
            Unit::Minute | Unit::Hour => Clock::True(Ticking::new(interval)),
            Unit::Day | Unit::Week | Unit::Weekday(_) => Clock::Civil(Ticking::new(interval)),
        };
        Self { clock }
    }

    /// Whether a renewal has fallen due since the last time this was asked; several are one.
    pub fn due(&mut self) -> bool {
        match &mut self.clock {
            Clock::Civil(ticking) => ticking.due(),
            Clock::True(ticking) => ticking.due(),
        }
    }
}

struct Ticking<P: TimeProvider> {
    scheduler: Scheduler<Utc, P>,
    rung: Arc<AtomicBool>,
}

impl<P: TimeProvider> Ticking<P> {
    fn new(interval: Interval) -> Self {
        let mut scheduler = Scheduler::with_tz_and_provider::<Utc, P>(Utc);
        let rung = Arc::new(AtomicBool::new(false));
        let bell = Arc::clone(&rung);
        let mut entries = entries(interval).into_iter();
        if let Some((every, time)) = entries.next() {
            let job = scheduler.every(every);
            if let Some(time) = time {
                job.at_time(time);
            }
            for (every, time) in entries {
                job.and_every(every);
                if let Some(time) = time {
                    job.at_time(time);
                }
            }
            job.run(move || bell.store(true, Ordering::SeqCst));
        }
        Self { scheduler, rung }
    }

    fn due(&mut self) -> bool {
        self.scheduler.run_pending();
        self.rung.swap(false, Ordering::SeqCst)
    }
}

/// What clokwerk is told. A time within the hour or minute becomes all its times of a day: clokwerk's `plus` means
/// "the next multiple of", which is not that.
fn entries(interval: Interval) -> Vec<(Every, Option<NaiveTime>)> {
    let count = interval.count;
    let Some(at) = interval.at else {
        return vec![match interval.unit {
            Unit::Minute => (Every::Minutes(count), None),
            Unit::Hour => (Every::Hours(count), None),
            Unit::Day => (Every::Days(count), None),
            Unit::Week => (Every::Weeks(count), None),
            Unit::Weekday(day) => (weekday(day), None),
        }];
    };
    let minutes = match interval.unit {
        Unit::Minute => count,
        Unit::Hour => count.saturating_mul(60),
        Unit::Day => return vec![(Every::Days(count), Some(at.time()))],
        Unit::Week => return vec![(Every::Weeks(count), Some(at.time()))],
        Unit::Weekday(day) => return vec![(weekday(day), Some(at.time()))],
    };
    const DAY: u32 = 24 * 60;
    if minutes >= DAY {
        return vec![(Every::Days(minutes / DAY), Some(at.time()))];
    }
    let step = usize::try_from(minutes).unwrap_or(1).max(1);
    let time = |start: u32| At { hour: start / 60, minute: start % 60 + at.minute, second: at.second }.time();
    (0..DAY).step_by(step).map(|start| (Every::Days(1), Some(time(start)))).collect()
}

fn weekday(day: u8) -> Every {
    match day {
        0 => Every::Monday,
        1 => Every::Tuesday,
        2 => Every::Wednesday,
        3 => Every::Thursday,
        4 => Every::Friday,
        5 => Every::Saturday,
        _ => Every::Sunday,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static NOW: Cell<i64> = const { Cell::new(0) };
    }

    struct Set;
    impl TimeProvider for Set {
        fn now<Tz: TimeZone + Sync + Send>(tz: &Tz) -> DateTime<Tz> {
            DateTime::from_timestamp(NOW.get(), 0).unwrap().with_timezone(tz)
        }
    }

    fn seconds(text: &str) -> i64 {
        text.parse::<DateTime<Utc>>().unwrap().timestamp()
    }

    /// The times at which the schedule rings in `days` days from Sunday 2026-11-22 00:11:46.
    fn rings(unit: Unit, count: u32, at: Option<&str>, days: i64) -> Vec<String> {
        let start = seconds("2026-11-22T00:11:46Z");
        NOW.set(start);
        let at = at.map(|text| At::parse(text, unit).unwrap());
        let mut ticking = Ticking::<Set>::new(Interval { count, unit, at });
        let mut rings = Vec::new();
        for second in start..start + days * 86_400 {
            NOW.set(second);
            if ticking.due() {
                rings.push(DateTime::from_timestamp(second, 0).unwrap().format("%dT%H:%M:%S").to_string());
            }
        }
        rings
    }

    #[test]
    fn times_of_day_and_days_of_the_week_ring_once() {
        assert_eq!(rings(Unit::Day, 1, Some("02:11"), 2), ["22T02:11:00", "23T02:11:00"]);
        assert_eq!(rings(Unit::Day, 1, Some("00:00"), 2), ["23T00:00:00", "24T00:00:00"]);
        assert_eq!(rings(Unit::Weekday(6), 1, Some("02:11"), 8), ["22T02:11:00", "29T02:11:00"]);
        assert_eq!(rings(Unit::Weekday(0), 1, Some("09:00"), 3), ["23T09:00:00"]);
        assert_eq!(
            rings(Unit::Hour, 6, Some("30:15"), 1),
            ["22T00:30:15", "22T06:30:15", "22T12:30:15", "22T18:30:15"]
        );
        assert_eq!(rings(Unit::Minute, 1, Some(":30"), 1).len(), 1440);
        assert_eq!(rings(Unit::Hour, 12, None, 1), ["22T12:00:00", "23T00:00:00"]);
    }

    #[test]
    fn renew_at_is_read_as_the_unit_wants_it() {
        let of = |text, unit| At::parse(text, unit).map(|at| (at.hour, at.minute, at.second));
        assert_eq!(of("15:00", Unit::Day), Some((15, 0, 0)));
        assert_eq!(of("900", Unit::Week), Some((15, 0, 0)));
        assert_eq!(of("09:30", Unit::Hour), Some((0, 9, 30)));
        assert_eq!(of(":30", Unit::Hour), Some((0, 30, 0)));
        assert_eq!(of(":30", Unit::Minute), Some((0, 0, 30)));
        for (text, unit) in [("25:00", Unit::Day), ("1:2:3:4", Unit::Day), ("x", Unit::Day), ("12:30", Unit::Minute)] {
            assert_eq!(of(text, unit), None, "{text}");
        }
    }

    #[test]
    fn intervals_catch_up_at_the_start_and_times_of_day_wait() {
        let day = Interval { count: 1, unit: Unit::Day, at: None };
        let now = Millis::of_seconds(200_000);
        assert!(day.overdue(None, now));
        assert!(day.overdue(Some(Millis::of_seconds(100_000)), now));
        assert!(!day.overdue(Some(Millis::of_seconds(150_000)), now));
        assert!(!Interval { at: At::parse("1:00", Unit::Day), ..day }.overdue(None, now));
        assert!(!Interval { unit: Unit::Weekday(1), ..day }.overdue(None, now));
    }
}
