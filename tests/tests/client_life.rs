//! The life of the client's daemon: ready, watched, reloaded, stopped, with pushes and updates under way.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use certdeploy_common::ssh::key;
use certdeploy_tests::manager::Manager;
use certdeploy_tests::process::children;
use certdeploy_tests::scene::Scene;
use certdeploy_tests::wait::{PATIENCE, holds_within};
use certdeploy_tests::wire_tap::{Fault, Kind, Way, WireTap};
use certdeploy_tests::{Daemon, Lineage, Target, World, until};
use rustix::process::{Pid, Signal, kill_process};

/// How long the end may take, whatever is under way.
const END: Duration = Duration::from_secs(40);

fn signal(id: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(id).unwrap()).unwrap(), signal).unwrap();
}

fn start(target: &Target, more: impl FnOnce(&mut Command)) -> Daemon {
    target.port_falls_free();
    let mut command = target.command();
    command.arg("--daemon");
    more(&mut command);
    let mut daemon = Daemon::start("certdeploy-client", command, &target.log);
    daemon.says("Listening for incoming connections");
    daemon
}

fn rewrite(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{} lacks {from}", path.display());
    std::fs::write(path, text.replace(from, to)).unwrap();
}

/// A target behind a tap, and a lineage that is due there.
fn tapped(extra: &str) -> (World, Target, WireTap, Lineage) {
    let world = World::new();
    let mut target = world.target("web1", &["example.com"]);
    let tap = WireTap::before(target.port);
    target.connect_port = tap.port;
    target.updates = false;
    target.extra = extra.to_owned();
    target.write_config();
    world.write_server(&[&target]);
    let lineage = world.lineage("example.com", &["example.com"]);
    let _ = world.hook(&lineage).ended(0);
    (world, target, tap, lineage)
}

fn push(world: &World) -> Daemon {
    Daemon::start("--push", world.server_command(&["--push"]), &world.path("server/push.log"))
}

fn is_pushed_to(tap: &WireTap, bytes: usize) {
    until("a push is under way", PATIENCE, || {
        tap.connections().iter().any(|connection| connection.sent().len() >= bytes).then_some(())
    });
}

#[test]
fn the_manager_is_told_and_the_beat_needs_both_processes() {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    let manager = Manager::at(&world.path("notify"));
    let mut daemon = start(&target, |command| {
        command.env("NOTIFY_SOCKET", &manager.name).env("WATCHDOG_USEC", "200000");
    });
    manager.is_told(&format!("READY=1\nSTATUS=Listening at 127.0.0.1:{}, certificates in `", target.port), 1);
    let beats = || {
        let before = manager.beats();
        until("it beats", PATIENCE, || (manager.beats() > before + 3).then_some(()));
    };
    let silent = || {
        until("it is silent", PATIENCE, || {
            let before = manager.beats();
            (!holds_within(Duration::from_millis(500), || manager.beats() > before)).then_some(())
        });
    };
    beats();
    if let Some(receiver) = children(daemon.id()).first() {
        // Nothing of the environment reaches the receiver.
        assert_eq!(std::fs::read_to_string(format!("/proc/{receiver}/environ")).unwrap_or_default(), "");
        signal(*receiver, Signal::STOP);
        silent();
        signal(*receiver, Signal::CONT);
        beats();
    }
    signal(daemon.id(), Signal::STOP);
    silent();
    signal(daemon.id(), Signal::CONT);
    beats();
    daemon.signal(Signal::HUP);
    manager.is_told("RELOADING=1\nMONOTONIC_USEC=", 1);
    manager.is_told("READY=1\n", 2);
    beats();
    assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.said());
    manager.is_told("STOPPING=1\n", 1);
    assert_eq!(manager.told().iter().filter(|message| message.contains("READY=1")).count(), 2);
}

#[test]
fn what_it_starts_does_not_know_the_manager() {
    let (scene, mut client) = Scene::deployed("");
    let manager = Manager::at(&scene.world.path("notify"));
    assert_eq!(client.stop().code(), Some(0));
    let mut lineage = scene.lineage;
    let _client = start(&scene.target, |command| {
        command.env("NOTIFY_SOCKET", &manager.name).env("WATCHDOG_USEC", "1000000").env("KEPT", "yes");
    });
    lineage.renew(&scene.world.ca);
    let _ = scene.world.hook(&lineage).ended(0);
    let _ = scene.world.server(&["--push"]).ended(0);
    scene.target.updates(&lineage);
    let environment = std::fs::read_to_string(&scene.target.script_environment).unwrap();
    assert!(environment.contains("KEPT=yes"), "{environment}");
    assert!(!environment.contains("NOTIFY_SOCKET") && !environment.contains("WATCHDOG"), "{environment}");
}

#[test]
fn nothing_is_ready_when_it_cannot_serve() {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    let manager = Manager::at(&world.path("notify"));
    let _other = std::net::TcpListener::bind(("127.0.0.1", target.port)).unwrap();
    let mut command = target.command();
    command.arg("--daemon").env("NOTIFY_SOCKET", &manager.name);
    let ran = certdeploy_tests::process::run(command).ended(1);
    assert!(ran.said().contains("Failed to listen on 127.0.0.1"), "{}", ran.said());
    assert!(manager.told().is_empty());
}

#[test]
fn new_settings_hold_whole_and_nobody_is_refused_meanwhile() {
    let (scene, mut client) = Scene::deployed("");
    let Scene { world, target, mut lineage } = scene;
    // Somebody connects all the time.
    let (over, tries, refused) =
        (Arc::<AtomicBool>::default(), Arc::<AtomicU32>::default(), Arc::<AtomicU32>::default());
    let knocking = {
        let (over, tries, refused, port) = (Arc::clone(&over), Arc::clone(&tries), Arc::clone(&refused), target.port);
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                tries.fetch_add(1, Ordering::Relaxed);
                if std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
                    refused.fetch_add(1, Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        })
    };
    // Another pusher's key, another host key, another directory, another delay, another level, and a rotated log.
    let pusher = key::generate(&world.path("server/new_key"), "new").unwrap();
    let new_host_key = world.path("web1/new_host_key");
    let pinned = key::generate(&new_host_key, "new").unwrap();
    let destination = world.path("web1/elsewhere");
    std::fs::create_dir(&destination).unwrap();
    let log = world.path("web1/rotated.log");
    let config = std::fs::read_to_string(&target.config).unwrap();
    let config = config
        .replace(&world.pusher_key, &pusher)
        .replace(&target.host_key.display().to_string(), &new_host_key.display().to_string())
        .replace(&target.destination.display().to_string(), &destination.display().to_string())
        .replace("update_delay: null", &format!("update_delay: 1h\nlog_filename: {}", log.display()));
    std::fs::write(&target.config, config).unwrap();
    client.signal(Signal::HUP);
    client.says("Reloaded `");
    lineage.renew(&world.ca);
    let _ = world.hook(&lineage).ended(0);
    // The old key, to the old host key: neither is any good.
    let _ = world.server(&["--push"]).ended(3);
    assert!(!destination.join("example.com").exists());
    rewrite(&world.server_config(), &target.pinned, &pinned);
    let _ = world.server(&["--push"]).ended(3);
    assert!(!destination.join("example.com").exists());
    rewrite(
        &world.server_config(),
        &world.server_key().display().to_string(),
        &world.path("server/new_key").display().to_string(),
    );
    let _ = world.server(&["--push"]).ended(0);
    let deployed = std::fs::read_to_string(destination.join("example.com/fullchain.pem")).unwrap();
    assert_eq!(deployed, lineage.issued.fullchain);
    assert!(!target.updated(&lineage), "the new delay is an hour");

    // A log that was moved away is made anew, by both processes, also when the config is refused.
    until("the log is written", PATIENCE, || log.exists().then_some(()));
    for text in [None, Some("nonsense: 1\n")] {
        let moved = world.path("web1/rotated.log.1");
        std::fs::rename(&log, &moved).unwrap();
        let good = std::fs::read_to_string(&target.config).unwrap();
        if let Some(text) = text {
            std::fs::write(&target.config, format!("{good}{text}")).unwrap();
        }
        client.signal(Signal::HUP);
        until("there is a new log", PATIENCE, || log.exists().then_some(()));
        std::fs::write(&target.config, good).unwrap();
    }
    over.store(true, Ordering::Relaxed);
    knocking.join().unwrap();
    assert_eq!(refused.load(Ordering::Relaxed), 0, "of {tries:?}");
    // The ones before have ended.
    until("one receiver is left", PATIENCE, || (children(client.id()).len() <= 1).then_some(()));
    assert_eq!(client.stop().code(), Some(0), "{}", client.said());
}

#[test]
fn a_bad_config_is_refused_whole_and_the_old_one_kept() {
    let (scene, mut client) = Scene::deployed("");
    let Scene { world, target, mut lineage } = scene;
    let good = std::fs::read_to_string(&target.config).unwrap();
    let (key, source) = (target.host_key.display().to_string(), target.source.display().to_string());
    std::fs::create_dir(world.path("web1/other")).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("listen_port: {}", taken.local_addr().unwrap().port());
    let bad: [(&str, Option<String>); 8] = [
        ("unknown key \"lisen_port\"", Some(good.replace("listen_port", "lisen_port"))),
        ("not found", None),
        ("not valid YAML", Some("sftpd: [".to_owned())),
        ("`source` was", Some(good.replace(&source, &world.path("web1/other").display().to_string()))),
        ("`user` was `certdeploy` and would be `nobody`", Some(good.replace("sftpd:\n", "sftpd:\n  user: nobody\n"))),
        ("privkey_filename", Some(good.replace(&key, "/nowhere/key"))),
        ("Failed to listen on 127.0.0.1", Some(good.replace(&format!("listen_port: {}", target.port), &port))),
        ("/nowhere/log", Some(format!("log_filename: /nowhere/log\n{good}"))),
    ];
    for (why, text) in bad {
        match text {
            Some(text) => std::fs::write(&target.config, text).unwrap(),
            None => std::fs::remove_file(&target.config).unwrap(),
        }
        let from = client.said().len();
        client.signal(Signal::HUP);
        until(&format!("{why}: it is refused"), PATIENCE, || {
            let said = client.said()[from..].to_owned();
            (said.contains(why) && said.contains("is not reloaded")).then_some(())
        });
        assert!(client.runs());
        lineage.renew(&world.ca);
        let _ = world.hook(&lineage).ended(0);
        let _ = world.server(&["--push"]).ended(0);
        assert!(target.holds(&lineage), "{why}");
        target.updates(&lineage);
    }
    std::fs::write(&target.config, good).unwrap();
    client.signal(Signal::HUP);
    client.says("Reloaded `");
    assert_eq!(client.stop().code(), Some(0), "{}", client.said());
}

/// The moments of a push, as bytes that the pusher has sent.
const MOMENTS: [u64; 5] = [1, 700, 2500, 4000, 5500];

#[test]
fn a_push_that_goes_on_survives_the_end_and_the_reload() {
    for order in [Signal::TERM, Signal::INT, Signal::HUP] {
        for moment in MOMENTS {
            let (world, target, tap, lineage) = tapped("");
            let slow = Kind::Slow(Duration::from_micros(100));
            tap.breaks(Some(Fault { way: Way::Up, after: moment, kind: slow }));
            let mut client = target.start();
            let mut push = push(&world);
            is_pushed_to(&tap, usize::try_from(moment).unwrap());
            let begun = Instant::now();
            client.signal(order);
            if order == Signal::HUP {
                client.says("Reloaded `");
                assert_eq!(push.ends().code(), Some(0), "{moment}: {}{}", push.said(), client.said());
                assert!(target.holds(&lineage));
                assert_eq!(client.stop().code(), Some(0), "{}", client.said());
                continue;
            }
            assert_eq!(client.ends().code(), Some(0), "{}", client.said());
            assert!(begun.elapsed() < END, "{order:?} at {moment} took {:?}", begun.elapsed());
            // Finished, or given back: never something between.
            let ended = push.ends();
            assert!(ended.code() == Some(3) || target.holds(&lineage), "{ended:?} {}{}", push.said(), client.said());
            drop(push);
            tap.breaks(None);
            let mut client = target.start();
            let _ = world.server(&["--push"]).ended(0);
            assert!(target.holds(&lineage), "{}", client.said());
            assert_eq!(client.stop().code(), Some(0));
        }
    }
}

#[test]
fn a_push_that_hangs_is_cut_at_the_end_and_after_a_reload() {
    for order in [Signal::TERM, Signal::HUP] {
        let (world, target, tap, lineage) = tapped("  drain_timeout: 1\n");
        tap.breaks(Some(Fault { way: Way::Up, after: 2500, kind: Kind::BlackHole }));
        let mut client = target.start();
        let mut hanging = push(&world);
        is_pushed_to(&tap, 2000);
        let begun = Instant::now();
        client.signal(order);
        if order == Signal::TERM {
            assert_eq!(client.ends().code(), Some(0), "{}", client.said());
            client = target.start();
        } else {
            client.says("Reloaded `");
            until("the receiver before has ended", PATIENCE, || (children(client.id()).len() <= 1).then_some(()));
        }
        // Without the setting it would be ten and two.
        assert!(begun.elapsed() < Duration::from_secs(11), "{order:?} took {:?}", begun.elapsed());
        hanging.kill();
        tap.breaks(None);
        let _ = world.server(&["--push"]).ended(0);
        assert!(target.holds(&lineage));
        assert_eq!(client.stop().code(), Some(0));
    }
}

/// A target whose update says when it begins and waits for a word.
fn updating(world: &World) -> (Target, Lineage) {
    let mut target = world.target("web1", &["example.com"]);
    let script = world.path("web1/slow");
    let (runs, go) = (world.path("web1/begun"), world.path("web1/go"));
    let text =
        format!("#!/bin/sh\necho run >>{}\nwhile [ ! -e {} ]; do sleep 0.05; done\n", runs.display(), go.display());
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    target.updates = false;
    target.extra = format!("update_services: [{{type: script, name: {}}}]\n", script.display());
    target.write_config();
    world.write_server(&[&target]);
    let lineage = world.lineage("example.com", &["example.com"]);
    (target, lineage)
}

#[test]
fn an_update_under_way_is_finished_or_runs_again() {
    let world = World::new();
    let (target, lineage) = updating(&world);
    let runs = || std::fs::read_to_string(world.path("web1/begun")).unwrap_or_default().lines().count();
    let mut client = target.start();
    let _ = world.hook(&lineage).ended(0);
    let _ = world.server(&["--push"]).ended(0);
    until("it runs", PATIENCE, || (runs() == 1).then_some(()));
    // A reload leaves it alone, and does not run it twice.
    client.signal(Signal::HUP);
    client.says("Reloaded `");
    // An end cuts it when it takes too long, and it is owed.
    let begun = Instant::now();
    assert_eq!(client.stop().code(), Some(0), "{}", client.said());
    assert!(begun.elapsed() < END, "{:?}", begun.elapsed());
    assert!(client.said().contains("An update is cut off; it runs again at the next start"), "{}", client.said());
    let mut client = target.start();
    until("it runs again", PATIENCE, || (runs() == 2).then_some(()));
    // An end waits for one that ends in time.
    client.signal(Signal::TERM);
    client.says("Stopping on SIGTERM");
    std::fs::write(world.path("web1/go"), "").unwrap();
    assert_eq!(client.ends().code(), Some(0), "{}", client.said());
    assert!(!client.said().contains("cut off"), "{}", client.said());
    let mut client = target.start();
    client.signal(Signal::HUP);
    client.says("Reloaded `");
    assert_eq!(client.stop().code(), Some(0));
    assert_eq!(runs(), 2, "{}", client.said());
}

#[test]
fn a_second_signal_does_not_wait() {
    let world = World::new();
    let (target, lineage) = updating(&world);
    let mut client = target.start();
    let _ = world.hook(&lineage).ended(0);
    let _ = world.server(&["--push"]).ended(0);
    until("it runs", PATIENCE, || world.path("web1/begun").exists().then_some(()));
    client.signal(Signal::TERM);
    client.says("Stopping on SIGTERM");
    let begun = Instant::now();
    assert_eq!(client.stop().code(), Some(0), "{}", client.said());
    // The first one alone gives it ten.
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    std::fs::write(world.path("web1/go"), "").unwrap();
}
