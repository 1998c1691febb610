//! The queue with many hands on it: hooks that come together, two daemons, `--push` beside a daemon, bytes written over
//! it while it is open, rows taken out by hand, and what a Python certdeploy left.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use certdeploy_tests::chance::Chance;
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::process::{Daemon, command, run};
use certdeploy_tests::readers::Readers;
use certdeploy_tests::status::{acknowledged, line};
use certdeploy_tests::wait::PATIENCE;
use certdeploy_tests::{Lineage, Target, World, python, until};

/// How long a hook may take when 64 of them come at once on two busy cores; alone it takes some milliseconds.
const AT_ONCE: Duration = Duration::from_secs(60);

fn one_target() -> (World, Target, Lineage) {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    world.write_server(&[&target]);
    let lineage = world.lineage("example.com", &["example.com"]);
    (world, target, lineage)
}

/// The number of the generation that is deployed.
fn generation(target: &Target, lineage: &Lineage) -> u32 {
    let name = target.generation(&lineage.name).unwrap();
    name.to_string_lossy().trim_start_matches(".gen-").parse().unwrap()
}

#[test]
fn two_eight_and_sixty_four_hooks_at_once_all_get_in() {
    let names: Vec<String> = (0..8).map(|number| format!("l{number}.example")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for daemon in [false, true] {
        let world = World::new();
        let target = world.target("web1", &names);
        world.write_server(&[&target]);
        let mut lineages: Vec<Lineage> = names.iter().map(|name| world.lineage(name, &[name])).collect();
        let _client = target.start();
        let server = daemon.then(|| world.start_server());
        for hooks in [2, 8, 64] {
            lineages.iter_mut().take(hooks).for_each(|lineage| lineage.renew(&world.ca));
            let took = std::thread::scope(|scope| {
                let hook = |number: usize| world.hook_command(&lineages[number % lineages.len()]);
                let started: Vec<_> = (0..hooks).map(|number| scope.spawn(move || run(hook(number)))).collect();
                let ended = started.into_iter().map(|hook| hook.join().unwrap().ended(0).elapsed);
                ended.max().unwrap()
            });
            println!("{hooks} hooks at once, daemon {daemon}: the slowest took {took:?}");
            assert!(took < AT_ONCE, "{hooks} hooks: {took:?}");
            if server.is_none() {
                let _ = world.server(&["--push"]).ended(0);
            }
            lineages.iter().take(hooks).for_each(|lineage| target.receives(lineage));
        }
        drop(server);
    }
}

#[test]
fn a_hook_during_a_push_of_the_same_lineage_wins_and_nothing_is_mixed() {
    let (world, target, mut lineage) = one_target();
    let _client = target.start();
    let server = world.start_server();
    let _ = world.hook(&lineage).ended(0);
    target.receives(&lineage);
    let readers = Readers::start(&target.deployed("example.com"), &lineage.issued);
    let mut chance = Chance::new("queue::hook_during_push");
    for number in 0..12 {
        // Two renewals, the second somewhere in the push of the first.
        for issue in 0..2 {
            let issued =
                world.ca.issue(&lineage.domains, certdeploy_tests::ca::Validity::usual(2 + 2 * number + issue));
            readers.expect(&issued);
            lineage.install(issued);
            let _ = world.hook(&lineage).ended(0);
            std::thread::sleep(chance.moment(Duration::from_millis(30)));
        }
        target.receives(&lineage);
        until("the newest is acknowledged", PATIENCE, || acknowledged(&world.status(), "web1", &lineage).then_some(()));
    }
    let seen = readers.stop();
    assert_eq!(seen.faults, Vec::<String>::new());
    drop(server);
}

#[test]
fn a_second_daemon_ends_with_a_message_and_a_push_beside_the_daemon_works_with_it() {
    let (world, target, mut lineage) = one_target();
    let _client = target.start();
    let mut first = world.start_server();
    first.says("Serving 1 target");
    let second = world.server(&["--daemon"]).ended(1);
    assert!(second.said().contains("another certdeploy-server daemon is running"), "{}", second.said());
    assert!(first.runs());
    let _ = world.hook(&lineage).ended(0);
    target.receives(&lineage);
    let before = generation(&target, &lineage);
    for _ in 0..8 {
        lineage.renew(&world.ca);
        let _ = world.hook(&lineage).ended(0);
        // The daemon was woken, and these two come as well.
        let mut pushes = [world.start_push(1), world.start_push(2)];
        let ended = pushes.each_mut().map(|push| push.ends().code());
        assert_eq!(ended, [Some(0), Some(0)], "{}\n{}", pushes[0].said(), pushes[1].said());
        target.receives(&lineage);
    }
    assert_eq!(generation(&target, &lineage), before + 8, "each issue was deployed once");
    assert!(first.runs());
}

#[test]
fn a_running_daemon_survives_bytes_written_over_its_queue() {
    let (world, target, mut lineage) = one_target();
    let _client = target.start();
    let mut server = world.start_server();
    let _ = world.hook(&lineage).ended(0);
    target.receives(&lineage);
    let file = world.queue().join("queue.sqlite");
    let mut chance = Chance::new("queue::overwritten");
    for from in [0, 4096, 100] {
        // Who closes it last brings the journal into the file; before that the file's pages are not read.
        assert!(server.stop().success());
        server = world.start_server();
        server.says("Serving 1 target");
        let mut bytes = std::fs::read(&file).unwrap();
        bytes.iter_mut().skip(from).for_each(|byte| *byte = u8::try_from(chance.below(256)).unwrap());
        std::fs::write(&file, &bytes).unwrap();
        lineage.renew(&world.ca);
        let _ = world.hook(&lineage).ended(0);
        target.receives(&lineage);
        assert!(server.runs(), "{}", server.said());
    }
    assert!(asides(&world) > 0, "a damaged queue is kept");
    until("status is fine again", PATIENCE, || (world.server(&["status"]).code == Some(0)).then_some(()));
}

/// How many databases were set aside.
fn asides(world: &World) -> usize {
    let names = world.queue().read_dir().unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    let aside =
        |name: &String| name.starts_with("queue.sqlite.damaged-") && !name.contains("-wal") && !name.contains("-shm");
    names.filter(aside).count()
}

#[test]
fn what_stands_in_the_place_of_the_queue_is_set_aside_and_the_lineages_are_delivered() {
    type Kind = (&'static str, fn(&Path));
    let kinds: [Kind; 3] = [
        ("empty", |file| std::fs::write(file, "").unwrap()),
        ("garbage", |file| std::fs::write(file, "garbage ".repeat(1000)).unwrap()),
        ("a link", |file| std::os::unix::fs::symlink("/etc/passwd", file).unwrap()),
    ];
    for (what, make) in kinds {
        let (world, target, lineage) = one_target();
        std::fs::create_dir_all(world.queue()).unwrap();
        make(&world.queue().join("queue.sqlite"));
        let _client = target.start();
        let mut server = world.start_server();
        target.receives(&lineage);
        assert!(server.runs(), "{what}");
    }
    assert!(std::fs::read_to_string("/etc/passwd").unwrap().contains("root"));
}

#[test]
fn a_queue_of_a_newer_version_is_left_alone() {
    let (world, _target, lineage) = one_target();
    let _ = world.hook(&lineage).ended(0);
    let file = world.queue().join("queue.sqlite");
    let mut bytes = std::fs::read(&file).unwrap();
    // The version in the database's header.
    bytes[60..64].copy_from_slice(&9_u32.to_be_bytes());
    std::fs::write(&file, &bytes).unwrap();
    for arguments in [&["--push"][..], &["--daemon"], &["status"], &["forget", "web1"]] {
        let ran = world.server(arguments).ended(1);
        assert!(ran.said().contains("was written by a newer certdeploy-server (version 9)"), "{}", ran.said());
    }
    let hook = world.hook(&lineage).ended(1);
    assert!(hook.said().contains("newer certdeploy-server"), "{}", hook.said());
    assert_eq!(std::fs::read(&file).unwrap(), bytes);
}

#[test]
fn what_is_forgotten_is_named_and_what_would_come_back_is_said() {
    let (world, target, lineage) = one_target();
    let nothing = world.server(&["forget", "web1"]).ended(1);
    assert!(nothing.said().contains("nothing to forget"), "{}", nothing.said());
    // Owed, with a lineage from elsewhere: nothing brings that back.
    let other = Lineage::new(&world.path("elsewhere"), &world.ca, "other", &["example.com"]);
    let _ = world.hook(&other).ended(0);
    let _ = world.hook(&lineage).ended(0);
    let _ = world.server(&["--push"]).ended(3);
    let mistyped = world.server(&["forget", "wbe1"]).ended(1);
    assert!(mistyped.said().contains("did you mean \"web1\""), "{}", mistyped.said());
    let gone = world.server(&["forget", "other"]).ended(0);
    assert!(gone.stdout.contains("Forgot that other is owed to web1"), "{}", gone.said());
    assert!(!gone.stdout.contains("comes back"), "{}", gone.said());
    assert!(line(&world.status(), "web1", "other").is_none());
    // Acknowledged and still configured, beside a daemon: the next comparison would bring it back, and that is said.
    let _client = target.start();
    let mut server = world.start_server();
    target.receives(&lineage);
    until("it is acknowledged", PATIENCE, || acknowledged(&world.status(), "web1", &lineage).then_some(()));
    let back = world.server(&["forget", "web1"]).ended(0);
    assert!(back.stdout.contains("Forgot that web1 holds example.com with serial"), "{}", back.said());
    assert!(back.stdout.contains("example.com comes back for web1 with the next comparison"), "{}", back.said());
    assert!(line(&world.status(), "web1", "example.com").is_none());
    assert!(server.runs());
    // A target that left the config is still in the queue, and can be taken out.
    let _ = world.hook(&lineage).ended(0);
    until("it is back", PATIENCE, || acknowledged(&world.status(), "web1", &lineage).then_some(()));
    drop(server);
    let left = world.target("web2", &["example.com"]);
    world.write_server(&[&left]);
    let struck = world.server(&["forget", "web1"]).ended(0);
    assert!(struck.stdout.contains("Forgot that web1 holds example.com") && !struck.stdout.contains("comes back"));
    let again = world.server(&["forget", "web1"]).ended(1);
    assert!(again.said().contains("no target and no lineage called \"web1\""), "{}", again.said());
}

#[test]
fn a_target_gets_lineages_by_their_names_alone() {
    let (world, target, lineage) = one_target();
    let other = world.lineage("other", &["other.test"]);
    let wild = world.lineage("wild", &["*.example.com"]);
    let text = std::fs::read_to_string(world.server_config()).unwrap();
    let text = text.replace("    domains: [example.com]\n", "    domains: [a.example.com]\n    lineages: [other]\n");
    std::fs::write(world.server_config(), text).unwrap();
    let _client = target.start();
    for lineage in [&lineage, &other, &wild] {
        let _ = world.hook(lineage).ended(0);
    }
    let _ = world.server(&["--push"]).ended(0);
    assert!(target.holds(&other) && target.holds(&wild), "by name, and by the certificate's wildcard");
    assert!(!target.deployed("example.com").exists(), "example.com is not below *.example.com");
    let text = std::fs::read_to_string(world.server_config()).unwrap();
    let text = text.replace("    domains: [a.example.com]\n    lineages: [other]\n", "    lineages: [example.com]\n");
    std::fs::write(world.server_config(), text).unwrap();
    let _ = world.hook(&lineage).ended(0);
    let _ = world.server(&["--push"]).ended(0);
    assert!(target.holds(&lineage));
}

#[test]
fn what_a_python_certdeploy_had_queued_is_delivered() {
    if !can_run("queue::what_a_python_certdeploy_had_queued", &[Need::Python("0.5.4")]) {
        return;
    }
    let (world, target, lineage) = one_target();
    // Elsewhere, so that no comparison with `live/` would find it.
    let elsewhere = Lineage::new(&world.path("elsewhere"), &world.ca, "moved", &["example.com"]);
    std::fs::create_dir_all(world.queue()).unwrap();
    let config = world.path("python.yml");
    let text = format!(
        "privkey_filename: {}\nqueue_dir: {}\nlog_level: DEBUG\nclient_configs:\n  - address: 127.0.0.1\n    port: {}\n    \
         pubkey: {}\n    domains: [example.com]\n",
        world.server_key().display(),
        world.queue().display(),
        target.connect_port,
        target.pinned
    );
    std::fs::write(&config, text).unwrap();
    for lineage in [&lineage, &elsewhere] {
        let mut hook = command(python::program("0.5.4", "certdeploy-server").unwrap());
        hook.env("RENEWED_LINEAGE", &lineage.live).env("RENEWED_DOMAINS", "example.com");
        let _ = run({
            hook.env("CERTDEPLOY_SERVER_CONFIG", &config);
            hook
        })
        .ended(0);
    }
    assert!(world.queue().join("queue.json").is_file());
    let _client = target.start();
    let ran = world.server(&["--push"]).ended(0);
    assert!(target.holds(&lineage) && target.holds(&elsewhere), "{}", ran.said());
    let names = world.queue().read_dir().unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    let json: BTreeSet<String> = names.filter(|name| name.starts_with("queue.json")).collect();
    assert!(json.len() == 1 && json.iter().all(|name| name.starts_with("queue.json.imported-")), "{json:?}");
    let before = generation(&target, &elsewhere);
    let _ = world.server(&["--push"]).ended(0);
    assert_eq!(generation(&target, &elsewhere), before);
}

/// `--push` in the background.
trait StartPush {
    fn start_push(&self, number: u32) -> Daemon;
}

impl StartPush for World {
    fn start_push(&self, number: u32) -> Daemon {
        Daemon::start("--push", self.server_command(&["--push"]), &self.path(&format!("push{number}.log")))
    }
}
