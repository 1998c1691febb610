//! What the applier has to say to a receiver, on its way: queued, so that neither waits for the other, and the holdings
//! only in their newest form. Must not read.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use certdeploy_common::wire::{Holdings, Update};
use tokio::sync::mpsc;

use super::{Line, MESSAGE_LIMIT, Sender, ToReceiver, TooLong, line};

/// How long a receiver may take to read what it is told, or to make room for more.
pub const LIMIT: Duration = Duration::from_secs(30);

/// The most messages that wait for a receiver; holdings count once, whatever their number.
const QUEUE: usize = 256;

/// The longest reason of a failed update, in characters, when all of them together are too long.
const REASON: usize = 300;

/// What is kept free of a message for its frame, in bytes.
const FRAME: usize = 1024;

enum Item {
    Word(Line),
    /// What lies in `newest`, when its turn comes.
    Newest,
}

type Newest = Arc<Mutex<Option<Line>>>;

/// The way in.
pub struct Outbox {
    queue: mpsc::Sender<Item>,
    newest: Newest,
}

/// The way out.
pub struct Outgoing {
    sender: Sender,
    queue: mpsc::Receiver<Item>,
    newest: Newest,
}

/// An outbox, and what carries it to `sender`.
#[must_use]
pub fn outbox(sender: Sender) -> (Outbox, Outgoing) {
    let (into, queue) = mpsc::channel(QUEUE);
    let newest = Newest::default();
    (Outbox { queue: into, newest: Arc::clone(&newest) }, Outgoing { sender, queue, newest })
}

fn lock(newest: &Newest) -> MutexGuard<'_, Option<Line>> {
    newest.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outbox {
    /// Puts a message in the queue. That its other end is gone is no error here: whoever carries it out has said so.
    ///
    /// # Errors
    /// It is too long, or there is no room for it within [`LIMIT`].
    pub async fn put(&self, word: &ToReceiver) -> io::Result<()> {
        let item = match word {
            ToReceiver::Holdings(holdings) => {
                if lock(&self.newest).replace(shortened(word, holdings)?).is_some() {
                    return Ok(());
                }
                Item::Newest
            }
            ToReceiver::Setup(_) | ToReceiver::Receipt(_) | ToReceiver::Ping | ToReceiver::Drain => {
                Item::Word(line(word)?)
            }
        };
        match tokio::time::timeout(LIMIT, self.queue.send(item)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, silent())),
        }
    }
}

fn silent() -> String {
    format!("it took nothing for {} seconds", LIMIT.as_secs())
}

impl Outgoing {
    /// Carries out what is put in until it cannot be, and returns why; waits for ever when nothing more is put in.
    pub async fn carry(mut self) -> String {
        while let Some(item) = self.queue.recv().await {
            let next = match item {
                Item::Word(word) => Some(word),
                Item::Newest => lock(&self.newest).take(),
            };
            let Some(next) = next else { continue };
            match tokio::time::timeout(LIMIT, self.sender.write(&next)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error.to_string(),
                Err(_) => return silent(),
            }
        }
        std::future::pending().await
    }
}

/// Holdings as one message: whole; else with short reasons; else as many lineages as there is room for.
fn shortened(whole: &ToReceiver, holdings: &Holdings) -> io::Result<Line> {
    match line(whole) {
        Err(error) if TooLong::is(&error) => {}
        other => return other,
    }
    let mut short = holdings.clone();
    for held in short.lineages.values_mut() {
        if let Update::Failed { reason } = &mut held.update
            && let Some((end, _)) = reason.char_indices().nth(REASON)
        {
            reason.truncate(end);
            reason.push('…');
        }
    }
    let all = short.lineages.len();
    let mut room = usize::try_from(MESSAGE_LIMIT).unwrap_or(usize::MAX).saturating_sub(FRAME);
    let mut fit = Holdings::default();
    for (lineage, held) in short.lineages {
        // Quotes, a colon and a comma.
        let size = lineage.to_string().len() + 4 + serde_json::to_vec(&held)?.len();
        let Some(left) = room.checked_sub(size) else { break };
        room = left;
        fit.lineages.insert(lineage, held);
    }
    if fit.lineages.len() < all {
        tracing::error!(
            "There are {all} lineages, and their names and states do not fit in a message of {MESSAGE_LIMIT} bytes: \
             pushers are told of {} only; spread them over several clients, each with a `source` of its own",
            fit.lineages.len()
        );
    }
    line(&ToReceiver::Holdings(fit))
}

#[cfg(test)]
mod tests {
    use certdeploy_common::cert::Digest;
    use certdeploy_common::wire::Held;
    use tokio::net::UnixStream;

    use super::super::split;
    use super::*;

    fn holdings(count: usize, generation: u64, reason: &str) -> ToReceiver {
        let held = Held {
            digest: Digest::of(b""),
            generation,
            serial: "00".repeat(16),
            not_after: 1,
            update: Update::Failed { reason: reason.to_owned() },
        };
        let lineages = (0..count).map(|n| (format!("{n:06}.example").parse().unwrap(), held.clone())).collect();
        ToReceiver::Holdings(Holdings { lineages })
    }

    fn pair() -> (Outbox, Outgoing, super::super::Receiver, Sender) {
        let (one, other) = UnixStream::pair().unwrap();
        let ((sender, _), (keep, receiver)) = (split(one), split(other));
        let (outbox, outgoing) = outbox(sender);
        (outbox, outgoing, receiver, keep)
    }

    #[tokio::test]
    async fn nobody_waits_for_one_who_does_not_read_and_the_newest_holdings_arrive() {
        let (outbox, outgoing, mut receiver, _keep) = pair();
        let carrying = tokio::spawn(outgoing.carry());
        for generation in 0..200 {
            let word = holdings(1000, generation, "why");
            tokio::time::timeout(Duration::from_secs(5), outbox.put(&word)).await.expect("no wait").unwrap();
            tokio::task::yield_now().await;
        }
        outbox.put(&ToReceiver::Ping).await.unwrap();
        let (mut pending, mut got, mut last) = (Vec::new(), 0, None);
        loop {
            match receiver.next(&mut pending).await.unwrap() {
                Some(ToReceiver::Holdings(holdings)) => {
                    got += 1;
                    last = holdings.lineages.values().next().map(|held| held.generation);
                }
                Some(ToReceiver::Ping) => break,
                _ => panic!("something else"),
            }
        }
        assert_eq!(last, Some(199));
        assert!(got < 20, "{got} of 200");
        carrying.abort();
    }

    #[tokio::test]
    async fn what_is_too_long_is_cut_or_refused_and_the_line_goes_on() {
        let (outbox, outgoing, mut receiver, _keep) = pair();
        let carrying = tokio::spawn(outgoing.carry());
        let mut pending = Vec::new();
        for (count, reason, whole) in [(3000, "é".repeat(4000), true), (40_000, "x".repeat(290), false)] {
            outbox.put(&holdings(count, 1, &reason)).await.unwrap();
            let got = receiver.next(&mut pending).await.unwrap();
            let Some(ToReceiver::Holdings(got)) = got else { panic!("something else") };
            assert_eq!(got.lineages.len() == count, whole, "{}", got.lineages.len());
            assert!(got.lineages.len() > 2000);
            let held = got.lineages.into_values().next().unwrap();
            let Update::Failed { reason } = held.update else { panic!("{held:?}") };
            assert!(reason.chars().count() <= REASON + 1, "{reason}");
        }
        let endless = "x".repeat(usize::try_from(MESSAGE_LIMIT).unwrap());
        let push = certdeploy_common::wire::PushId::new([0; 16]);
        let verdict = certdeploy_common::wire::Verdict::Refused { reason: endless };
        let receipt = certdeploy_common::wire::Receipt { push, lineage: None, verdict, held: None };
        let refused = outbox.put(&ToReceiver::Receipt(receipt)).await.unwrap_err();
        assert!(TooLong::is(&refused), "{refused}");
        outbox.put(&ToReceiver::Ping).await.unwrap();
        assert!(matches!(receiver.next(&mut pending).await.unwrap(), Some(ToReceiver::Ping)));
        carrying.abort();
    }
}
