//! SIGHUP with a good, a bad and a missing config, SIGTERM and SIGINT, at random moments of pushes and deployments: the
//! new config holds whole or the old one is kept, the end comes in time and with 0, and every renewal arrives.

use std::time::{Duration, Instant};

use certdeploy_tests::chance::Chance;
use certdeploy_tests::process::Daemon;
use certdeploy_tests::readers::Readers;
use certdeploy_tests::scene::Scene;
use certdeploy_tests::{Target, until};
use rustix::process::Signal;

/// How long the end may take, whatever is under way.
const END: Duration = Duration::from_secs(40);
const ROUNDS: u64 = 24;

/// What becomes of the config before a SIGHUP.
fn changed(target: &Target, good: &str, round: u64) {
    let _ = match round % 3 {
        0 => std::fs::write(
            &target.config,
            good.replace("sftpd:\n", &format!("keep_generations: {}\nsftpd:\n", 3 + round % 5)),
        ),
        1 => std::fs::write(&target.config, good.replace("sftpd:\n", "sftpd:\n  lisen_port: 1\n")),
        _ => std::fs::remove_file(&target.config),
    };
}

#[test]
fn at_any_moment_of_a_push() {
    let (Scene { world, target, mut lineage }, mut client) = Scene::deployed("push_retries: 20\n");
    let good = std::fs::read_to_string(&target.config).expect("client.yml");
    let mut chance = Chance::new("signals");
    let readers = Readers::start(&target.deployed("example.com"), &lineage.issued);
    // How long a push takes here: moments are taken from it.
    let begun = Instant::now();
    lineage.renew(&world.ca);
    readers.expect(&lineage.issued);
    let _ = world.hook(&lineage).ended(0);
    let _ = world.server(&["--push"]).ended(0);
    let whole = begun.elapsed();
    for round in 0..ROUNDS {
        lineage.renew(&world.ca);
        readers.expect(&lineage.issued);
        let _ = world.hook(&lineage).ended(0);
        let mut push = Daemon::start("--push", world.server_command(&["--push"]), &world.path("server/push.log"));
        let at = Instant::now() + chance.moment(whole);
        until("the moment has come", END, || (Instant::now() >= at).then_some(()));
        if round % 4 == 3 {
            let ended = Instant::now();
            client.signal(if round % 8 == 3 { Signal::TERM } else { Signal::INT });
            assert_eq!(client.ends().code(), Some(0), "{}", client.said());
            assert!(ended.elapsed() < END);
            client = target.start();
        } else {
            changed(&target, &good, round);
            let answer = if round % 3 == 0 { "Reloaded `" } else { "is not reloaded; this daemon goes on" };
            let answered = || client.said().matches(answer).count();
            let before = answered();
            client.signal(Signal::HUP);
            until("the signal is answered", END, || (answered() > before).then_some(()));
            std::fs::write(&target.config, &good).expect("write");
        }
        let pushed = push.ends().code();
        assert_eq!(pushed, Some(0), "round {round}: {}\n{}", push.said(), client.said());
        assert!(target.holds(&lineage), "round {round}");
        target.updates(&lineage);
    }
    let seen = readers.stop();
    assert!(seen.faults.is_empty() && seen.pairs > 0, "{:#?}", seen.faults);
    assert_eq!(client.stop().code(), Some(0), "{}", client.said());
}
