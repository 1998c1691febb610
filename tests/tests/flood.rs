//! Floods at the client's door: thousands that say nothing, and thousands of wrong keys. The pusher gets in every time,
//! the client stays small, and its log stays readable.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::time::Duration;

use certdeploy_common::ssh::key;
use certdeploy_tests::crowd::{Crowd, Says, address, connect, many_descriptors};
use certdeploy_tests::process::{children, command};
use certdeploy_tests::wait::PATIENCE;
use certdeploy_tests::{Daemon, Lineage, Target, World, memory, ssh, until};

const PUSHES: usize = 20;

/// How long a push may take beside them.
const IN_TIME: Duration = Duration::from_secs(5);

/// The most memory that the receiver may ever have, in kB.
const MEMORY: u64 = 64 * 1024;

/// The target's daemon with so many descriptors, once it listens.
fn start(target: &Target, descriptors: u64) -> Daemon {
    let client = target.command();
    let mut limited = command("/usr/bin/prlimit");
    limited.arg(format!("--nofile={descriptors}:{descriptors}")).arg("--");
    limited.arg(client.get_program()).args(client.get_args()).arg("--daemon");
    let mut daemon = Daemon::start("certdeploy-client", limited, &target.log);
    daemon.says(&format!("Listening for incoming connections at 127.0.0.1:{}", target.port));
    daemon
}

fn receiver(client: &Daemon) -> u32 {
    until("a receiver", PATIENCE, || children(client.id()).first().copied())
}

/// One push of what was issued last, which must succeed; how long it took.
fn push(world: &World, lineage: &Lineage) -> Result<Duration, String> {
    let live = lineage.live.display().to_string();
    let ran = world.server(&["--push", "--lineage", &live, "--domains", "a.example"]);
    if ran.code == Some(0) { Ok(ran.elapsed) } else { Err(ran.said()) }
}

fn pushes_go_on(most: usize, descriptors: u64, says: Says) {
    let world = World::new();
    let target = world.target("web", &["a.example"]);
    let mut lineage = world.lineage("a.example", &["a.example"]);
    // The first attempt counts.
    world.write_server_with(&[&target], &world.queue(), "push_retries: 0\n");
    let mut client = start(&target, descriptors);
    let receiver = receiver(&client);
    let count = (many_descriptors() / 2).min(most);
    let crowd = Crowd::gather(target.port, count, says);
    let mut longest = Duration::ZERO;
    for n in 0..PUSHES {
        match push(&world, &lineage) {
            Ok(elapsed) => longest = longest.max(elapsed),
            Err(said) => panic!("push {n} of {PUSHES} with {} strangers so far: {said}", crowd.come()),
        }
        lineage.renew(&world.ca);
    }
    let come = crowd.come();
    drop(crowd);
    let peak = memory::status(receiver, "VmHWM:");
    println!("{come} strangers ({says:?}), {descriptors} descriptors: longest push {longest:?}, receiver {peak} kB");
    assert!(come > count + PUSHES, "only {come} strangers came");
    assert!(longest < IN_TIME, "{longest:?}");
    assert!(peak < MEMORY, "the receiver had {peak} kB");
    assert!(client.runs() && children(client.id()).contains(&receiver), "the same processes");
    assert!(memory::descriptors(receiver) < 200, "{} descriptors are open", memory::descriptors(receiver));
    let said = client.said();
    let lines = said.lines().filter(|line| line.contains("Too many connections") || line.contains("Cannot accept"));
    assert!((1..200).contains(&lines.clone().count()), "{} lines about {come} strangers", lines.count());
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn thousands_of_silent_strangers_and_few_descriptors() {
    pushes_go_on(4000, 128, Says::Nothing);
}

#[test]
fn thousands_of_strangers_that_stop_after_the_banner() {
    pushes_go_on(4000, 20_000.min(many_descriptors() as u64), Says::Banner);
}

#[test]
fn a_thousand_silent_strangers_and_many_descriptors() {
    pushes_go_on(1000, 20_000.min(many_descriptors() as u64), Says::Nothing);
}

#[test]
fn a_thousand_strangers_that_stop_after_the_banner_and_few_descriptors() {
    pushes_go_on(1000, 128, Says::Banner);
}

/// Fewer descriptors than strangers may come: accepting fails, again and again, and goes on.
#[test]
fn running_out_of_descriptors_ends_nothing() {
    let world = World::new();
    let target = world.target("web", &["a.example"]);
    let mut lineage = world.lineage("a.example", &["a.example"]);
    world.write_server(&[&target]);
    let text = std::fs::read_to_string(&target.config).expect("client.yml");
    let favoured = "sftpd:\n  pusher_addresses: ['127.9.0.1']\n";
    std::fs::write(&target.config, text.replace("sftpd:\n", favoured)).expect("write");
    let mut client = start(&target, 64);
    let receiver = receiver(&client);
    // The named pusher's own connections are not counted as strangers', so they can take every descriptor.
    let pusher = Ipv4Addr::new(127, 9, 0, 1);
    let held: Vec<OwnedFd> = (0..100).filter_map(|_| connect(pusher, target.port, Says::Nothing).ok()).collect();
    client.says("Cannot accept a connection: Too many open files");
    until("it takes what it can", PATIENCE, || (memory::descriptors(receiver) >= 60).then_some(()));
    let _ = world.hook(&lineage).ended(0);
    until("somebody else gets in beside them", PATIENCE, || (world.server(&["--push"]).code == Some(0)).then_some(()));
    drop(held);
    lineage.renew(&world.ca);
    let _ = world.hook(&lineage).ended(0);
    until("somebody gets in again", PATIENCE, || (world.server(&["--push"]).code == Some(0)).then_some(()));
    let lines = client.said().matches("Cannot accept a connection").count();
    assert!(lines < 30, "{lines} lines");
    assert!(client.runs() && children(client.id()).contains(&receiver));
}

#[test]
fn ten_thousand_wrong_keys_are_one_line_for_each_connection() {
    const CONNECTIONS: usize = 2000;
    const KEYS: usize = 5;
    const AT_ONCE: usize = 300;
    let world = World::new();
    let target = world.target("web", &["a.example"]);
    let mut lineage = world.lineage("a.example", &["a.example"]);
    world.write_server(&[&target]);
    let text = std::fs::read_to_string(&target.config).expect("client.yml");
    std::fs::write(&target.config, text.replace("sftpd:\n", "sftpd:\n  max_startups: 512\n")).expect("write");
    let client = start(&target, 2048);
    let receiver = receiver(&client);
    let _ = push(&world, &lineage).expect("the first push");
    let keys: Vec<_> = (0..KEYS).map(|n| world.path(&format!("wrong{n}"))).collect();
    keys.iter().for_each(|path| _ = key::generate(path, "stranger").expect("a key"));
    let keys: Vec<_> = keys.iter().map(std::path::PathBuf::as_path).collect();
    let attempt = |n: usize| -> Child {
        let mut ssh = ssh::client_from(address(n), "root", target.port, &keys);
        ssh.args(["-N", "127.0.0.1"]).stderr(Stdio::null()).stdout(Stdio::null());
        ssh.spawn().expect("ssh")
    };
    let mut trying: Vec<Child> = Vec::new();
    let mut longest = Duration::ZERO;
    for n in 0..CONNECTIONS {
        trying.push(attempt(n));
        until("one of them gives up", PATIENCE, || {
            trying.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
            (trying.len() < AT_ONCE).then_some(())
        });
        if n % (CONNECTIONS / 5) == 0 {
            lineage.renew(&world.ca);
            longest = longest.max(push(&world, &lineage).unwrap_or_else(|said| panic!("push at {n}: {said}")));
        }
    }
    until("all have given up", PATIENCE, || {
        trying.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        trying.is_empty().then_some(())
    });
    let said = client.said();
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("not a pusher's name and key")).collect();
    println!("{CONNECTIONS} connections, {} lines, longest push {longest:?}", lines.len());
    assert!((1..=CONNECTIONS).contains(&lines.len()), "{} lines about {CONNECTIONS} connections", lines.len());
    assert!(lines.iter().all(|line| line.starts_with("INFO:") && line.len() < 300), "{}", lines[0]);
    let whole = lines.iter().filter(|line| line.contains("(and 4 more like it)")).count();
    assert!(whole * 10 > CONNECTIONS * 9, "{whole} connections tried all their keys");
    assert!(longest < IN_TIME, "{longest:?}");
    assert!(memory::status(receiver, "VmHWM:") < MEMORY);
}

#[test]
fn one_address_alone_cannot_take_every_place() {
    let world = World::new();
    let target = world.target("web", &["a.example"]);
    let lineage = world.lineage("a.example", &["a.example"]);
    world.write_server(&[&target]);
    let _client = target.start();
    let alone = Ipv4Addr::new(127, 9, 0, 1);
    let _held: Vec<OwnedFd> = (0..300).filter_map(|_| connect(alone, target.port, Says::Nothing).ok()).collect();
    let _ = world.hook(&lineage).ended(0);
    let _ = world.server(&["--push"]).ended(0);
}

/// Behind one address translation, or one proxy: before anybody has authenticated, and after.
#[test]
fn strangers_at_the_pushers_own_address_do_not_keep_it_out() {
    let world = World::new();
    let target = world.target("web", &["a.example"]);
    let mut lineage = world.lineage("a.example", &["a.example"]);
    world.write_server_with(&[&target], &world.queue(), "push_retries: 0\n");
    let client = target.start();
    let mut held: Vec<OwnedFd> = Vec::new();
    for count in [8, 300] {
        held.extend((0..count).filter_map(|_| connect(Ipv4Addr::LOCALHOST, target.port, Says::Nothing).ok()));
        for _ in 0..3 {
            if let Err(said) = push(&world, &lineage) {
                panic!("beside {count}: {said}\n{}", client.said());
            }
            lineage.renew(&world.ca);
        }
    }
}
