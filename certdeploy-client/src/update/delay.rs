//! When the updates run: a while after the *last* deployment. Pure; times are Unix seconds.

use std::time::Duration;

/// Counts down from the last deployment.
#[derive(Debug, Clone, Copy)]
pub struct Debounce {
    delay: i64,
    due: Option<i64>,
    retry: Option<(i64, Turn)>,
}

/// What a turn is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Everything that is owed.
    Owed,
    /// Only what failed: what was deployed meanwhile is not due yet.
    Failed,
}

impl Debounce {
    /// Nothing is due.
    #[must_use]
    pub fn new(delay: Duration) -> Self {
        Self { delay: i64::try_from(delay.as_secs()).unwrap_or(i64::MAX / 2), due: None, retry: None }
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

    /// Another try is due at `at`, whatever is deployed meanwhile.
    pub fn retry(&mut self, at: i64, turn: Turn) {
        self.retry = Some((at, turn));
    }

    /// The same, unless another try is planned already.
    pub fn retry_unless(&mut self, at: i64, turn: Turn) {
        self.retry.get_or_insert((at, turn));
    }

    /// Another delay holds from now on. The next try stays; what is owed is to be said anew.
    pub fn renew(&mut self, delay: Duration) {
        *self = Self { retry: self.retry, ..Self::new(delay) };
    }

    /// The clock was set by so many seconds: what waits goes on waiting for as long as before.
    pub fn shift(&mut self, by: i64) {
        let due = self.due.as_mut().into_iter();
        for at in due.chain(self.retry.as_mut().map(|(at, _)| at)) {
            *at = at.saturating_add(by);
        }
    }

    /// When the next turn comes, if any does.
    #[must_use]
    pub fn due(&self) -> Option<i64> {
        [self.due, self.retry.map(|(at, _)| at)].into_iter().flatten().min()
    }

    /// Takes the turn that has come, if any has; one that is for everything is for what failed too.
    #[must_use]
    pub fn take(&mut self, now: i64) -> Option<Turn> {
        if self.due.is_some_and(|due| due <= now) {
            (self.due, self.retry) = (None, None);
            return Some(Turn::Owed);
        }
        self.retry.take_if(|(at, _)| *at <= now).map(|(_, turn)| turn)
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
        const SHORTEST: Duration = Duration::from_secs(1);
        self.first.map(|first| first.saturating_mul(2_u32.saturating_pow(failed)).min(self.longest).max(SHORTEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_after_a_failure_does_not_hold_up_what_was_deployed_meanwhile() {
        let mut debounce = Debounce::new(Duration::from_secs(10));
        debounce.deployed(100);
        debounce.retry(3700, Turn::Failed);
        assert_eq!((debounce.due(), debounce.take(110), debounce.due()), (Some(110), Some(Turn::Owed), None));
        debounce.deployed(200);
        debounce.retry(205, Turn::Failed);
        assert_eq!((debounce.take(205), debounce.due()), (Some(Turn::Failed), Some(210)));
        debounce.retry(300, Turn::Owed);
        debounce.renew(Duration::from_secs(20));
        assert_eq!((debounce.due(), debounce.take(299), debounce.take(300)), (Some(300), None, Some(Turn::Owed)));
        assert_eq!(debounce.deployed(400), 420);
    }

    #[test]
    fn a_clock_that_is_set_changes_no_pause() {
        let mut debounce = Debounce::new(Duration::from_secs(10));
        debounce.shift(-86_400);
        assert_eq!(debounce.due(), None);
        debounce.deployed(100_000);
        debounce.retry(100_005, Turn::Failed);
        debounce.shift(-86_400);
        assert_eq!((debounce.take(13_605), debounce.due()), (Some(Turn::Failed), Some(13_610)));
    }

    #[test]
    fn failed_updates_run_again_with_growing_pauses() {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        let retry = Retry { first: Some(minutes(1)), longest: minutes(60) };
        let pauses: Vec<_> = [0, 1, 5, 6, 100].iter().map(|failed| retry.after(*failed)).collect();
        assert_eq!(pauses, [1, 2, 32, 60, 60].map(|n| Some(minutes(n))));
        assert_eq!(Retry { first: None, ..retry }.after(0), None);
        assert_eq!(Retry { first: Some(Duration::ZERO), ..retry }.after(9), Some(Duration::from_secs(1)));
    }

    #[test]
    fn each_deployment_starts_the_countdown_anew_and_one_turn_serves_all() {
        let mut debounce = Debounce::new(Duration::from_secs(10));
        assert_eq!(debounce.take(1000), None);
        assert_eq!(debounce.deployed(100), 110);
        assert_eq!(debounce.deployed(105), 115);
        debounce.owed(50);
        assert_eq!(debounce.take(114), None);
        assert_eq!(debounce.take(115), Some(Turn::Owed));
        assert_eq!(debounce.take(116), None);
        assert_eq!(Debounce::new(Duration::ZERO).deployed(7), 7);
    }
}
