//! A thousand deployments under the eyes of readers: the pair is swapped as one, and no path is ever without its file.

use std::time::Duration;

use certdeploy_tests::World;
use certdeploy_tests::readers::Readers;
use certdeploy_tests::wait::holds_within;

const DEPLOYMENTS: u32 = 1000;

#[test]
fn no_reader_sees_a_mixed_or_missing_pair_through_a_thousand_deployments() {
    let world = World::new();
    let mut target = world.target("web1", &["example.com"]);
    target.updates = false;
    // So that old generations are taken away under the eyes of the readers, too.
    target.extra = "generation_min_age: 5\n".to_owned();
    target.write_config();
    world.write_server(&[&target]);
    let mut lineage = world.lineage("example.com", &["example.com"]);
    let _client = target.start();
    let _server = world.start_server();
    let _ = world.hook(&lineage).ended(0);
    target.receives(&lineage);

    let readers = Readers::start(&target.deployed("example.com"), &lineage.issued);
    for number in 2..=DEPLOYMENTS {
        let issued = world.ca.issue(&lineage.domains, certdeploy_tests::ca::Validity::usual(number));
        readers.expect(&issued);
        lineage.install(issued);
        let _ = world.hook(&lineage).ended(0);
        let deployed = holds_within(Duration::from_secs(20), || target.holds(&lineage));
        assert!(deployed, "issue {number} was not deployed");
    }
    let seen = readers.stop();
    assert_eq!(seen.faults, Vec::<String>::new());
    assert!(seen.pairs > u64::from(DEPLOYMENTS) && seen.files > u64::from(DEPLOYMENTS), "{seen:?}");
    println!("{DEPLOYMENTS} deployments, {} pairs and {} files read, 0 faults", seen.pairs, seen.files);
}
