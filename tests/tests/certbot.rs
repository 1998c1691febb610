//! Real input: Debian's certbot issues from pebble, and its renewals run `certdeploy-server` as the deploy hook.

use std::time::{Duration, Instant};

use certdeploy_common::cert::FileName;
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::pebble::Pebble;
use certdeploy_tests::wait::holds_within;
use certdeploy_tests::{World, certbot};

/// What the product promises between the end of certbot and the new pair in place.
const PROMISE: Duration = Duration::from_secs(1);

#[test]
fn a_renewal_by_certbot_is_in_place_within_a_second_and_its_script_ran_once() {
    let needs = ["certbot", "pebble", "pebble-challtestsrv"].map(Need::Program);
    if !can_run("certbot::a_renewal_by_certbot", &needs) {
        return;
    }
    let world = World::new();
    let target = world.target("web1", &["a.example.test"]);
    world.write_server(&[&target]);
    let pebble = Pebble::start(&world.path("pebble"));
    let _client = target.start();
    let _server = world.start_server();
    let _ = certbot::issue(&world, &pebble, "a.example.test").ended(0);

    let live = world.letsencrypt().join("live/a.example.test");
    let issued = |name: FileName| std::fs::read_to_string(live.join(name.as_str())).unwrap();
    let holds = || {
        [FileName::Fullchain, FileName::Privkey]
            .into_iter()
            .all(|name| target.file("a.example.test", name).as_deref() == Some(&issued(name)))
    };
    // Some versions of certbot run the hook for the first issue, and a reconcile may find it: let it settle.
    let first = holds_within(PROMISE, || holds() && !target.script_runs().is_empty());
    let mut runs = target.script_runs().len();
    assert_eq!(runs, usize::from(first));
    for _ in 0..2 {
        let before = issued(FileName::Fullchain);
        let renewed = certbot::renew(&world, &pebble).ended(0);
        let ended = Instant::now();
        assert_ne!(issued(FileName::Fullchain), before, "certbot renewed:\n{}", renewed.said());
        assert!(!renewed.said().contains("error output"), "the hook complained:\n{}", renewed.said());
        assert!(holds_within(PROMISE, holds), "the new pair is in place within {PROMISE:?} of certbot's end");
        println!("in place {:?} after certbot's end", ended.elapsed());
        assert!(holds_within(PROMISE, || target.script_runs().len() == runs + 1), "{:?}", target.script_runs());
        runs += 1;
    }
    // Once: nothing else follows. The hook runs before certbot's end, so a second run would have come by now.
    assert!(!holds_within(PROMISE, || target.script_runs().len() != runs), "{:?}", target.script_runs());
}
