//! What lies in staging as the applier's loop sees it: what a plain sshd puts into `source` while the daemon runs, and
//! what could not be placed and is tried again. Must not place anything itself.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use certdeploy_common::cert::Lineage;
use tokio::time::Instant;

use crate::intake::{self, Stamp};
use crate::pass::Staged;

/// See the module.
#[derive(Default)]
pub(super) struct Waiting {
    /// What is tried, and when.
    at: BTreeMap<Staged, Instant>,
    /// What was seen in `source` last.
    seen: BTreeMap<Lineage, Stamp>,
    /// What was tried: it is tried again only when it is something else.
    tried: BTreeMap<Lineage, Stamp>,
}

impl Waiting {
    /// With what lies in `source` now: somebody else sees to that.
    pub(super) fn besides(source: &Path) -> Self {
        Self { tried: intake::stamps(source), ..Self::default() }
    }

    /// When the next try is, if there is any.
    pub(super) fn due(&self) -> Option<Instant> {
        self.at.values().min().copied()
    }

    /// What is tried then.
    pub(super) fn next(&self) -> Option<Staged> {
        self.at.iter().min_by_key(|(_, at)| **at).map(|(staged, _)| staged.clone())
    }

    /// The next try of one of them, if it is to be tried again.
    pub(super) fn set(&mut self, staged: Staged, pause: Option<Duration>) {
        match pause {
            Some(pause) => self.at.insert(staged, Instant::now() + pause),
            None => self.at.remove(&staged),
        };
    }

    /// Looks for what has come into `source`. What still changes from one look to the next is still arriving.
    pub(super) fn look(&mut self, source: &Path) {
        let now = intake::stamps(source);
        self.tried.retain(|lineage, _| now.contains_key(lineage));
        for (lineage, stamp) in &now {
            let rests = self.seen.get(lineage) == Some(stamp);
            if rests && self.tried.get(lineage) != Some(stamp) {
                self.tried.insert(lineage.clone(), *stamp);
                self.at.insert(Staged::Source(lineage.clone()), Instant::now());
            }
        }
        self.seen = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_or_changes_is_tried_once_it_rests() {
        let temp = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            std::fs::create_dir_all(temp.path().join(name)).unwrap();
            std::fs::write(temp.path().join(name).join("fullchain.pem"), text).unwrap();
        };
        put("old.example", "a");
        std::fs::create_dir(temp.path().join("empty.example")).unwrap();
        let mut waiting = Waiting::besides(temp.path());
        waiting.look(temp.path());
        assert_eq!((waiting.next(), waiting.due().is_some()), (None, false));
        for (name, text) in [("new.example", "a"), ("old.example", "longer")] {
            put(name, text);
            waiting.look(temp.path());
            assert_eq!(waiting.next(), None, "more of it may come");
            waiting.look(temp.path());
            let staged = Staged::Source(name.parse().unwrap());
            assert_eq!(waiting.next(), Some(staged.clone()));
            waiting.set(staged, None);
            waiting.look(temp.path());
            assert_eq!(waiting.next(), None, "it is as it was");
        }
    }
}
