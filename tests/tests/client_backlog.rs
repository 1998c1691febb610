//! What the client's daemon does with much at once, or with what it cannot do now: it beats while it works off many
//! uploads, tries again what could not be placed at its start, and does without a lineage it cannot read.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use certdeploy_common::cert::FileName;
use certdeploy_tests::manager::Manager;
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::process::{command, run};
use certdeploy_tests::wait::PATIENCE;
use certdeploy_tests::{Daemon, Lineage, Target, World, sftp, until};
use rustix::fs::{FlockOperation, flock};

fn stage(target: &Target, lineage: &Lineage, names: &[FileName]) {
    let staged = target.source.join(&lineage.name);
    std::fs::create_dir_all(&staged).unwrap();
    for name in names {
        std::fs::copy(lineage.live.join(name.as_str()), staged.join(name.as_str())).unwrap();
    }
}

const PAIR: [FileName; 2] = [FileName::Fullchain, FileName::Privkey];

#[test]
fn it_beats_while_it_works_off_many_uploads() {
    const UPLOADS: usize = 6;
    const WATCHDOG: Duration = Duration::from_secs(3);
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    let manager = Manager::at(&world.path("notify"));
    let mut command = target.command();
    command.arg("--daemon").env("NOTIFY_SOCKET", &manager.name);
    command.env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
    let mut client = Daemon::start("certdeploy-client", command, &target.log);
    client.says("Listening for incoming connections");
    let lineages: Vec<Lineage> =
        (0..UPLOADS).map(|number| format!("n{number}.example")).map(|name| world.lineage(&name, &[&name])).collect();
    let mut batch = String::new();
    for lineage in &lineages {
        let _ = writeln!(batch, "-mkdir /{}", lineage.name);
        for name in PAIR {
            let _ = writeln!(
                batch,
                "put {} /{}/{}",
                lineage.live.join(name.as_str()).display(),
                lineage.name,
                name.as_str()
            );
        }
    }
    // Somebody else is at work on `destination` most of the time, so that each upload takes a second or so.
    let over = Arc::new(AtomicBool::new(false));
    let busy = {
        let (over, held) = (Arc::clone(&over), std::fs::File::open(&target.destination).unwrap());
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                flock(&held, FlockOperation::LockExclusive).unwrap();
                std::thread::sleep(Duration::from_millis(1000));
                flock(&held, FlockOperation::Unlock).unwrap();
                std::thread::sleep(Duration::from_millis(30));
            }
        })
    };
    let _ = sftp::batch(&world, target.port, &target.pinned, &batch).ended(0);
    let (begun, mut beats, mut last, mut longest) = (Instant::now(), manager.beats(), Instant::now(), Duration::ZERO);
    until("all are deployed", PATIENCE, || {
        if manager.beats() > beats {
            (beats, last) = (manager.beats(), Instant::now());
        }
        longest = longest.max(last.elapsed());
        lineages.iter().all(|lineage| target.holds(lineage)).then_some(())
    });
    over.store(true, Ordering::Relaxed);
    busy.join().unwrap();
    assert!(begun.elapsed() > WATCHDOG, "there was a backlog: {:?}", begun.elapsed());
    assert!(longest < WATCHDOG, "silent for {longest:?}: {}", client.said());
    assert_eq!(client.stop().code(), Some(0), "{}", client.said());
}

#[test]
fn a_set_that_grows_at_the_start_is_taken_when_it_is_whole() {
    let world = World::new();
    let mut target = world.target("web1", &["example.com"]);
    target.extra = "settle_time: 4\n".to_owned();
    target.write_config();
    let lineage = world.lineage("example.com", &["example.com"]);
    stage(&target, &lineage, &[FileName::Fullchain]);
    let key = target.source.join("example.com/privkey.pem");
    std::fs::write(&key, &lineage.issued.privkey[..30]).unwrap();
    let mut client = target.start();
    assert!(client.said().contains("is still arriving"), "{}", client.said());
    std::fs::write(&key, &lineage.issued.privkey).unwrap();
    until("it is in place", PATIENCE, || target.holds(&lineage).then_some(()));
    target.updates(&lineage);
    assert_eq!(client.stop().code(), Some(0), "{}", client.said());
}

/// The daemon as root that may not read everything: without the two capabilities that make up for a missing mode.
fn restricted(target: &Target, words: &[&str]) -> Command {
    let client = target.command();
    let mut setpriv = command("/usr/bin/setpriv");
    setpriv.args(["--bounding-set", "-dac_override,-dac_read_search"]);
    setpriv.arg(client.get_program()).args(client.get_args()).args(words);
    setpriv
}

#[test]
fn a_lineage_that_cannot_be_read_stops_neither_the_daemon_nor_another_one() {
    let needs = [Need::Root, Need::Program("setpriv")];
    if !can_run("client_backlog::a_lineage_that_cannot_be_read", &needs) {
        return;
    }
    let world = World::new();
    let target = world.target("web1", &["a.example", "b.example"]);
    let [one, mut two] = ["a.example", "b.example"].map(|name| world.lineage(name, &[name]));
    for lineage in [&one, &two] {
        stage(&target, lineage, &PAIR);
    }
    let _ = target.one_pass().ended(0);
    // Its links can be followed, so it is a lineage; what it has cannot be listed.
    let mode = |mode| {
        let directory = target.deployed("a.example");
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(0o311);
    let said = run(restricted(&target, &["update"])).ended(1).said();
    assert!(said.contains("a.example`, so nobody is told of it"), "{said}");
    two.renew(&world.ca);
    stage(&target, &two, &PAIR);
    let mut client = Daemon::start("certdeploy-client", restricted(&target, &["--daemon"]), &target.log);
    client.says("Listening for incoming connections");
    assert!(target.holds(&two), "{}", client.said());
    target.updates(&two);
    client.signal(rustix::process::Signal::HUP);
    client.says("Reloaded `");
    assert!(client.runs(), "{}", client.said());
    mode(0o755);
    assert_eq!(client.stop().code(), Some(0), "{}", client.said());
}

#[test]
fn what_somebody_may_not_read_is_said_to_him_and_not_taken_for_nothing() {
    let needs = [Need::Root, Need::Program("setpriv")];
    if !can_run("client_backlog::what_somebody_may_not_read", &needs) {
        return;
    }
    let world = World::new();
    let target = world.target("web1", &["a.example"]);
    let mut lineage = world.lineage("a.example", &["a.example"]);
    stage(&target, &lineage, &PAIR);
    let _ = target.one_pass().ended(0);
    lineage.renew(&world.ca);
    stage(&target, &lineage, &PAIR);
    let _ = target.one_pass().ended(0);
    let told = || std::fs::read_to_string(target.deployed("a.example").join(".updates.json")).unwrap();
    let before = told();
    for (place, denied, usual) in [("", 0o000, 0o755), ("..data/.record.json", 0o200, 0o600), ("..data", 0o000, 0o755)]
    {
        let path = target.deployed("a.example").join(place);
        let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(denied);
        let rollback = run(restricted(&target, &["rollback", "a.example"])).ended(1).said();
        assert!(rollback.contains("cannot read lineage a.example: Permission denied"), "{place}: {rollback}");
        // What cannot even be looked into may be somebody else's.
        let update = run(restricted(&target, &["update"])).ended(i32::from(!place.is_empty())).said();
        let words = if place.is_empty() {
            "a.example` cannot be looked into"
        } else {
            "a.example`, so nobody is told of it: Perm"
        };
        assert!(update.contains(words), "{place}: {update}");
        mode(usual);
    }
    assert_eq!(told(), before);
    assert!(target.holds(&lineage), "nothing was touched");
}
