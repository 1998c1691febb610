//! One visit to one target: connected, lineages read anew, pushed, and each answer turned into what it means. It runs
//! beside other visits and touches no queue.

use std::sync::Arc;
use std::time::Duration;

use certdeploy_common::cert::{Digest, FileName, check};
use certdeploy_common::wire::{Held, Holdings, Receipt, Update, Verdict};
use tokio_util::sync::CancellationToken;

use super::room::Seat;
use super::shelf::Shelf;
use crate::clock::Millis;
use crate::config::Target;
use crate::lineage::Readable;
use crate::plan::{self, Failure};
use crate::push::{self, Answer, Ask, Parcel, Transport};
use crate::queue::{Delivery, Holding};

/// What is to be done at a target.
#[derive(Debug)]
pub(super) struct Errand {
    pub(super) target: Arc<Target>,
    pub(super) shelf: Arc<Shelf>,
    pub(super) seat: Seat,
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

    fn of(error: &push::Error) -> Self {
        Self::failed(if error.is_permanent() { Failure::Lasting } else { Failure::Passing }, error)
    }
}

/// Connects, waits for its turn, reads, pushes, asks. When it is `over` before it has its turn, nothing is sent: the
/// config may say otherwise by now. What has no end then is owed as before.
pub(super) async fn run<T: Transport>(
    transport: Arc<T>,
    errand: Errand,
    over: CancellationToken,
    clock: fn() -> Millis,
) -> Report {
    let Errand { target, shelf, mut seat, deliveries, ask } = errand;
    let mut ends = Vec::with_capacity(deliveries.len());
    // Nobody is bothered for what cannot be sent.
    let mut sendable = Vec::with_capacity(deliveries.len());
    for delivery in deliveries {
        match prepare(&target, &shelf, &delivery, clock()).await {
            Ok(_) => {
                about(&target, &delivery)
                    .in_scope(|| tracing::info!("Pushing {} to {}", delivery.path.display(), target.shown()));
                sendable.push(delivery);
            }
            Err(end) => ends.push((delivery, end)),
        }
    }
    if sendable.is_empty() && matches!(ask, Ask::Nothing | Ask::First) {
        return Report { ends, holdings: None };
    }
    let connected = tokio::select! {
        biased;
        () = over.cancelled() => return Report { ends, holdings: None },
        connected = transport.connect(&target) => connected,
    };
    let line = match connected {
        Ok(line) => line,
        Err(error) => {
            ends.extend(sendable.into_iter().map(|delivery| (delivery, End::of(&error))));
            return Report { ends, holdings: (ask == Ask::Holdings).then_some(Err(error)) };
        }
    };
    tokio::select! {
        biased;
        () = over.cancelled() => return Report { ends, holdings: None },
        () = seat.push() => {}
    }
    // Read only now: while it waited for its turn it held no key, and what is sent is the newest.
    let (mut sent, mut parcels) = (Vec::with_capacity(sendable.len()), Vec::with_capacity(sendable.len()));
    for delivery in sendable {
        match prepare(&target, &shelf, &delivery, clock()).await {
            Ok((parcel, facts)) => {
                sent.push((delivery, facts));
                parcels.push(parcel);
            }
            Err(end) => ends.push((delivery, end)),
        }
    }
    let visit = transport.visit(line, &target, parcels, ask).await;
    let now = clock();
    for ((delivery, facts), answer) in sent.into_iter().zip(visit.answers) {
        let end = end(&delivery, facts, answer, now);
        ends.push((delivery, end));
    }
    Report { ends, holdings: visit.holdings }
}

/// What lines about a delivery belong to, for logs that are read by programs.
pub(super) fn about(target: &Target, delivery: &Delivery) -> tracing::Span {
    tracing::error_span!("delivery", target = target.id.as_str(), lineage = delivery.lineage.as_str(), id = delivery.id)
}

/// What was sent, for the record.
#[derive(Debug)]
struct Sent {
    digest: Digest,
    serial: String,
    not_after: i64,
    not_before: i64,
    place: String,
}

async fn prepare(target: &Target, shelf: &Shelf, delivery: &Delivery, now: Millis) -> Result<(Parcel, Sent), End> {
    let force = delivery.force;
    let read = shelf.read(&delivery.path, force, now).await;
    let readable = match &*read {
        Ok(readable) => readable,
        // No digest: what is wrong may be in a file that this target does not get, and once the lineage can be read
        // again, it is another.
        Err((error, _)) if error.is_permanent() => return Err(End::failed(Failure::Refused(None), error)),
        Err((error, _)) => return Err(End::failed(Failure::Passing, error)),
    };
    if !plan::gets(target, &readable.lineage, &readable.facts.names) {
        return Err(End::NotNeeded);
    }
    let domains = plan::needed(target, &readable.facts.names);
    let Readable { lineage, path, bundle, facts, spoiled } = readable;
    let missing = |name: &&FileName| bundle.file(**name).is_none();
    if let Some(name) = target.wanted.iter().find(missing) {
        if let Some((_, fault)) = spoiled.iter().find(|(spoiled, _)| spoiled == name) {
            let error = format!("lineage `{}`: {fault}, and this target needs it", path.display());
            let digest = bundle.only(&target.wanted).digest();
            return Err(End::failed(Failure::Refused(Some(digest)), error));
        }
        let error = format!("lineage `{}` has no {name}, which this target needs", path.display());
        return Err(End::failed(Failure::Passing, error));
    }
    let bundle = bundle.only(&target.wanted);
    let sent = Sent {
        digest: bundle.digest(),
        serial: facts.serial.clone(),
        not_after: facts.not_after,
        not_before: facts.not_before,
        place: target.whereabouts(),
    };
    let leaf = facts.leaf.clone();
    let parcel = Parcel { lineage: lineage.clone(), bundle, domains, leaf, time: now.seconds(), force };
    Ok((parcel, sent))
}

fn end(delivery: &Delivery, sent: Sent, answer: Result<Answer, push::Error>, now: Millis) -> End {
    match answer {
        Ok(Answer::Placed) => End::Acknowledged(holding(delivery, sent, now)),
        Ok(Answer::Receipt(receipt)) => by_receipt(delivery, sent, receipt, now),
        Ok(Answer::Holds(held)) => End::Acknowledged(held_as(holding(delivery, sent, now), held, now)),
        Err(error) => End::of(&error),
    }
}

fn by_receipt(delivery: &Delivery, sent: Sent, receipt: Receipt, now: Millis) -> End {
    match (receipt.verdict, receipt.held) {
        (Verdict::Deployed | Verdict::Unchanged, Some(held)) if held.digest == sent.digest => {
            End::Acknowledged(held_as(holding(delivery, sent, now), held, now))
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
        not_before: Some(sent.not_before),
        place: Some(sent.place),
    }
}

fn held_as(mut holding: Holding, held: Held, now: Millis) -> Holding {
    holding.generation = Some(held.generation);
    holding.ask_at = ask_at(&held.update, now);
    holding.update = Some(held.update);
    holding
}

/// When to ask about pending updates: just after they fell due, and then ever more rarely while they run. It is the
/// target's word, so it is believed for a day at most.
pub(super) fn ask_at(update: &Update, now: Millis) -> Option<Millis> {
    const SOON: Duration = Duration::from_secs(1);
    const RARELY: Duration = Duration::from_secs(300);
    const LONGEST: Duration = Duration::from_secs(24 * 3600);
    match update {
        Update::Pending { due } => {
            let due = Millis::of_seconds(*due).after(SOON);
            let overdue = due.until(now) / 2;
            Some(due.max(now.after(overdue.clamp(SOON, RARELY))).min(now.after(LONGEST)))
        }
        Update::Done | Update::Failed { .. } => None,
    }
}

/// What a target says it holds, beside what it acknowledged.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Rows that changed.
    pub(super) held: Vec<Holding>,
    /// Updates are known to have failed.
    pub(super) updates_failed: bool,
    /// Rows to forget: it holds nothing of these lineages.
    pub(super) gone: Vec<Holding>,
}

/// Compares the two. Another certificate than the acknowledged one is told, but not fought: somebody rolled back.
pub(super) fn news(known: Vec<Holding>, told: &Holdings, now: Millis) -> News {
    let mut news = News::default();
    for known in known {
        let Some(held) = told.lineages.get(&known.lineage) else {
            news.gone.push(known);
            continue;
        };
        // A rollback makes a new generation; this is an old one because the newer is lost.
        if held.digest != known.digest && known.generation.is_some_and(|number| held.generation < number) {
            news.gone.push(known);
            continue;
        }
        let mut holding = known.clone();
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
        news.updates_failed |= matches!(held.update, Update::Failed { .. });
        if holding != known {
            news.held.push(holding);
        }
    }
    news
}
