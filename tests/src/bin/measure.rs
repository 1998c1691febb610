//! Figures, never asserted: the time of the hook alone, of a push from hook to receipt, and the client's idle memory.
//! Then a fleet: how long until all live targets of many have acknowledged a renewal, and what dead ones change.
//! For those of the shipped program: `cargo build --release --workspace && cargo run --release --bin measure`; the fleet
//! alone, of another size: `cargo run --release --bin measure fleet 10000`; the client alone, idle, with a thousand idle
//! pushers, under a flood, and the time of its swap: `cargo run --release --bin measure client`.

use std::time::{Duration, Instant};

use certdeploy_tests::crowd::{Crowd, Says, many_descriptors};
use certdeploy_tests::fleet::{Death, Fleet};
use certdeploy_tests::idle::Idle;
use certdeploy_tests::memory::{rollup, status};
use certdeploy_tests::process::children;
use certdeploy_tests::wait::PATIENCE;
use certdeploy_tests::{Lineage, World};

const ROUNDS: usize = 100;

fn main() {
    let mut words = std::env::args().skip(1);
    match words.next().as_deref() {
        Some("fleet") => return fleet(words.next().and_then(|count| count.parse().ok()).unwrap_or(1000)),
        Some("client") => return client(),
        _ => {}
    }
    one();
    client();
    fleet(1000);
}

/// One target.
fn one() {
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
    println!("client, idle, applier:    {} kB resident", status(client.id(), "VmRSS:"));
    for child in children(client.id()) {
        println!("client, idle, receiver:   {} kB resident", status(child, "VmRSS:"));
    }
    println!("server, idle:             {} kB resident", status(server.id(), "VmRSS:"));

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

/// The client's memory in three states, and the time of its swap.
fn client() {
    let world = World::new();
    let mut target = world.target("web1", &["example.com"]);
    target.updates = false;
    target.write_config();
    let text = std::fs::read_to_string(&target.config).expect("client.yml");
    let limits = "sftpd:\n  max_connections: 1100\n  idle_timeout: 600\n  session_timeout: 3600\n";
    std::fs::write(&target.config, text.replace("sftpd:\n", limits)).expect("write client.yml");
    world.write_server(&[&target]);
    let mut lineage = world.lineage("example.com", &["example.com"]);
    let most = many_descriptors();
    let client = target.start();
    let receiver = children(client.id()).first().copied().unwrap_or_default();
    println!("{:<38} {:>9} {:>9} {:>9} {:>9}   (kB)", "client", "resident", "pss", "private", "peak");
    let row = |what: &str, process: u32| {
        let (resident, peak) = (status(process, "VmRSS:"), status(process, "VmHWM:"));
        let private = rollup(process, "Private_Dirty:") + rollup(process, "Private_Clean:");
        println!("{what:<38} {resident:>9} {:>9} {private:>9} {peak:>9}", rollup(process, "Pss:"));
    };
    std::thread::sleep(Duration::from_secs(2));
    row("just started, applier", client.id());
    row("just started, receiver", receiver);
    for _ in 0..ROUNDS {
        let _ = world.hook(&lineage).ended(0);
        let _ = world.server(&["--push"]).ended(0);
        lineage.renew(&world.ca);
    }
    row(&format!("after {ROUNDS} pushes, applier"), client.id());
    row(&format!("after {ROUNDS} pushes, receiver"), receiver);
    let said = client.said();
    let swaps = said.lines().filter_map(|line| {
        let (_, time) = line.split_once("The swap of example.com took ")?;
        Some(Duration::from_micros(time.strip_suffix(" us")?.parse().ok()?))
    });
    show("the swap alone:", swaps.collect());
    let log = || client.said().matches("Got connection from").count();
    let idle = Idle::log_in(target.port, &world.server_key(), 1000, log);
    row("1000 idle pushers, applier", client.id());
    row("1000 idle pushers, receiver", receiver);
    drop(idle);
    let count = (most / 2).min(4000);
    for says in [Says::Nothing, Says::Banner] {
        let crowd = Crowd::gather(target.port, count, says);
        let start = Instant::now();
        let mut pushes = Vec::new();
        for _ in 0..20 {
            let _ = world.hook(&lineage).ended(0);
            pushes.push(world.server(&["--push"]).ended(0).elapsed);
            lineage.renew(&world.ca);
        }
        row(&format!("{count} half-open ({says:?}), receiver"), receiver);
        let rate = crowd.come() as f64 / start.elapsed().as_secs_f64();
        show(&format!("`--push`, {rate:.0} new ones a s:"), pushes);
    }
}

/// So many targets, all alive; then a tenth of them dead, each in its way.
fn fleet(count: usize) {
    let (dead, live) = (count / 10, count - count / 10);
    let fleet = Fleet::new(1024);
    let mut lineage = fleet.world.lineage("example.com", &["example.com"]);
    println!(
        "{:<38} {:>9} {:>9} {:>6} {:>12} {:>9}",
        "targets", "first", "renewed", "ratio", "server peak", "p. second"
    );
    let mut alone = None;
    let mut row = |what: &str, live: usize, dead: &[(usize, Death)]| {
        fleet.write(live, dead, "push_retries: 0\n");
        let (first, renewed, peak) = round(&fleet, &mut lineage, live);
        let base = *alone.get_or_insert(renewed.as_secs_f64());
        let (ratio, rate) = (renewed.as_secs_f64() / base, live as f64 / renewed.as_secs_f64());
        let (first, renewed) = (first.as_secs_f64(), renewed.as_secs_f64());
        println!("{what:<38} {first:>8.2}s {renewed:>8.2}s {ratio:>6.2} {peak:>9} kB {rate:>9.0}");
    };
    row(&format!("{live} live"), live, &[]);
    row(&format!("{live} live, {dead} refused"), live, &[(dead, Death::Refused)]);
    row(&format!("{live} live, {dead} dropped"), live, &[(dead, Death::Dropped)]);
    row(&format!("{live} live, {dead} silent"), live, &[(dead, Death::Silent)]);
    row(&format!("{count} live"), count, &[]);
    println!(
        "client, receiver: {:?} kB resident",
        children(fleet.client().id()).into_iter().map(|child| status(child, "VmRSS:")).max()
    );
}

/// From a start with a new queue, and from a hook, until all who live have it; and the server's memory at its peak.
fn round(fleet: &Fleet, lineage: &mut Lineage, live: usize) -> (Duration, Duration, u64) {
    let _ = std::fs::remove_dir_all(fleet.world.queue());
    lineage.renew(&fleet.world.ca);
    let start = Instant::now();
    let server = fleet.world.start_server();
    let pushed = |times: usize| {
        while server.said().matches("Pushed ").count() < times {
            assert!(start.elapsed() < Duration::from_secs(900), "not in time:\n{}", server.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    pushed(live);
    let first = start.elapsed();
    lineage.renew(&fleet.world.ca);
    let start = Instant::now();
    let _ = fleet.world.hook(lineage).ended(0);
    pushed(2 * live);
    (first, start.elapsed(), status(server.id(), "VmHWM:"))
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
