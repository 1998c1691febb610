//! A thousand deployments under the eyes of readers: the pair is swapped as one, no path is ever without its file, and no
//! key is ever readable by others or written elsewhere. The same again and older ones change nothing.

use certdeploy_tests::World;
use certdeploy_tests::ca::Validity;
use certdeploy_tests::key_watch::{KeyWatch, canary, shown, without_umask};
use certdeploy_tests::process::Daemon;
use certdeploy_tests::readers::Readers;
use certdeploy_tests::scene::Scene;
use certdeploy_tests::wait::{PATIENCE, holds_within};

const DEPLOYMENTS: u32 = 1000;

#[test]
fn no_reader_sees_a_mixed_or_missing_pair_or_a_key_through_a_thousand_deployments() {
    let world = World::new();
    let mut target = world.target("web1", &["example.com"]);
    target.updates = false;
    // So that old generations are taken away under the eyes of the readers, too.
    target.extra = "generation_min_age: 5\n".to_owned();
    target.write_config();
    let config = std::fs::read_to_string(&target.config).unwrap();
    std::fs::write(&target.config, config.replace("sftpd:\n", "sftpd:\n  log_level: DEBUG\n")).unwrap();
    world.write_server(&[&target]);
    let mut lineage = world.lineage("example.com", &["example.com"]);
    let mut daemon = target.command();
    daemon.arg("--daemon");
    let mut client = Daemon::start("certdeploy-client", without_umask(&daemon), &target.log);
    client.says("Listening for incoming connections at");
    let _server = world.start_server();
    let _ = world.hook(&lineage).ended(0);
    target.receives(&lineage);

    let readers = Readers::start(&target.deployed("example.com"), &lineage.issued);
    let watch = KeyWatch::start(vec![target.source.clone(), target.destination.clone()]);
    let mut canaries = vec![canary(&lineage.issued)];
    for number in 2..=DEPLOYMENTS {
        let issued = world.ca.issue(&lineage.domains, Validity::usual(number));
        canaries.push(canary(&issued));
        readers.expect(&issued);
        lineage.install(issued);
        let _ = world.hook(&lineage).ended(0);
        let deployed = holds_within(PATIENCE, || target.holds(&lineage));
        assert!(deployed, "issue {number} was not deployed");
        if number % 50 == 0 {
            let shown = shown(client.id());
            assert!(!canaries.iter().any(|canary| shown.contains(canary)), "argv or environment");
        }
    }
    let seen = readers.stop();
    assert_eq!(seen.faults, Vec::<String>::new());
    assert!(seen.pairs > u64::from(DEPLOYMENTS) && seen.files > u64::from(DEPLOYMENTS), "{seen:?}");
    let (private, readable) = watch.end();
    assert_eq!(readable, Vec::<String>::new());
    assert!(private > u64::from(DEPLOYMENTS), "{private}");
    let said = client.said();
    assert!(said.matches("Deployed lineage example.com").count() > 900, "the log is there");
    assert!(!canaries.iter().any(|canary| said.contains(canary)), "a key is in the log");
    println!("{DEPLOYMENTS} deployments, {} pairs and {} files read, 0 faults", seen.pairs, seen.files);
}

#[test]
fn the_same_a_hundred_times_is_no_update_and_an_older_one_is_refused() {
    let (mut scene, client) = Scene::deployed("push_retries: 0\n");
    let again = || {
        let live = scene.lineage.live.display().to_string();
        scene.world.server(&["--push", "--lineage", &live, "--domains", "example.com"])
    };
    let (runs, had) = (scene.target.script_runs(), scene.target.snapshot());
    for _ in 0..100 {
        let _ = again().ended(0);
    }
    assert_eq!(client.said().matches("is in place already").count(), 100, "each of them was a push");
    assert_eq!((scene.target.script_runs(), scene.target.snapshot()), (runs.clone(), had.clone()));
    let usual = Validity::usual(0);
    let older = scene.world.ca.issue(&scene.lineage.domains, Validity { from: usual.from - 3600, ..usual });
    scene.lineage.install(older);
    // Through a server that knows nothing of what it has pushed before, so that only the client is left to refuse it.
    scene.world.write_server_with(&[&scene.target], &scene.world.path("server/other-queue"), "push_retries: 0\n");
    let live = scene.lineage.live.display().to_string();
    let ran = scene.world.server(&["--push", "--lineage", &live, "--domains", "example.com"]).ended(3);
    assert!(ran.said().contains("is older than the deployed one"), "{}", ran.said());
    assert_eq!((scene.target.script_runs(), scene.target.snapshot()), (runs, had));
}
