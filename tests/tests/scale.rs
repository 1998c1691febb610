//! Many targets, a tenth of them dead, each in one of three ways: the live ones are all acknowledged while the dead are
//! still being waited for, and the dead stay owed. `CERTDEPLOY_TEST_TARGETS` is how many; a thousand take a debug build
//! some minutes. How long it takes is for `measure`.

use std::time::Duration;

use certdeploy_tests::fleet::{Death, Fleet};
use certdeploy_tests::wait::until;

/// Debug builds of both daemons on two cores that do other things as well.
const LONG: Duration = Duration::from_secs(240);

#[test]
fn many_targets_do_not_wait_for_dead_ones() {
    let given = std::env::var("CERTDEPLOY_TEST_TARGETS").ok().and_then(|text| text.parse().ok());
    let count: usize = given.unwrap_or(120);
    let (live, each) = (count - count / 30 * 3, count / 30);
    let fleet = Fleet::new(512);
    // Connecting gives up after a time that is longer than this test may take: who holds a place meanwhile is seen.
    let more = "push_concurrency: 4\npush_retries: 0\npush_retry_interval: 900\nsftp_tcp_timeout: 900\n\
                sftp_banner_timeout: 900\npush_timeout: 900\nstop_timeout: 1\n";
    fleet.write(live, &[(each, Death::Refused), (each, Death::Dropped), (each, Death::Silent)], more);
    let mut lineage = fleet.world.lineage("example.com", &["example.com"]);
    let server = fleet.world.start_server();
    let pushed = |times: usize| {
        until(&format!("{times} are pushed"), LONG, || {
            std::thread::sleep(Duration::from_millis(50));
            (server.said().matches("Pushed ").count() >= times).then_some(())
        });
    };
    pushed(live);
    fleet.target.receives(&lineage);
    lineage.renew(&fleet.world.ca);
    let _ = fleet.world.hook(&lineage).ended(0);
    pushed(2 * live);
    fleet.target.receives(&lineage);
    assert_eq!(server.said().matches("Connection refused").count(), 2 * each, "the refused, twice");
    drop(server);
    let status = fleet.world.status();
    let lines = status["deliveries"].as_array().unwrap();
    let count = |state: &str| lines.iter().filter(|line| line["state"] == state).count();
    assert_eq!((count("delivered"), count("owed"), lines.len()), (live, 3 * each, live + 3 * each));
}
