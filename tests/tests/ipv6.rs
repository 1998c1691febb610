//! Pushers and the client over IPv6: ours, the Python server, sftp; and one socket for both families. Names that have
//! addresses of both are in `enroll`.

use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::process::command;
use certdeploy_tests::wait::PATIENCE;
use certdeploy_tests::{Daemon, Lineage, Target, World, python, until};

fn listens_at(target: &Target, address: &str) -> Daemon {
    let config = std::fs::read_to_string(&target.config).unwrap();
    let text = config.replace("listen_address: 127.0.0.1", &format!("listen_address: '{address}'"));
    std::fs::write(&target.config, text).unwrap();
    let mut client = target.start_unseen();
    client.says(&format!("Listening for incoming connections at {address}:"));
    client
}

fn connects_to(world: &World, address: &str) {
    let config = std::fs::read_to_string(world.server_config()).unwrap();
    let text = config.replace("address: 127.0.0.1", &format!("address: '{address}'"));
    std::fs::write(world.server_config(), text).unwrap();
}

fn set_up() -> (World, Target, Lineage) {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    world.write_server(&[&target]);
    let lineage = world.lineage("example.com", &["example.com"]);
    (world, target, lineage)
}

fn arrives(world: &World, target: &Target, lineage: &Lineage) {
    let _ = world.hook(lineage).ended(0);
    let _ = world.server(&["--push"]).ended(0);
    assert!(target.holds(lineage));
    target.updates(lineage);
}

#[test]
fn a_lineage_arrives_over_ipv6() {
    let (world, target, lineage) = set_up();
    let client = listens_at(&target, "::1");
    connects_to(&world, "::1");
    arrives(&world, &target, &lineage);
    assert!(client.said().contains("Got connection from ('::1', "), "{}", client.said());
}

#[test]
fn one_wildcard_serves_both_families() {
    let (world, target, mut lineage) = set_up();
    let client = listens_at(&target, "::");
    for address in ["127.0.0.1", "::1"] {
        lineage.renew(&world.ca);
        world.write_server(&[&target]);
        connects_to(&world, address);
        arrives(&world, &target, &lineage);
    }
    assert!(client.said().contains("Got connection from ('127.0.0.1', "), "not as ::ffff:127.0.0.1: {}", client.said());
}

#[test]
fn the_python_server_arrives_over_ipv6() {
    if !can_run("ipv6::the_python_server", &[Need::Python("0.5.4")]) {
        return;
    }
    let (world, target, lineage) = set_up();
    let _client = listens_at(&target, "::1");
    let server = python::Server::new("0.5.4", &world, &target, "''");
    let config = std::fs::read_to_string(&server.config).unwrap();
    std::fs::write(&server.config, config.replace("address: 127.0.0.1", "address: '::1'")).unwrap();
    let _ = server.hook(&lineage.live.display().to_string(), "example.com").ended(0);
    let push = server.run(&["--push"]).ended(0);
    until(&format!("it arrives; the server said:\n{}", push.said()), PATIENCE, || target.holds(&lineage).then_some(()));
}

#[test]
fn sftp_itself_puts_over_ipv6() {
    if !can_run("ipv6::sftp_itself", &[Need::Program("sftp")]) {
        return;
    }
    let (world, target, lineage) = set_up();
    let _client = listens_at(&target, "::1");
    let (known, batch) = (world.path("known_hosts"), world.path("batch"));
    std::fs::write(&known, format!("[::1]:{} {}\n", target.port, target.pinned)).unwrap();
    let live = lineage.live.display();
    std::fs::write(&batch, format!("mkdir example.com\nput {live}/*.pem example.com/\n")).unwrap();
    let mut sftp = command("/usr/bin/sftp");
    sftp.args(["-F", "none", "-o", "IdentitiesOnly=yes", "-o", &format!("UserKnownHostsFile={}", known.display())]);
    sftp.arg("-i").arg(world.server_key()).arg("-P").arg(target.port.to_string()).arg("-b").arg(&batch);
    let _ = certdeploy_tests::process::run({
        sftp.arg("certdeploy@[::1]");
        sftp
    })
    .ended(0);
    target.receives(&lineage);
}
