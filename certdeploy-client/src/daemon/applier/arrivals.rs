//! What has arrived, as the applier's loop takes it: through the pipeline, then whoever waits for it is told.

use certdeploy_common::cert::Lineage;
use certdeploy_common::wire::Receipt;

use super::{Applier, Parts};
use crate::daemon::DaemonError;
use crate::daemon::receivers::Id;
use crate::link::{Commit, ToReceiver};
use crate::pass::{self, Became, Staged};
use crate::pipeline::Outcome;

impl Applier {
    pub(super) async fn received(&mut self, from: Id, commit: Commit) -> Result<(), DaemonError> {
        tracing::info!("Deploying new certs");
        let push = match commit {
            Commit::Plain(lineage) => return self.place(Staged::Incoming(lineage)).await,
            Commit::Push(push) => push,
        };
        // What the debounce will say if this is deployed; said to the pusher in the receipt.
        let due = self.updates.would_be_due();
        let outcome = pass::receive_push(&self.parts.incoming, &push, &self.parts.pipeline, due).await;
        if let Outcome::InPlace { lineage, update: true, .. } = &outcome {
            self.deployed(lineage);
        }
        if matches!(outcome, Outcome::Refused { .. }) {
            self.refused().await?;
        }
        let lineage = match &outcome {
            Outcome::InPlace { lineage, .. } | Outcome::Waiting { lineage, .. } => Some(lineage.clone()),
            Outcome::Refused { .. } | Outcome::Failed { .. } => None,
        };
        // Holdings first: a pusher that has its receipt may ask for them at once.
        if let Some(lineage) = &lineage {
            self.tell_changed(&[lineage.clone()].into()).await?;
        }
        let held = lineage.as_ref().and_then(|lineage| self.parts.pipeline.held(lineage).ok().flatten());
        let receipt = Receipt { push, lineage, verdict: outcome.verdict(), held };
        self.receivers.tell(from, &ToReceiver::Receipt(receipt)).await
    }

    /// What plain peers put; what cannot be placed now is tried again.
    async fn place(&mut self, staged: Staged) -> Result<(), DaemonError> {
        let Parts { settings, pipeline, incoming, .. } = &self.parts;
        let due = self.updates.would_be_due();
        let became = match &staged {
            Staged::Source(lineage) => {
                pass::receive_source(settings, lineage, pipeline, due, settings.settle_time).await
            }
            Staged::Incoming(lineage) => match pass::receive_plain(incoming, lineage, pipeline, due).await {
                Outcome::InPlace { update, .. } => Became::Placed { update },
                Outcome::Failed { .. } => Became::Failed,
                Outcome::Waiting { .. } | Outcome::Refused { .. } => Became::Invalid,
            },
        };
        let (Staged::Source(lineage) | Staged::Incoming(lineage)) = staged.clone();
        let again = became.again(settings);
        self.parts.staged.set(staged, again);
        if became == (Became::Placed { update: true }) {
            self.deployed(&lineage);
        }
        if became == Became::Invalid {
            self.refused().await?;
        }
        self.tell_changed(&[lineage].into()).await
    }

    /// What is there instead may have been mended, and its users are to be told then.
    async fn refused(&mut self) -> Result<(), DaemonError> {
        let mended = self.parts.pipeline.mended();
        if mended.is_empty() {
            return Ok(());
        }
        self.updates.owed(&self.parts.settings);
        self.tell_changed(&mended).await
    }

    fn deployed(&mut self, lineage: &Lineage) {
        tracing::info!("Queueing updates for services");
        self.updates.deployed(lineage);
    }

    /// One at a time: what comes from the receiver is heard in between.
    pub(super) async fn retry(&mut self) -> Result<(), DaemonError> {
        match self.parts.staged.next() {
            Some(staged) => self.place(staged).await,
            None => Ok(()),
        }
    }
}
