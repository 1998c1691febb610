//! Waiting for a condition with a deadline; the only way a test waits.

use std::time::{Duration, Instant};

/// How long anything may take before a test calls it broken. No measure of speed, only an end to waiting: a shared machine
/// stands still for seconds, and what fails meanwhile is tried again after pauses that grow.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Polls until `condition` gives a value.
///
/// # Panics
/// Not within `limit`; the message is `what`.
pub fn until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Polls until `condition` holds; `false` if it does not within `limit`.
pub fn holds_within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if start.elapsed() >= limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
