//! Waiting for a condition with a deadline; the only way a test waits.

use std::time::{Duration, Instant};

/// How long anything may take before a test calls it broken. No measure of speed, only an end to waiting: a shared machine
/// stands still for seconds, and what fails meanwhile is tried again after pauses that grow.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The most that counts between two looks: while the whole machine stands still, nothing that is waited for can happen.
const STEP: Duration = Duration::from_secs(1);

/// How long somebody has waited, without the time in which nobody could do anything.
struct Waited {
    counted: Duration,
    last: Instant,
}

impl Waited {
    fn begin() -> Self {
        Self { counted: Duration::ZERO, last: Instant::now() }
    }

    /// Whether that is longer than `limit` by now.
    fn is_over(&mut self, limit: Duration) -> bool {
        self.is_over_at(Instant::now(), limit)
    }

    fn is_over_at(&mut self, now: Instant, limit: Duration) -> bool {
        self.counted += now.saturating_duration_since(self.last).min(STEP);
        self.last = now;
        self.counted >= limit
    }
}

/// Polls until `condition` gives a value.
///
/// # Panics
/// Not within `limit`; the message is `what`.
pub fn until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let mut waited = Waited::begin();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(!waited.is_over(limit), "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Polls until `condition` holds; `false` if it does not within `limit`.
pub fn holds_within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let mut waited = Waited::begin();
    loop {
        if condition() {
            return true;
        }
        if waited.is_over(limit) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_stood_still_has_not_used_up_the_patience() {
        let start = Instant::now();
        let mut waited = Waited { counted: Duration::ZERO, last: start };
        let limit = Duration::from_secs(3);
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(!waited.is_over_at(after(100), limit));
        assert!(!waited.is_over_at(after(101), limit));
        assert!(waited.is_over_at(after(102), limit));
    }
}
