//! Which target is visited next, and when. Pure: targets are numbers in the order of the config.
//!
//! Of those that are due, the one comes first whose last visit is the longest ago; those that were never visited come
//! before all, in the order of the config. Those whose last visit failed come after the others, but one of them at least
//! every [`TURN`]: neither can keep the others from being visited, however often they are due.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use crate::clock::Millis;

/// How long those that failed are passed over at most while others are due.
const TURN: Duration = Duration::from_secs(60);

/// When each target is due. A target stands in it at most once; each change costs the same however many there are.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    waiting: BTreeSet<(Millis, usize)>,
    ready: BTreeSet<(Rank, usize)>,
    at: HashMap<usize, Place>,
    failed: HashSet<usize>,
    /// The number of each target's last visit.
    visited: HashMap<usize, u64>,
    visits: u64,
    /// Since when those that failed have been passed over.
    passed_over: Option<Millis>,
}

/// Who comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    failed: bool,
    visited: u64,
}

/// Where a target stands.
#[derive(Debug, Clone, Copy)]
enum Place {
    Waiting(Millis),
    Ready(Rank),
}

impl Agenda {
    /// Puts a target on the agenda, or moves it; `None` takes it off.
    pub(super) fn set(&mut self, target: usize, at: Option<Millis>) {
        match self.at.remove(&target) {
            Some(Place::Waiting(old)) => _ = self.waiting.remove(&(old, target)),
            Some(Place::Ready(rank)) => _ = self.ready.remove(&(rank, target)),
            None => {}
        }
        if let Some(at) = at {
            self.at.insert(target, Place::Waiting(at));
            self.waiting.insert((at, target));
        }
    }

    /// Remembers that a target was visited, and how that went.
    pub(super) fn went(&mut self, target: usize, well: bool) {
        self.visits += 1;
        self.visited.insert(target, self.visits);
        if well { _ = self.failed.remove(&target) } else { _ = self.failed.insert(target) }
    }

    /// Takes the next target that is due off the agenda.
    pub(super) fn next(&mut self, now: Millis) -> Option<usize> {
        while let Some((at, target)) = self.waiting.first().copied().filter(|(at, _)| *at <= now) {
            self.waiting.remove(&(at, target));
            let visited = self.visited.get(&target).copied().unwrap_or_default();
            let rank = Rank { failed: self.failed.contains(&target), visited };
            self.ready.insert((rank, target));
            self.at.insert(target, Place::Ready(rank));
        }
        let next = self.turn(now)?;
        self.ready.remove(&next);
        self.at.remove(&next.1);
        Some(next.1)
    }

    fn turn(&mut self, now: Millis) -> Option<(Rank, usize)> {
        let first = self.ready.first().copied()?;
        let failed = self.ready.range((Rank { failed: true, visited: 0 }, 0)..).next().copied();
        match failed {
            Some(failed) if failed != first => {
                let since = *self.passed_over.get_or_insert(now);
                if since.until(now) < TURN {
                    return Some(first);
                }
                self.passed_over = Some(now);
                Some(failed)
            }
            Some(_) | None => {
                self.passed_over = None;
                Some(first)
            }
        }
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
        self.passed_over = self.passed_over.map(|since| Millis(since.0.saturating_add(by)));
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

    #[test]
    fn who_is_always_due_keeps_nobody_from_being_visited() {
        let mut agenda = Agenda::default();
        (0..4).for_each(|target| agenda.set(target, Some(Millis(0))));
        let mut order = Vec::new();
        for second in 0..8 {
            let target = agenda.next(Millis(second * 1000)).unwrap();
            order.push(target);
            agenda.went(target, true);
            agenda.set(target, Some(Millis(0)));
        }
        assert_eq!(order, [0, 1, 2, 3, 0, 1, 2, 3]);
    }

    #[test]
    fn those_that_failed_have_their_turn_though_others_are_always_due() {
        let mut agenda = Agenda::default();
        (0..4).for_each(|target| agenda.set(target, Some(Millis(0))));
        agenda.went(1, false);
        agenda.went(2, false);
        let mut order = Vec::new();
        for visit in 0..9 {
            let target = agenda.next(Millis(visit * 20_000)).unwrap();
            order.push(target);
            agenda.went(target, ![1, 2].contains(&target));
            agenda.set(target, Some(Millis(0)));
        }
        assert_eq!(order, [0, 3, 0, 1, 3, 0, 2, 3, 0]);
    }
}
