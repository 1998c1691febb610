//! The stack on a swarm of one node, see `docker.rs`; its second node, which is not there, is taken out of the config.
//! `images/stack.rs` has two.

use std::time::Duration;

use certdeploy_tests::World;
use certdeploy_tests::need::can_run;
use certdeploy_tests::network::Network;
use certdeploy_tests::wait::holds_within;

use crate::docker::{Folder, HOST, NEEDS, engine};
use crate::hosts::NAME;
use crate::reader::Reader;
use crate::{SWARM, source};

/// A swarm takes its time for everything.
const PATIENCE: Duration = Duration::from_secs(120);

/// The running container of a service.
fn container(top: &Folder<'_>, service: &str) -> Option<String> {
    let label = format!("label=com.docker.swarm.service.name={service}");
    let ids = top.does(&format!("docker ps -q -f {label} -f status=running"));
    ids.lines().next().map(str::to_owned)
}

fn reads(top: &Folder<'_>, service: &str, path: &str) -> Option<String> {
    let ran = top.engine.docker(&["exec", &container(top, service)?, "cat", path]);
    (ran.code == Some(0)).then_some(ran.stdout)
}

#[test]
fn a_stack() {
    if !can_run("ways: swarm", NEEDS) {
        return;
    }
    let (world, network) = (World::new(), Network::new());
    let engine = engine(&world, &network);
    source::sources(&world.path("repository"));
    let (reader, top) = (Reader::default(), Folder { engine: &engine, at: world.path("repository") });
    top.does(&format!("docker swarm init --advertise-addr {HOST} --listen-addr {HOST}:2377"));
    reader.follow((SWARM, "Keys and configs"), &top);
    for name in ["server", "client", "manager"] {
        let file = top.at.join(format!("docker/conf/{name}.yml"));
        let text = reader.with_keys(&std::fs::read_to_string(&file).unwrap()).replace("192.0.2.1", HOST);
        let (text, other) = text.split_once("  - <<: *client\n    name: node2").unwrap_or((&text, ""));
        assert!(other.is_empty() == (name != "server"), "the second node's entry: {text}");
        std::fs::write(file, text).unwrap();
    }
    top.socket("docker/stack.yml");
    reader.follow((SWARM, "The stack"), &top);

    let logs = |name: &str| top.engine.docker(&["service", "logs", name]).said();
    let state = || ["certdeploy_server", "certdeploy_client", "certdeploy_manager", "www_web"].map(logs).join("\n");
    assert!(holds_within(PATIENCE, || container(&top, "certdeploy_server").is_some()), "the server runs: {}", state());
    let server = container(&top, "certdeploy_server").unwrap();
    let lineage = world.lineage(NAME, &[NAME]);
    for name in ["archive", "live"] {
        top.does(&format!("docker cp {} {server}:/etc/letsencrypt/", world.letsencrypt().join(name).display()));
    }
    top.hook(&server);
    let file = format!("/certdeploy/certs/{NAME}/fullchain.pem");
    let secret = format!("{}{}", lineage.issued.fullchain, lineage.issued.privkey);
    let arrives = holds_within(PATIENCE, || {
        reads(&top, "certdeploy_client", &file).is_some_and(|text| text == lineage.issued.fullchain)
            && reads(&top, "www_web", "/run/secrets/www.pem").is_some_and(|text| text == secret)
    });
    assert!(arrives, "the renewal reaches the node's files and the service's secret: {}", state());
}
