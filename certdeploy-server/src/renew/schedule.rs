//! When certbot runs: `renew_every`, `renew_unit` and `renew_at` -> the moment after a given one. Pure: it reads no clock
//! and runs nothing.
//!
//! clokwerk's arithmetic decides; its `Scheduler` is not used, because it keeps what is next in memory, cannot be asked
//! for it, and so can neither make up a run that was missed nor say in `status` when the next one is.
//!
//! Days, weeks and days of the week are counted on the civil clock; minutes and hours truly, or an hour that comes twice
//! would starve them.

use std::time::Duration;

use chrono::{NaiveTime, TimeDelta};
use clokwerk::{Interval as Every, NextTime};

use super::civil::{Civil, Zone};
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

    fn of_day(self) -> TimeDelta {
        TimeDelta::seconds(i64::from(self.hour * 3_600 + self.minute * 60 + self.second))
    }
}

impl Interval {
    /// The moment of the first renewal after `last`, which is the end of the last one, or the start of the schedule.
    ///
    /// With `renew_at` it is the first such time later than all but one of the units: a run that was late, or ended
    /// late, does not move the next one. Without, the units are counted from `last`.
    #[must_use]
    pub fn next(self, last: Millis, zone: &Zone) -> Millis {
        let start = zone.civil(last);
        let most = i64::from(self.count.max(1)) - 1;
        match (self.unit, self.at) {
            (Unit::Minute, at) => self.even(last, zone, 60, Every::Minutes(1), at),
            (Unit::Hour, at) => self.even(last, zone, 3_600, Every::Hours(1), at),
            (Unit::Day, None) => zone.moment(start + TimeDelta::days(most + 1)),
            (Unit::Week, None) => zone.moment(start + TimeDelta::days(7 * (most + 1))),
            (Unit::Day, Some(at)) => civil(Every::Days(1), at.of_day(), start, most, last, zone),
            (Unit::Week, Some(at)) => civil(Every::Days(1), at.of_day(), start, 7 * most + 6, last, zone),
            (Unit::Weekday(day), Some(at)) => civil(weekday(day), at.of_day(), start, 0, last, zone),
            // Any time of that day would do; the one at which the schedule began spreads the world's certbots.
            (Unit::Weekday(day), None) => {
                civil(weekday(day), start.time() - NaiveTime::default(), start, 0, last, zone)
            }
        }
    }

    /// Minutes and hours, which are all of one length.
    fn even(self, last: Millis, zone: &Zone, seconds: u64, base: Every, at: Option<At>) -> Millis {
        let units = |count: u32| Duration::from_secs(seconds * u64::from(count));
        let Some(at) = at else { return last.after(units(self.count.max(1))) };
        let on = |from: Millis, wall: Civil| {
            let wait = (first(base, at.of_day(), wall) - wall).num_milliseconds();
            Millis(from.0.saturating_add(wait))
        };
        let from = last.after(units(self.count.max(1) - 1));
        let next = on(from, zone.civil(from));
        // Where clocks change by half an hour, "at :30" moves; the moment of the change may itself be the one.
        match zone.change(from) {
            Some(change) if change <= next => {
                let second = TimeDelta::seconds(1);
                on(Millis(change.0 - second.num_milliseconds()), zone.civil(change) - second)
            }
            _ => next,
        }
    }
}

/// On the civil clock: the first `time` of a `base` day that is more than `days` after `start`, which is `last`.
fn civil(base: Every, time: TimeDelta, start: Civil, days: i64, last: Millis, zone: &Zone) -> Millis {
    let mut next = first(base, time, start + TimeDelta::days(days));
    // In an hour that comes twice, the first time of it was meant.
    while zone.moment(next) <= last {
        next = first(base, time, next);
    }
    zone.moment(next)
}

/// The first `base` plus `offset` after `from`.
fn first(base: Every, offset: TimeDelta, from: Civil) -> Civil {
    // clokwerk's `prev` is strict, and means the one before when asked on the dot.
    let begin = base.prev(&(from + TimeDelta::seconds(1)));
    let within = begin + offset;
    if within > from { within } else { base.next(&begin) + offset }
}

const fn weekday(day: u8) -> Every {
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
    use super::*;

    fn at(text: &str) -> Millis {
        Millis(text.parse::<Civil>().unwrap().timestamp_millis())
    }

    fn show(at: Millis) -> String {
        Zone::posix("UTC0").unwrap().civil(at).format("%dT%H:%M:%S").to_string()
    }

    fn interval(unit: Unit, count: u32, at: Option<&str>) -> Interval {
        Interval { count, unit, at: at.map(|text| At::parse(text, unit).unwrap()) }
    }

    /// What the Python program does from Sunday 2026-11-22 00:11:46, observed.
    #[test]
    fn the_first_renewal_is_when_the_python_program_has_it() {
        let start = at("2026-11-22T00:11:46Z");
        let (monday, sunday) = (Unit::Weekday(0), Unit::Weekday(6));
        let table: [(Unit, u32, Option<&str>, &str); 19] = [
            (Unit::Day, 1, None, "23T00:11:46"),
            (Unit::Day, 1, Some("02:11"), "22T02:11:00"),
            (Unit::Day, 1, Some("00:00"), "23T00:00:00"),
            // Python: the 24th. Ours never waits longer than it was told.
            (Unit::Day, 2, Some("02:11"), "23T02:11:00"),
            (Unit::Day, 2, Some("00:00"), "24T00:00:00"),
            (sunday, 1, None, "29T00:11:46"),
            (sunday, 1, Some("02:11"), "22T02:11:00"),
            (sunday, 1, Some("00:00"), "29T00:00:00"),
            (monday, 1, None, "23T00:11:46"),
            (monday, 1, Some("09:00"), "23T09:00:00"),
            (Unit::Week, 1, None, "29T00:11:46"),
            (Unit::Hour, 1, Some(":30"), "22T00:30:00"),
            // Python: the same. Minute 9, second 30.
            (Unit::Hour, 1, Some("09:30"), "22T01:09:30"),
            (Unit::Hour, 2, Some(":00"), "22T02:00:00"),
            (Unit::Minute, 1, Some(":30"), "22T00:12:30"),
            // Python refuses `renew_at` with weeks.
            (Unit::Week, 1, Some("02:11"), "28T02:11:00"),
            (Unit::Hour, 12, None, "22T12:11:46"),
            (Unit::Minute, 90, None, "22T01:41:46"),
            // An unquoted 15:00, as YAML 1.1 reads it. Python ends with a TypeError.
            (Unit::Day, 1, Some("900"), "22T15:00:00"),
        ];
        let zone = Zone::posix("UTC0").unwrap();
        for (unit, count, time, want) in table {
            let next = interval(unit, count, time).next(start, &zone);
            assert_eq!(show(next), want, "{unit:?} x {count} at {time:?}");
        }
    }

    #[test]
    fn every_way_to_write_an_interval_leads_to_a_run() {
        let pin = "AAAAC3NzaC1lZDI1NTE5AAAAIP+H3Nk/9uSa7LHNt8fvCPKKkNFnVE5SGC5tnthf6/OK";
        let rest = format!("privkey_filename: /k\nclient_configs: [{{address: h, domains: [a.b], pubkey: {pin}}}]\n");
        let table = [
            ("", "23T00:11:46"),
            ("renew_every: 1\nrenew_unit: day\nrenew_at: null\n", "23T00:11:46"),
            ("renew_every: 2\nrenew_unit: day\nrenew_at: 15:00\n", "23T15:00:00"),
            ("renew_unit: monday\n", "23T00:11:46"),
            ("renew_every: monday\nrenew_at: 09:00\n", "23T09:00:00"),
            ("renew_every: 1\nrenew_unit: Monday \nrenew_at: '09:00:30'\n", "23T09:00:30"),
            ("check_renew:\n  every: week\n", "29T00:11:46"),
            ("renew_every: week\nrenew_at: 9:30\n", "28T09:30:00"),
            ("renew_every: 12\nrenew_unit: hour\n", "22T12:11:46"),
            ("renew_unit: minute\nrenew_at: :30\n", "22T00:12:30"),
            ("renew_unit: hour\nrenew_at: ''\n", "22T01:11:46"),
        ];
        for (head, want) in table {
            let parsed = crate::config::parse(std::path::Path::new("server.yml"), &format!("{head}{rest}"));
            let (settings, _) = parsed.unwrap_or_else(|error| panic!("{head}: {error}"));
            let next = settings.renew.interval.next(at("2026-11-22T00:11:46Z"), &Zone::posix("UTC0").unwrap());
            assert_eq!(show(next), want, "{head}");
        }
    }

    /// Each run ends some seconds after it was due, as real ones do.
    #[test]
    fn runs_follow_each_other_at_the_same_distance() {
        let table: [(Unit, u32, Option<&str>, [&str; 3]); 8] = [
            (Unit::Day, 1, Some("23:59"), ["22T23:59:00", "23T23:59:00", "24T23:59:00"]),
            (Unit::Day, 2, Some("15:00"), ["23T15:00:00", "25T15:00:00", "27T15:00:00"]),
            (Unit::Weekday(0), 1, Some("09:00"), ["23T09:00:00", "30T09:00:00", "07T09:00:00"]),
            (Unit::Week, 2, Some("09:00"), ["05T09:00:00", "19T09:00:00", "02T09:00:00"]),
            (Unit::Hour, 6, Some("30:15"), ["22T05:30:15", "22T11:30:15", "22T17:30:15"]),
            (Unit::Hour, 5, Some(":59"), ["22T04:59:00", "22T09:59:00", "22T14:59:00"]),
            (Unit::Hour, 36, Some(":00"), ["23T12:00:00", "25T00:00:00", "26T12:00:00"]),
            (Unit::Minute, 1, Some(":30"), ["22T00:12:30", "22T00:13:30", "22T00:14:30"]),
        ];
        let zone = Zone::posix("UTC0").unwrap();
        for (unit, count, time, want) in table {
            let mut last = at("2026-11-22T00:11:46Z");
            for want in want {
                let next = interval(unit, count, time).next(last, &zone);
                assert_eq!(show(next), want, "{unit:?} x {count} at {time:?}");
                last = next.after(Duration::from_millis(7_300));
            }
        }
    }

    #[test]
    fn renew_at_is_read_as_the_unit_wants_it() {
        let of = |text, unit| At::parse(text, unit).map(|at| (at.hour, at.minute, at.second));
        assert_eq!(of("15:00", Unit::Day), Some((15, 0, 0)));
        assert_eq!(of("9:00", Unit::Day), Some((9, 0, 0)));
        assert_eq!(of("23:59:58", Unit::Weekday(3)), Some((23, 59, 58)));
        assert_eq!(of("900", Unit::Week), Some((15, 0, 0)));
        assert_eq!(of("09:30", Unit::Hour), Some((0, 9, 30)));
        assert_eq!(of(":30", Unit::Hour), Some((0, 30, 0)));
        assert_eq!(of(":30", Unit::Minute), Some((0, 0, 30)));
        for (text, unit) in [
            ("25:00", Unit::Day),
            ("24:00", Unit::Week),
            ("12:60", Unit::Day),
            ("1440", Unit::Day),
            ("1:2:3:4", Unit::Day),
            ("x", Unit::Day),
            ("+1:00", Unit::Day),
            ("12:30", Unit::Minute),
            (":60", Unit::Minute),
            (":60", Unit::Hour),
        ] {
            assert_eq!(of(text, unit), None, "{text}");
        }
    }

    #[test]
    fn the_longest_intervals_and_the_oddest_moments_do_no_harm() {
        let zone = Zone::posix("EST5EDT,M3.2.0,M11.1.0").unwrap();
        for unit in [Unit::Minute, Unit::Hour, Unit::Day, Unit::Week, Unit::Weekday(2)] {
            for count in [0, 1, 1_000_000] {
                let most = interval(unit, count, None);
                for last in [Millis(0), at("2026-11-22T00:11:46Z"), at("9999-12-31T23:59:59Z")] {
                    assert!(most.next(last, &zone) > last, "{unit:?} x {count}");
                    let on_the_dot = Interval { at: Some(At { hour: 0, minute: 0, second: 0 }), ..most };
                    assert!(on_the_dot.next(last, &zone) > last, "{unit:?} x {count}");
                }
            }
        }
    }
}
