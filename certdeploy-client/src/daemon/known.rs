//! What is held of every lineage, as far as the applier's loop knows it. To read all of it costs as much as there is, so
//! what a push has changed is read by itself, and everything only so often that most of the time is left for pushes.

use std::collections::BTreeSet;
use std::time::Duration;

use certdeploy_common::cert::Lineage;
use certdeploy_common::wire::Holdings;
use tokio::time::Instant;

use crate::link::ToReceiver;
use crate::pass::RETRY;
use crate::pipeline::Pipeline;

/// For each second that it took to read everything, or to say it, so many are left to others.
const REST: u32 = 9;

/// See the module.
pub(super) struct Known {
    held: Holdings,
    /// Not before this everything is read again.
    read: Instant,
    /// Not before this everything is said again.
    say: Instant,
    /// When everything is to be said without being asked for.
    due: Option<Instant>,
}

impl Known {
    pub(super) fn nothing() -> Self {
        let now = Instant::now();
        Self { held: Holdings::default(), read: now, say: now, due: None }
    }

    /// When [`all`](Self::all) is to be said to everybody, if it is.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Has everything read, whatever that costs. While it cannot be read, what was held before holds: an empty answer
    /// would have everything sent anew.
    pub(super) fn read(&mut self, pipeline: &Pipeline) {
        let begun = Instant::now();
        self.due = None;
        match pipeline.holdings() {
            Ok(held) => self.held = held,
            Err(error) => {
                tracing::error!("Cannot read `{}`: {error}", pipeline.settings.destination.display());
                self.due = Some(begun + RETRY);
            }
        }
        self.read = after(begun);
    }

    /// Everything, read anew unless that was done a moment ago.
    pub(super) fn fresh(&mut self, pipeline: &Pipeline) -> ToReceiver {
        if Instant::now() >= self.read {
            self.read(pipeline);
        }
        self.all()
    }

    /// Everything, as it was read last.
    pub(super) fn all(&self) -> ToReceiver {
        ToReceiver::Holdings(self.held.clone())
    }

    /// These may have changed. Returns what everybody is to be told, if it is time to; else it is due later.
    pub(super) fn changed(&mut self, lineages: &BTreeSet<Lineage>, pipeline: &Pipeline) -> Option<ToReceiver> {
        for lineage in lineages {
            match pipeline.held(lineage) {
                Ok(Some(held)) => _ = self.held.lineages.insert(lineage.clone(), held),
                Ok(None) => _ = self.held.lineages.remove(lineage),
                Err(error) => tracing::error!("Cannot read lineage {lineage}, so it counts as held as before: {error}"),
            }
        }
        if Instant::now() < self.say {
            self.due.get_or_insert(self.say);
            return None;
        }
        Some(self.all())
    }

    /// Everything was said to everybody since `begun`.
    pub(super) fn said(&mut self, begun: Instant) {
        self.say = after(begun);
    }
}

fn after(begun: Instant) -> Instant {
    let now = Instant::now();
    now + now.saturating_duration_since(begun).min(Duration::from_secs(60)) * REST
}
