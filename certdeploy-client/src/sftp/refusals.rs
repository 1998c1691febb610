//! What was refused to one peer, told in one line however often it was: a flood must not flood the log. Pure.

use std::sync::{Mutex, PoisonError};

/// How much of a peer's own words is shown, in characters.
const WORDS: usize = 100;

/// See the module.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<Tally>);

#[derive(Debug, Default)]
struct Tally {
    count: u64,
    first: String,
}

impl Refusals {
    /// Writes down one more; only the first is kept in words.
    pub fn note(&self, first: impl FnOnce() -> String) {
        let mut tally = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tally.count == 0 {
            tally.first = first();
        }
        tally.count = tally.count.saturating_add(1);
    }

    /// The first one, and how many more there were; `None`: nothing was refused.
    #[must_use]
    pub fn told(&self) -> Option<String> {
        let tally = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match tally.count {
            0 => None,
            1 => Some(tally.first.clone()),
            more => Some(format!("{} (and {} more like it)", tally.first, more - 1)),
        }
    }
}

/// A peer's words, cut.
#[must_use]
pub fn cut(words: &str) -> String {
    match words.char_indices().nth(WORDS) {
        Some((at, _)) => format!("{}...", words.get(..at).unwrap_or_default()),
        None => words.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_and_the_others_are_counted() {
        let refusals = Refusals::default();
        assert_eq!(refusals.told(), None);
        refusals.note(|| "one".to_owned());
        assert_eq!(refusals.told().unwrap(), "one");
        refusals.note(|| unreachable!("only the first is put into words"));
        refusals.note(|| unreachable!("only the first is put into words"));
        assert_eq!(refusals.told().unwrap(), "one (and 2 more like it)");
        assert_eq!(cut(&"\u{e9}".repeat(101)), "\u{e9}".repeat(100) + "...");
        assert_eq!(cut(&"x".repeat(100)).len(), 100);
    }
}
