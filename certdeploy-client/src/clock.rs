//! The one place that reads the wall clock. Pure code takes the time as a parameter.
#![expect(clippy::disallowed_methods, reason = "the owner of the clock")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Now, in Unix seconds.
#[must_use]
pub fn now() -> i64 {
    i64::try_from(since_epoch().as_secs()).unwrap_or(i64::MAX)
}

/// Now, in milliseconds since the epoch.
#[must_use]
pub fn millis() -> i64 {
    i64::try_from(since_epoch().as_millis()).unwrap_or(i64::MAX)
}

/// Now, in nanoseconds since the epoch, as 8 bytes that sort by time.
#[must_use]
pub fn stamp() -> [u8; 8] {
    u64::try_from(since_epoch().as_nanos()).unwrap_or(u64::MAX).to_be_bytes()
}
