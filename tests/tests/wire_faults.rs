//! Targets and networks that break, stall or lie: each push ends within its limits with a reason, nothing of it stays
//! behind, and the next push goes through.

use std::sync::Arc;
use std::time::{Duration, Instant};

use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::peer::Peer;
use certdeploy_tests::process::binary;
use certdeploy_tests::status::{acknowledged, line};
use certdeploy_tests::wait::PATIENCE;
use certdeploy_tests::wire_tap::{Fault, Kind, Recording, Way, WireTap};
use certdeploy_tests::{Daemon, Lineage, World, sshd, until};

/// Wide enough for thirty logins at once on a busy machine.
const LIMITS: &str = "push_mode: parallel\npush_retries: 0\nsftp_tcp_timeout: 10\nsftp_banner_timeout: 10\n\
                      sftp_auth_timeout: 10\nsftp_operation_timeout: 8\npush_timeout: 12\n";

/// What a lying target does, and how the reason begins.
const LIARS: [(&str, &str); 8] = [
    ("wrong-kind", "ProtocolError: "),
    ("words", "OSError: `/.push-"),
    ("no-json", "ProtocolError: `/.push-"),
    ("deep-json", "ProtocolError: `/.push-"),
    ("another-push", "ProtocolError: the receipt is about another push"),
    ("lie", "ProtocolError: the receipt says deployed, but names other files"),
    ("nothing-held", "ProtocolError: the receipt says deployed, but names other files"),
    ("refusal", "refused:  [2J no"),
];
/// What a target does that floods or stalls; on a busy machine the reason may be the limit in each case.
const FLOODS: [(&str, &str); 9] = [
    ("silent", "TimeoutError: "),
    ("garbage", "SSHException: the target offers no SFTP: "),
    ("huge", "SSHException: the target offers no SFTP: "),
    ("mute", "TimeoutError: "),
    ("half-packet", "TimeoutError: "),
    ("wrong-ids", "TimeoutError: "),
    ("flood", "TimeoutError: "),
    ("endless", "ProtocolError: `/.push-"),
    ("drip", "TimeoutError: "),
];
/// The requests of a push, one for each way to end before it.
const REQUESTS: usize = 13;

#[test]
fn a_target_that_lies_or_closes_gets_a_reason_and_nothing_else() {
    let closes = (0..REQUESTS).map(|number| (format!("closes-{number}"), ""));
    hostile("lies", LIARS.iter().map(|(mode, words)| ((*mode).to_owned(), *words)).chain(closes).collect());
}

#[test]
fn a_target_that_floods_or_stalls_gets_a_reason_and_nothing_else() {
    hostile("floods", FLOODS.iter().map(|(mode, words)| ((*mode).to_owned(), *words)).collect());
}

fn hostile(suite: &str, cases: Vec<(String, &str)>) {
    if !can_run(&format!("wire_faults::hostile {suite}"), &[Need::Root, Need::Program("sshd")]) {
        return;
    }
    let world = World::new();
    let lineage = world.lineage("example.com", &["example.com"]);
    let target = world.target("well", &["example.com"]);
    let _client = target.start();
    let modes: Vec<String> = cases.iter().map(|(mode, _)| mode.clone()).collect();
    let started = sshd::start_instead(&world.path("sshd"), &world.pusher_key, &binary("hostile-sftp"), &modes);
    let (peers, _sshds): (Vec<_>, Vec<_>) = started.into_iter().unzip();
    let mut peers: Vec<Peer> = peers.into_iter().flatten().collect();
    peers.push(Peer::new("well", target.port, &target.pinned, "certdeploy", &target.source));
    for peer in &mut peers {
        peer.domains = vec!["example.com".to_owned()];
    }
    world.write_server_for(&peers.iter().collect::<Vec<_>>(), LIMITS);

    let start = Instant::now();
    let _ = world.hook(&lineage).ended(0);
    let pushed = world.server(&["--push"]).ended(3);
    assert!(start.elapsed() < Duration::from_secs(90), "{:?}", start.elapsed());
    assert!(target.holds(&lineage));
    let status = world.status();
    assert!(acknowledged(&status, "well", &lineage));
    let reason = |name: &str| {
        let line = line(&status, name, "example.com").unwrap_or_else(|| panic!("{name} is in {status}"));
        assert_ne!(line["state"], "delivered", "{name}");
        line["last_error"].as_str().unwrap_or_default().to_owned()
    };
    for (mode, words) in &cases {
        let reason = reason(mode);
        let known = match (suite, *words) {
            ("floods", words) => vec![words, "TimeoutError: "],
            (_, "") => vec!["OSError: `/.", "SSHException: the target offers no SFTP: "],
            (_, words) => vec![words],
        };
        assert!(known.iter().any(|start| reason.starts_with(start)), "{mode}: not {known:?}: {reason:?}");
        assert!(reason.len() < 700 && !reason.contains(char::is_control), "{mode}: {reason:?}");
    }
    assert!(!pushed.said().contains('\u{1b}') && !pushed.said().contains("panicked"), "{}", pushed.said());
    assert!(pushed.said().len() < 200_000, "{} bytes of log", pushed.said().len());
}

/// Breaks at many places of a push, either way, in every way.
fn faults(sent: u64, received: u64) -> Vec<Fault> {
    let kinds = [
        Kind::Reset,
        Kind::End,
        Kind::HalfClose,
        Kind::BlackHole,
        Kind::ZeroWindow,
        Kind::Slow(Duration::from_millis(500)),
    ];
    let places = |way: Way, whole: u64| [0, 40, 90].map(|percent| (way, whole * percent / 100));
    let places = places(Way::Up, sent).into_iter().chain(places(Way::Down, received));
    places.flat_map(|(way, after)| kinds.map(|kind| Fault { way, after, kind })).collect()
}

fn open_files(daemon: &Daemon) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", daemon.id())).unwrap().count()
}

/// One push that nothing breaks tells how long one is.
fn unbroken(world: &World, lineage: &Lineage, peer: impl Fn(&str, u16) -> Peer, port: u16) -> Arc<Recording> {
    let tap = WireTap::before(port);
    world.write_server_for(&[&peer("measured", tap.port)], "");
    let _ = world.hook(lineage).ended(0);
    let _ = world.server(&["--push"]).ended(0);
    tap.connections()[0].clone()
}

/// It would send somebody looking for a key that is where it belongs.
#[test]
fn a_connection_that_ends_at_any_byte_is_not_called_a_refused_login() {
    const ENDS: u64 = 80;
    let world = World::new();
    let lineage = world.lineage("example.com", &["example.com"]);
    let target = world.target("web", &["example.com"]);
    let _client = target.start();
    let peer = |name: &str, port: u16| {
        let mut peer = Peer::new(name, port, &target.pinned, "certdeploy", &target.source);
        peer.domains = vec!["example.com".to_owned()];
        peer
    };
    let whole = unbroken(&world, &lineage, peer, target.port).received().len() as u64;
    let taps: Vec<WireTap> = (0..ENDS).map(|_| WireTap::before(target.port)).collect();
    for (number, tap) in (0..).zip(&taps) {
        tap.breaks(Some(Fault { way: Way::Down, after: whole * number / ENDS, kind: Kind::End }));
    }
    let peers: Vec<Peer> = (0..).zip(&taps).map(|(number, tap)| peer(&format!("t{number}"), tap.port)).collect();
    // One after another: the client's door is not what this is about.
    world.write_server_for(&peers.iter().collect::<Vec<_>>(), "push_mode: serial\npush_retries: 0\n");
    let _ = world.hook(&lineage).ended(0);
    let said = world.server(&["--push"]).ended(3).said();
    assert!(said.contains("SSHException: while logging in: the connection was closed"), "{said}");
    assert!(!said.contains("AuthenticationException"), "{said}");
}

#[test]
fn a_connection_that_breaks_anywhere_is_tried_again_and_leaves_nothing() {
    let world = World::new();
    let mut lineage = world.lineage("example.com", &["example.com"]);
    let target = world.target("web", &["example.com"]);
    let mut client = target.start();
    let peer = |name: &str, port: u16| {
        let mut peer = Peer::new(name, port, &target.pinned, "certdeploy", &target.source);
        peer.domains = vec!["example.com".to_owned()];
        peer
    };
    let whole = unbroken(&world, &lineage, peer, target.port);
    let faults = faults(whole.sent().len() as u64, whole.received().len() as u64);

    let taps: Vec<WireTap> = faults.iter().map(|_| WireTap::before(target.port)).collect();
    let peers: Vec<Peer> =
        faults.iter().zip(&taps).enumerate().map(|(number, (_, tap))| peer(&format!("t{number}"), tap.port)).collect();
    let short = "push_mode: parallel\npush_retries: 0\npush_retry_max_interval: 1\nsftp_banner_timeout: 3\n\
                 sftp_auth_timeout: 3\nsftp_operation_timeout: 3\npush_timeout: 6\nreconcile_interval: 3600\n";
    world.write_server_for(&peers.iter().collect::<Vec<_>>(), short);
    let mut server = world.start_server();
    let all_have = |lineage: &Lineage| peers.iter().all(|peer| acknowledged(&world.status(), &peer.name, lineage));
    let patience = 3 * PATIENCE;
    until("all have the first issue", patience, || all_have(&lineage).then_some(()));
    let before = open_files(&server);

    for (tap, fault) in taps.iter().zip(&faults) {
        tap.forget();
        tap.breaks(Some(*fault));
    }
    lineage.renew(&world.ca);
    let _ = world.hook(&lineage).ended(0);
    let tries = |tap: &WireTap| tap.connections().len();
    // Some late faults hit nothing that matters; whoever was cut has tried at least twice.
    until("each has been tried twice, or has it", patience, || {
        let status = world.status();
        peers
            .iter()
            .zip(&taps)
            .all(|(peer, tap)| tries(tap) >= 2 || acknowledged(&status, &peer.name, &lineage))
            .then_some(())
    });
    let tried: usize = taps.iter().map(tries).sum();
    let status = world.status();
    for (peer, fault) in peers.iter().zip(&faults) {
        let line = line(&status, &peer.name, "example.com").unwrap();
        let error = line["last_error"].as_str().unwrap_or_default();
        let known = ["", "OSError: ", "SSHException: ", "TimeoutError: ", "NoValidConnectionsError: "];
        assert!(known.iter().any(|start| error.starts_with(start)), "{fault:?}: {error}");
    }

    taps.iter().for_each(|tap| tap.breaks(None));
    until("all have the second issue", patience, || all_have(&lineage).then_some(()));
    assert!(target.holds(&lineage));
    assert_eq!(
        target.generation("example.com").unwrap(),
        std::path::Path::new(".gen-2"),
        "deployed once in {tried} tries"
    );
    assert_eq!(target.script_runs().len(), 2, "{:?}", target.script_runs());
    until("the server's descriptors are as before", PATIENCE, || (open_files(&server) <= before).then_some(()));
    let incoming = target.source.join(".incoming");
    let left = || std::fs::read_dir(&incoming).map_or(0, Iterator::count);
    until("the client keeps no halves", patience, || (left() == 0).then_some(()));
    assert!(client.runs() && server.runs() && !server.said().contains("panicked"));
    println!("{} faults, {tried} tries", faults.len());
}
