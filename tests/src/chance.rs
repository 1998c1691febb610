//! Random moments that can be had again: the seed is printed, and `CERTDEPLOY_TEST_SEED` repeats it.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A small generator (xorshift64*); good enough for moments.
#[derive(Debug)]
pub struct Chance(u64);

impl Chance {
    /// Starts one for the suite `name`, and says with which seed.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.subsec_nanos());
        let given = std::env::var("CERTDEPLOY_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| u64::from(now) | 1);
        let _ = writeln!(std::io::stderr(), "{name}: CERTDEPLOY_TEST_SEED={seed}");
        Self(seed.max(1))
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % end.max(1)
    }

    /// A moment within `span`.
    pub fn moment(&mut self, span: Duration) -> Duration {
        Duration::from_micros(self.below(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)))
    }
}
