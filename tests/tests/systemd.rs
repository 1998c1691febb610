//! Updates of type `systemd` against a booted systemd: what is reported is what systemd says.

use std::path::{Path, PathBuf};

use certdeploy_tests::booted::Booted;
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::pass::Pass;
use certdeploy_tests::process::{Ran, run};
use certdeploy_tests::{Lineage, World};

const NEEDS: &[Need] = &[Need::Root, Need::Program("systemd-nspawn"), Need::Program("nsenter")];

/// Name, text, whether it is started before, action, what the client says (or "" for success).
const UNITS: &[(&str, &str, bool, &str, &str)] = &[
    ("simple", "ExecStart=/bin/sleep infinity", true, "restart", ""),
    ("stopped", "ExecStart=/bin/sleep infinity", false, "restart", ""),
    (
        "notify",
        "Type=notify\nNotifyAccess=all\nExecStart=/bin/sh -c 'systemd-notify --ready; exec sleep infinity'",
        true,
        "restart",
        "",
    ),
    ("oneshot", "Type=oneshot\nExecStart=/bin/true", false, "restart", ""),
    ("reloads", "ExecStart=/bin/sleep infinity\nExecReload=/bin/true", true, "reload", ""),
    (
        "reload-fails",
        "ExecStart=/bin/sleep infinity\nExecReload=/bin/false",
        true,
        "reload",
        "the job's result is `failed`",
    ),
    ("no-reload", "ExecStart=/bin/sleep infinity", true, "reload", "Job type reload is not applicable"),
    (
        "inactive",
        "ExecStart=/bin/sleep infinity\nExecReload=/bin/true",
        false,
        "reload",
        "the unit does not run, so it cannot be reloaded",
    ),
    ("not-running", "ExecStart=/bin/sleep infinity", false, "try-restart", ""),
    ("either", "ExecStart=/bin/sleep infinity", true, "reload-or-restart", ""),
    // Whether the job or only the unit has failed is a matter of moments.
    ("fails", "Type=exec\nExecStart=/bin/false", false, "restart", "failed"),
    ("dies-soon", "ExecStart=/bin/sh -c 'sleep 0.3; exit 7'", false, "restart", "is failed (exit-code)"),
    (
        "dies-again",
        "ExecStart=/bin/sh -c 'sleep 0.3; exit 7'\nRestart=always\nRestartSec=100",
        false,
        "restart",
        "is activating (exit-code)",
    ),
    ("oneshot-fails", "Type=oneshot\nExecStart=/bin/false", false, "restart", "the job's result is `failed`"),
    (
        "hangs",
        "Type=notify\nExecStart=/bin/sleep infinity\nTimeoutStartSec=infinity",
        false,
        "restart",
        "not done after 2 s; systemd goes on",
    ),
    ("gone", "", false, "restart", "NoSuchUnit: Unit gone.service not found."),
    ("masked", "masked", false, "restart", "UnitMasked: Unit masked.service is masked."),
    ("condition", "ConditionPathExists=/nowhere", false, "restart", "a condition of the unit does not hold"),
    ("stops", "ExecStart=/bin/sleep infinity", true, "stop", ""),
    ("starts", "ExecStart=/bin/sleep infinity", false, "start", ""),
    ("runs-already", "ExecStart=/bin/sleep infinity", true, "start", ""),
    ("start-fails", "Type=exec\nExecStart=/bin/false", false, "start", "failed"),
    ("start-dies", "ExecStart=/bin/sh -c 'sleep 0.3; exit 7'", false, "start", "is failed (exit-code)"),
    ("start-gone", "", false, "start", "NoSuchUnit: Unit start-gone.service not found."),
    (
        "reload-hangs",
        "ExecStart=/bin/sleep infinity\nExecReload=/bin/sleep infinity",
        true,
        "reload",
        "not done after 2 s; systemd goes on",
    ),
    ("reload-gone", "", false, "reload", "NoSuchUnit: Unit reload-gone.service not found."),
    ("reload-masked", "masked", false, "reload", "UnitMasked: Unit reload-masked.service is masked."),
    ("running", "ExecStart=/bin/sleep infinity", true, "try-restart", ""),
    ("either-stopped", "ExecStart=/bin/sleep infinity", false, "reload-or-restart", ""),
    ("either-reloads", "ExecStart=/bin/sleep infinity\nExecReload=/bin/true", true, "reload-or-restart", ""),
];

/// Those of them that have another first process afterwards.
const RESTARTED: [&str; 8] = ["simple", "stopped", "notify", "either", "hangs", "starts", "running", "either-stopped"];

fn unit_file(folder: &Path, name: &str, text: &str) -> Option<PathBuf> {
    let path = folder.join(format!("{name}.service"));
    let text = match text {
        "" => return None,
        "masked" => return Some("/dev/null".into()),
        condition if condition.starts_with("Condition") => {
            format!("[Unit]\n{condition}\n[Service]\nExecStart=/bin/sleep infinity\n")
        }
        service => format!("[Unit]\nStartLimitIntervalSec=0\n[Service]\n{service}\n"),
    };
    std::fs::write(&path, text).expect("write a unit");
    Some(path)
}

/// One pass of the client with these updates, talking to that systemd.
fn pass(world: &World, booted: &Booted, lineage: &Lineage, name: &str, updates: &str) -> Ran {
    let mut client = Pass::over(world, lineage, name).command(&format!("update_services:\n{updates}"));
    client.env("DBUS_SYSTEM_BUS_ADDRESS", booted.bus_address());
    run(client)
}

#[test]
fn what_is_reported_is_what_systemd_says() {
    if !can_run("systemd", NEEDS) {
        return;
    }
    let world = World::new();
    let lineage = world.lineage("a.example", &["a.example"]);
    let units = world.path("units");
    std::fs::create_dir_all(&units).expect("a folder");
    let names: Vec<String> = UNITS.iter().map(|(name, ..)| format!("/etc/systemd/system/{name}.service")).collect();
    let binds: Vec<(PathBuf, &str)> = UNITS
        .iter()
        .zip(&names)
        .filter_map(|((name, text, ..), at)| Some((unit_file(&units, name, text)?, at.as_str())))
        .collect();
    let booted = Booted::start(&world.path(""), &binds);
    for (name, _, started, ..) in UNITS {
        if *started {
            booted.run(&["systemctl", "start", name]).ended(0);
        }
    }
    // Whatever becomes of a unit, the next entry runs.
    let (after, told) = (world.path("after"), world.path("told"));
    std::fs::write(&after, format!("#!/bin/sh\necho >>{}\n", told.display())).expect("write");
    std::fs::set_permissions(&after, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    for (number, (name, _, _, action, said)) in UNITS.iter().enumerate() {
        let unit = format!("{name}.service");
        let before = booted.property(&unit, "MainPID");
        let updates = format!(
            "  - {{type: systemd, name: {unit}, action: {action}, timeout: 2}}\n  - {{type: script, name: {}}}\n",
            after.display()
        );
        let ran = pass(&world, &booted, &lineage, name, &updates);
        let told = std::fs::read_to_string(&told).unwrap_or_default().lines().count();
        assert_eq!(told, number + 1, "{name}: the next entry did not run: {}", ran.said());
        let after = booted.property(&unit, "MainPID");
        if said.is_empty() {
            assert_eq!(ran.code, Some(0), "{name}: {}", ran.said());
            assert!(ran.stdout.contains(&format!("INFO:certdeploy-client: Systemd unit {unit} ")), "{}", ran.said());
        } else {
            assert_eq!(ran.code, Some(3), "{name}: {}", ran.said());
            assert!(ran.stdout.contains(said), "{name} lacks {said:?}: {}", ran.said());
            assert!(ran.stdout.contains(&format!("SystemdError: Failed to {action} {unit}: ")), "{}", ran.said());
        }
        let restarted = before != after && after != "0";
        assert_eq!(restarted, RESTARTED.contains(name), "{name}");
    }
}

#[test]
fn without_a_bus_the_way_out_is_named_and_systemd_exec_is_taken_instead() {
    let world = World::new();
    let lineage = world.lineage("a.example", &["a.example"]);
    let pass = Pass::over(&world, &lineage, "no-bus");
    let calls = pass.path("calls");
    let systemctl = pass.path("systemctl");
    std::fs::write(&systemctl, format!("#!/bin/sh\necho \"$@\" >>{}\n", calls.display())).expect("write");
    std::fs::set_permissions(&systemctl, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let with = |extra: &str| {
        let updates = "update_services:\n  - {type: systemd, name: x.service, action: ' Reload '}\n";
        let mut client = pass.command(&format!("{extra}{updates}"));
        client.env("DBUS_SYSTEM_BUS_ADDRESS", format!("unix:path={}", pass.path("nobody").display()));
        run(client)
    };
    // Somebody takes the connection and never answers.
    let silent = std::os::unix::net::UnixListener::bind(pass.path("nobody")).expect("a socket");
    let ran = with("init_timeout: 1\n").ended(3);
    assert!(ran.stdout.contains("no answer within 1 s, so nothing was done"), "{}", ran.said());
    drop(silent);
    std::fs::remove_file(pass.path("nobody")).expect("remove");
    let ran = with("").ended(3);
    assert!(ran.stdout.contains("set `systemd_exec`"), "{}", ran.said());
    // The failed update is still owed: this pass has nothing to deploy, and runs it.
    let _ = with(&format!("systemd_exec: {}\n", systemctl.display())).ended(0);
    assert_eq!(std::fs::read_to_string(&calls).expect("calls"), "reload x.service\n");
}
