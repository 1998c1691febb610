//! Both daemons under a real systemd: ready, status, watchdog, reload, journal, end.

use std::time::Duration;

use certdeploy_tests::World;
use certdeploy_tests::booted::Booted;
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::process::binary;
use certdeploy_tests::until;
use certdeploy_tests::wait::PATIENCE;

const NEEDS: &[Need] = &[Need::Root, Need::Program("systemd-nspawn"), Need::Program("nsenter")];
const UNIT: &str = "[Service]\nType=notify\nExecStart=/usr/local/bin/certdeploy-server --daemon --config /srv/server.yml\n\
                    ExecReload=/bin/kill -HUP $MAINPID\nWatchdogSec=2\nRestart=on-failure\nRestartSec=100ms\n";

#[test]
fn systemd_knows_how_the_daemon_is() {
    if !can_run("supervised", NEEDS) {
        return;
    }
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    world.write_server_with(&[&target], std::path::Path::new("/var/lib/certdeploy"), "log_level: INFO\n");
    let config = std::fs::read_to_string(world.server_config()).unwrap();
    let key = world.server_key().display().to_string();
    let config = config.replace("log_level: DEBUG\n", "").replace(&key, "/srv/key");
    std::fs::write(world.server_config(), &config).unwrap();
    let unit = world.path("certdeploy-server.service");
    std::fs::write(&unit, UNIT).unwrap();
    let booted = Booted::start(
        &world.path("booted"),
        &[
            (binary("certdeploy-server"), "/usr/local/bin/certdeploy-server"),
            (unit, "/etc/systemd/system/certdeploy-server.service"),
            (world.path("server"), "/srv"),
        ],
    );
    let property = |name: &str| booted.property("certdeploy-server.service", name);
    let systemctl = |verb: &str| booted.run(&["systemctl", verb, "certdeploy-server.service"]);

    let _ = systemctl("start").ended(0);
    assert_eq!(property("ActiveState"), "active");
    assert!(property("StatusText").starts_with("Serving 1 target"), "{}", property("StatusText"));

    // The loop keeps it alive...
    for _ in 0..2 {
        let last = property("WatchdogTimestampMonotonic");
        until("a beat comes", PATIENCE, || (property("WatchdogTimestampMonotonic") != last).then_some(()));
    }
    assert_eq!(property("NRestarts"), "0");

    // ... a config that is refused is told, and a good one again...
    std::fs::write(world.server_config(), "nonsense").unwrap();
    let _ = systemctl("reload").ended(0);
    until("it is told", PATIENCE, || property("StatusText").contains("refused, see the log").then_some(()));
    std::fs::write(world.server_config(), &config).unwrap();
    let _ = systemctl("reload").ended(0);
    until("it is told", PATIENCE, || (!property("StatusText").contains("refused")).then_some(()));
    assert_eq!(property("ActiveState"), "active");

    // ... the journal has levels and names...
    let journal = booted.run(&["journalctl", "-u", "certdeploy-server.service", "-o", "json", "--no-pager"]).ended(0);
    let entries: Vec<serde_json::Value> =
        journal.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let said = |priority: &str, start: &str| {
        entries.iter().any(|entry| {
            entry["PRIORITY"] == priority
                && entry["SYSLOG_IDENTIFIER"] == "certdeploy-server"
                && entry["MESSAGE"].as_str().is_some_and(|message| message.starts_with(start))
        })
    };
    assert!(said("6", "Serving 1 target"), "{}", journal.stdout);
    assert!(said("3", "`/srv/server.yml` is not reloaded"), "{}", journal.stdout);

    // ... one that hangs is ended and started again...
    let _ = booted.run(&["systemctl", "kill", "--signal=STOP", "certdeploy-server.service"]).ended(0);
    until("the watchdog barks", Duration::from_secs(60), || (property("NRestarts") == "1").then_some(()));
    until("it serves again", PATIENCE, || (property("ActiveState") == "active").then_some(()));

    // ... and the end is a good one.
    let _ = systemctl("stop").ended(0);
    assert_eq!((property("Result"), property("ExecMainStatus")), ("success".to_owned(), "0".to_owned()));
}

const CLIENT: &str = "[Service]\nType=notify\nStateDirectory=certs staging\nNotifyAccess=main\nExecStart=/usr/local/bin/certdeploy-client --daemon --config /srv/client.yml\n\
                      ExecReload=/bin/kill -HUP $MAINPID\nWatchdogSec=2\nRestart=on-failure\nRestartSec=100ms\n";

#[test]
fn systemd_knows_how_the_client_s_two_processes_are() {
    if !can_run("supervised", NEEDS) {
        return;
    }
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    let text = std::fs::read_to_string(&target.config).unwrap();
    let folder = world.path("web1").display().to_string();
    let config = text.replace(&format!("{folder}/certs"), "/var/lib/certs");
    let config = config.replace(&format!("{folder}/staging"), "/var/lib/staging");
    let config = config.replace(&folder, "/srv").replace("log_level: DEBUG", "log_level: INFO");
    let config = config.split("update_services:").next().unwrap_or_default().to_owned();
    std::fs::write(&target.config, &config).unwrap();
    let unit = world.path("certdeploy-client.service");
    std::fs::write(&unit, CLIENT).unwrap();
    let booted = Booted::start(
        &world.path("booted"),
        &[
            (binary("certdeploy-client"), "/usr/local/bin/certdeploy-client"),
            (unit, "/etc/systemd/system/certdeploy-client.service"),
            (world.path("web1"), "/srv"),
        ],
    );
    let name = "certdeploy-client.service";
    let property = |key: &str| booted.property(name, key);
    let systemctl = |verb: &str| booted.run(&["systemctl", verb, name]);
    // Of the two processes, seen from inside.
    let receiver = || {
        let pids = booted.run(&["pgrep", "-f", "certdeploy-client: receiver"]);
        pids.stdout.lines().next().unwrap_or_default().to_owned()
    };
    let healthy = || {
        booted.run(&["/usr/local/bin/certdeploy-client", "--config", "/srv/client.yml", "healthcheck"]).code == Some(0)
    };

    let started = systemctl("start");
    assert_eq!(started.code, Some(0), "{}", booted.run(&["journalctl", "-u", name, "--no-pager"]).said());
    assert_eq!(property("ActiveState"), "active");
    assert!(property("StatusText").starts_with("Listening at 127.0.0.1:"), "{}", property("StatusText"));
    assert!(healthy());

    // The loop keeps it alive, with the receiver's word.
    for _ in 0..2 {
        let last = property("WatchdogTimestampMonotonic");
        until("a beat comes", PATIENCE, || (property("WatchdogTimestampMonotonic") != last).then_some(()));
    }
    assert_eq!(property("NRestarts"), "0");

    // A reload that is refused is told, and a good one again; the process stays the same.
    let main = property("MainPID");
    std::fs::write(&target.config, "nonsense").unwrap();
    let _ = systemctl("reload").ended(0);
    until("it is told", PATIENCE, || property("StatusText").contains("refused, see the log").then_some(()));
    std::fs::write(&target.config, &config).unwrap();
    let _ = systemctl("reload").ended(0);
    until("it is told", PATIENCE, || property("StatusText").starts_with("Listening at ").then_some(()));
    assert_eq!((property("ActiveState"), property("MainPID")), ("active".to_owned(), main));

    // A receiver that hangs, an applier that hangs, and either one killed: the pair is started again.
    let mut restarts = 0;
    let mut again = |what: &str| {
        restarts += 1;
        let count = restarts.to_string();
        until(what, Duration::from_secs(60), || (property("NRestarts") == count).then_some(()));
        until("it serves again", PATIENCE, || (property("ActiveState") == "active" && healthy()).then_some(()));
        assert_eq!(property("NRestarts"), count, "{what}");
    };
    let kill = |signal: &str, pid: &str| booted.run(&["kill", signal, pid]).ended(0);
    let _ = kill("-STOP", &receiver());
    again("the watchdog barks when the receiver hangs");
    let _ = kill("-STOP", &property("MainPID"));
    again("the watchdog barks when the applier hangs");
    let _ = kill("-KILL", &receiver());
    again("the pair is started again without the receiver");
    let _ = kill("-KILL", &property("MainPID"));
    again("the pair is started again without the applier");

    let _ = systemctl("stop").ended(0);
    assert_eq!((property("Result"), property("ExecMainStatus")), ("success".to_owned(), "0".to_owned()));
}
