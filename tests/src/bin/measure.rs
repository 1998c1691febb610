//! Figures, never asserted: the time of the hook alone, of a push from hook to receipt, and the client's idle memory.
//! For those of the shipped program: `cargo build --release --workspace && cargo run --release --bin measure`.

use std::time::{Duration, Instant};

use certdeploy_tests::World;
use certdeploy_tests::process::children;
use certdeploy_tests::wait::PATIENCE;

const ROUNDS: usize = 100;

fn main() {
    let world = World::new();
    let mut target = world.target("web1", &["example.com"]);
    target.updates = false;
    target.write_config();
    world.write_server(&[&target]);
    let mut lineage = world.lineage("example.com", &["example.com"]);
    let client = target.start();
    let server = world.start_server();
    let _ = world.hook(&lineage).ended(0);
    target.receives(&lineage);
    std::thread::sleep(Duration::from_secs(2));
    println!("client, idle, applier:    {} kB resident", resident(client.id()));
    for child in children(client.id()) {
        println!("client, idle, receiver:   {} kB resident", resident(child));
    }
    println!("server, idle:             {} kB resident", resident(server.id()));

    let (mut hooks, mut swaps, mut receipts) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        lineage.renew(&world.ca);
        let before = server.said().matches("Pushed ").count();
        let start = Instant::now();
        hooks.push(world.hook(&lineage).ended(0).elapsed);
        wait(|| target.holds(&lineage));
        swaps.push(start.elapsed());
        wait(|| server.said().matches("Pushed ").count() > before);
        receipts.push(start.elapsed());
    }
    show("the hook alone:", hooks);
    show("hook to new pair:", swaps);
    show("hook to receipt:", receipts);
    drop(server);
    let mut pushes = Vec::new();
    for _ in 0..20 {
        lineage.renew(&world.ca);
        let _ = world.hook(&lineage).ended(0);
        pushes.push(world.server(&["--push"]).ended(0).elapsed);
    }
    show("`--push`, whole run:", pushes);
}

/// Without the pauses of a test's wait: these would be most of the figure.
fn wait(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_micros(100));
    }
}

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |part: usize| times.get((times.len() * part / 100).min(times.len() - 1)).copied().unwrap_or_default();
    println!("{what:<25} p50 {:?}, p99 {:?} ({} runs)", at(50), at(99), times.len());
}

fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or_default()
}
