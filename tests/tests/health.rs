//! `healthcheck` of both programs: healthy only while the daemon's loop turns and peers are greeted.

use std::net::TcpListener;

use certdeploy_tests::process::{children, run};
use certdeploy_tests::wait::PATIENCE;
use certdeploy_tests::{Ran, Target, World, until};
use rustix::process::{Pid, Signal, kill_process};

fn client(target: &Target) -> Ran {
    let mut command = target.command();
    command.args(["healthcheck", "--timeout", "2"]);
    run(command)
}

#[track_caller]
fn is_unhealthy(ran: Ran, why: &str) {
    let ran = ran.ended(1);
    assert!(ran.stdout.starts_with("unhealthy: ") && ran.stdout.contains(why), "{}", ran.said());
    assert_eq!((ran.stdout.lines().count(), ran.stderr.as_str()), (1, ""), "{}", ran.said());
}

fn signal(id: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(id).unwrap()).unwrap(), signal).unwrap();
}

#[test]
fn the_client_is_healthy_while_it_greets_and_its_loop_turns() {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    is_unhealthy(client(&target), "no daemon is running");
    let mut daemon = target.start();
    let ran = client(&target).ended(0);
    assert_eq!(ran.stdout, format!("healthy: listening at 127.0.0.1:{}\n", target.port));

    // Either process that is stopped is noticed.
    signal(daemon.id(), Signal::STOP);
    is_unhealthy(client(&target), "does not answer within 2 seconds");
    signal(daemon.id(), Signal::CONT);
    until("it is healthy again", PATIENCE, || (client(&target).code == Some(0)).then_some(()));
    if let Some(receiver) = children(daemon.id()).first() {
        signal(*receiver, Signal::STOP);
        is_unhealthy(client(&target), "its receiver does not greet at 127.0.0.1");
        signal(*receiver, Signal::CONT);
        until("it is healthy again", PATIENCE, || (client(&target).code == Some(0)).then_some(()));
    }

    // A config that was broken since is the next start's business; `source` is all that is needed of it.
    let config = std::fs::read_to_string(&target.config).unwrap();
    std::fs::write(&target.config, format!("{config}nonsense: 1\n")).unwrap();
    let _ = client(&target).ended(0);
    std::fs::write(&target.config, "- [").unwrap();
    is_unhealthy(client(&target), "client.yml:1:");
    std::fs::write(&target.config, config).unwrap();

    assert_eq!(daemon.stop().code(), Some(0));
    is_unhealthy(client(&target), "no daemon is running");
    // Somebody else at the port is not our daemon.
    let _other = TcpListener::bind(("127.0.0.1", target.port)).unwrap();
    is_unhealthy(client(&target), "no daemon is running");
}

#[test]
fn a_killed_daemon_is_not_healthy() {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    world.write_server(&[&target]);
    let mut daemon = target.start();
    daemon.kill();
    is_unhealthy(client(&target), "no daemon is running");
    let _again = target.start();
    let _ = client(&target).ended(0);
    let mut server = world.start_server();
    server.says("Serving 1 target");
    server.kill();
    is_unhealthy(world.server(&["healthcheck"]), "no daemon is running");
}

#[test]
fn the_server_is_healthy_while_its_loop_turns() {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    world.write_server(&[&target]);
    let check = || world.server(&["healthcheck", "--timeout", "2"]);
    is_unhealthy(check(), "no daemon is running");
    let mut daemon = world.start_server();
    daemon.says("Serving 1 target");
    let ran = check().ended(0);
    assert!(ran.stdout.starts_with("healthy: the daemon of `"), "{ran:?}");

    signal(daemon.id(), Signal::STOP);
    is_unhealthy(check(), "does not answer within 2 seconds");
    signal(daemon.id(), Signal::CONT);
    until("it is healthy again", PATIENCE, || (check().code == Some(0)).then_some(()));

    // After a reload the new loop answers; a config that was broken since changes nothing.
    daemon.signal(Signal::HUP);
    daemon.says("Reloaded `");
    let _ = check().ended(0);
    let config = std::fs::read_to_string(world.server_config()).unwrap();
    std::fs::write(world.server_config(), format!("{config}nonsense: 1\n")).unwrap();
    let _ = check().ended(0);
    std::fs::write(world.server_config(), "- [").unwrap();
    is_unhealthy(check(), "server.yml:1:");
    std::fs::write(world.server_config(), config).unwrap();

    assert_eq!(daemon.stop().code(), Some(0));
    is_unhealthy(check(), "no daemon is running");
}
