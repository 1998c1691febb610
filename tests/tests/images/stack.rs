//! `docker/stack.yml` on a swarm of two nodes, each an engine in a network of its own: a renewal reaches the files and the
//! service's secret on both, and what is too old is gone.

use std::path::PathBuf;
use std::time::Duration;

use certdeploy_common::ssh::key;
use certdeploy_tests::images::{CLIENT, DEBIAN, Host, Images, SERVER};
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::network::Network;
use certdeploy_tests::{Lineage, World, until};

use crate::compose::{shipped, web, with_key};

const NEEDS: &[Need] = &[Need::Root, Need::Program("dockerd"), Need::Program("ip")];
const NAME: &str = "www.example.com";
/// What uses the certificate, in a stack of its own.
const WEB: &str = "www_web";
/// A swarm takes its time for everything.
const SLOW: Duration = Duration::from_secs(120);

struct Swarm {
    nodes: [Host; 2],
    folder: PathBuf,
    _networks: [Network; 2],
}

impl Swarm {
    fn new(world: &World) -> Self {
        let images = Images::ready();
        web(&images.host, &world.path("web"));
        let networks = [Network::new(), Network::new()];
        networks[0].join("10.78.0.1", &networks[1], "10.78.0.2");
        let nodes = [0, 1].map(|n| Host::start(&world.path(&format!("node{n}")), Some(&networks[n])));
        for node in &nodes {
            images.host.give(node, &[SERVER, CLIENT, "nginx", DEBIAN]);
        }
        let init = ["swarm", "init", "--advertise-addr", "10.78.0.1", "--listen-addr", "10.78.0.1:2377"];
        let _ = nodes[0].ask(&init);
        let token = nodes[0].ask(&["swarm", "join-token", "-q", "worker"]);
        let join = ["swarm", "join", "--token", &token, "--advertise-addr", "10.78.0.2", "10.78.0.1:2377"];
        let _ = nodes[1].ask(&join);
        let folder = world.path("stack");
        std::fs::create_dir_all(folder.join("conf")).expect("a folder");
        for node in &nodes {
            // Both engines see one file system: the template below finds each node's own socket.
            let id = node.ask(&["info", "-f", "{{.Swarm.NodeID}}"]);
            std::os::unix::fs::symlink(node.socket(), folder.join(format!("{id}.sock"))).expect("a link");
        }
        let swarm = Self { nodes, folder, _networks: networks };
        swarm.configure();
        swarm
    }

    /// The files beside `stack.yml`: the examples with keys and addresses of this swarm.
    fn configure(&self) {
        let conf = |name: &str| self.folder.join("conf").join(name);
        let pusher = key::generate(&conf("server_key"), "server").expect("a key");
        let pinned = key::generate(&conf("client_key"), "client").expect("a key");
        let addresses = |text: String| text.replace("192.0.2.", "10.78.0.").replace("delay: 10s", "delay: null");
        for (name, key) in [("server", &pinned), ("client", &pusher), ("manager", &pusher)] {
            let text = with_key(&shipped(&format!("docker/examples/stack-{name}.yml")), key);
            std::fs::write(conf(&format!("{name}.yml")), addresses(text)).expect("write");
        }
        let socket = format!("- {}/{{{{.Node.ID}}}}.sock:", self.folder.display());
        let stack = shipped("docker/stack.yml").replace("- /var/run/docker.sock:", &socket);
        let mounts = |line: &&str| line.trim_start().starts_with(&socket);
        assert_eq!(stack.lines().filter(mounts).count(), 1, "only the manager's client has the engine's socket");
        std::fs::write(self.folder.join("stack.yml"), stack).expect("write");
        std::fs::write(self.folder.join("stack-web.yml"), shipped("docker/stack-web.yml")).expect("write");
    }

    fn deploy(&self, file: &str, stack: &str) {
        let file = self.folder.join(format!("{file}.yml")).display().to_string();
        let _ = self.nodes[0].ask(&["stack", "deploy", "--resolve-image", "never", "-c", &file, stack]);
    }

    /// The running container of a service on a node.
    fn container(&self, node: &Host, service: &str) -> Option<String> {
        let label = format!("label=com.docker.swarm.service.name={service}");
        let ids = node.ask(&["ps", "-q", "-f", &label, "-f", "status=running"]);
        ids.lines().next().map(str::to_owned)
    }

    fn reads(&self, node: &Host, service: &str, path: &str) -> Option<String> {
        let ran = node.docker(&["exec", &self.container(node, service)?, "cat", path]);
        (ran.code == Some(0)).then_some(ran.stdout)
    }

    /// Everything that helps to see why.
    fn state(&self) -> String {
        let services = ["certdeploy_server", "certdeploy_client", "certdeploy_manager", WEB].map(|service| {
            let tasks = self.nodes[0].docker(&["service", "ps", "--no-trunc", service]).said();
            format!("{tasks}\n{}", self.nodes[0].docker(&["service", "logs", service]).said())
        });
        services.join("\n")
    }

    fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let holds = certdeploy_tests::wait::holds_within(SLOW, &mut condition);
        assert!(holds, "not within {SLOW:?}: {what}\n{}", self.state());
    }

    /// Gives the server what certbot would have renewed, and calls the hook as certbot does.
    fn renewed(&self, world: &World, lineage: &Lineage) {
        let server = until("the server runs", SLOW, || self.container(&self.nodes[0], "certdeploy_server"));
        for name in ["archive", "live"] {
            let from = world.letsencrypt().join(name).display().to_string();
            let _ = self.nodes[0].ask(&["cp", &from, &format!("{server}:/etc/letsencrypt/")]);
        }
        let renewed = format!("RENEWED_LINEAGE=/etc/letsencrypt/live/{NAME}");
        let domains = format!("RENEWED_DOMAINS={}", lineage.renewed_domains());
        let hook = "/etc/letsencrypt/renewal-hooks/deploy/certdeploy-hook";
        let _ = self.nodes[0].ask(&["exec", "-e", &renewed, "-e", &domains, &server, hook]);
    }

    fn versions(&self) -> Vec<String> {
        let words = ["secret", "ls", "-f", "name=www_tls-", "--format", "{{.Name}}"];
        self.nodes[0].ask(&words).lines().map(str::to_owned).collect()
    }

    /// Both nodes have it: as files, and as the service's secret.
    fn has(&self, lineage: &Lineage) {
        let issued = &lineage.issued;
        let both = format!("{}{}", issued.fullchain, issued.privkey);
        for (n, node) in self.nodes.iter().enumerate() {
            let file = format!("/certdeploy/certs/{NAME}/fullchain.pem");
            self.until(&format!("node {n} has the file"), || {
                self.reads(node, "certdeploy_client", &file).is_some_and(|text| text == issued.fullchain)
            });
            self.until(&format!("node {n} has the secret"), || {
                self.reads(node, WEB, "/run/secrets/www.pem").is_some_and(|text| text == both)
            });
        }
    }
}

#[test]
fn a_renewal_reaches_files_and_secrets_on_both_nodes() {
    if !can_run("images: stack", NEEDS) {
        return;
    }
    let world = World::new();
    let swarm = Swarm::new(&world);
    let manager = &swarm.nodes[0];
    let by_hand = swarm.folder.join("by-hand");
    std::fs::write(&by_hand, "made by hand\n").expect("write");
    let _ = manager.ask(&["secret", "create", "www_tls", &by_hand.display().to_string()]);
    let id = manager.ask(&["info", "-f", "{{.Swarm.NodeID}}"]);
    let _ = manager.ask(&["node", "update", "--label-add", "certdeploy=server", &id]);
    swarm.deploy("stack", "certdeploy");
    swarm.deploy("stack-web", "www");
    for node in &swarm.nodes {
        swarm.until("the service has the first version", || {
            swarm.reads(node, WEB, "/run/secrets/www.pem").is_some_and(|text| text == "made by hand\n")
        });
    }

    let mut lineage = world.lineage(NAME, &[NAME]);
    swarm.renewed(&world, &lineage);
    swarm.has(&lineage);
    let first = swarm.versions();
    assert_eq!(first.len(), 1, "{first:?}");
    for _ in 0..2 {
        lineage.renew(&world.ca);
        swarm.renewed(&world, &lineage);
        swarm.has(&lineage);
    }
    // Another deployment of our own stack touches nobody's secret.
    swarm.deploy("stack", "certdeploy");
    swarm.has(&lineage);
    // The current one and one older are kept.
    swarm.until("old versions are gone", || swarm.versions().len() == 2 && !swarm.versions().contains(&first[0]));
}
