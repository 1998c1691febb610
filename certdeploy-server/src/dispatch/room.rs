//! How many targets are connected to and pushed to at once. Those that do not answer hold a place to connect, never one
//! to push. It must not know what a visit does.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::config::settings::PushPolicy;

/// The descriptors of one visit: its lock, its socket, and the socket's duplicate that cuts it.
const FILES_OF_A_VISIT: usize = 3;
/// The descriptors of everything else.
const OTHER_FILES: usize = 128;
/// How many files we may open if nobody forbids it: more than visits need, as a host with many addresses is tried at
/// several at once, and visits of before a reload go on beside the new ones.
const MANY_FILES: u64 = 65_536;

/// The places.
#[derive(Debug)]
pub(super) struct Room {
    connecting: Arc<Semaphore>,
    pushing: Arc<Semaphore>,
    /// Nobody is connected to before it is its turn.
    one_by_one: bool,
    moved: Arc<Notify>,
}

/// A visit's place; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    connecting: Option<OwnedSemaphorePermit>,
    pushing: Arc<Semaphore>,
    _push: Option<OwnedSemaphorePermit>,
    one_by_one: bool,
    moved: Arc<Notify>,
}

impl Room {
    /// Makes the places of a policy, as far as the process may open files.
    pub(super) fn new(policy: &PushPolicy) -> Self {
        let wanted = policy.at_once.saturating_add(policy.connecting);
        let fit = fitting(wanted);
        let pushing = policy.at_once.min(fit.saturating_sub(1)).clamp(1, Semaphore::MAX_PERMITS);
        let connecting = policy.connecting.min(fit.saturating_sub(pushing)).clamp(1, Semaphore::MAX_PERMITS);
        Self {
            connecting: Arc::new(Semaphore::new(connecting)),
            pushing: Arc::new(Semaphore::new(pushing)),
            one_by_one: policy.connecting == 0,
            moved: Arc::new(Notify::new()),
        }
    }

    /// A place to connect, if there is one.
    pub(super) fn enter(&self) -> Option<Seat> {
        let connecting = Arc::clone(&self.connecting).try_acquire_owned().ok()?;
        Some(Seat {
            connecting: Some(connecting),
            pushing: Arc::clone(&self.pushing),
            _push: None,
            one_by_one: self.one_by_one,
            moved: Arc::clone(&self.moved),
        })
    }

    /// Whether there is a place to connect.
    pub(super) fn has_place(&self) -> bool {
        self.connecting.available_permits() > 0
    }

    /// Returns when somebody has connected, so that another one may.
    pub(super) async fn moved(&self) {
        self.moved.notified().await;
    }
}

impl Seat {
    /// Waits for a place to push, and gives the other one back.
    pub(super) async fn push(&mut self) {
        self._push = Arc::clone(&self.pushing).acquire_owned().await.ok();
        if !self.one_by_one {
            self.connecting = None;
            self.moved.notify_one();
        }
    }
}

/// Whether no file can be opened just because so many are open.
pub(super) fn is_full(error: &std::io::Error) -> bool {
    let codes = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE];
    rustix::io::Errno::from_io_error(error).is_some_and(|code| codes.contains(&code))
}

/// Whether `there` cannot be opened just because so many files are open.
pub(super) fn no_file_left(there: &Path) -> bool {
    std::fs::File::open(there).is_err_and(|error| is_full(&error))
}

/// How many visits fit into the files that we may open; the soft limit is raised as far as it may be.
fn fitting(visits: usize) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let needed = u64::try_from(visits.saturating_mul(FILES_OF_A_VISIT).saturating_add(OTHER_FILES)).unwrap_or(u64::MAX);
    let wanted = needed.max(MANY_FILES);
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let Some(current) = current.filter(|current| *current < wanted) else { return visits };
    let raised = maximum.map_or(wanted, |maximum| wanted.min(maximum));
    let may = match setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum }) {
        Ok(()) => raised,
        Err(_) => current,
    };
    let files = usize::try_from(may).unwrap_or(usize::MAX);
    let fit = (files.saturating_sub(OTHER_FILES) / FILES_OF_A_VISIT).max(2);
    if fit < visits {
        tracing::warn!("Only {may} files may be open: at most {fit} targets are visited at once. Raise `LimitNOFILE`");
    }
    fit.min(visits)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn policy(at_once: usize, connecting: usize) -> PushPolicy {
        let some = Duration::from_secs(1);
        PushPolicy { at_once, connecting, interval: some, longest: some, forever: true, stop: some }
    }

    #[tokio::test]
    async fn who_connects_takes_no_place_of_those_who_push() {
        let room = Room::new(&policy(1, 2));
        let (mut first, mut second) = (room.enter().unwrap(), room.enter().unwrap());
        assert!(room.enter().is_none() && !room.has_place());
        first.push().await;
        room.moved().await;
        let third = room.enter();
        assert!(third.is_some());
        assert!(tokio::time::timeout(Duration::from_millis(20), second.push()).await.is_err(), "one at once");
        drop(first);
        second.push().await;
    }

    #[tokio::test]
    async fn one_after_another_is_one_after_another() {
        let room = Room::new(&policy(1, 0));
        let mut only = room.enter().unwrap();
        only.push().await;
        assert!(room.enter().is_none());
        drop(only);
        assert!(room.enter().is_some());
    }
}
