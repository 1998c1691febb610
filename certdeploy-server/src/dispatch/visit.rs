//! One visit to one target: lineages read anew, pushed, and each answer turned into what it means. It runs beside other
//! visits and touches no queue.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use certdeploy_common::cert::{Bundle, Digest, FileName, check};
use certdeploy_common::wire::{Holdings, Receipt, Update, Verdict};

use crate::clock::Millis;
use crate::config::Target;
use crate::lineage::{self, Readable};
use crate::plan::{self, Failure};
use crate::push::{self, Answer, Ask, Parcel, Transport};
use crate::queue::{Delivery, Holding};

/// What is to be done at a target.
#[derive(Debug)]
pub(super) struct Errand {
    pub(super) target: Arc<Target>,
    pub(super) live: PathBuf,
    pub(super) deliveries: Vec<Delivery>,
    pub(super) ask: Ask,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) ends: Vec<(Delivery, End)>,
    pub(super) holdings: Option<Result<Option<Holdings>, push::Error>>,
}

/// How one delivery ended.
#[derive(Debug)]
pub(super) enum End {
    /// The target has it.
    Acknowledged(Holding),
    /// The certificate is not for this target any more.
    NotNeeded,
    /// Not this time.
    Failed {
        /// What follows from it.
        failure: Failure,
        /// Why.
        error: String,
    },
}

impl End {
    fn failed(failure: Failure, error: impl std::fmt::Display) -> Self {
        Self::Failed { failure, error: error.to_string() }
    }
}

/// Reads, pushes, asks.
pub(super) async fn run<T: Transport>(transport: Arc<T>, errand: Errand, clock: fn() -> Millis) -> Report {
    let Errand { target, live, deliveries, ask } = errand;
    let mut ends = Vec::with_capacity(deliveries.len());
    let mut sent = Vec::new();
    let mut parcels = Vec::new();
    for delivery in deliveries {
        match prepare(&target, &live, &delivery, clock()).await {
            Ok((parcel, facts)) => {
                tracing::info!("Pushing {} to {}", delivery.path.display(), target.place());
                sent.push((delivery, facts));
                parcels.push(parcel);
            }
            Err(end) => ends.push((delivery, end)),
        }
    }
    if parcels.is_empty() && ask == Ask::Nothing {
        return Report { ends, holdings: None };
    }
    let visit = transport.visit(&target, parcels, ask).await;
    let now = clock();
    for ((delivery, facts), answer) in sent.into_iter().zip(visit.answers) {
        let end = end(&delivery, facts, answer, now);
        ends.push((delivery, end));
    }
    Report { ends, holdings: visit.holdings }
}

/// What was sent, for the record.
#[derive(Debug)]
struct Sent {
    digest: Digest,
    serial: String,
    not_after: i64,
}

async fn prepare(
    target: &Target,
    live: &std::path::Path,
    delivery: &Delivery,
    now: Millis,
) -> Result<(Parcel, Sent), End> {
    let (path, force, live) = (delivery.path.clone(), delivery.force, live.to_owned());
    let read = tokio::task::spawn_blocking(move || lineage::read(&path, &live, force, now.seconds())).await;
    let readable = match read {
        Ok(Ok(readable)) => readable,
        Ok(Err((error, bundle))) if error.is_permanent() => {
            let digest = bundle.map(|bundle: Bundle| bundle.only(&target.wanted).digest());
            return Err(End::failed(Failure::Refused(digest), error));
        }
        Ok(Err((error, _))) => return Err(End::failed(Failure::Passing, error)),
        Err(panicked) => return Err(End::failed(Failure::Passing, panicked)),
    };
    let domains = plan::needed(target, &readable.facts.names);
    if domains.is_empty() {
        return Err(End::NotNeeded);
    }
    let Readable { lineage, path, bundle, facts } = readable;
    let missing = |name: &&FileName| bundle.file(**name).is_none();
    if let Some(name) = target.wanted.iter().find(missing) {
        let error = format!("lineage `{}` has no {name}, which this target needs", path.display());
        return Err(End::failed(Failure::Passing, error));
    }
    let bundle = bundle.only(&target.wanted);
    let sent = Sent { digest: bundle.digest(), serial: facts.serial, not_after: facts.not_after };
    let parcel = Parcel { lineage, bundle, domains, leaf: facts.leaf, time: now.seconds(), force };
    Ok((parcel, sent))
}

fn end(delivery: &Delivery, sent: Sent, answer: Result<Answer, push::Error>, now: Millis) -> End {
    match answer {
        Ok(Answer::Placed) => End::Acknowledged(holding(delivery, sent, now)),
        Ok(Answer::Receipt(receipt)) => by_receipt(delivery, sent, receipt, now),
        Err(error) if error.is_permanent() => End::failed(Failure::Lasting, error),
        Err(error) => End::failed(Failure::Passing, error),
    }
}

fn by_receipt(delivery: &Delivery, sent: Sent, receipt: Receipt, now: Millis) -> End {
    match (receipt.verdict, receipt.held) {
        (Verdict::Deployed | Verdict::Unchanged, Some(held)) if held.digest == sent.digest => {
            let mut holding = holding(delivery, sent, now);
            holding.generation = Some(held.generation);
            holding.ask_at = ask_at(&held.update, now);
            holding.update = Some(held.update);
            End::Acknowledged(holding)
        }
        (Verdict::Deployed | Verdict::Unchanged, _) => {
            End::failed(Failure::Passing, "ProtocolError: the receipt says deployed, but names other files")
        }
        (Verdict::Refused { reason }, _) => {
            End::failed(Failure::Refused(Some(sent.digest)), format!("refused: {reason}"))
        }
        (Verdict::Failed { reason }, _) => End::failed(Failure::Passing, format!("the target could not: {reason}")),
        (Verdict::Staged, _) => End::failed(Failure::Passing, "the target has the files, but no verdict yet"),
    }
}

fn holding(delivery: &Delivery, sent: Sent, now: Millis) -> Holding {
    Holding {
        target: delivery.target.clone(),
        lineage: delivery.lineage.clone(),
        digest: sent.digest,
        serial: sent.serial,
        not_after: sent.not_after,
        generation: None,
        acked_at: now,
        update: None,
        ask_at: None,
    }
}

/// When to ask about pending updates: just after they fell due, and then ever more rarely while they run.
pub(super) fn ask_at(update: &Update, now: Millis) -> Option<Millis> {
    const SOON: Duration = Duration::from_secs(1);
    const RARELY: Duration = Duration::from_secs(300);
    match update {
        Update::Pending { due } => {
            let due = Millis::of_seconds(*due).after(SOON);
            let overdue = due.until(now) / 2;
            Some(due.max(now.after(overdue.clamp(SOON, RARELY))))
        }
        Update::Done | Update::Failed { .. } => None,
    }
}

/// What a target says it holds, beside what it acknowledged.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Rows to write.
    pub(super) held: Vec<Holding>,
    /// Rows to forget: it holds nothing of these lineages.
    pub(super) gone: Vec<Holding>,
}

/// Compares the two. Another certificate than the acknowledged one is told, but not fought: somebody rolled back.
pub(super) fn news(known: Vec<Holding>, told: &Holdings, now: Millis) -> News {
    let mut news = News::default();
    for mut holding in known {
        let Some(held) = told.lineages.get(&holding.lineage) else {
            news.gone.push(holding);
            continue;
        };
        if held.digest != holding.digest && holding.serial != held.serial {
            tracing::warn!(
                "{} holds another certificate of {} than it acknowledged: serial {}, until {} UTC",
                holding.target,
                holding.lineage,
                held.serial,
                check::show_time(held.not_after)
            );
        }
        if let (Update::Failed { reason }, true) = (&held.update, holding.update.as_ref() != Some(&held.update)) {
            tracing::error!("Updates for {} at {} failed: {reason}", holding.lineage, holding.target);
        }
        holding.serial.clone_from(&held.serial);
        holding.not_after = held.not_after;
        holding.generation = Some(held.generation);
        holding.ask_at = ask_at(&held.update, now);
        holding.update = Some(held.update.clone());
        news.held.push(holding);
    }
    news
}
