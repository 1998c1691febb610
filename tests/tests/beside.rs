//! Commands beside a daemon: both take turns with updates, nothing is done twice that was done once, and the daemon does
//! what a command has left.

use certdeploy_common::fs::lock;
use certdeploy_tests::process::{Daemon, executable};
use certdeploy_tests::wait::{PATIENCE, until};
use certdeploy_tests::{Target, World};
use rustix::process::Signal;

/// A daemon with two scripts, of which the first ends only when it may, and both fail while something is broken.
struct Beside {
    target: Target,
    world: World,
}

impl Beside {
    fn new(extra: &str) -> Self {
        let world = World::new();
        let lineage = world.lineage("a.example", &["a.example"]);
        let mut target = world.target("web1", &["a.example"]);
        let path = |name: &str| world.path(name).display().to_string();
        let script = |name: &str, end: &str| {
            let path = executable(&world.path(name), &format!("#!/bin/sh\necho {name} >>{}\n{end}", path("runs")));
            format!("  - {{type: script, name: {}}}\n", path.display())
        };
        let wait = format!("while ! test -e {}; do sleep 0.05; done\n", path("go"));
        let one = script("one", &format!("{wait}! test -e {}\n", path("bad")));
        let two = script("two", &format!("! test -e {}\n", path("broken")));
        target.updates = false;
        target.extra = format!("update_services:\n{one}{two}{extra}");
        target.write_config();
        let staged = target.source.join("a.example");
        std::fs::create_dir(&staged).expect("a folder");
        for file in ["fullchain.pem", "privkey.pem"] {
            std::fs::copy(lineage.live.join(file), staged.join(file)).expect("copy");
        }
        Self { target, world }
    }

    fn touch(&self, name: &str) {
        std::fs::write(self.world.path(name), "").expect("write");
    }

    fn remove(&self, name: &str) {
        let _ = std::fs::remove_file(self.world.path(name));
    }

    fn runs(&self) -> Vec<String> {
        let runs = std::fs::read_to_string(self.world.path("runs")).unwrap_or_default();
        runs.lines().map(str::to_owned).collect()
    }

    fn is_done(&self) -> bool {
        let word = std::fs::read_to_string(self.target.deployed("a.example").join(".updates.json"));
        word.is_ok_and(|word| word.contains(r#""update":"done""#))
    }

    /// The daemon, which has done everything; what has run so far is forgotten, and the first script waits again.
    fn start(&self) -> Daemon {
        self.touch("go");
        let client = self.target.start();
        until("all is done", PATIENCE, || self.is_done().then_some(()));
        self.remove("runs");
        self.remove("go");
        client
    }

    fn update(&self, name: &str) -> Daemon {
        let mut command = self.target.command();
        command.arg("update");
        Daemon::start(name, command, &self.world.path(&format!("{name}.log")))
    }

    /// `update` by hand, whose first script waits.
    fn by_hand(&self) -> Daemon {
        let update = self.update("update");
        until("the first script runs", PATIENCE, || (!self.runs().is_empty()).then_some(()));
        update
    }
}

#[test]
fn what_an_update_by_hand_has_left_is_done_by_the_daemon_beside_it() {
    for signal in [Signal::KILL, Signal::TERM] {
        let beside = Beside::new("update_retry_interval: 1\n");
        let mut client = beside.start();
        let mut update = beside.by_hand();
        update.signal(signal);
        if signal == Signal::TERM {
            update.says("Stopping on SIGTERM");
        }
        beside.touch("go");
        assert_eq!(update.ends().code(), if signal == Signal::TERM { Some(3) } else { None }, "{}", update.said());
        client.says("Another certdeploy-client has left updates to do");
        until("all is done", PATIENCE, || beside.is_done().then_some(()));
        let left: &[&str] = if signal == Signal::TERM { &["one", "two"] } else { &["one", "one", "two"] };
        assert_eq!(beside.runs(), left, "{signal:?}: {}", client.said());
        assert_eq!(client.stop().code(), Some(0));
    }
}

#[test]
fn the_daemon_repeats_nothing_that_is_done_by_hand_while_it_waits() {
    let beside = Beside::new("update_retry_interval: 1\n");
    let mut client = beside.start();
    let mut update = beside.by_hand();
    // It looks at what is owed, and all of it is.
    client.signal(Signal::HUP);
    client.says("Another certdeploy-client runs updates; this one waits for their end");
    beside.touch("go");
    assert_eq!(update.ends().code(), Some(0), "{}", update.said());
    client.says("What was owed has been done meanwhile");
    assert_eq!(client.stop().code(), Some(0), "{}", client.said());
    assert_eq!(beside.runs(), ["one", "two"]);
}

#[test]
fn a_daemon_that_tries_again_is_not_talked_out_of_it_by_an_update_that_is_killed() {
    let beside = Beside::new("update_retry_interval: 1\n");
    beside.touch("broken");
    beside.touch("go");
    let mut client = beside.target.start();
    client.says("Failed updates run again in 1 seconds");
    beside.remove("go");
    let before = beside.runs().iter().filter(|run| *run == "one").count();
    let mut update = beside.update("update");
    until("it runs everything", PATIENCE, || {
        (beside.runs().iter().filter(|run| *run == "one").count() > before).then_some(())
    });
    update.signal(Signal::KILL);
    let _ = update.ends();
    beside.remove("broken");
    beside.touch("go");
    until("all is done", PATIENCE, || beside.is_done().then_some(()));
    assert_eq!(client.stop().code(), Some(0), "{}", client.said());
}

#[test]
fn what_was_left_beside_a_failure_does_not_wait_for_its_retry() {
    let beside = Beside::new("update_retry_interval: null\n");
    let mut client = beside.start();
    let mut update = beside.by_hand();
    beside.touch("bad");
    update.signal(Signal::TERM);
    update.says("Stopping on SIGTERM");
    beside.touch("go");
    assert_eq!(update.ends().code(), Some(3), "{}", update.said());
    until("the second one runs", PATIENCE, || beside.runs().contains(&"two".to_owned()).then_some(()));
    assert_eq!(client.stop().code(), Some(0), "{}", client.said());
}

#[test]
fn who_waits_no_more_is_waited_for_by_the_next() {
    let beside = Beside::new("update_wait: 1\n");
    drop(beside.start());
    let mut first = beside.by_hand();
    let mut second = beside.update("second");
    second.says("this one waits no more");
    first.signal(Signal::KILL);
    let _ = first.ends();
    let lock = beside.target.destination.join(".updating");
    until("the second one has its turn", PATIENCE, || matches!(lock::try_lock(&lock), Ok(None)).then_some(()));
    let mut third = beside.update("third");
    third.says("Another certdeploy-client runs updates; this one waits for their end");
    beside.touch("go");
    for update in [&mut second, &mut third] {
        assert_eq!(update.ends().code(), Some(0), "{}", update.said());
    }
}
