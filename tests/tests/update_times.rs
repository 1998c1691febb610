//! When updates run, and how often: in the order of the config, each once for everything that changed, a while after
//! the last deployment, again for what came meanwhile, and after a restart what was still due.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use certdeploy_tests::status::line;
use certdeploy_tests::wait::PATIENCE;
use certdeploy_tests::{Lineage, Target, World, until};

const BOTH: [&str; 2] = ["a.example", "b.example"];

/// A target whose updates are these scripts, in this order, each with further keys; each writes its name and the
/// lineages it was told of.
fn target(world: &World, delay: &str, scripts: &[(&str, &str, &str)]) -> (Target, PathBuf) {
    let mut target = world.target("web1", &BOTH);
    let runs = world.path("runs-in-order");
    target.updates = false;
    target.extra = "update_services:\n".to_owned();
    for (name, text, more) in scripts {
        let path = world.path(name);
        let text = format!("#!/bin/sh\necho \"{name}: $CERTDEPLOY_LINEAGES\" >>{}\n{text}\n", runs.display());
        std::fs::write(&path, text).expect("write");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        let _ = writeln!(target.extra, "  - {{type: script, name: {}{more}}}", path.display());
    }
    target.write_config();
    let text = std::fs::read_to_string(&target.config).expect("client.yml");
    std::fs::write(&target.config, text.replace("update_delay: null", &format!("update_delay: {delay}")))
        .expect("write");
    world.write_server(&[&target]);
    (target, runs)
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn push(world: &World, target: &Target, lineage: &Lineage) {
    let _ = world.hook(lineage).ended(0);
    let _ = world.server(&["--push"]).ended(0);
    target.receives(lineage);
}

fn ledger(target: &Target, lineage: &str) -> String {
    std::fs::read_to_string(target.deployed(lineage).join(".updates.json")).unwrap_or_default()
}

#[test]
fn each_runs_once_in_the_order_of_the_config_a_while_after_the_last_deployment() {
    let world = World::new();
    let [one, two] = BOTH.map(|name| world.lineage(name, &[name]));
    let scripts =
        [("second", "", ""), ("first", "", ", lineages: [b.example]"), ("third", "", ", domains: [a.example]")];
    let (target, runs) = target(&world, "3s", &scripts);
    let _client = target.start();
    push(&world, &target, &one);
    assert!(ledger(&target, "a.example").contains("pending"), "{}", ledger(&target, "a.example"));
    // The server learned with the receipt when that is due.
    let status = world.status();
    let shown = line(&status, "web1", "a.example").expect("a line");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_secs();
    let due = shown["update_due"].as_u64().expect("a time");
    assert!(shown["update"] == "pending" && due.abs_diff(now) < 60, "{shown}");
    let table = world.server(&["status"]).said();
    assert!(table.contains("pending, due 20"), "{table}");
    push(&world, &target, &two);
    let deployed = Instant::now();
    assert_eq!(lines(&runs), Vec::<String>::new(), "not yet");
    until("all have run", PATIENCE, || (lines(&runs).len() >= 3).then_some(()));
    // Due is counted in whole seconds, so it may be up to one sooner.
    assert!(deployed.elapsed() > Duration::from_secs(1), "{:?}", deployed.elapsed());
    for lineage in BOTH {
        until("the ledger says so", PATIENCE, || ledger(&target, lineage).contains("done").then_some(()));
    }
    assert_eq!(lines(&runs), ["second: a.example b.example", "first: b.example", "third: a.example"]);
}

#[test]
fn what_is_deployed_during_an_update_gets_its_own() {
    let world = World::new();
    let mut lineage = world.lineage("a.example", &["a.example"]);
    let gate = world.path("gate");
    let text = format!("while ! test -e {}; do sleep 0.05; done", gate.display());
    let (target, runs) = target(&world, "null", &[("slow", &text, "")]);
    let _client = target.start();
    push(&world, &target, &lineage);
    until("the update runs", PATIENCE, || (lines(&runs).len() == 1).then_some(()));
    lineage.renew(&world.ca);
    push(&world, &target, &lineage);
    assert_eq!(lines(&runs).len(), 1, "the first update goes on");
    std::fs::write(&gate, "").expect("write");
    until("the second update has run", PATIENCE, || {
        (lines(&runs).len() == 2 && ledger(&target, "a.example").contains("done")).then_some(())
    });
    assert!(ledger(&target, "a.example").contains("\"generation\":2"), "{}", ledger(&target, "a.example"));
}

#[test]
fn an_update_that_is_due_later_outlives_the_daemon() {
    let world = World::new();
    let lineage = world.lineage("a.example", &["a.example"]);
    let (target, runs) = target(&world, "4s", &[("late", "", "")]);
    let mut client = target.start();
    push(&world, &target, &lineage);
    client.kill();
    let client = target.start();
    assert_eq!(lines(&runs), Vec::<String>::new(), "not due yet: {}", client.said());
    until("the update has run", PATIENCE, || ledger(&target, "a.example").contains("done").then_some(()));
    assert_eq!(lines(&runs), ["late: a.example"]);
}

#[test]
fn what_failed_runs_again_at_a_start_or_a_reload_whatever_else_is_due_later() {
    let world = World::new();
    let [one, two] = BOTH.map(|name| world.lineage(name, &[name]));
    let broken = world.path("broken");
    let text = format!("! test -e {}", broken.display());
    let (target, runs) = target(&world, "null", &[("script", &text, "")]);
    std::fs::write(&broken, "").expect("write");
    let mut client = target.start();
    push(&world, &target, &one);
    until("it has failed", PATIENCE, || ledger(&target, "a.example").contains("failed").then_some(()));
    // From now on what is deployed is due in an hour.
    let config = std::fs::read_to_string(&target.config).expect("client.yml");
    std::fs::write(&target.config, config.replace("update_delay: null", "update_delay: 1h")).expect("write");
    let before = lines(&runs).len();
    client.signal(rustix::process::Signal::HUP);
    until("it has run again at the reload", PATIENCE, || (lines(&runs).len() > before).then_some(()));
    let _ = world.hook(&two).ended(0);
    let pushed = world.server(&["--push"]);
    // Whether it has learned of the failure by then is a matter of a second.
    assert!(matches!(pushed.code, Some(0 | 3)), "{}", pushed.said());
    target.receives(&two);
    assert_eq!(client.stop().code(), Some(0), "{}", client.said());
    std::fs::remove_file(&broken).expect("mend");
    let _client = target.start();
    until("it has gone well", PATIENCE, || ledger(&target, "a.example").contains("done").then_some(()));
    assert!(ledger(&target, "b.example").contains("pending"), "{}", ledger(&target, "b.example"));
}
