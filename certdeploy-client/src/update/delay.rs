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

#[cfg(test)]
mod tests {
    use super::*;

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
