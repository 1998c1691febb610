//! The life of the server's daemon: ready, reloaded, stopped, with a push under way.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use certdeploy_common::ssh::key;
use certdeploy_tests::manager::Manager;
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::process::run;
use certdeploy_tests::status::{acknowledged, line};
use certdeploy_tests::wait::{PATIENCE, holds_within};
use certdeploy_tests::wire_tap::{Fault, Kind, Way, WireTap};
use certdeploy_tests::{Daemon, Lineage, Target, World, until};
use rustix::process::Signal;

/// A target behind a tap.
struct Tapped {
    world: World,
    target: Target,
    tap: WireTap,
    lineage: Lineage,
}

impl Tapped {
    fn new(extra: &str) -> Self {
        let world = World::new();
        let mut target = world.target("web1", &["example.com"]);
        let tap = WireTap::before(target.port);
        target.connect_port = tap.port;
        world.write_server_with(&[&target], &world.queue(), extra);
        let lineage = world.lineage("example.com", &["example.com"]);
        Self { world, target, tap, lineage }
    }

    /// From now on pushes hang: what the pusher sends after its login disappears.
    fn hangs(&self) {
        self.tap.breaks(Some(Fault { way: Way::Up, after: 2500, kind: Kind::BlackHole }));
    }

    /// Waits until a push is under way.
    fn is_pushed_to(&self) {
        until("a push is under way", PATIENCE, || {
            let under_way =
                |connection: &std::sync::Arc<certdeploy_tests::wire_tap::Recording>| connection.sent().len() >= 2000;
            self.tap.connections().iter().any(under_way).then_some(())
        });
    }

    fn start(&self, more: impl FnOnce(&mut Command)) -> Daemon {
        let mut command = self.world.server_command(&["--daemon"]);
        more(&mut command);
        Daemon::start("certdeploy-server", command, &self.world.path("server/server.log"))
    }

    fn is_owed(&self) -> bool {
        let status = self.world.status();
        line(&status, "web1", "example.com").is_some_and(|line| line["state"] == "owed")
    }
}

#[test]
fn ready_is_told_when_it_serves_and_the_loop_beats() {
    let tapped = Tapped::new("");
    let _client = tapped.target.start();
    let at_path = Manager::at(&tapped.world.path("notify"));
    let by_name = Manager::abstractly(&format!("certdeploy-life-{}", std::process::id()));
    for manager in [at_path, by_name] {
        let mut server = tapped.start(|command| {
            command.env("NOTIFY_SOCKET", &manager.name).env("WATCHDOG_USEC", "200000");
        });
        manager.is_told("READY=1\nSTATUS=Serving 1 target", 1);
        assert!(tapped.world.queue().join("queue.sqlite").is_file());
        let second = tapped.world.server(&["--daemon"]).ended(1);
        assert!(second.said().contains("another certdeploy-server daemon"), "{}", second.said());
        let before = manager.beats();
        until("the loop beats", PATIENCE, || (manager.beats() > before + 3).then_some(()));
        assert_eq!(server.stop().code(), Some(0), "{}", server.said());
        manager.is_told("STOPPING=1\n", 1);
        assert_eq!(manager.told().iter().filter(|message| message.contains("READY=1")).count(), 1);
    }
}

#[test]
fn nothing_is_ready_without_config_key_or_lock() {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    world.write_server(&[&target]);
    let manager = Manager::at(&world.path("notify"));
    std::fs::rename(world.server_key(), world.path("server/away")).unwrap();
    let mut command = world.server_command(&["--daemon"]);
    command.env("NOTIFY_SOCKET", &manager.name);
    let ran = run(command).ended(1);
    assert!(ran.said().contains("privkey_filename"), "{}", ran.said());
    assert!(manager.told().is_empty());
}

#[test]
fn a_loop_that_is_stuck_does_not_beat() {
    if !can_run("life", &[Need::Program("python3")]) {
        return;
    }
    let tapped = Tapped::new("");
    let manager = Manager::at(&tapped.world.path("notify"));
    let server = tapped.start(|command| {
        command.env("NOTIFY_SOCKET", &manager.name).env("WATCHDOG_USEC", "200000");
    });
    until("it beats", PATIENCE, || (manager.beats() > 3).then_some(()));
    // Somebody holds the queue: the loop waits for it. A timer of its own would go on.
    let hold = "import sqlite3, sys\nqueue = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
                queue.execute('BEGIN IMMEDIATE')\nprint('held', flush=True)\nsys.stdin.read()\n";
    let mut python = certdeploy_tests::process::command("/usr/bin/env");
    python.args(["python3", "-c", hold]).arg(tapped.world.queue().join("queue.sqlite"));
    python.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut holder = Guard(python.spawn().unwrap());
    let mut held = [0; 5];
    std::io::Read::read_exact(holder.0.stdout.as_mut().unwrap(), &mut held).unwrap();
    let ring = std::os::unix::net::UnixDatagram::unbound().unwrap();
    ring.send_to(&[1], tapped.world.queue().join("wake.sock")).unwrap();
    until("it is stuck", PATIENCE, || {
        let before = manager.beats();
        (!holds_within(Duration::from_millis(500), || manager.beats() > before)).then_some(())
    });
    let before = manager.beats();
    drop(holder);
    until("it beats again", PATIENCE, || (manager.beats() > before).then_some(()));
    drop(server);
}

#[test]
fn a_push_that_hangs_is_given_back_at_the_end() {
    let tapped = Tapped::new("stop_timeout: 1\n");
    tapped.hangs();
    let _client = tapped.target.start();
    for signal in [Signal::TERM, Signal::INT] {
        tapped.tap.forget();
        let mut server = tapped.start(|_| ());
        tapped.is_pushed_to();
        let start = Instant::now();
        server.signal(signal);
        assert_eq!(server.ends().code(), Some(0), "{}", server.said());
        // Without the setting it would be ten.
        assert!(start.elapsed() < Duration::from_secs(10), "{signal:?} took {:?}", start.elapsed());
        assert!(tapped.is_owed(), "{}", server.said());
    }
    tapped.tap.breaks(None);
    let _server = tapped.start(|_| ());
    tapped.target.receives(&tapped.lineage);
}

#[test]
fn a_push_that_goes_on_is_finished_at_the_end() {
    let tapped = Tapped::new("stop_timeout: 15\n");
    tapped.tap.breaks(Some(Fault { way: Way::Up, after: 2500, kind: Kind::Slow(Duration::from_micros(200)) }));
    let _client = tapped.target.start();
    let mut server = tapped.start(|_| ());
    tapped.is_pushed_to();
    assert_eq!(server.stop().code(), Some(0), "{}", server.said());
    assert!(tapped.target.holds(&tapped.lineage), "{}", server.said());
    assert!(acknowledged(&tapped.world.status(), "web1", &tapped.lineage));
}

#[test]
fn a_second_signal_does_not_wait() {
    let tapped = Tapped::new("stop_timeout: 100\n");
    tapped.hangs();
    let _client = tapped.target.start();
    let mut server = tapped.start(|_| ());
    tapped.is_pushed_to();
    server.signal(Signal::TERM);
    server.says("Stopping on SIGTERM");
    assert!(!holds_within(Duration::from_millis(300), || !server.runs()), "the first one waits");
    let start = Instant::now();
    assert_eq!(server.stop().code(), Some(0), "{}", server.said());
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    assert!(tapped.is_owed());
}

#[test]
fn a_push_by_hand_ends_on_a_signal_and_says_what_is_owed() {
    let tapped = Tapped::new("stop_timeout: 1\n");
    tapped.hangs();
    let _client = tapped.target.start();
    let _ = tapped.world.hook(&tapped.lineage).ended(0);
    for signal in [Signal::TERM, Signal::HUP] {
        tapped.tap.forget();
        let log = tapped.world.path("server/push.log");
        let mut push = Daemon::start("--push", tapped.world.server_command(&["--push"]), &log);
        tapped.is_pushed_to();
        push.signal(signal);
        assert_eq!(push.ends().code(), Some(3), "{}", push.said());
        assert!(tapped.is_owed());
    }
}

#[test]
fn a_reload_serves_a_new_target_while_a_push_hangs() {
    let tapped = Tapped::new("stop_timeout: 10\n");
    tapped.hangs();
    let _client = tapped.target.start();
    let manager = Manager::at(&tapped.world.path("notify"));
    let mut server = tapped.start(|command| _ = command.env("NOTIFY_SOCKET", &manager.name));
    manager.is_told("READY=1", 1);
    tapped.is_pushed_to();
    // Nobody renews anything: it is there, and a new target asks for it. It takes no key but the new one.
    let new_key = tapped.world.path("server/new_key");
    let line = key::generate(&new_key, "certdeploy-server").unwrap();
    let added = Target::new(&tapped.world.path("web2"), "web2", &["example.com"], &line);
    let _added = added.start();
    tapped.world.write_server_with(&[&tapped.target, &added], &tapped.world.queue(), "stop_timeout: 10\n");
    let config = std::fs::read_to_string(tapped.world.server_config()).unwrap();
    let (old, new) = (tapped.world.server_key().display().to_string(), new_key.display().to_string());
    let config = config.replace(&old, &new).replace("log_level: DEBUG", "log_level: ERROR");
    std::fs::write(tapped.world.server_config(), config).unwrap();
    let before = Instant::now();
    server.signal(Signal::HUP);
    added.receives(&tapped.lineage);
    assert!(before.elapsed() < Duration::from_secs(9), "the one that hangs was waited for: {:?}", before.elapsed());
    manager.is_told("READY=1\nSTATUS=Serving 2 targets", 1);
    let told = manager.told();
    let reloading = told.iter().position(|message| message.starts_with("RELOADING=1\nMONOTONIC_USEC=")).unwrap();
    let ready = told.iter().rposition(|message| message.starts_with("READY=1\n")).unwrap();
    assert!(reloading < ready, "{told:?}");
    // The new level holds; what the old dispatcher still says is an error.
    let said = server.said();
    let after = said.rsplit_once("Reloading on SIGHUP").map(|(_, after)| after).expect("it says so");
    assert!(after.lines().skip(1).all(|line| line.starts_with("ERROR:")), "{after}");
    assert_eq!(server.stop().code(), Some(0), "{}", server.said());
}

#[test]
fn a_bad_config_is_refused_whole_and_the_old_one_kept() {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    world.write_server(&[&target]);
    let mut lineage = world.lineage("example.com", &["example.com"]);
    let _client = target.start();
    let manager = Manager::at(&world.path("notify"));
    let mut command = world.server_command(&["--daemon"]);
    command.env("NOTIFY_SOCKET", &manager.name);
    let mut server = Daemon::start("certdeploy-server", command, &world.path("server/server.log"));
    target.receives(&lineage);
    let good = std::fs::read_to_string(world.server_config()).unwrap();
    let key = world.server_key().display().to_string();
    let queue = world.queue().display().to_string();
    let bad: [(&str, Option<String>); 6] = [
        ("unknown key \"pubkye\"", Some(good.replace("    pubkey:", "    pubkye:"))),
        ("FileNotFoundError", None),
        ("not valid YAML", Some("client_configs: [".to_owned())),
        ("that needs a restart of the daemon", Some(good.replace(&queue, &format!("{queue}2")))),
        ("privkey_filename", Some(good.replace(&key, "/nowhere/key"))),
        (
            "for `log_filename`. `log_filename` must be a file that can be written",
            Some(format!("log_filename: /nowhere/l\n{good}")),
        ),
    ];
    for (number, (why, text)) in bad.into_iter().enumerate() {
        match text {
            Some(text) => std::fs::write(world.server_config(), text).unwrap(),
            None => std::fs::remove_file(world.server_config()).unwrap(),
        }
        let from = server.said().len();
        server.signal(Signal::HUP);
        manager.is_told("RELOADING=1", number + 1);
        until(&format!("{why}: it is refused"), PATIENCE, || {
            let told = manager.told();
            let refused = told.iter().filter(|message| message.contains("the changed config is refused"));
            (refused.count() == number + 1).then_some(())
        });
        let said = server.said()[from..].to_owned();
        assert!(said.contains(why) && said.contains("is not reloaded"), "{why}: {said}");
        assert!(server.runs());
        // The old one serves: the daemon itself finds what changed when a hook rings, whose config must be readable.
        std::fs::write(world.server_config(), &good).unwrap();
        lineage.renew(&world.ca);
        let _ = world.hook(&lineage).ended(0);
        target.receives(&lineage);
    }
    server.signal(Signal::HUP);
    server.says("Reloaded `");
    assert_eq!(server.stop().code(), Some(0), "{}", server.said());
}

#[test]
fn a_renewal_under_way_survives_a_reload() {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    world.write_server(&[&target]);
    let file = |name: &str| world.path(name);
    let script = file("certbot");
    let (begun, go, ended) = (file("begun"), file("go"), file("ended"));
    let text = format!(
        "#!/bin/sh\ntouch {}\nwhile [ ! -e {} ]; do sleep 0.01; done\ntouch {}\n",
        begun.display(),
        go.display(),
        ended.display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let config = std::fs::read_to_string(world.server_config()).unwrap();
    std::fs::write(world.server_config(), config.replace("/bin/true", &script.display().to_string())).unwrap();
    let mut server = world.start_server();
    until("certbot runs", PATIENCE, || begun.exists().then_some(()));
    for _ in 0..2 {
        let from = server.said().matches("Reloaded `").count();
        server.signal(Signal::HUP);
        until("it is reloaded", PATIENCE, || (server.said().matches("Reloaded `").count() > from).then_some(()));
    }
    assert!(!ended.exists());
    std::fs::write(&go, "").unwrap();
    server.says("Checked for renewable certificates.");
    assert!(ended.exists());
    assert_eq!(server.stop().code(), Some(0), "{}", server.said());
}

#[test]
fn a_closed_stdout_ends_nothing() {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    world.write_server(&[&target]);
    let lineage = world.lineage("example.com", &["example.com"]);
    let _client = target.start();
    let mut command = world.server_command(&["--daemon"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Guard(command.spawn().unwrap());
    drop((child.0.stdout.take(), child.0.stderr.take()));
    target.receives(&lineage);
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.0.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::HUP).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    let ended = until("it ends", PATIENCE, || child.0.try_wait().unwrap());
    assert_eq!(ended.code(), Some(0));
}

struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_queue_that_is_damaged_while_it_is_open_does_not_end_the_daemon() {
    use std::os::unix::fs::FileExt;
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    world.write_server(&[&target]);
    let mut lineage = world.lineage("example.com", &["example.com"]);
    let _client = target.start();
    let mut server = world.start_server();
    target.receives(&lineage);
    for name in ["queue.sqlite", "queue.sqlite-wal"] {
        let path = world.queue().join(name);
        if let Ok(file) = std::fs::File::options().write(true).open(&path) {
            let length = file.metadata().unwrap().len();
            file.write_all_at(&vec![0x5a; usize::try_from(length).unwrap()], 0).unwrap();
        }
    }
    lineage.renew(&world.ca);
    let _ = world.hook(&lineage);
    target.receives(&lineage);
    assert_eq!(server.stop().code(), Some(0), "{}", server.said());
    let kept = std::fs::read_dir(world.queue()).unwrap().flatten().map(|entry| entry.file_name());
    assert!(kept.into_iter().any(|name| name.to_string_lossy().contains("damaged")), "{}", server.said());
}
