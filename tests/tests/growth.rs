//! What grows with the number of lineages grows no faster than that number: counted in system calls, not in seconds.

use std::path::Path;

use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::pass::Pass;
use certdeploy_tests::process::{command, run};
use certdeploy_tests::wait::{PATIENCE, holds_within};
use certdeploy_tests::{Daemon, Lineage, World, until};

/// Twice as many may cost so much more: twice, and something for what does not grow.
const MOST: f64 = 2.6;
const FEW: usize = 40;

fn lineages(world: &World, count: usize) -> Vec<Lineage> {
    let name = |n: usize| format!("n{n}.example");
    (0..count).map(|n| world.lineage(&name(n), &[&name(n)])).collect()
}

/// The calls to `read` of a process and of those it has waited for.
fn reads(process: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/io")).expect("its counts");
    let line = text.lines().find_map(|line| line.strip_prefix("syscr: "));
    line.and_then(|number| number.parse().ok()).expect("a number")
}

/// What it costs the applier to do something.
fn cost(client: &Daemon, work: impl FnOnce()) -> f64 {
    let before = reads(client.id());
    work();
    #[expect(clippy::cast_precision_loss, reason = "thousands")]
    let reads = (reads(client.id()) - before) as f64;
    reads
}

/// What it costs to take in so many from a server, one after another. Nobody is to be told of them: while that is owed,
/// the server asks what is held, all of it, as often as there is time for.
fn pushed(count: usize) -> f64 {
    let world = World::new();
    let lineages = lineages(&world, count);
    let names: Vec<&str> = lineages.iter().map(|lineage| lineage.name.as_str()).collect();
    let mut target = world.target("web", &names);
    target.updates = false;
    target.write_config();
    world.write_server(&[&target]);
    let client = target.start();
    cost(&client, || {
        let server = world.start_server();
        let all = || lineages.iter().all(|lineage| target.holds(lineage));
        assert!(holds_within(PATIENCE, all), "{}\n{}", server.said(), client.said());
    })
}

/// What it costs to take in so many from `source`, and to tell a program of each.
fn placed(count: usize) -> f64 {
    let world = World::new();
    let lineages = lineages(&world, count);
    let mut target = world.target("web", &["example.com"]);
    target.updates = false;
    target.extra = "update_services:\n  - {type: script, name: /bin/true}\n".to_owned();
    target.write_config();
    let client = target.start();
    for lineage in &lineages {
        let beside = world.path(&lineage.name);
        std::fs::create_dir(&beside).expect("a directory");
        for file in ["fullchain.pem", "privkey.pem"] {
            std::fs::copy(lineage.live.join(file), beside.join(file)).expect("a copy");
        }
        std::fs::rename(&beside, target.source.join(&lineage.name)).expect("all of it at once");
    }
    cost(&client, || {
        let told = |lineage: &Lineage| {
            let ledger = std::fs::read_to_string(target.deployed(&lineage.name).join(".updates.json"));
            ledger.is_ok_and(|text| text.contains("\"done\""))
        };
        until("all updates ran", PATIENCE, || lineages.iter().all(told).then_some(()));
    })
}

#[test]
fn to_take_in_twice_as_many_lineages_costs_twice_as_much() {
    if !can_run("growth", &[Need::Root]) {
        return;
    }
    for (how, cost) in [("pushed", pushed as fn(usize) -> f64), ("placed", placed)] {
        let (few, many) = (cost(FEW), cost(2 * FEW));
        println!("{how}: {few} reads for {FEW} lineages, {many} for twice as many");
        assert!(many < MOST * few, "{how}: {few} reads for {FEW} lineages, {many} for twice as many");
    }
}

/// The calls of one pass that finds nothing to do.
fn idle(pass: &Pass, counts: &Path) -> f64 {
    let client = pass.command("update_services:\n  - {type: script, name: /bin/true}\n");
    let mut strace = command("/usr/bin/strace");
    strace.args(["-f", "-c", "-U", "calls,name", "-o"]).arg(counts).arg(client.get_program()).args(client.get_args());
    let _ = run(strace).ended(0);
    let text = std::fs::read_to_string(counts).expect("the counts");
    let total = text.lines().find(|line| line.trim_end().ends_with("total")).expect("a total");
    total.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

#[test]
fn a_pass_over_twice_as_many_lineages_costs_twice_as_much() {
    if !can_run("growth: a pass", &[Need::Program("strace")]) {
        return;
    }
    let world = World::new();
    let lineage = world.lineage("a.example", &["a.example"]);
    let pass = Pass::over(&world, &lineage, "growth");
    let _ = idle(&pass, &world.path("counts"));
    let deployed = pass.path("certs/a.example");
    let more = |from: usize, to: usize| {
        for n in from..to {
            let mut copy = command("/usr/bin/cp");
            copy.arg("-a").arg(&deployed).arg(pass.path(&format!("certs/n{n}.example")));
            let _ = run(copy).ended(0);
            std::fs::create_dir(pass.path(&format!("staging/n{n}.example"))).expect("an empty one, as passes leave it");
        }
    };
    more(0, 200);
    let few = idle(&pass, &world.path("counts"));
    more(200, 400);
    let many = idle(&pass, &world.path("counts"));
    println!("{few} calls for 200 lineages, {many} for twice as many");
    assert!(many < MOST * few, "{few} calls for 200 lineages, {many} for twice as many");
}
