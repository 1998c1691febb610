//! Retries, order, parallelism and back-off against a transport that does as it is told, under a clock that jumps.

mod clock;
mod files;
mod first;
mod fleet;
mod once;
mod reload;

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Mutex;

use certdeploy_common::cert::Digest;
use certdeploy_common::fs::lock;

use certdeploy_common::wire::{Held, Holdings, PushId, Receipt, Update, Verdict};
use tokio::time::Instant;

use super::*;
use crate::hook::Renewal;
use crate::push::{self, Answer, Ask, Parcel, Visit};
use crate::queue::{Check, State};

thread_local! {
    static START: Cell<Option<Instant>> = const { Cell::new(None) };
    /// By how many milliseconds the wall's clock was set since then.
    static SET: Cell<i64> = const { Cell::new(0) };
}

/// The paused clock, as milliseconds since some year.
fn paused() -> Millis {
    let start = START.get().unwrap_or_else(|| {
        START.set(Some(Instant::now()));
        Instant::now()
    });
    Millis(1_750_000_000_000 + SET.get()).after(start.elapsed())
}

/// The seconds that have passed, whatever the wall's clock says.
fn passed() -> u64 {
    u64::try_from((paused().0 - SET.get() - 1_750_000_000_000) / 1000).unwrap()
}

/// What a target does at one visit.
#[derive(Clone)]
enum Act {
    /// Takes everything, as a plain peer.
    Place,
    /// Takes everything, and runs updates at once.
    Update,
    /// Takes everything, and runs updates after so many seconds.
    Deploy(i64),
    /// Refuses everything.
    Refuse,
    /// Cannot be connected to, which shows after so many seconds.
    Fail(u64, push::Error),
    /// Takes everything, after so many seconds.
    Slow(u64),
}

fn broken() -> Act {
    Act::Fail(0, push::Error::Ssh("broken".into()))
}

/// Does the acts of each target in turn, the last one for ever.
#[derive(Default)]
struct Scripted {
    acts: Mutex<HashMap<String, VecDeque<Act>>>,
    seen: Mutex<Vec<(u64, String, usize, Ask)>>,
    held: Mutex<HashMap<String, Holdings>>,
}

#[derive(Clone, Default)]
struct Fake(Arc<Scripted>);

impl Transport for Fake {
    type Line = Act;

    async fn connect(&self, target: &Target) -> Result<Act, push::Error> {
        let id = target.id.to_string();
        let act = {
            let mut acts = self.0.acts.lock().unwrap();
            let acts = acts.entry(id.clone()).or_default();
            if acts.len() > 1 { acts.pop_front().unwrap() } else { acts.front().cloned().unwrap_or(Act::Place) }
        };
        if let Act::Fail(after, error) = act {
            self.0.seen.lock().unwrap().push((passed(), id, 0, Ask::Nothing));
            tokio::time::sleep(Duration::from_secs(after)).await;
            return Err(error);
        }
        Ok(act)
    }

    async fn visit(&self, act: Act, target: &Target, parcels: Vec<Parcel>, ask: Ask) -> Visit {
        let id = target.id.as_str();
        self.0.seen.lock().unwrap().push((passed(), id.to_owned(), parcels.len(), ask));
        if let Act::Slow(seconds) = act {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }
        let answers = parcels.iter().map(|parcel| Ok(self.0.answer(&act, id, parcel, ask))).collect();
        let told = || self.0.held.lock().unwrap().get(id).cloned().unwrap_or_default();
        Visit { answers, holdings: (ask == Ask::Holdings).then(|| Ok(Some(told()))) }
    }
}

impl Scripted {
    fn answer(&self, act: &Act, target: &str, parcel: &Parcel, ask: Ask) -> Answer {
        let mut held = self.held.lock().unwrap();
        let held = held.entry(target.to_owned()).or_default();
        let same = held.lineages.get(&parcel.lineage).filter(|held| held.digest == parcel.bundle.digest());
        if let (Ask::First, Some(same)) = (ask, same) {
            return Answer::Holds(same.clone());
        }
        let mut receipt = |verdict, update| {
            let got = Held {
                digest: parcel.bundle.digest(),
                generation: 1,
                serial: "0a".into(),
                not_after: 9_000_000_000,
                update,
            };
            if verdict == Verdict::Deployed {
                held.lineages.insert(parcel.lineage.clone(), got.clone());
            }
            let push = PushId::new([0; 16]);
            Answer::Receipt(Receipt { push, lineage: Some(parcel.lineage.clone()), verdict, held: Some(got) })
        };
        match act {
            Act::Place | Act::Slow(_) => Answer::Placed,
            Act::Deploy(after) => {
                receipt(Verdict::Deployed, Update::Pending { due: paused().seconds().saturating_add(*after) })
            }
            Act::Update => receipt(Verdict::Deployed, Update::Done),
            Act::Refuse => receipt(Verdict::Refused { reason: "no".into() }, Update::Done),
            Act::Fail(..) => unreachable!("not connected"),
        }
    }
}

struct Stage {
    dir: tempfile::TempDir,
    settings: Arc<Settings>,
    fake: Fake,
    stop: CancellationToken,
    anew: Arc<Notify>,
}

impl Stage {
    /// Targets `t0`, `t1`, ... and lineages `l0`, `l1`, ... that all of them want.
    fn new(targets: usize, lineages: usize, more: &str) -> Self {
        START.set(None);
        SET.set(0);
        let dir = tempfile::tempdir().unwrap();
        let pin = "AAAAC3NzaC1lZDI1NTE5AAAAIP+H3Nk/9uSa7LHNt8fvCPKKkNFnVE5SGC5tnthf6/OK";
        let mut text = format!(
            "privkey_filename: /k\nqueue_dir: {0}/queue\nlive_directory: {0}/live\n{more}client_configs:\n",
            dir.path().display()
        );
        for number in 0..targets {
            text += &format!("- {{name: t{number}, address: h, domains: [a.example], pubkey: {pin}}}\n");
        }
        let (settings, _) = crate::config::parse(Path::new("server.yml"), &text).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["a.example".into()]).unwrap();
        params.not_after = rcgen::date_time_ymd(4000, 1, 1);
        let cert = params.self_signed(&key).unwrap().pem();
        for number in 0..lineages {
            let lineage = dir.path().join(format!("live/l{number}"));
            std::fs::create_dir_all(&lineage).unwrap();
            for (name, text) in [("fullchain.pem", &cert), ("privkey.pem", &key.serialize_pem())] {
                std::fs::write(lineage.join(name), text).unwrap();
            }
        }
        let (fake, stop, anew) = (Fake::default(), CancellationToken::new(), Arc::default());
        Self { dir, settings: Arc::new(settings), fake, stop, anew }
    }

    fn act(&self, target: &str, acts: &[Act]) {
        self.fake.0.acts.lock().unwrap().insert(target.into(), acts.iter().cloned().collect());
    }

    fn queue(&self) -> Queue {
        Queue::open(&self.settings.queue_dir, Check::Opening, paused()).unwrap()
    }

    fn renewal(&self, lineage: usize) -> Renewal {
        let path = self.dir.path().join(format!("live/l{lineage}"));
        let lineage = format!("l{lineage}").parse().unwrap();
        Renewal { path, lineage, domains: vec![], force: false, anew: false }
    }

    fn renew(&self, lineage: usize) {
        self.queue().append(&self.renewal(lineage), paused()).unwrap();
    }

    /// Runs for so many seconds at most, and says how it ended and what the targets saw.
    async fn run(&self, mode: Mode, seconds: u64) -> (Ended, Vec<(u64, String, usize, Ask)>) {
        let dispatcher = Dispatcher::new(Arc::clone(&self.settings), self.queue(), self.fake.clone(), mode, paused);
        let dispatcher = dispatcher.comparing(Arc::clone(&self.anew)).outdated_by(self.stop.clone());
        let stop = self.stop.clone();
        let end = async {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            stop.cancel();
            std::future::pending::<()>().await;
        };
        let ended = tokio::select! {
            ended = dispatcher.run(self.stop.clone(), None) => ended.unwrap(),
            () = end => unreachable!(),
        };
        (ended, std::mem::take(&mut *self.fake.0.seen.lock().unwrap()))
    }
}

fn visits(seen: &[(u64, String, usize, Ask)]) -> Vec<(u64, &str)> {
    seen.iter().map(|(at, target, ..)| (*at, target.as_str())).collect()
}

#[tokio::test(start_paused = true)]
async fn one_run_makes_one_burst_and_does_not_let_a_dead_target_delay_the_others() {
    let stage = Stage::new(3, 1, "push_retries: 2\npush_retry_interval: 30\n");
    stage.act("t0", &[broken()]);
    stage.renew(0);
    let (ended, seen) = stage.run(Mode::Once, 1000).await;
    assert_eq!(ended, Ended::Quietly);
    assert_eq!(visits(&seen), [(0, "t0"), (0, "t1"), (0, "t2"), (30, "t0"), (60, "t0")]);
    let left = stage.queue().deliveries().unwrap();
    assert_eq!((left.len(), left[0].attempts, left[0].state), (1, 0, State::Owed), "the daemon's pauses stay");
    assert!(left[0].last_error.is_some());
    assert_eq!(stage.queue().holdings().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_daemon_goes_on_with_growing_pauses_until_it_is_acknowledged() {
    let stage = Stage::new(1, 1, "push_retries: 1\npush_retry_interval: 30\n");
    stage.act("t0", &[broken(), broken(), broken(), broken(), broken(), Act::Place]);
    let (_, seen) = stage.run(Mode::Daemon, 4 * 3600).await;
    let at: Vec<u64> = seen.iter().map(|(at, ..)| *at).collect();
    let pauses: Vec<u64> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!((at.len(), pauses[0]), (6, 30), "found by comparing with live/, without any hook: {at:?}");
    assert!(pauses[1..].windows(2).all(|pair| pair[1] > pair[0]), "{pauses:?}");
    assert!(stage.queue().deliveries().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn another_host_key_and_a_refusal_are_not_retried_hot() {
    let stage = Stage::new(2, 1, "push_retries: 5\npush_retry_interval: 1\n");
    let key = push::Error::HostKey { host: "h".into(), got: "a".into(), pinned: "b".into() };
    stage.act("t0", &[Act::Fail(0, key)]);
    stage.act("t1", &[Act::Refuse]);
    let (_, seen) = stage.run(Mode::Daemon, 3500).await;
    assert_eq!(visits(&seen), [(0, "t0"), (0, "t1")]);
    let mut states: Vec<State> = stage.queue().deliveries().unwrap().iter().map(|left| left.state).collect();
    states.sort_by_key(|state| state.as_str());
    assert_eq!(states, [State::Failed, State::Refused]);
}

#[tokio::test(start_paused = true)]
async fn in_parallel_a_black_hole_delays_nobody() {
    let stage = Stage::new(4, 1, "push_mode: parallel\npush_concurrency: 2\npush_retries: 0\n");
    stage.act("t0", &[Act::Fail(120, push::Error::Ssh("hole".into()))]);
    stage.renew(0);
    let (_, seen) = stage.run(Mode::Once, 1000).await;
    // Which of two that run side by side reads its lineage first is nobody's promise.
    let mut seen = visits(&seen);
    seen.sort_unstable();
    assert_eq!(seen, [(0, "t0"), (0, "t1"), (0, "t2"), (0, "t3")]);
    assert_eq!(stage.queue().holdings().unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn fail_fast_stops_at_the_first_failure() {
    let stage = Stage::new(3, 1, "fail_fast: yes\n");
    stage.act("t1", &[broken()]);
    stage.renew(0);
    let (ended, seen) = stage.run(Mode::Once, 1000).await;
    assert_eq!(ended, Ended::FailedFast);
    assert_eq!(visits(&seen), [(0, "t0"), (0, "t1")]);
}

#[tokio::test(start_paused = true)]
async fn several_lineages_go_in_one_visit_and_visits_keep_their_distance() {
    let stage = Stage::new(2, 3, "push_interval: 7\n");
    for lineage in 0..3 {
        stage.renew(lineage);
    }
    let (_, seen) = stage.run(Mode::Once, 1000).await;
    assert_eq!(seen.iter().map(|(at, _, parcels, _)| (*at, *parcels)).collect::<Vec<_>>(), [(0, 3), (7, 3)]);
}

#[tokio::test(start_paused = true)]
async fn pending_updates_are_asked_about_when_they_are_due() {
    let stage = Stage::new(1, 1, "");
    stage.act("t0", &[Act::Deploy(60)]);
    let done = async {
        tokio::time::sleep(Duration::from_secs(50)).await;
        let mut held = stage.fake.0.held.lock().unwrap();
        held.values_mut().flat_map(|told| told.lineages.values_mut()).for_each(|held| held.update = Update::Done);
    };
    let ((_, seen), ()) = tokio::join!(stage.run(Mode::Daemon, 1000), done);
    assert_eq!(
        seen.iter().map(|(at, _, _, ask)| (*at, *ask)).collect::<Vec<_>>(),
        [(0, Ask::First), (61, Ask::Holdings)]
    );
    assert_eq!(stage.queue().holdings().unwrap()[0].update, Some(Update::Done));
}

#[tokio::test(start_paused = true)]
async fn updates_that_take_long_are_asked_about_ever_more_rarely() {
    let stage = Stage::new(1, 1, "");
    stage.act("t0", &[Act::Deploy(60)]);
    let (_, seen) = stage.run(Mode::Daemon, 3500).await;
    assert!((5..40).contains(&seen.len()), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_target_that_lost_what_it_held_gets_it_again() {
    let stage = Stage::new(1, 1, "");
    stage.act("t0", &[Act::Update]);
    let lose = async {
        tokio::time::sleep(Duration::from_secs(100)).await;
        stage.fake.0.held.lock().unwrap().clear();
    };
    let ((_, seen), ()) = tokio::join!(stage.run(Mode::Daemon, 4000), lose);
    let what: Vec<_> = seen.iter().map(|(at, _, parcels, ask)| (*at, *parcels, *ask)).collect();
    assert_eq!(what, [(0, 1, Ask::First), (3600, 0, Ask::Holdings), (3600, 1, Ask::First)]);
    assert_eq!(stage.queue().holdings().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_target_that_another_process_visits_is_waited_for() {
    let stage = Stage::new(1, 1, "");
    stage.renew(0);
    let locks = stage.settings.queue_dir.join("lock");
    std::fs::create_dir_all(&locks).unwrap();
    let name: String = Digest::of(b"t0").as_str().chars().take(32).collect();
    let held = lock::try_lock(&locks.join(name)).unwrap();
    let release = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        drop(held);
    };
    let ((_, seen), ()) = tokio::join!(stage.run(Mode::Once, 1000), release);
    assert_eq!(visits(&seen), [(5, "t0")]);
}
