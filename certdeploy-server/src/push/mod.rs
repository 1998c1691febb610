//! Bringing lineages to a target over SFTP. It is handed bytes and a target; it must not know of queue, config files or
//! retries.

pub mod connect;
pub mod error;
pub mod plain;
pub mod upload;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

use certdeploy_common::cert::{Bundle, Domain, Lineage};
use certdeploy_common::wire::{Holdings, Receipt};
use russh::keys::PrivateKey;

pub use error::Error;
use error::{Step, within};

use crate::config::Target;
use connect::{Peer, Session};

/// One lineage on its way to one target.
#[derive(Debug, Clone)]
pub struct Parcel {
    /// Its name.
    pub lineage: Lineage,
    /// The files that the target gets.
    pub bundle: Bundle,
    /// The names it gets them for.
    pub domains: BTreeSet<Domain>,
    /// The leaf as PEM.
    pub leaf: String,
    /// Our clock, in Unix seconds.
    pub time: i64,
    /// Install though older, and run the updates again.
    pub force: bool,
}

/// What came of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Our own client's word.
    Receipt(Receipt),
    /// A plain peer has the files; it says no more.
    Placed,
}

/// What came of a visit.
#[derive(Debug, Default)]
pub struct Visit {
    /// For each parcel, in their order.
    pub answers: Vec<Result<Answer, Error>>,
    /// What the target holds, if it was asked and can say.
    pub holdings: Option<Result<Option<Holdings>, Error>>,
}

/// Whether a target is asked what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Yes.
    Holdings,
    /// No.
    Nothing,
}

/// A way to targets. The one trait of ours: retries and back-off are tested with another.
pub trait Transport: Send + Sync + 'static {
    /// Brings all parcels to the target, in order, and asks what it holds if wanted.
    fn visit(&self, target: &Target, parcels: Vec<Parcel>, ask: Ask) -> impl Future<Output = Visit> + Send;
}

/// SFTP over SSH.
#[derive(Debug, Clone)]
pub struct Ssh {
    key: Arc<PrivateKey>,
}

impl Ssh {
    /// Logs in with `key`.
    #[must_use]
    pub fn new(key: Arc<PrivateKey>) -> Self {
        Self { key }
    }

    async fn each(&self, target: &Target, parcels: Vec<Parcel>, ask: Ask, visit: &mut Visit) {
        let mut session: Option<Session> = None;
        let mut over: Option<Error> = None;
        for parcel in parcels {
            let answer = match &over {
                Some(error) => Err(error.clone()),
                None => within(Step::Push, target.timeouts.push, self.push(target, &parcel, &mut session)).await,
            };
            over = over.or_else(|| answer.as_ref().err().filter(|error| error.ends_visit()).cloned());
            if matches!(answer, Err(Error::Timeout { .. })) {
                // What is left of it is in an unknown state.
                session = None;
            }
            visit.answers.push(answer);
        }
        if ask == Ask::Holdings {
            let asked = match over {
                Some(error) => Err(error),
                None => within(Step::Push, target.timeouts.push, self.ask(target, &mut session)).await,
            };
            visit.holdings = Some(asked);
        }
        if let Some(session) = session {
            session.end().await;
        }
    }

    async fn push(&self, target: &Target, parcel: &Parcel, slot: &mut Option<Session>) -> Result<Answer, Error> {
        let session = self.session(target, slot).await?;
        match session.peer {
            Peer::Ours => upload::push(session, parcel).await.map(Answer::Receipt),
            Peer::Plain(kind) => {
                plain::push(session, kind, &target.path, parcel).await?;
                // The Python client deploys when the connection ends, and serves one connection at a time.
                if let Some(session) = slot.take() {
                    session.end().await;
                }
                Ok(Answer::Placed)
            }
        }
    }

    async fn ask(&self, target: &Target, slot: &mut Option<Session>) -> Result<Option<Holdings>, Error> {
        let session = self.session(target, slot).await?;
        match session.peer {
            Peer::Ours => upload::holdings(session).await.map(Some),
            Peer::Plain(_) => Ok(None),
        }
    }

    async fn session<'s>(&self, target: &Target, slot: &'s mut Option<Session>) -> Result<&'s Session, Error> {
        match slot {
            Some(session) => Ok(session),
            None => Ok(slot.insert(Session::open(target, &self.key, &target.timeouts).await?)),
        }
    }
}

impl Transport for Ssh {
    async fn visit(&self, target: &Target, parcels: Vec<Parcel>, ask: Ask) -> Visit {
        let count = parcels.len();
        let mut visit = Visit::default();
        let limit = target.timeouts.visit;
        let each = async {
            self.each(target, parcels, ask, &mut visit).await;
            Ok(())
        };
        if let Err(error) = within(Step::Visit, limit, each).await {
            visit.answers.resize(count, Err(error));
        }
        visit
    }
}
