//! Which target is visited next, and when. Pure: targets are numbers in the order of the config.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::clock::Millis;

/// When each target is due. A target stands in it at most once; each change costs the same however many there are.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    waiting: BTreeSet<(Millis, usize)>,
    ready: BTreeSet<(bool, usize)>,
    at: HashMap<usize, Place>,
    failed: HashSet<usize>,
}

/// Where a target stands.
#[derive(Debug, Clone, Copy)]
enum Place {
    Waiting(Millis),
    Ready(bool),
}

impl Agenda {
    /// Puts a target on the agenda, or moves it; `None` takes it off.
    pub(super) fn set(&mut self, target: usize, at: Option<Millis>) {
        match self.at.remove(&target) {
            Some(Place::Waiting(old)) => _ = self.waiting.remove(&(old, target)),
            Some(Place::Ready(failed)) => _ = self.ready.remove(&(failed, target)),
            None => {}
        }
        if let Some(at) = at {
            self.at.insert(target, Place::Waiting(at));
            self.waiting.insert((at, target));
        }
    }

    /// Remembers how the last visit went: those that failed come after the others.
    pub(super) fn went(&mut self, target: usize, well: bool) {
        if well { _ = self.failed.remove(&target) } else { _ = self.failed.insert(target) }
    }

    /// Takes the next target that is due off the agenda.
    pub(super) fn next(&mut self, now: Millis) -> Option<usize> {
        while let Some((at, target)) = self.waiting.first().copied().filter(|(at, _)| *at <= now) {
            self.waiting.remove(&(at, target));
            let failed = self.failed.contains(&target);
            self.ready.insert((failed, target));
            self.at.insert(target, Place::Ready(failed));
        }
        let (_, target) = self.ready.pop_first()?;
        self.at.remove(&target);
        Some(target)
    }

    /// When somebody is due next.
    pub(super) fn earliest(&self, now: Millis) -> Option<Millis> {
        if self.ready.is_empty() { self.waiting.first().map(|(at, _)| *at) } else { Some(now) }
    }

    /// Moves everybody who waits: the clock was set.
    pub(super) fn shift(&mut self, by: i64) {
        for (at, target) in std::mem::take(&mut self.waiting) {
            let at = Millis(at.0.saturating_add(by));
            self.at.insert(target, Place::Waiting(at));
            self.waiting.insert((at, target));
        }
    }

    /// Whether nobody will ever be due.
    pub(super) fn is_empty(&self) -> bool {
        self.at.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_targets_come_in_the_order_of_the_config_and_failed_ones_last() {
        let mut agenda = Agenda::default();
        for (target, at) in [(2, 5), (0, 9), (1, 7), (3, 100)] {
            agenda.set(target, Some(Millis(at)));
        }
        agenda.went(0, false);
        let due: Vec<usize> = std::iter::from_fn(|| agenda.next(Millis(10))).collect();
        assert_eq!(due, [1, 2, 0]);
        assert_eq!(agenda.earliest(Millis(10)), Some(Millis(100)));
        agenda.set(3, Some(Millis(1)));
        agenda.set(3, Some(Millis(2)));
        assert_eq!((agenda.next(Millis(3)), agenda.next(Millis(3))), (Some(3), None));
        assert!(agenda.is_empty());
    }

    #[test]
    fn a_target_taken_off_is_not_due() {
        let mut agenda = Agenda::default();
        agenda.set(0, Some(Millis(1)));
        agenda.set(1, Some(Millis(1)));
        assert_eq!(agenda.next(Millis(1)), Some(0));
        agenda.set(1, None);
        assert_eq!(agenda.next(Millis(1)), None);
        assert!(agenda.is_empty());
    }

    #[test]
    fn a_clock_that_is_set_moves_those_who_wait() {
        let mut agenda = Agenda::default();
        agenda.set(0, Some(Millis(100_000)));
        agenda.shift(-90_000);
        assert_eq!(agenda.earliest(Millis(0)), Some(Millis(10_000)));
        agenda.set(0, None);
        assert!(agenda.is_empty());
    }
}
