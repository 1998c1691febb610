//! `docker run` and compose on an engine in a network of its own, which has the images that are built for the tests. Beside
//! the keys, only the path of the engine's socket is another, web1.example.com is written into the server's hosts file, and
//! the images of the web server and of the proxy, which no registry is asked for, are stand-ins.

use std::path::{Path, PathBuf};
use std::time::Duration;

use certdeploy_tests::World;
use certdeploy_tests::images::{CLIENT, Host, Images, SERVER};
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::network::Network;
use certdeploy_tests::pebble::Pebble;
use certdeploy_tests::process::{Ran, command, run};
use certdeploy_tests::stand_ins::{PROXY, WEB, proxy, web};
use certdeploy_tests::wait::holds_within;

use crate::hosts::{NAME, SLOW};
use crate::reader::{Place, Reader};
use crate::{DOCKER, source};

pub(crate) const NEEDS: &[Need] = &[
    Need::Root,
    Need::Program("dockerd"),
    Need::Program("docker-compose"),
    Need::Program("ip"),
    Need::Program("pebble"),
];
/// The engine's host, as its containers see it.
pub(crate) const HOST: &str = "172.17.0.1";

/// A folder on a host with Docker.
pub(crate) struct Folder<'a> {
    pub(crate) engine: &'a Host,
    pub(crate) at: PathBuf,
}

impl Place for Folder<'_> {
    fn sh(&self, lines: &str) -> Ran {
        let socket = self.engine.socket().display().to_string();
        let mut sh = command("/bin/sh");
        sh.env("DOCKER_HOST", format!("unix://{socket}")).current_dir(&self.at);
        sh.args(["-euc", &lines.replace("-v /var/run/docker.sock:", &format!("-v {socket}:"))]);
        run(sh)
    }

    fn stays(&self, line: &str) {
        panic!("nothing stays in the foreground: {line}");
    }

    fn put(&self, path: &str, text: &str) {
        std::fs::write(self.at.join(path), text).unwrap();
    }

    fn state(&self) -> String {
        let names = self.engine.ask(&["ps", "-a", "--format", "{{.Names}}"]);
        names.lines().map(|name| format!("--- {name}\n{}", self.engine.docker(&["logs", name]).said())).collect()
    }
}

impl Folder<'_> {
    #[track_caller]
    pub(crate) fn does(&self, lines: &str) -> String {
        let ran = self.sh(lines);
        assert_eq!(ran.code, Some(0), "{lines}: {}\n{}", ran.said(), self.state());
        ran.stdout.trim().to_owned()
    }

    /// Lets a compose file or a stack mount this engine's socket.
    pub(crate) fn socket(&self, name: &str) {
        let file = self.at.join(name);
        let text = std::fs::read_to_string(&file).unwrap();
        let socket = format!("- {}:", self.engine.socket().display());
        std::fs::write(&file, text.replace("- /var/run/docker.sock:", &socket)).unwrap();
    }

    /// certbot's hook in the server's container, as certbot calls it.
    pub(crate) fn hook(&self, server: &str) {
        let hook = "/etc/letsencrypt/renewal-hooks/deploy/certdeploy-hook";
        let renewed = format!("-e RENEWED_LINEAGE=/etc/letsencrypt/live/{NAME} -e RENEWED_DOMAINS={NAME}");
        self.does(&format!("docker exec {renewed} {server} {hook}"));
    }

    /// What the web server's container reads, and how often it was told.
    fn web_has(&self, web: &str, fullchain: &str, told: usize) {
        let file = format!("/certs/{NAME}/fullchain.pem");
        let ready = holds_within(SLOW, || {
            let reads = self.engine.docker(&["exec", web, "cat", &file]).stdout.trim() == fullchain.trim();
            reads && self.engine.docker(&["logs", web]).said().matches("reloaded").count() == told
        });
        assert!(ready, "{web} does not have it: {}", self.state());
    }
}

/// An engine with the images, ours and the stand-ins.
pub(crate) fn engine(world: &World, network: &Network) -> Host {
    let images = Images::ready();
    web(&images.host, &world.path("web"));
    proxy(&images.host, &world.path("proxy"));
    let engine = Host::start(&world.path("engine"), Some(network));
    images.host.give(&engine, &[SERVER, CLIENT, PROXY, WEB]);
    engine
}

#[test]
fn docker_run_and_compose() {
    if !can_run("ways: docker", NEEDS) {
        return;
    }
    let (world, network) = (World::new(), Network::new());
    let engine = engine(&world, &network);
    by_docker_run(&world, &network, &engine);
    let names = engine.ask(&["ps", "-aq"]);
    for name in names.lines() {
        let _ = engine.ask(&["rm", "-f", name]);
    }
    by_compose(&world, &engine);
}

fn by_docker_run(world: &World, network: &Network, engine: &Host) {
    let reader = Reader::default();
    let [server, client] = ["server-host", "client-host"].map(|name| {
        std::fs::create_dir(world.path(name)).unwrap();
        Folder { engine, at: world.path(name) }
    });
    let pebble = Pebble::start_on(&world.path("pebble"), network, HOST);
    client.does("docker run -d --name web -v shared_certs:/certs:ro nginx");

    reader.follow((DOCKER, "On the host that runs certbot"), &server);
    reader.follow((DOCKER, "On each host that needs certificates"), &client);
    reader.follow((DOCKER, "Back on the host that runs certbot"), &server);
    trusts(&server, &pebble, &world.path("cli.ini"));
    looked(&server);
    reader.follow((DOCKER, "The first certificate"), &server);
    let read = || server.does(&format!("docker exec certdeploy-server cat /etc/letsencrypt/live/{NAME}/fullchain.pem"));
    client.web_has("web", &read(), 1);
    server.does("docker exec certdeploy-server certbot renew --force-renewal --no-random-sleep-on-renew");
    client.web_has("web", &read(), 2);
    for name in ["certdeploy-server", "certdeploy-client"] {
        let health = || engine.ask(&["inspect", "-f", "{{json .State.Health}}", name]);
        let healthy = holds_within(Duration::from_secs(90), || health().contains("\"Status\":\"healthy\""));
        assert!(healthy, "{}\n{}", health(), server.state());
        let _ = engine.ask(&["stop", name]);
        assert_eq!(engine.ask(&["inspect", "-f", "{{.State.ExitCode}}", name]), "0", "{}", server.state());
    }
}

/// Lets the server's container know pebble and web1.example.com, as the world's own authorities and DNS are known.
fn trusts(server: &Folder<'_>, pebble: &Pebble, settings: &Path) {
    std::fs::write(settings, format!("server = {}\n", pebble.directory)).unwrap();
    let (authority, settings) = (pebble.api_certificate.display(), settings.display());
    server.does(&format!("docker cp {settings} certdeploy-server:/etc/letsencrypt/cli.ini"));
    server.does(&format!("docker cp {authority} certdeploy-server:/pebble.pem"));
    let lines =
        format!("cat /pebble.pem >>/etc/ssl/certs/ca-certificates.crt; echo {HOST} web1.example.com >>/etc/hosts");
    server.does(&format!("docker exec certdeploy-server sh -euc '{lines}'"));
}

/// Waits until the daemon has looked for what is due, as it does at its first start: certbot refuses to be the second.
fn looked(server: &Folder<'_>) {
    let status = || server.sh("docker exec certdeploy-server certdeploy-server status").stdout;
    let ended =
        |line: &str| line.starts_with("Last renewal") && [" ok;", " failed:"].iter().any(|end| line.contains(end));
    assert!(holds_within(SLOW, || status().lines().any(ended)), "{}", server.state());
}

fn by_compose(world: &World, engine: &Host) {
    let reader = Reader::default();
    let top = Folder { engine, at: world.path("repository") };
    source::sources(&top.at);
    reader.follow((DOCKER, "Compose"), &top);
    top.socket("docker/compose.yml");
    for name in ["server", "client"] {
        let file = top.at.join(format!("docker/conf/{name}/{name}.yml"));
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(file, reader.with_keys(&text).replace("- example.com", &format!("- {NAME}"))).unwrap();
    }
    reader.follow((DOCKER, "Compose, with the keys in place"), &top);
    let container = |name: &str| top.does(&format!("docker-compose -f docker/compose.yml ps -q {name}"));
    let (server, web) = (container("certdeploy-server"), container("web"));
    let lineage = world.lineage(NAME, &[NAME]);
    for name in ["archive", "live"] {
        let from = world.letsencrypt().join(name);
        top.does(&format!("docker cp {} {server}:/etc/letsencrypt/", from.display()));
    }
    top.hook(&server);
    top.web_has(&web, &lineage.issued.fullchain, 1);
}
