//! One pass: what lies in `source` goes in place, then the updates run, at once. For cron, timers, and hosts where a
//! plain sshd receives. Must not listen to anybody.

use std::sync::Arc;
use std::time::Duration;

use certdeploy_common::cert::Lineage;
use certdeploy_common::daemon::exit::Exit;
use certdeploy_common::daemon::shutdown::Orders;
use certdeploy_common::wire::PushId;

use crate::config::Settings;
use crate::dir::Dir;
use crate::intake::Waiting;
use crate::link::Commit;
use crate::pipeline::{Arrival, May, Outcome, Pipeline, listed};
use crate::staging::{INCOMING, sweep};
use crate::turn::Which;
use crate::validate::{Origin, Rejection, Upload};
use crate::{account, by_hand, clock, intake, mend};

/// Runs one pass.
pub async fn run(settings: Arc<Settings>, orders: Orders) -> Exit {
    tracing::debug!("Running one off deploy");
    let _lock = match lock(&settings) {
        Ok(Some(lock)) => lock,
        Ok(None) => {
            tracing::warn!("Another certdeploy-client is at work on `{}`; nothing done", settings.source.display());
            return Exit::Done;
        }
        Err(exit) => return exit,
    };
    let validator = crate::daemon::validator(&settings);
    let pipeline = Pipeline::new(Arc::clone(&settings), validator);
    let go_on = || true;
    let mut left = mend::all(&pipeline, || ()).await;
    let mut invalid = !leftovers(&settings, &pipeline, go_on).await.valid;
    let put = staged(&settings, &pipeline, HALF.min(settings.settle_time), go_on).await;
    invalid |= !put.valid | !rested(&settings, &pipeline, put.halves, &orders).await;
    left.extend(mend::names(&pipeline).await);
    invalid |= mend::are_left(&pipeline, &left);
    let updated = by_hand::updates(&settings, &Which::Owed, &orders).await;
    if invalid { Exit::Failed } else { updated }
}

/// The lock on `source`; `None` when somebody else has it. It is on the directory itself: a file in it could be in the
/// way, of another user or of a peer's making.
///
/// # Errors
/// It cannot be taken, which is said.
pub fn lock(settings: &Settings) -> Result<Option<Dir>, Exit> {
    let locked = Dir::open(&settings.source).and_then(|source| source.lock(Duration::ZERO).map(|()| source));
    match locked {
        Ok(source) => Ok(Some(source)),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => {
            tracing::error!("Cannot lock `{}`: {error}", settings.source.display());
            Err(Exit::Failed)
        }
    }
}

/// What lies in staging, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Staged {
    /// What a plain peer put through our own SFTP server.
    Incoming(Lineage),
    /// What a plain sshd put into `source`.
    Source(Lineage),
}

/// How a look at staging ended.
#[derive(Debug)]
pub struct Looked {
    /// False: something is invalid, or waits for more.
    pub valid: bool,
    /// What may be placed later as it is, and after which pause.
    pub again: Vec<(Staged, Duration)>,
    /// Of that, first halves, and how long the others are still waited for.
    pub halves: Vec<(Lineage, Duration)>,
}

impl Looked {
    fn nothing(valid: bool) -> Self {
        Self { valid, again: Vec::new(), halves: Vec::new() }
    }
}

/// How long a pass waits for the other half of a first delivery. Who puts files one after the other is quicker.
const HALF: Duration = Duration::from_secs(10);

/// How often uploads are tried again that could not be placed.
pub const RETRY: Duration = Duration::from_secs(60);

/// Complete uploads that a daemon left. Ends early when `go_on` says no.
pub async fn leftovers(settings: &Settings, pipeline: &Pipeline, go_on: impl Fn() -> bool) -> Looked {
    let mut looked = Looked::nothing(true);
    let Ok(incoming) = Dir::open(&settings.source).and_then(|source| source.child(INCOMING)) else { return looked };
    let commits = match sweep::sweep(&incoming) {
        Ok(commits) => commits,
        Err(error) => {
            tracing::error!("Cannot read `{}`: {error}", settings.source.join(INCOMING).display());
            return Looked::nothing(false);
        }
    };
    for commit in commits {
        if !go_on() {
            break;
        }
        let outcomes = match &commit {
            Commit::Push(push) => vec![receive_push(&incoming, push, pipeline, clock::now()).await],
            Commit::Plain(lineage) => each_plain(&incoming, lineage, pipeline, clock::now()).await,
        };
        looked.valid &= outcomes.iter().all(|outcome| matches!(outcome, Outcome::InPlace { .. }));
        // A pusher tries again by itself, with a new push.
        if let (Commit::Plain(lineage), Some(Outcome::Failed { .. })) = (commit, outcomes.last()) {
            looked.again.push((Staged::Incoming(lineage), RETRY));
        }
    }
    looked
}

/// Takes a complete push through the pipeline; it leaves staging unless it could not be placed now.
pub async fn receive_push(incoming: &Dir, push: &PushId, pipeline: &Pipeline, due: i64) -> Outcome {
    let outcome = match intake::push(incoming, push, &owners(incoming)) {
        Ok((upload, scope)) => pipeline.take(upload, Arrival { may: May::Of(&scope), growing: false, due }).await,
        // The disk is no fault of the certificate's: a refusal would be remembered for it.
        Err(error) if error.is_io() => Outcome::Failed { reason: error.to_string() },
        Err(error) => Outcome::Refused { rejection: Rejection::final_because(error.to_string()) },
    };
    report(&format!("push {push}"), &outcome);
    // A pusher tries again by itself, with a new push.
    discard(incoming, &push.directory());
    outcome
}

/// Takes what plain peers put of a lineage through the pipeline; it stays in staging while it waits for more. Returns
/// what became of it in the end.
pub async fn receive_plain(incoming: &Dir, lineage: &Lineage, pipeline: &Pipeline, due: i64) -> Outcome {
    let last = each_plain(incoming, lineage, pipeline, due).await.pop();
    last.unwrap_or_else(|| Outcome::InPlace { lineage: lineage.clone(), new: false, update: false })
}

/// The same, with all that were refused on the way: none of them stops another or takes it away.
async fn each_plain(incoming: &Dir, lineage: &Lineage, pipeline: &Pipeline, due: i64) -> Vec<Outcome> {
    let mut put = match intake::plain(incoming, lineage, &owners(incoming)) {
        Ok(put) => put,
        Err(error) => {
            let outcome = Outcome::Failed { reason: error.to_string() };
            report(&format!("lineage {lineage}"), &outcome);
            return vec![outcome];
        }
    };
    let mut outcomes = Vec::new();
    for (directory, error) in std::mem::take(&mut put.unfit) {
        let reason = format!("{error}; it is removed, upload it again");
        let outcome = Outcome::Refused { rejection: Rejection::final_because(reason) };
        report(&format!("upload `{directory}`"), &outcome);
        discard(incoming, &directory);
        outcomes.push(outcome);
    }
    while let Some(outcome) = newest(&mut put.waiting, incoming, lineage, pipeline, due).await {
        outcomes.push(outcome);
    }
    outcomes
}

/// Takes the newest upload through the pipeline, with what older ones add to it. Afterwards those are waiting that are
/// still to be looked at: if it is refused, all older ones, else none.
async fn newest(
    waiting: &mut Vec<Waiting>,
    incoming: &Dir,
    lineage: &Lineage,
    pipeline: &Pipeline,
    due: i64,
) -> Option<Outcome> {
    let arrival = Arrival { may: May::Be(lineage), growing: false, due };
    let upload = |bundle| Upload { origin: Origin::Plain { lineage: lineage.clone() }, bundle };
    let joined = intake::join(waiting);
    let newest = waiting.pop()?;
    let mut outcome = pipeline.take(upload(joined), arrival).await;
    if matches!(outcome, Outcome::Refused { .. }) && !waiting.is_empty() {
        // An older half that does not belong to it must not keep out what is good by itself.
        outcome = pipeline.take(upload(newest.files), arrival).await;
    }
    report(&format!("lineage {lineage}"), &outcome);
    if matches!(outcome, Outcome::Refused { .. }) {
        // Nor does it take away a good half that waits.
        discard(incoming, &newest.directory);
        return Some(outcome);
    }
    // While something is missing the last few are enough to complete each other.
    let keep = if matches!(outcome, Outcome::InPlace { .. }) { 0 } else { 4 };
    let older = std::mem::take(waiting).into_iter().map(|upload| upload.directory).rev();
    for directory in std::iter::once(newest.directory).chain(older).skip(keep) {
        discard(incoming, &directory);
    }
    Some(outcome)
}

/// Whose files are taken: the receiver's, whose directory it is, and our own.
fn owners(incoming: &Dir) -> Vec<u32> {
    let mut owners = vec![rustix::process::geteuid().as_raw()];
    owners.extend(incoming.owner());
    owners
}

fn discard(incoming: &Dir, name: &str) {
    if let Err(error) = incoming.remove_tree(name) {
        tracing::warn!("Cannot remove `{name}` from staging: {error}");
    }
}

fn report(what: &str, outcome: &Outcome) {
    match outcome {
        Outcome::InPlace { lineage, new: false, .. } => tracing::debug!("Lineage {lineage} is in place already"),
        Outcome::InPlace { .. } => {}
        // For a person: nothing else says that this certificate will run out here.
        Outcome::Waiting { .. } => tracing::error!("{}", waits(outcome)),
        Outcome::Refused { rejection } => tracing::error!("CertDeployError: Refused {what}: {rejection}"),
        Outcome::Failed { reason } => tracing::error!("CertDeployError: {what} cannot be deployed now: {reason}"),
    }
}

fn waits(outcome: &Outcome) -> String {
    let Outcome::Waiting { lineage, missing, why } = outcome else { return String::new() };
    let missing = listed(missing);
    format!(
        "Lineage {lineage} is not deployed yet: it waits for {missing}, because the deployed one does not belong to what \
         came ({why}); put all its files"
    )
}

/// What a plain sshd put into `source`; the other half of a first delivery is waited for until its files have rested for
/// `patience`. No lineage stops another. Ends early when `go_on` says no.
pub async fn staged(settings: &Settings, pipeline: &Pipeline, patience: Duration, go_on: impl Fn() -> bool) -> Looked {
    let mut looked = Looked::nothing(true);
    let below = match intake::below(&settings.source) {
        Ok(below) => below,
        Err(error) => {
            tracing::error!("Cannot read `{}`: {error}", settings.source.display());
            return Looked::nothing(false);
        }
    };
    for (name, reason) in &below.strange {
        let place = settings.source.join(name);
        tracing::error!("InvalidKey: Invalid key {}: {reason}", place.display());
        looked.valid = false;
    }
    for (name, reason) in below.ignored() {
        tracing::warn!("`{}` is not looked at: {reason}", settings.source.join(name).display());
    }
    for lineage in below.lineages.into_iter().take_while(|_| go_on()) {
        let became = receive_source(settings, &lineage, pipeline, clock::now(), patience).await;
        looked.valid &= became.is_valid();
        if let Became::Half(rest) = became {
            looked.halves.push((lineage.clone(), rest));
        }
        looked.again.extend(became.again(settings).map(|pause| (Staged::Source(lineage), pause)));
    }
    looked
}

/// What has rested long enough, or is whole by now, after a wait that a signal ends. `false`: some of it is invalid.
async fn rested(settings: &Settings, pipeline: &Pipeline, halves: Vec<(Lineage, Duration)>, orders: &Orders) -> bool {
    const LOOK: Duration = Duration::from_millis(500);
    let Some(rest) = halves.iter().map(|(_, rest)| *rest).max() else { return true };
    let end = tokio::time::Instant::now() + rest;
    let is_half = |lineage: &Lineage| {
        let found = intake::source(&settings.source, lineage).ok().flatten();
        found.is_some_and(|found| found.first_half(&settings.destination, lineage).is_some())
    };
    while tokio::time::Instant::now() < end && halves.iter().any(|(lineage, _)| is_half(lineage)) {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = orders.stop.cancelled() => return true,
        }
    }
    let mut valid = true;
    for (lineage, _) in halves {
        valid &= receive_source(settings, &lineage, pipeline, clock::now(), Duration::ZERO).await.is_valid();
    }
    valid
}

/// What became of what a plain sshd put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Became {
    /// Nothing is left to do; `update` says whether users are to be told.
    Placed {
        /// See above.
        update: bool,
    },
    /// More of it may follow.
    Growing,
    /// The same: a key without a certificate, or the other way round, where nothing is yet. It is waited for so long.
    Half(Duration),
    /// It cannot be placed now.
    Failed,
    /// Not as it is: somebody must look at it, or put more.
    Invalid,
}

impl Became {
    fn is_valid(self) -> bool {
        matches!(self, Self::Placed { .. } | Self::Growing | Self::Half(_))
    }

    /// After which pause another try may end better.
    #[must_use]
    pub fn again(self, settings: &Settings) -> Option<Duration> {
        match self {
            Self::Growing => Some(settings.settle_time.min(RETRY)),
            Self::Half(rest) => Some(rest),
            Self::Failed => Some(RETRY),
            Self::Placed { .. } | Self::Invalid => None,
        }
    }
}

/// Takes what a plain sshd put of a lineage through the pipeline; what is in place is removed from `source`. For
/// `patience` see [`staged`].
pub async fn receive_source(
    settings: &Settings,
    lineage: &Lineage,
    pipeline: &Pipeline,
    due: i64,
    patience: Duration,
) -> Became {
    let place = settings.source.join(lineage.as_str());
    let found = match intake::source(&settings.source, lineage) {
        Ok(Some(found)) => found,
        Ok(None) => return Became::Placed { update: false },
        Err(error) => {
            tracing::error!("InvalidKey: Invalid key {}: {error}", place.display());
            return Became::Invalid;
        }
    };
    let age = Duration::from_secs((clock::now() - found.changed).unsigned_abs());
    if let Some((came, missing)) = found.first_half(&settings.destination, lineage)
        && age < patience
    {
        tracing::info!("Lineage {lineage}: nothing but {came} has come so far; {missing} may follow");
        return Became::Half(patience - age);
    }
    tracing::info!("Deploying new certs");
    let growing = age < settings.settle_time;
    let arrival = Arrival { may: May::Be(lineage), growing, due };
    let outcome = pipeline.take(found.upload, arrival).await;
    match &outcome {
        Outcome::Refused { rejection } if rejection.incomplete && growing => {
            tracing::info!("Lineage {lineage} is still arriving ({rejection}); it waits for the next pass");
            Became::Growing
        }
        Outcome::Waiting { .. } if growing => {
            tracing::info!("{}", waits(&outcome));
            Became::Growing
        }
        Outcome::Refused { rejection } => {
            // The files stay: a person must see them, and a new upload replaces them.
            tracing::error!("InvalidKey: Invalid key {}: {rejection}", place.display());
            Became::Invalid
        }
        Outcome::InPlace { update, .. } => {
            report(lineage.as_str(), &outcome);
            if let Err(error) = intake::remove(&settings.source, lineage, &found.read) {
                tracing::warn!("Cannot remove the deployed files from `{}`: {error}", place.display());
            }
            Became::Placed { update: *update }
        }
        Outcome::Waiting { .. } => {
            report(lineage.as_str(), &outcome);
            Became::Invalid
        }
        Outcome::Failed { .. } => {
            report(lineage.as_str(), &outcome);
            Became::Failed
        }
    }
}

/// Says when privileges are not dropped for want of the configured account.
pub fn note_account(wanted: &str, found: &account::Account) {
    if found.name != wanted {
        tracing::warn!(
            "There is no user `{wanted}`; running without privileges as `{}` instead. Make one with: useradd --system --shell /usr/sbin/nologin {wanted}",
            found.name
        );
    }
}
