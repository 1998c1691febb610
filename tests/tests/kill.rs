//! `kill -9` of the hook, the server's daemon and the client's daemon at random moments. Nothing is lost, nothing is
//! mixed, all is delivered after a restart, and each generation's script ran (or one for a later generation).
//! `CERTDEPLOY_TEST_KILLS` is how often each is killed; `CERTDEPLOY_TEST_SEED` repeats the moments.

use std::time::Duration;

use certdeploy_tests::chance::Chance;
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::power::{Step, died, dying_at, last_step, steps, watched};
use certdeploy_tests::process::Daemon;
use certdeploy_tests::readers::Readers;
use certdeploy_tests::wait::{PATIENCE, holds_within};
use certdeploy_tests::{Lineage, Target, World, until};

fn kills() -> u32 {
    std::env::var("CERTDEPLOY_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(20)
}

struct Scene {
    world: World,
    target: Target,
    lineage: Lineage,
    readers: Readers,
}

impl Scene {
    /// A world in which one renewal has gone all the way.
    fn new() -> (Self, Daemon, Daemon) {
        let world = World::new();
        let mut target = world.target("web1", &["example.com"]);
        target.extra = "keep_generations: 3\ngeneration_min_age: 5\n".to_owned();
        target.write_config();
        world.write_server(&[&target]);
        let lineage = world.lineage("example.com", &["example.com"]);
        let client = target.start();
        let server = world.start_server();
        let _ = world.hook(&lineage).ended(0);
        target.updates(&lineage);
        let readers = Readers::start(&target.deployed("example.com"), &lineage.issued);
        (Self { world, target, lineage, readers }, server, client)
    }

    fn renew(&mut self, number: u32) {
        let issued = self.world.ca.issue(&self.lineage.domains, certdeploy_tests::ca::Validity::usual(number));
        self.readers.expect(&issued);
        self.lineage.install(issued);
    }

    fn all_is_well(&self) {
        self.target.receives(&self.lineage);
        self.target.updates(&self.lineage);
    }

    /// The daemons go first: one that still runs would write into the directory that is being removed.
    fn end(self, daemons: [Daemon; 2]) {
        let seen = self.readers.stop();
        assert_eq!(seen.faults, Vec::<String>::new());
        assert!(seen.pairs > 0 && seen.files > 0);
        drop(daemons);
    }
}

#[test]
fn a_killed_hook_is_either_durable_or_no_success() {
    let mut chance = Chance::new("kill::hook");
    let (mut scene, mut server, client) = Scene::new();
    // So that only the queue can deliver it: no daemon that reads `live/` by itself.
    server.kill();
    let usual = scene.world.hook(&scene.lineage).ended(0).elapsed;
    let mut survived = 0;
    for number in 2..2 + kills() {
        scene.renew(number);
        let log = scene.world.path("hook.log");
        let mut hook = Daemon::start("hook", scene.world.hook_command(&scene.lineage), &log);
        std::thread::sleep(chance.moment(usual * 3 / 2));
        let succeeded = !hook.runs() && hook.ends().success();
        hook.kill();
        if succeeded {
            survived += 1;
        } else {
            let _ = scene.world.hook(&scene.lineage).ended(0);
        }
        let _ = scene.world.server(&["--push"]).ended(0);
        assert!(scene.target.holds(&scene.lineage), "a hook that said 0 (or was run again) is delivered");
        scene.all_is_well();
    }
    println!("{survived} of {} hooks ended before the kill", kills());
    scene.end([server, client]);
}

/// Only the hook and its queue, so that a thousand fit into a test: each either said 0 and its renewal is there, or it
/// did not; and the queue works after every one of them.
#[test]
fn a_thousand_killed_hooks_leave_a_queue_that_works_and_holds_what_was_promised() {
    let mut chance = Chance::new("kill::thousand_hooks");
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    world.write_server(&[&target]);
    let lineage = world.lineage("example.com", &["example.com"]);
    let usual = world.hook(&lineage).ended(0).elapsed;
    let waiting = || {
        let mut queue = certdeploy_server::queue::Queue::look(&world.queue()).unwrap().unwrap();
        queue.waiting().unwrap()
    };
    let log = world.path("hook.log");
    let (mut promised, mut killed) = (1, 0);
    for _ in 0..kills() * 50 {
        let mut hook = Daemon::start("hook", world.hook_command(&lineage), &log);
        std::thread::sleep(chance.moment(usual * 3 / 2));
        if !hook.runs() && hook.ends().success() {
            promised += 1;
        } else {
            hook.kill();
            killed += 1;
        }
        let there = waiting();
        // Killed after its commit and before its exit: it is there, though nobody was told.
        assert!(there >= promised && there <= promised + killed, "{there} of {promised} promised, {killed} killed");
    }
    assert!(killed > 0 && promised > 1, "{killed} killed, {promised} promised");
    let _ = world.hook(&lineage).ended(0);
    println!("{promised} promised, {killed} killed");
}

#[test]
fn a_killed_server_delivers_after_its_restart() {
    let mut chance = Chance::new("kill::server");
    let (mut scene, mut server, client) = Scene::new();
    for number in 2..2 + kills() {
        scene.renew(number);
        let _ = scene.world.hook(&scene.lineage).ended(0);
        std::thread::sleep(chance.moment(Duration::from_millis(120)));
        server.kill();
        server = scene.world.start_server();
        scene.all_is_well();
    }
    scene.end([server, client]);
}

#[test]
fn a_killed_client_deploys_and_updates_after_its_restart() {
    let mut chance = Chance::new("kill::client");
    let (mut scene, server, mut client) = Scene::new();
    for number in 2..2 + kills() {
        scene.renew(number);
        let _ = scene.world.hook(&scene.lineage).ended(0);
        std::thread::sleep(chance.moment(Duration::from_millis(150)));
        client.kill();
        client = scene.target.start();
        scene.all_is_well();
    }
    scene.end([server, client]);
}

#[test]
fn a_killed_receiver_does_not_leave_a_deaf_client() {
    let mut chance = Chance::new("kill::receiver");
    let (mut scene, server, mut client) = Scene::new();
    for number in 2..2 + kills().min(5) {
        let Some(receiver) = certdeploy_tests::process::children(client.id()).into_iter().next() else {
            // Not root: one process, and nothing to kill here.
            break;
        };
        scene.renew(number);
        let _ = scene.world.hook(&scene.lineage).ended(0);
        std::thread::sleep(chance.moment(Duration::from_millis(100)));
        let pid = rustix::process::Pid::from_raw(i32::try_from(receiver).unwrap()).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        // It starts another receiver, or ends so that its supervisor sees it; both are fine, deafness is not.
        if !holds_within(Duration::from_secs(2), || scene.target.holds(&scene.lineage)) {
            assert!(!client.runs() || !scene.target.port_is_closed(), "the client lives on and does not listen");
        }
        // The end takes a moment after the last file; until then it is neither.
        let is_client = |id: &u32| {
            std::fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|name| name.starts_with("certdeploy-cli"))
        };
        let is_new = |id: &u32| *id != receiver && is_client(id);
        until("the client ends, or has another receiver", PATIENCE, || {
            let again = certdeploy_tests::process::children(client.id()).iter().any(is_new);
            (again || !client.runs()).then_some(())
        });
        if !client.runs() {
            client = scene.target.start();
        }
        scene.all_is_well();
    }
    scene.end([server, client]);
}

/// What is below `source` besides the lock: nothing of an upload that ended.
fn staging_is_clean(scene: &Scene, at: &str) {
    let incoming = scene.target.source.join(".incoming");
    until(&format!("staging is clean after {at}"), PATIENCE, || {
        std::fs::read_dir(&incoming).is_ok_and(|mut left| left.next().is_none()).then_some(())
    });
}

/// Each of the client's processes, before each of its steps that changes a disk or promises that it holds something.
#[test]
fn a_client_killed_at_each_step_deploys_and_updates_after_its_restart() {
    if !can_run("kill::a_client_killed_at_each_step", &[Need::Program("strace")]) {
        return;
    }
    let (mut scene, mut server, mut client) = Scene::new();
    server.kill();
    client.kill();
    let trace = scene.world.path("trace");
    let mut number = 1;
    let mut round = |step: Option<&Step>| {
        number += 1;
        scene.renew(number);
        let mut command = scene.target.command();
        command.arg("--daemon");
        let command = step.map_or_else(|| watched(&command, &trace), |step| dying_at(&command, step, &trace));
        scene.target.port_falls_free();
        let mut client = Daemon::start("client", command, &scene.target.log);
        let came_up = holds_within(PATIENCE, || client.said().contains("Listening for") || !client.runs());
        assert!(came_up, "{}", client.said());
        let _ = scene.world.hook(&scene.lineage).ended(0);
        let pushed = scene.world.server(&["--push"]);
        assert!(step.is_some() || pushed.code == Some(0), "{}", pushed.said());
        if pushed.code == Some(0) {
            let _ = holds_within(Duration::from_secs(2), || scene.target.updated(&scene.lineage) || !client.runs());
            // What it writes down after the update has its steps, too.
            let _ = holds_within(Duration::from_millis(50), || died(&trace));
        }
        client.kill();
        let at = format!("step {step:?}, {}", last_step(&trace));
        assert!(pushed.code != Some(0) || scene.target.holds(&scene.lineage), "acknowledged, not deployed: {at}");
        let mut client = scene.target.start();
        if scene.target.holds(&scene.lineage) {
            // Nobody has to push again for what was missed.
            scene.target.updates(&scene.lineage);
        }
        let _ = scene.world.server(&["--push"]).ended(0);
        scene.all_is_well();
        staging_is_clean(&scene, &at);
        client.kill();
    };
    round(None);
    let all = steps(&trace);
    all.iter().for_each(|step| round(Some(step)));
    for call in ["fsync", "renameat", "symlinkat", "fchmod"] {
        assert!(all.iter().any(|step| step.call == call), "{all:?}");
    }
    println!("killed before {} steps", all.len());
    scene.end([server, client]);
}
