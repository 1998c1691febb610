//! Whether certbot is to be run now: the schedule, what is known of the last run, and the clock put together. Pure.
//!
//! Nothing is counted down. Each second the next moment is worked out anew from the end of the last run, so a clock that
//! jumps ahead, a host that slept and a reload need no care of their own: what was missed meanwhile is one run. If the
//! clock is set back before the last run, the schedule starts anew, or nothing would run until the clock has caught up.

use std::time::Duration;

use super::civil::Zone;
use super::record::Record;
use crate::clock::Millis;
use crate::config::kinds::{OnStart, Unit};
use crate::config::settings::RenewPolicy;

/// A clock that was set back further than this is spoken of.
const SET_BACK: Duration = Duration::from_secs(60);

/// From when the next run is counted.
#[derive(Debug)]
pub struct Waiting {
    from: Millis,
    /// The run that the start asks for, or makes up.
    at_start: bool,
    seed: u64,
}

impl Waiting {
    /// At a daemon's start. `seed` decides the jitter.
    #[must_use]
    pub fn start(policy: &RenewPolicy, record: &Record, seed: u64, now: Millis, zone: &Zone) -> Self {
        let from = record.last().unwrap_or(record.since).min(now);
        let missed = policy.interval.next(from, zone) <= now;
        // Without history an interval begins with a run; a time of day and a day of the week wait for theirs.
        let first = record.last().is_none() && policy.interval.at.is_none();
        let first = first && !matches!(policy.interval.unit, Unit::Weekday(_));
        // What was cut off is made up once; if that is cut off too, certbot may be what ends this host.
        let cut_off = record.cut_off == 1;
        let at_start = match policy.on_start {
            OnStart::Always => true,
            OnStart::Overdue => missed || first || cut_off,
            OnStart::Never => false,
        };
        Self { from: if missed { now } else { from }, at_start, seed }
    }

    /// When the next run is due.
    #[must_use]
    pub fn next(&self, policy: &RenewPolicy, zone: &Zone) -> Millis {
        policy.interval.next(self.from, zone).after(jitter(policy.jitter, self.seed, self.from))
    }

    /// Whether a run is due; it is to be followed by [`Waiting::ran`].
    #[must_use]
    pub fn is_due(&self, policy: &RenewPolicy, now: Millis, zone: &Zone) -> bool {
        self.at_start || self.next(policy, zone) <= now
    }

    /// A run has ended, here or in another process.
    pub fn ran(&mut self, now: Millis) {
        *self = Self { from: now, at_start: false, seed: self.seed };
    }

    /// Looks at the clock; whether it was set back by so much that somebody should be told.
    pub fn look(&mut self, now: Millis) -> bool {
        let set_back = now.after(SET_BACK) < self.from;
        self.from = self.from.min(now);
        set_back
    }
}

/// A number of milliseconds up to `most` that looks random (splitmix64).
fn jitter(most: Duration, seed: u64, from: Millis) -> Duration {
    let mut z = seed.wrapping_add(from.0.unsigned_abs()).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let most = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis((z ^ (z >> 31)) % most.saturating_add(1).max(1))
}

#[cfg(test)]
mod tests;
