//! What all connections share: the set-up, the verdicts that pushers wait for, the latest holdings, and the way to
//! the applier.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use certdeploy_common::ssh::key::{self, KeyError};
use certdeploy_common::wire::{Holdings, PushId, Receipt};
use tokio::sync::{mpsc, watch};

use crate::config::pushers::{Pusher, Scope};
use crate::config::sftpd::Limits;
use crate::dir::Dir;
use crate::link::{Commit, PusherLine, Setup, ToApplier};

/// How long the applier is waited for when somebody asks what is held.
const ANSWER: Duration = Duration::from_secs(5);

/// See the module.
pub struct Shared {
    /// Where uploads are staged.
    pub incoming: Arc<Dir>,
    /// Who may push.
    pub pushers: Vec<Pusher>,
    /// What peers may call the root by.
    pub source: String,
    /// Limits of connections.
    pub limits: Limits,
    words: mpsc::Sender<ToApplier>,
    verdicts: Mutex<HashMap<PushId, watch::Sender<Option<Receipt>>>>,
    holdings: watch::Sender<Arc<Holdings>>,
}

fn pusher(line: &PusherLine) -> Result<Pusher, KeyError> {
    let PusherLine { username, key, scope } = line;
    Ok(Pusher { username: username.clone(), key: key::parse_public(key)?, scope: scope.clone() })
}

impl Shared {
    /// What connections share, from the set-up.
    ///
    /// # Errors
    /// A pusher's key is not one; does not happen, the applier has read it.
    pub fn new(incoming: Dir, setup: &Setup, words: mpsc::Sender<ToApplier>) -> Result<Self, KeyError> {
        Ok(Self {
            incoming: Arc::new(incoming),
            pushers: setup.pushers.iter().map(pusher).collect::<Result<_, _>>()?,
            source: setup.source.clone(),
            limits: setup.limits.clone(),
            words,
            verdicts: Mutex::new(HashMap::new()),
            holdings: watch::Sender::new(Arc::default()),
        })
    }

    /// Tells the applier of a complete upload. A push is waited for from now on.
    pub async fn commit(&self, commit: Commit) {
        if let Commit::Push(push) = &commit {
            self.lock_verdicts().insert(push.clone(), watch::Sender::new(None));
        }
        // Nobody receives only when this process is about to end; the upload is durable and found at the next start.
        let _ = self.words.send(ToApplier::Committed(commit)).await;
    }

    /// The verdict has come.
    pub fn answer(&self, receipt: Receipt) {
        if let Some(waiting) = self.lock_verdicts().get(&receipt.push) {
            waiting.send_replace(Some(receipt));
        }
    }

    /// Waits for the verdict on a push of a session that is still open; `None`: no such push, or not in time.
    pub async fn verdict(&self, push: &PushId) -> Option<Receipt> {
        let mut waiting = self.lock_verdicts().get(push)?.subscribe();
        let wait = async { waiting.wait_for(Option::is_some).await.map(|receipt| receipt.clone()).ok().flatten() };
        tokio::time::timeout(self.limits.receipt_wait, wait).await.ok().flatten()
    }

    /// Nobody will ask for these any more.
    pub fn forget(&self, pushes: &[PushId]) {
        let mut verdicts = self.lock_verdicts();
        for push in pushes {
            verdicts.remove(push);
        }
    }

    /// What is held has changed.
    pub fn hold(&self, holdings: Holdings) {
        self.holdings.send_replace(Arc::new(holdings));
    }

    /// What is held: asked anew, because an administrator may have been at it; what was said last if the applier is
    /// busy. Only what `scope` allows.
    pub async fn holdings(&self, scope: &Scope) -> Holdings {
        let mut said = self.holdings.subscribe();
        said.mark_unchanged();
        if self.words.send(ToApplier::Ask).await.is_ok() {
            let _ = tokio::time::timeout(ANSWER, said.changed()).await;
        }
        let all = Arc::clone(&said.borrow());
        let shown = all.lineages.iter().filter(|(lineage, _)| scope.allows(lineage));
        Holdings { lineages: shown.map(|(lineage, held)| (lineage.clone(), held.clone())).collect() }
    }

    fn lock_verdicts(&self) -> std::sync::MutexGuard<'_, HashMap<PushId, watch::Sender<Option<Receipt>>>> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
