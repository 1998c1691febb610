//! The receivers as the applier's loop sees them: the one that accepts, and those that only finish what is open, after a
//! reload or at the end. Must not decide what their words mean.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::DaemonError;
use super::pair::Other;
use crate::link::outbox::{Outbox, Outgoing, outbox};
use crate::link::{self, Setup, ToApplier, ToReceiver, TooLong};

/// How long a receiver may live on when its line has ended.
const LINGER: Duration = Duration::from_secs(1);

/// What comes from a receiver.
#[derive(Debug)]
pub(super) enum Event {
    /// A message.
    Said(ToApplier),
    /// It has ended, and how.
    Ended(String),
}

/// Which receiver.
pub(super) type Id = u64;

struct One {
    id: Id,
    outbox: Outbox,
    /// When it was told to drain: until when it may go on.
    until: Option<Instant>,
    listening: JoinHandle<()>,
    telling: JoinHandle<()>,
}

impl Drop for One {
    fn drop(&mut self) {
        // With it the process ends, see `Other`.
        self.listening.abort();
        self.telling.abort();
    }
}

/// See the module.
pub(super) struct Receivers {
    all: Vec<One>,
    next: Id,
    said: mpsc::Sender<(Id, Event)>,
    events: mpsc::Receiver<(Id, Event)>,
}

impl Receivers {
    pub(super) fn none() -> Self {
        let (said, events) = mpsc::channel(1);
        Self { all: Vec::new(), next: 0, said, events }
    }

    /// Takes in one that was started, with its first words and the first question.
    pub(super) async fn add(&mut self, other: Other, line: UnixStream, setup: Setup) -> Result<(), DaemonError> {
        let (sender, line) = link::split(tokio::net::UnixStream::from_std(line).map_err(DaemonError::Start)?);
        let (outbox, outgoing) = outbox(sender);
        for word in [ToReceiver::Setup(Box::new(setup)), ToReceiver::Ping] {
            outbox.put(&word).await.map_err(DaemonError::Start)?;
        }
        let id = self.next;
        self.next += 1;
        let listening = tokio::spawn(listen(id, line, other, self.said.clone()));
        let telling = tokio::spawn(carry(id, outgoing, self.said.clone()));
        self.all.push(One { id, outbox, until: None, listening, telling });
        Ok(())
    }

    /// Tells all but `but` to take nobody new and to finish within `limit`.
    pub(super) async fn drain(&mut self, but: Option<Id>, limit: Duration) {
        for one in self.all.iter_mut().filter(|one| one.until.is_none() && Some(one.id) != but) {
            one.until = Some(Instant::now() + limit);
            // One that is gone ends by itself, one that takes nothing is cut.
            let _ = one.outbox.put(&ToReceiver::Drain).await;
        }
    }

    /// The one that accepts.
    pub(super) fn accepting(&self) -> Option<Id> {
        self.all.iter().rfind(|one| one.until.is_none()).map(|one| one.id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The next event of any of them; may be dropped and called again.
    pub(super) async fn next(&mut self) -> (Id, Event) {
        match self.events.recv().await {
            Some(event) => event,
            // Does not happen: a sender is kept here.
            None => std::future::pending().await,
        }
    }

    /// Tells one of them something; it does not wait until that is read. One that drains may be gone.
    pub(super) async fn tell(&mut self, id: Id, word: &ToReceiver) -> Result<(), DaemonError> {
        let Some(one) = self.all.iter().find(|one| one.id == id) else { return Ok(()) };
        match one.outbox.put(word).await {
            Err(error) if TooLong::is(&error) => {
                // A pusher that waits for it asks again, or pushes again.
                tracing::error!("The receiver is not told something: {error}");
                Ok(())
            }
            Err(error) if one.until.is_none() => Err(DaemonError::Gone(error.to_string())),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Tells all of them something.
    pub(super) async fn tell_all(&mut self, word: &ToReceiver) -> Result<(), DaemonError> {
        let ids: Vec<Id> = self.all.iter().map(|one| one.id).collect();
        for id in ids {
            self.tell(id, word).await?;
        }
        Ok(())
    }

    /// One has ended; whether that is as it should be: it had been told to, or it was cut and this comes late.
    pub(super) fn ended(&mut self, id: Id) -> bool {
        let expected = self.all.iter().all(|one| one.id != id || one.until.is_some());
        self.all.retain(|one| one.id != id);
        expected
    }

    /// When one of them will have taken too long to end; [`cut`](Self::cut) ends it then.
    pub(super) fn overdue(&self) -> Option<Instant> {
        self.all.iter().filter_map(|one| one.until).min()
    }

    /// Ends those that have taken too long.
    pub(super) fn cut(&mut self) {
        let now = Instant::now();
        let before = self.all.len();
        self.all.retain(|one| one.until.is_none_or(|until| until > now));
        if self.all.len() < before {
            tracing::warn!("A receiver did not end in time and is ended");
        }
    }
}

/// Passes on what a receiver says, all of it, and then its end.
async fn listen(id: Id, mut line: link::Receiver, mut other: Other, said: mpsc::Sender<(Id, Event)>) {
    let mut pending = Vec::new();
    let why = loop {
        match line.next(&mut pending).await {
            Ok(Some(word)) => {
                if said.send((id, Event::Said(word))).await.is_err() {
                    return;
                }
            }
            Ok(None) => break "it has closed its line".to_owned(),
            Err(error) => break error.to_string(),
        }
    };
    // How it ended says more than that its line did.
    let ended = tokio::time::timeout(LINGER, other.ended()).await;
    let _ = said.send((id, Event::Ended(ended.unwrap_or(why)))).await;
}

/// Carries out what a receiver is told; that it cannot be is its end, unless its own words about that come first.
async fn carry(id: Id, outgoing: Outgoing, said: mpsc::Sender<(Id, Event)>) {
    let why = outgoing.carry().await;
    tokio::time::sleep(LINGER + LINGER).await;
    let _ = said.send((id, Event::Ended(why))).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_that_comes_after_the_cut_is_no_fault() {
        let mut receivers = Receivers::none();
        let (outbox, _) = outbox(link::split(tokio::net::UnixStream::pair().unwrap().0).0);
        let task = || tokio::spawn(std::future::pending());
        let (listening, telling) = (task(), task());
        receivers.all.push(One { id: 0, outbox, until: None, listening, telling });
        receivers.drain(None, Duration::ZERO).await;
        receivers.cut();
        assert!(receivers.is_empty() && receivers.ended(0));
    }
}
