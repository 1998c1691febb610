//! When the updates run: a while after the *last* deployment. Pure; times are Unix seconds.

use std::time::Duration;

/// Counts down from the last deployment.
#[derive(Debug, Clone, Copy)]
pub struct Debounce {
    delay: i64,
    due: Option<i64>,
}

impl Debounce {
    /// Nothing is due.
    #[must_use]
    pub fn new(delay: Duration) -> Self {
        Self { delay: i64::try_from(delay.as_secs()).unwrap_or(i64::MAX / 2), due: None }
    }

    /// A lineage was deployed at `now`: the countdown begins anew. Returns when the updates are due.
    pub fn deployed(&mut self, now: i64) -> i64 {
        let due = now.saturating_add(self.delay);
        self.due = Some(due);
        due
    }

    /// Updates of an earlier run are due at `due`; whichever is later holds.
    pub fn owed(&mut self, due: i64) {
        self.due = Some(self.due.map_or(due, |own| own.max(due)));
    }

    /// When the updates are due, if any are.
    #[must_use]
    pub fn due(&self) -> Option<i64> {
        self.due
    }

    /// Takes the turn if it has come.
    #[must_use]
    pub fn take(&mut self, now: i64) -> bool {
        let come = self.due.is_some_and(|due| due <= now);
        if come {
            self.due = None;
        }
        come
    }
}

/// When failed updates run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// The first pause; `None` for not by themselves.
    pub first: Option<Duration>,
    /// The longest pause.
    pub longest: Duration,
}

impl Retry {
    /// The pause after `failed` earlier failures in a row: twice as long each time.
    #[must_use]
    pub fn after(&self, failed: u32) -> Option<Duration> {
        self.first.map(|first| first.saturating_mul(2_u32.saturating_pow(failed)).min(self.longest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_updates_run_again_with_growing_pauses() {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        let retry = Retry { first: Some(minutes(1)), longest: minutes(60) };
        let pauses: Vec<_> = [0, 1, 5, 6, 100].iter().map(|failed| retry.after(*failed)).collect();
        assert_eq!(pauses, [1, 2, 32, 60, 60].map(|n| Some(minutes(n))));
        assert_eq!(Retry { first: None, ..retry }.after(0), None);
    }

    #[test]
    fn each_deployment_starts_the_countdown_anew_and_one_turn_serves_all() {
        let mut debounce = Debounce::new(Duration::from_secs(10));
        assert!(!debounce.take(1000));
        assert_eq!(debounce.deployed(100), 110);
        assert_eq!(debounce.deployed(105), 115);
        debounce.owed(50);
        assert!(!debounce.take(114));
        assert!(debounce.take(115));
        assert!(!debounce.take(116));
        assert_eq!(Debounce::new(Duration::ZERO).deployed(7), 7);
    }
}
