//! `docker/compose.yml` with the mock certbot, word by word but for keys, and with stand-ins for the two images that are
//! not ours: a proxy that lets through what the example asks its proxy for, and a web server that says when it reloads.

use std::path::{Path, PathBuf};
use std::time::Duration;

use certdeploy_tests::World;
use certdeploy_tests::images::{CLIENT, Host, Images, SERVER};
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::network::Network;
use certdeploy_tests::process::{Ran, command, run};
pub(crate) use certdeploy_tests::stand_ins::web;
use certdeploy_tests::stand_ins::{PROXY, WEB, proxy};
use certdeploy_tests::wait::holds_within;

const NEEDS: &[Need] = &[Need::Root, Need::Program("dockerd"), Need::Program("docker-compose"), Need::Program("ip")];

/// A file of the repository.
pub(crate) fn shipped(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A config with the one key in it replaced by `key`.
pub(crate) fn with_key(text: &str, key: &str) -> String {
    let lines = text.lines().map(|line| match line.split_once("ssh-ed25519 ") {
        Some((before, _)) => format!("{before}{key}"),
        None => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The repository's part that compose needs, with configs and keys made as the examples say.
struct Project {
    host: Host,
    folder: PathBuf,
}

impl Project {
    fn new(world: &World, host: Host) -> Self {
        let project = Self { host, folder: world.path("repository") };
        for folder in ["docker/conf/server", "docker/conf/client", "tests/docker/mock"] {
            std::fs::create_dir_all(project.folder.join(folder)).expect("a folder");
        }
        let socket = format!("- {}:", project.host.socket().display());
        let compose = shipped("docker/compose.yml").replace("- /var/run/docker.sock:", &socket);
        assert!(compose.contains(&socket), "the proxy has the engine's socket");
        project.write("docker/compose.yml", &compose);
        project.write("docker/compose.mock.yml", &shipped("docker/compose.mock.yml"));
        let mock = "tests/docker/mock/mock-certbot.sh";
        project.write(mock, &shipped(mock));
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(project.folder.join(mock), executable).expect("chmod");
        let pusher = project.keygen("server", &[SERVER, "certdeploy-server"], "server_key");
        let pinned = project.keygen("client", &[CLIENT], "client_key");
        let server = with_key(&shipped("docker/examples/server-mock.yml"), &pinned);
        let client = with_key(&shipped("docker/examples/client.yml"), &pusher);
        project.write("docker/conf/server/server.yml", &server);
        project.write("docker/conf/client/client.yml", &client.replace("update_delay: 10s", "update_delay: null"));
        project
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.join(name), text).expect("write");
    }

    fn keygen(&self, side: &str, image: &[&str], name: &str) -> String {
        let mount = format!("{}:/etc/certdeploy", self.folder.join("docker/conf").join(side).display());
        let path = format!("/etc/certdeploy/{name}");
        self.host.ask(&[&["run", "--rm", "-v", &mount], image, &["keygen", &path]].concat())
    }

    fn compose(&self, words: &[&str]) -> Ran {
        let mut compose = command("/usr/bin/docker-compose");
        compose.arg("-H").arg(format!("unix://{}", self.host.socket().display())).args(["-p", "certdeploy"]);
        compose.args(["-f", "docker/compose.yml", "-f", "docker/compose.mock.yml"]).args(words);
        compose.current_dir(&self.folder);
        run(compose)
    }

    fn container(&self, service: &str) -> String {
        self.compose(&["ps", "-q", service]).ended(0).stdout.trim().to_owned()
    }
}

#[test]
fn the_compose_file_brings_a_certificate_to_a_web_server() {
    if !can_run("images: compose", NEEDS) {
        return;
    }
    let world = World::new();
    let images = Images::ready();
    web(&images.host, &world.path("web"));
    proxy(&images.host, &world.path("proxy"));
    let network = Network::new();
    let host = Host::start(&world.path("engine"), Some(&network));
    images.host.give(&host, &[SERVER, CLIENT, PROXY, WEB]);
    drop(images);
    let project = Project::new(&world, host);
    let _ = project.compose(&["up", "-d", "--no-build"]).ended(0);
    let [server, client, web] = ["certdeploy-server", "certdeploy-client", "web"].map(|name| project.container(name));

    let lineage = world.lineage("example.com", &["www.example.com", "example.com"]);
    for name in ["archive", "live"] {
        let from = world.letsencrypt().join(name).display().to_string();
        let _ = project.host.ask(&["cp", &from, &format!("{server}:/etc/letsencrypt/")]);
    }
    let said = project.host.docker(&["exec", &server, "certdeploy-server", "--renew"]).ended(0).said();
    assert!(said.contains("HOOK PASSED"), "{said}");
    let told = || project.host.docker(&["logs", &web]).said().contains("reloaded");
    let logs = || project.compose(&["logs", "--no-color"]).said();
    assert!(holds_within(Duration::from_secs(30), told), "the web server is not told: {}", logs());
    let seen = project.host.ask(&["exec", &web, "cat", "/certs/example.com/fullchain.pem"]);
    assert_eq!(seen, lineage.issued.fullchain.trim());
    let written = project.host.docker(&["exec", &web, "touch", "/certs/x"]);
    assert!(written.said().contains("Read-only"), "{}", written.said());
    // The proxy stands between: what is not needed is refused.
    let refused =
        "exec 3<>/dev/tcp/docker-proxy/2375; printf 'GET /v1.41/images/json HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3";
    assert!(project.host.ask(&["exec", &client, "bash", "-c", refused]).contains("403"));
    for name in [&server, &client] {
        let asked =
            |what: &str| project.host.ask(&["inspect", "-f", &format!("{{{{json .State.Health{what}}}}}"), name]);
        // It is asked every 30 s.
        let healthy = holds_within(Duration::from_secs(100), || asked(".Status") == "\"healthy\"");
        assert!(healthy, "not healthy: {}", asked(""));
    }
    let _ = project.compose(&["stop"]).ended(0);
    for name in [&server, &client] {
        assert_eq!(project.host.ask(&["inspect", "-f", "{{.State.ExitCode}}", name]), "0");
    }
}
