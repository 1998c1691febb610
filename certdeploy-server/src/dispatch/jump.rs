//! Notices when the clock was set: the wall's time has then moved by something else than the time that has passed.

use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Millis;

/// What is less than this is the clock being adjusted, or this process waiting.
const LEAST: i64 = 2000;

/// The two clocks, as they were when they were last compared.
#[derive(Debug)]
pub(super) struct Steady {
    wall: Millis,
    passed: Instant,
}

impl Steady {
    /// From now on.
    pub(super) fn new(wall: Millis) -> Self {
        Self { wall, passed: Instant::now() }
    }

    /// By how many milliseconds the clock was set since the last time, if it was.
    pub(super) fn jump(&mut self, wall: Millis) -> Option<i64> {
        let now = Instant::now();
        let expected = self.wall.after(now.saturating_duration_since(self.passed));
        (self.wall, self.passed) = (wall, now);
        let by = wall.0.saturating_sub(expected.0);
        (by.saturating_abs() >= LEAST).then_some(by)
    }
}

/// How far it was set, for people.
pub(super) fn words(by: i64) -> String {
    let far = Duration::from_millis(by.unsigned_abs()).as_secs();
    format!("{far} seconds {}", if by < 0 { "back" } else { "forward" })
}
