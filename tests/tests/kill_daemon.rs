//! `kill -9` of the server's daemon at each of its steps, which its log and the target tell apart: everything is
//! acknowledged within ten seconds of the restart, and the updates ran once for each generation.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use certdeploy_tests::process::Daemon;
use certdeploy_tests::status::acknowledged;
use certdeploy_tests::wait::until;
use certdeploy_tests::{Lineage, Target, World};

/// What is waited for before the kill.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// The hook has ended; the daemon may not have looked yet.
    Handed,
    /// The delivery is in the queue.
    Queued,
    /// The visit has begun.
    Pushing,
    /// The target has the new files; the daemon may not know.
    Deployed,
    /// It has logged the push; it may not be on the disk.
    Pushed,
}

const STEPS: [Step; 5] = [Step::Handed, Step::Queued, Step::Pushing, Step::Deployed, Step::Pushed];
const LIMIT: Duration = Duration::from_secs(10);

fn rounds() -> u32 {
    let kills: u32 = std::env::var("CERTDEPLOY_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    (kills / 5).max(1)
}

fn reach(step: Step, server: &mut Daemon, target: &Target, lineage: &Lineage) {
    match step {
        Step::Handed => {}
        // The comparison at its start may come before the hook's word.
        Step::Queued => until("it is queued", LIMIT, || {
            let said = server.said();
            (said.contains("Queued lineage") || said.contains("Pushing ")).then_some(())
        }),
        Step::Pushing => server.says("Pushing "),
        Step::Deployed => until("it is deployed", LIMIT, || target.holds(lineage).then_some(())),
        Step::Pushed => server.says("Pushed "),
    }
}

#[test]
fn whatever_it_is_killed_at_all_is_acknowledged_and_updated_once() {
    let world = World::new();
    let target = world.target("web1", &["a.example"]);
    world.write_server(&[&target]);
    let mut lineage = world.lineage("a.example", &["a.example"]);
    let client = target.start();
    let mut server = world.start_server();
    let settled = |lineage: &Lineage| {
        until("it is acknowledged within ten seconds", LIMIT, || {
            acknowledged(&world.status(), "web1", lineage).then_some(())
        });
    };
    settled(&lineage);
    target.updates(&lineage);
    for _ in 0..rounds() {
        for step in STEPS {
            // A daemon that has said nothing of this renewal yet.
            server.kill();
            server = world.start_server();
            server.says("Serving ");
            lineage.renew(&world.ca);
            let _ = world.hook(&lineage).ended(0);
            reach(step, &mut server, &target, &lineage);
            server.kill();
            let start = Instant::now();
            server = world.start_server();
            settled(&lineage);
            println!("{step:?}: {:?} after the restart", start.elapsed());
            target.updates(&lineage);
        }
    }
    drop(server);
    let mut runs = HashMap::<String, u32>::new();
    for line in target.script_runs() {
        *runs.entry(line).or_default() += 1;
    }
    assert_eq!(runs.len(), 1 + 5 * usize::try_from(rounds()).unwrap(), "a run for each generation");
    assert_eq!(runs.into_iter().find(|(_, runs)| *runs != 1), None, "and one only");
    drop(client);
}
