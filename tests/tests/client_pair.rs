//! The client's two processes and others beside them: one dies, a second daemon comes.

use std::path::Path;
use std::time::{Duration, Instant};

use certdeploy_tests::process::children;
use certdeploy_tests::wait::PATIENCE;
use certdeploy_tests::{Daemon, World, until};
use rustix::process::{Pid, Signal, kill_process};

fn signal(id: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(id).unwrap()).unwrap(), signal).unwrap();
}

#[test]
fn if_either_process_dies_the_other_one_ends() {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    let mut client = target.start();
    let Some(receiver) = children(client.id()).first().copied() else { return };
    signal(receiver, Signal::KILL);
    let ended = client.ends();
    assert_eq!(ended.code(), Some(1), "{}", client.said());
    assert!(client.said().contains("ERROR:certdeploy-client: the receiver has ended: signal: 9"), "{}", client.said());
    let mut client = target.start();
    let receiver = children(client.id())[0];
    client.kill();
    until("the receiver ends", PATIENCE, || (!Path::new(&format!("/proc/{receiver}/fd")).exists()).then_some(()));
    // Nothing is left that keeps the next one from starting.
    let _client = target.start();
}

#[test]
fn a_second_daemon_says_what_it_waits_for() {
    let world = World::new();
    let mut target = world.target("web1", &["example.com"]);
    target.updates = false;
    target.extra = "  drain_timeout: 1\n".to_owned();
    target.write_config();
    let mut first = target.start();
    let mut command = target.command();
    command.arg("--daemon");
    let begun = Instant::now();
    let mut second = Daemon::start("the second", command, &world.path("second.log"));
    second.says("WARNING:certdeploy-client: Another certdeploy-client is at work on `");
    assert!(
        begun.elapsed() < Duration::from_secs(10) && second.said().contains("waits 11 seconds"),
        "{}",
        second.said()
    );
    assert_eq!(second.ends().code(), Some(1), "{}", second.said());
    assert!(second.said().contains("ERROR:certdeploy-client: CertDeployError: Another certdeploy-client is at work"));
    // One that ends in time is followed.
    let mut command = target.command();
    command.arg("--daemon");
    let mut third = Daemon::start("the third", command, &world.path("third.log"));
    third.says("Another certdeploy-client is at work");
    assert_eq!(first.stop().code(), Some(0));
    third.says("Listening for incoming connections");
    assert_eq!(third.stop().code(), Some(0));
}

#[test]
fn a_staging_directory_that_was_removed_ends_the_daemon_which_then_starts_whole() {
    let world = World::new();
    let mut target = world.target("web1", &["example.com"]);
    target.updates = false;
    target.write_config();
    let mut client = target.start();
    std::fs::remove_dir_all(target.source.join(".incoming")).unwrap();
    assert_eq!(client.ends().code(), Some(1), "{}", client.said());
    assert!(client.said().contains("was removed or replaced while the daemon ran"), "{}", client.said());
    let _client = target.start();
    world.write_server(&[&target]);
    let lineage = world.lineage("example.com", &["example.com"]);
    let _ = world.hook(&lineage).ended(0);
    let _ = world.server(&["--push"]).ended(0);
    assert!(target.holds(&lineage));
}

#[test]
fn a_pass_beside_a_daemon_says_so_and_leaves_the_work_to_it() {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    let _client = target.start();
    let said = certdeploy_tests::process::run(target.command()).ended(0).said();
    let words = format!("Another certdeploy-client is at work on `{}`; nothing done", target.source.display());
    assert!(said.contains(&words), "{said}");
}
