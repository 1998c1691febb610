//! Bringing lineages to a target over SFTP. It is handed bytes and a target; it must not know of queue, config files or
//! retries.

pub mod connect;
pub mod dial;
pub mod error;
pub mod host_key;
mod leftovers;
pub mod login;
pub mod plain;
pub mod upload;

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use certdeploy_common::cert::{Bundle, Domain, Lineage};
use certdeploy_common::wire::{Held, Holdings, Receipt};

pub use error::Error;
use error::{Step, within};

use crate::config::Target;
use crate::config::identity::Identity;
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
    /// Nothing was sent: it says that it holds just this.
    Holds(Held),
}

/// What came of a visit.
#[derive(Debug, Default)]
pub struct Visit {
    /// For each parcel, in their order.
    pub answers: Vec<Result<Answer, Error>>,
    /// What the target holds, if it was asked and can say.
    pub holdings: Option<Result<Option<Holdings>, Error>>,
}

impl Visit {
    /// Ends it before all was done: what has no answer yet has this one.
    fn cut(&mut self, parcels: usize, ask: Ask, error: Error) {
        if ask == Ask::Holdings && self.holdings.is_none() {
            self.holdings = Some(Err(error.clone()));
        }
        self.answers.resize(parcels, Err(error));
    }
}

/// Whether a target is asked what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Yes, when everything is sent.
    Holdings,
    /// Yes, before anything is sent; what it holds already is not sent unless it is forced.
    First,
    /// No.
    Nothing,
}

/// A way to targets. The one trait of ours: retries and back-off are tested with another.
pub trait Transport: Send + Sync + 'static {
    /// A connection to one target, logged in.
    type Line: Send;

    /// Connects and logs in. It may take as long as it takes to find out that nobody answers, so more targets are
    /// connected to at once than are pushed to.
    fn connect(&self, target: &Target) -> impl Future<Output = Result<Self::Line, Error>> + Send;

    /// Brings all parcels to the target, in order, asks what it holds if wanted, and ends the connection.
    fn visit(
        &self,
        line: Self::Line,
        target: &Target,
        parcels: Vec<Parcel>,
        ask: Ask,
    ) -> impl Future<Output = Visit> + Send;
}

/// SFTP over SSH.
#[derive(Debug, Clone)]
pub struct Ssh {
    identity: Identity,
}

/// A session, and how much of the limits has gone into it.
pub struct Line {
    session: Session,
    spent: Duration,
}

impl Ssh {
    /// Logs in as `identity`.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        Self { identity }
    }

    async fn each(&self, line: Line, target: &Target, parcels: Vec<Parcel>, ask: Ask, visit: &mut Visit) {
        let mut spent = line.spent;
        let mut session = Some(line.session);
        let mut over: Option<Error> = None;
        let mut told = None;
        if ask == Ask::First {
            match rest(Step::Push, target.timeouts.push, spent, self.ask(target, &mut session)).await {
                Ok(holdings) => told = holdings,
                Err(error) if error.ends_visit() => over = Some(error),
                Err(error) => tracing::debug!("{} does not say what it holds: {error}", target.id),
            }
        }
        for parcel in parcels {
            let held = told.as_ref().and_then(|told: &Holdings| told.lineages.get(&parcel.lineage));
            let held = held.filter(|held| !parcel.force && held.digest == parcel.bundle.digest());
            let answer = match (&over, held) {
                (Some(error), _) => Err(error.clone()),
                (None, Some(held)) => Ok(Answer::Holds(held.clone())),
                (None, None) => {
                    let push = self.push(target, &parcel, &mut session);
                    rest(Step::Push, target.timeouts.push, std::mem::take(&mut spent), push).await
                }
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
                // A plain peer cannot say, and a Python client deploys at the end of every connection.
                None if visit.answers.contains(&Ok(Answer::Placed)) => Ok(None),
                None => rest(Step::Push, target.timeouts.push, spent, self.ask(target, &mut session)).await,
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
            None => Ok(slot.insert(Session::open(target, &self.identity, &target.timeouts).await?)),
        }
    }
}

impl Transport for Ssh {
    type Line = Line;

    async fn connect(&self, target: &Target) -> Result<Line, Error> {
        let start = tokio::time::Instant::now();
        let open = within(Step::Push, target.timeouts.push, Session::open(target, &self.identity, &target.timeouts));
        let session = within(Step::Visit, target.timeouts.visit, open).await?;
        Ok(Line { session, spent: start.elapsed() })
    }

    async fn visit(&self, line: Line, target: &Target, parcels: Vec<Parcel>, ask: Ask) -> Visit {
        let (count, spent) = (parcels.len(), line.spent);
        let mut visit = Visit::default();
        let each = async {
            self.each(line, target, parcels, ask, &mut visit).await;
            Ok(())
        };
        if let Err(error) = rest(Step::Visit, target.timeouts.visit, spent, each).await {
            visit.cut(count, ask, error);
        }
        visit
    }
}

/// Gives `work` what is left of `limit`.
async fn rest<T>(
    step: Step,
    limit: Option<Duration>,
    spent: Duration,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let left = limit.map(|limit| limit.saturating_sub(spent));
    match within(step, left, work).await {
        Err(Error::Timeout { step: timed, .. }) if timed == step => {
            Err(Error::Timeout { step, limit: limit.unwrap_or_default() })
        }
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_visit_that_is_cut_leaves_no_question_open() {
        let error = || Error::Timeout { step: Step::Visit, limit: Duration::from_secs(1) };
        for (ask, asked) in [(Ask::Holdings, Some(Err(error()))), (Ask::First, None), (Ask::Nothing, None)] {
            let mut visit = Visit { answers: vec![Ok(Answer::Placed)], holdings: None };
            visit.cut(2, ask, error());
            assert_eq!((&visit.answers, visit.holdings), (&vec![Ok(Answer::Placed), Err(error())], asked));
        }
        let mut told = Visit { answers: Vec::new(), holdings: Some(Ok(None)) };
        told.cut(0, Ask::Holdings, error());
        assert_eq!(told.holdings, Some(Ok(None)));
    }
}
