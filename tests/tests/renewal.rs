//! certbot in the daemon's schedule: the real one, and ones that fail, hang, flood and are missing.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use certdeploy_common::cert::FileName;
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::pebble::Pebble;
use certdeploy_tests::process::{binary, command, run};
use certdeploy_tests::wait::{PATIENCE, holds_within};
use certdeploy_tests::{Daemon, World, certbot, until};
use rustix::process::Signal;

/// A `renew_at` for `renew_unit: minute` that is some seconds away, so that a daemon has time to start.
fn soon() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    format!("renew_unit: minute\nrenew_at: \":{:02}\"\nrenew_on_start: never\n", (now + 3) % 60)
}

/// Writes an executable that stands for certbot; the lines of the config that name it.
fn stand_in(world: &World, script: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let file = world.path("certbot");
    // Written elsewhere and moved: nobody may hold it open for writing when it is started.
    std::fs::write(world.path("certbot.new"), format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(world.path("certbot.new"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(world.path("certbot.new"), &file).unwrap();
    format!("renew_exec: {}\n", file.display())
}

fn write_server(world: &World, target: &certdeploy_tests::Target, extra: &str) {
    world.write_server_with(&[target], &world.queue(), extra);
}

fn renewal(world: &World) -> serde_json::Value {
    world.status()["renewal"].clone()
}

fn lives(id: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", id.trim())).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[test]
fn real_certbot_by_schedule_renews_what_is_due_and_it_is_deployed() {
    let needs = ["certbot", "pebble", "pebble-challtestsrv"].map(Need::Program);
    if !can_run("renewal::real_certbot", &needs) {
        return;
    }
    let world = World::new();
    let target = world.target("web1", &["a.example.test"]);
    let pebble = Pebble::start(&world.path("pebble"));
    write_server(&world, &target, "");
    let _client = target.start();
    let _ = certbot::issue(&world, &pebble, "a.example.test").ended(0);
    let live = world.letsencrypt().join("live/a.example.test/fullchain.pem");
    let first = std::fs::read_to_string(&live).unwrap();
    let deployed = || target.file("a.example.test", FileName::Fullchain);

    // Started as the container images do it: the hook inherits none of these, or it would be a second daemon.
    let start = || {
        let mut daemon = command(binary("certdeploy-server"));
        certbot::environment(&mut daemon, &world, &pebble);
        daemon.env("CERTDEPLOY_SERVER_CONFIG", world.server_config()).env("CERTDEPLOY_SERVER_DAEMON", "true");
        write_server(&world, &target, &format!("{}{}", certbot::settings(&world), soon()));
        Daemon::start("certdeploy-server", daemon, &world.path("server/server.log"))
    };
    let mut daemon = start();
    until("the first issue is deployed", PATIENCE, || (deployed().as_deref() == Some(&first)).then_some(()));
    daemon.says("Checked for renewable certificates.");
    assert!(
        daemon.said().contains("not due for renewal") || daemon.said().contains("not yet due"),
        "{}",
        daemon.said()
    );
    until("it is written down", PATIENCE, || (renewal(&world)["state"] == "ok").then_some(()));
    assert!(daemon.stop().success());
    assert_eq!(std::fs::read_to_string(&live).unwrap(), first, "what is not due is not renewed");

    certbot::renew_before_expiry(&world, "a.example.test", "20 years");
    let runs = target.script_runs().len();
    let mut daemon = start();
    until("certbot renews", Duration::from_secs(40), || {
        (std::fs::read_to_string(&live).unwrap() != first).then_some(())
    });
    let second = std::fs::read_to_string(&live).unwrap();
    until("the renewal is deployed", PATIENCE, || (deployed().as_deref() == Some(&second)).then_some(()));
    daemon.says("Checked for renewable certificates.");
    until("its script has run", PATIENCE, || (target.script_runs().len() == runs + 1).then_some(()));
    let said = daemon.said();
    assert_eq!(said.matches("Running daemon").count(), 1, "the hook is a hook:\n{said}");
    assert!(!said.contains("error output"), "the hook complained:\n{said}");
    assert!(daemon.stop().success());
}

#[test]
fn pushing_goes_on_while_certbot_hangs_and_certbot_is_ended_with_its_children() {
    let world = World::new();
    let target = world.target("web1", &["a.example.test"]);
    let mut lineage = world.lineage("a.example.test", &["a.example.test"]);
    let pids = world.path("pids");
    let script = format!(
        "echo to hang; sh -c 'trap \"\" TERM; sleep 1000; sleep 1000' & echo $$ $! >{0}.n; mv {0}.n {0}; wait; sleep 1000",
        pids.display()
    );
    let extra = format!("{}renew_on_start: always\nrenew_timeout: 6\n", stand_in(&world, &script));
    write_server(&world, &target, &extra);
    let _client = target.start();
    let mut daemon = world.start_server();
    daemon.says("certbot: to hang");
    let ids = until("it hangs", PATIENCE, || std::fs::read_to_string(&pids).ok());
    until("status says so", PATIENCE, || (renewal(&world)["state"] == "running").then_some(()));

    // One at a time, whoever starts it.
    let second = world.server(&["--renew"]).ended(3);
    assert!(second.said().contains("is running `renew_exec` right now"), "{}", second.said());
    for _ in 0..2 {
        lineage.renew(&world.ca);
        let _ = world.hook(&lineage).ended(0);
        target.receives(&lineage);
    }
    assert!(ids.split(' ').all(lives), "it hangs all the while");
    daemon.says("Failed to renew or check for renewable certificates.");
    assert!(daemon.said().contains("was ended after 6 seconds (`renew_timeout`)"), "{}", daemon.said());
    assert!(holds_within(PATIENCE, || !ids.split(' ').any(lives)), "{ids}");
    until("status says so", PATIENCE, || (renewal(&world)["state"] == "failed").then_some(()));
    let status = world.server(&["status"]).ended(3);
    assert!(status.stdout.contains("(`renew_timeout`), and said: to hang"), "{}", status.said());
    lineage.renew(&world.ca);
    let _ = world.hook(&lineage).ended(0);
    target.receives(&lineage);
    assert_eq!(daemon.said().matches("Using command").count(), 1, "it is not tried again before its time");
    assert!(daemon.stop().success());

    // Told to stop, a daemon ends certbot, and the next one makes that run up.
    std::fs::remove_file(&pids).unwrap();
    let mut daemon = world.start_server();
    let ids = until("it hangs", PATIENCE, || std::fs::read_to_string(&pids).ok());
    assert!(daemon.stop().success());
    assert!(holds_within(PATIENCE, || !ids.split(' ').any(lives)), "{ids}");
    assert_eq!(renewal(&world)["state"], "failed", "what was cut short does not count");
}

#[test]
fn a_reload_changes_the_schedule_and_leaves_a_run_alone() {
    let world = World::new();
    let target = world.target("web1", &["a.example.test"]);
    let (go, second) = (world.path("go"), world.path("second"));
    let waits = stand_in(&world, &format!("while [ ! -e {} ]; do sleep 0.05; done; echo finished", go.display()));
    write_server(&world, &target, &format!("{waits}renew_on_start: always\n"));
    let mut daemon = world.start_server();
    daemon.says("Using command");
    let marks = format!("renew_exec: /bin/touch\nrenew_args: [{}]\n", second.display());
    write_server(&world, &target, &format!("{marks}{}", soon()));
    daemon.signal(Signal::HUP);
    daemon.says("Reloaded");
    std::fs::write(&go, "").unwrap();
    daemon.says("certbot: finished");
    until("the new program runs at the new time", PATIENCE, || second.exists().then_some(()));
    assert!(!daemon.said().contains("Failed to renew"), "{}", daemon.said());
    assert!(daemon.stop().success());
}

#[test]
fn a_certbot_that_fails_is_an_error_and_with_fail_fast_the_end() {
    let world = World::new();
    let target = world.target("web1", &["a.example.test"]);
    let fails = stand_in(&world, "echo no authenticator; exit 1");
    write_server(&world, &target, &format!("{fails}renew_on_start: always\n"));
    let mut daemon = world.start_server();
    daemon.says("Failed to renew or check for renewable certificates.");
    until("status says so", PATIENCE, || (renewal(&world)["state"] == "failed").then_some(()));
    let said = renewal(&world)["error"].to_string();
    assert!(said.contains("exit status: 1") && said.contains("no authenticator"), "{said}");
    assert!(renewal(&world)["next"].as_i64() > renewal(&world)["ended"].as_i64());
    assert!(daemon.runs() && daemon.stop().success());

    write_server(&world, &target, &format!("{fails}renew_on_start: always\nfail_fast: true\n"));
    let mut daemon = world.start_server();
    assert_eq!(daemon.ends().code(), Some(1));
    assert!(daemon.said().contains("CertDeployError: Failed to run `"), "{}", daemon.said());
    // Not at each start: it failed, but it ran.
    write_server(&world, &target, &format!("{fails}fail_fast: true\n"));
    let mut daemon = world.start_server();
    daemon.says("Serving 1 target");
    assert!(!holds_within(Duration::from_secs(2), || daemon.said().contains("Using command")), "{}", daemon.said());
    assert!(daemon.stop().success());
}

#[test]
fn a_single_renewal_has_an_exit_code_for_each_end() {
    let world = World::new();
    let target = world.target("web1", &["a.example.test"]);
    let hook = world.letsencrypt().join("renewal-hooks/deploy/certdeploy-hook");
    let lineage = world.lineage("a.example.test", &["a.example.test"]);
    let calls = world.path("calls");
    let hooks = format!(
        "echo call >>{}; RENEWED_LINEAGE={} RENEWED_DOMAINS=a.example.test {}",
        calls.display(),
        lineage.live.display(),
        hook.display()
    );
    let children = format!("sleep 1000 & echo $! >{}; sleep 1000", world.path("child").display());
    let table: [(&str, &str, i32, &str); 6] = [
        (&hooks, "", 0, "Checked for renewable certificates."),
        ("echo no; exit 1", "", 3, "Failed to renew or check for renewable certificates. `"),
        ("echo no; exit 1", "fail_fast: true\n", 1, "CertDeployError: Failed to run `"),
        ("kill -9 $$", "", 3, "signal: 9"),
        (&children, "renew_timeout: 0.5\n", 1, "was ended after 0.5 seconds (`renew_timeout`)"),
        ("head -c 300000 /dev/zero | tr '\\0' x; echo; echo no; exit 1", "", 3, "xx\\nno"),
    ];
    for (script, extra, code, needle) in table {
        write_server(&world, &target, &format!("{}{extra}", stand_in(&world, script)));
        // The mode of the daemon's container, as its children would inherit it.
        let mut command = command(binary("certdeploy-server"));
        command.env("CERTDEPLOY_SERVER_CONFIG", world.server_config()).env("CERTDEPLOY_RENEW_ONLY", "true");
        let ran = run(command).ended(code);
        assert!(ran.said().contains("Running renew") && ran.said().contains(needle), "{script}:\n{}", ran.said());
    }
    let child = std::fs::read_to_string(world.path("child")).unwrap();
    assert!(holds_within(PATIENCE, || !lives(&child)));
    assert_eq!(std::fs::read_to_string(calls).unwrap(), "call\n", "the hook is no renewal");
    assert_eq!(renewal(&world)["state"], "failed");

    // Missing: found in no directory of PATH, or not where the config says.
    world.write_server_with(&[&target], &world.queue(), "renew_exec: null\n");
    let mut nowhere = world.server_command(&["--renew"]);
    nowhere.env("PATH", "/nowhere");
    let ran = run(nowhere).ended(1);
    assert!(ran.said().contains("there is no `certbot` in PATH"), "{}", ran.said());
    world.write_server_with(&[&target], &world.queue(), "renew_exec: /nowhere/certbot\n");
    let ran = world.server(&["--renew"]).ended(1);
    assert!(ran.said().contains("/nowhere/certbot"), "{}", ran.said());
}

#[test]
fn a_flood_of_output_neither_stops_pushing_nor_fills_memory_or_log() {
    let world = World::new();
    let target = world.target("web1", &["a.example.test"]);
    let lineage = world.lineage("a.example.test", &["a.example.test"]);
    let script = "yes 'one of many lines of output' | head -c 1073741824; echo; echo the end; exit 1";
    write_server(&world, &target, &format!("{}renew_on_start: always\n", stand_in(&world, script)));
    let _client = target.start();
    let mut daemon = world.start_server();
    daemon.says("certbot: one of many");
    let _ = world.hook(&lineage).ended(0);
    target.receives(&lineage);
    until("it has read all of it", Duration::from_secs(120), || (renewal(&world)["state"] == "failed").then_some(()));
    assert!(renewal(&world)["error"].as_str().unwrap().ends_with("the end"));
    assert!(daemon.said().len() < 8_000_000, "{} bytes of log", daemon.said().len());
    let status = std::fs::read_to_string(Path::new("/proc").join(daemon.id().to_string()).join("status")).unwrap();
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    println!("peak memory {peak:?} KiB");
    assert!(peak.unwrap() < 64 * 1024, "{peak:?} KiB");
    assert!(daemon.stop().success());
}

#[test]
fn a_daemon_without_certbot_pushes_and_says_so() {
    let world = World::new();
    let target = world.target("web1", &["a.example.test"]);
    let lineage = world.lineage("a.example.test", &["a.example.test"]);
    write_server(&world, &target, "renew_exec: null\nrenew_on_start: always\n");
    let _client = target.start();
    let mut command = world.server_command(&["--daemon"]);
    command.env("PATH", "/nowhere");
    let mut daemon = Daemon::start("certdeploy-server", command, &world.path("server/server.log"));
    daemon.says("this daemon only pushes");
    let _ = world.hook(&lineage).ended(0);
    target.receives(&lineage);
    assert!(daemon.stop().success());
}

#[test]
fn the_schedule_is_in_the_time_zone_of_the_host() {
    let world = World::new();
    let target = world.target("web1", &["a.example.test"]);
    write_server(&world, &target, "renew_unit: day\nrenew_at: 15:00\n");
    // Half an hour off, so that it can be mistaken for nothing else; no daylight saving.
    let in_zone = |arguments: &[&str]| {
        let mut command = world.server_command(arguments);
        command.env("TZ", "<+1030>-10:30");
        command
    };
    let mut daemon = Daemon::start("certdeploy-server", in_zone(&["--daemon"]), &world.path("server/server.log"));
    let next = until("the schedule is shown", PATIENCE, || {
        let ran = run(in_zone(&["status", "--json"]));
        serde_json::from_str::<serde_json::Value>(&ran.stdout).ok()?["renewal"]["next"].as_i64()
    });
    assert_eq!(next.rem_euclid(86_400), 4 * 3_600 + 1_800, "15:00 is 04:30 UTC there");
    assert!(!daemon.said().contains("Using command"), "without history a time of day waits for its time");
    assert!(!daemon.said().contains("time zone"), "{}", daemon.said());
    assert!(daemon.stop().success());
    let mut misspelt = world.server_command(&["--daemon"]);
    misspelt.env("TZ", "Europe/Berlni");
    let mut daemon = Daemon::start("certdeploy-server", misspelt, &world.path("server/server.log"));
    daemon.says("the time zone TZ=Europe/Berlni is unknown, UTC is used");
}
