//! What SIGHUP changes at a client's daemon without a restart: modes of what is deployed, the backlog, and further
//! addresses. `client_life` has what holds for every reload.

use std::os::unix::fs::PermissionsExt;

use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::process::{Daemon, command, free_port, port_is_free, run};
use certdeploy_tests::scene::Scene;
use certdeploy_tests::wait::PATIENCE;
use certdeploy_tests::{Lineage, Target, World, until};
use rustix::process::Signal;

fn reload(client: &Daemon, target: &Target, config: &str) {
    std::fs::write(&target.config, config).unwrap();
    let reloads = || client.said().matches("Reloaded `").count();
    let before = reloads();
    client.signal(Signal::HUP);
    until(&format!("it reloads: {}", client.said()), PATIENCE, || (reloads() > before).then_some(()));
}

fn arrives(world: &World, target: &Target, lineage: &mut Lineage) {
    lineage.renew(&world.ca);
    let _ = world.hook(lineage).ended(0);
    let _ = world.server(&["--push"]).ended(0);
    assert!(target.holds(lineage));
    target.updates(lineage);
}

#[test]
fn changed_modes_are_those_of_what_is_deployed_already() {
    let (scene, mut client) = Scene::deployed("");
    let Scene { world, target, mut lineage } = scene;
    let mode = |name: &str| target.deployed("example.com").join(name).metadata().unwrap().permissions().mode() & 0o7777;
    let config = std::fs::read_to_string(&target.config).unwrap();
    assert_eq!((mode("privkey.pem"), mode("fullchain.pem")), (0o600, 0o644));
    let changed = format!("{config}file_permissions: {{privkey: {{mode: 0640}}, fullchain: {{mode: 0444}}}}\n");
    reload(&client, &target, &changed);
    assert_eq!((mode("privkey.pem"), mode("fullchain.pem")), (0o640, 0o444), "{}", client.said());
    assert!(target.holds(&lineage) && client.said().contains("`file_permissions` has changed"));
    let runs = |generation: &str| {
        let start = format!("example.com {generation} ");
        target.script_runs().iter().filter(|run| run.starts_with(&start)).count()
    };
    until("its users are told", PATIENCE, || (runs(".gen-2") == 1).then_some(()));

    // The same settings again are nothing new, and what comes next has the new modes.
    reload(&client, &target, &changed);
    assert_eq!(target.generation("example.com"), Some(".gen-2".into()));
    arrives(&world, &target, &mut lineage);
    assert_eq!((mode("privkey.pem"), target.generation("example.com")), (0o640, Some(".gen-3".into())));
    reload(&client, &target, &config);
    assert_eq!((mode("privkey.pem"), mode("fullchain.pem")), (0o600, 0o644));
    assert!(target.holds(&lineage));
    assert_eq!(client.stop().code(), Some(0), "{}", client.said());
}

/// How many connections may wait at a port of ours.
fn backlog(port: u16) -> Option<u32> {
    let mut ss = command("/usr/bin/ss");
    ss.args(["-Hltn", &format!("sport = :{port}")]);
    let said = run(ss).ended(0).stdout;
    said.split_whitespace().nth(2)?.parse().ok()
}

#[test]
fn another_backlog_and_another_address_are_taken_beside_the_one_there_is() {
    if !can_run("client_reload: backlog", &[Need::Program("ss")]) {
        return;
    }
    let (scene, mut client) = Scene::deployed("");
    let Scene { world, mut target, mut lineage } = scene;
    let (first, second) = (target.port, free_port());
    let config = std::fs::read_to_string(&target.config).unwrap();
    assert_eq!(backlog(first), Some(128));
    let shorter = config.replace("sftpd:\n", "sftpd:\n  socket_backlog: 77\n");
    reload(&client, &target, &shorter);
    assert_eq!(backlog(first), Some(77));
    arrives(&world, &target, &mut lineage);

    let one = "listen_address: 127.0.0.1\n";
    assert!(shorter.contains(one));
    let both = shorter.replace(one, &format!("listen_address: ['127.0.0.1:{second}', 127.0.0.1]\n"));
    reload(&client, &target, &both);
    assert!(client.said().contains(&format!("Listening for incoming connections at 127.0.0.1:{second}")));
    for port in [first, second, first] {
        target.connect_port = port;
        world.write_server(&[&target]);
        arrives(&world, &target, &mut lineage);
    }
    assert_eq!((backlog(first), backlog(second)), (Some(77), Some(77)));

    // What is not listened on any more is free, and the one that stays goes on.
    reload(&client, &target, &config);
    until("the second port is free", PATIENCE, || port_is_free(second).then_some(()));
    assert_eq!(backlog(first), Some(128));
    arrives(&world, &target, &mut lineage);
    assert_eq!(client.stop().code(), Some(0), "{}", client.said());
}
