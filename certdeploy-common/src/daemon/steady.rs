//! Notices when the clock was set: the wall's time has then moved by something else than the time that has passed.

use std::time::Duration;

use tokio::time::Instant;

/// What is less than this, in milliseconds, is the clock being adjusted, or this process waiting.
const LEAST: i64 = 2000;

/// The two clocks, as they were when they were last compared.
#[derive(Debug)]
pub struct Steady {
    wall: i64,
    passed: Instant,
}

impl Steady {
    /// From now on: the wall's time in milliseconds since 1970.
    #[must_use]
    pub fn new(wall: i64) -> Self {
        Self { wall, passed: Instant::now() }
    }

    /// By how many milliseconds the clock was set since the last time, if it was.
    pub fn jump(&mut self, wall: i64) -> Option<i64> {
        let now = Instant::now();
        let passed = now.saturating_duration_since(self.passed).as_millis();
        let expected = self.wall.saturating_add(i64::try_from(passed).unwrap_or(i64::MAX));
        (self.wall, self.passed) = (wall, now);
        let by = wall.saturating_sub(expected);
        (by.saturating_abs() >= LEAST).then_some(by)
    }
}

/// How far it was set, for people.
#[must_use]
pub fn words(by: i64) -> String {
    let far = Duration::from_millis(by.unsigned_abs()).as_secs();
    format!("{far} seconds {}", if by < 0 { "back" } else { "forward" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_clock_that_was_set_has_jumped() {
        let mut steady = Steady::new(1_000_000);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(steady.jump(4_601_000), None, "a second more than has passed");
        assert_eq!(steady.jump(4_601_000 - 86_400_000), Some(-86_400_000));
        assert_eq!(steady.jump(4_601_000 - 86_400_000), None);
        assert_eq!((words(-86_400_000), words(5000)), ("86400 seconds back".into(), "5 seconds forward".into()));
    }
}
