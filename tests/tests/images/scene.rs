//! A host with both images, the directories that a person mounts, and a certificate authority.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use certdeploy_common::ssh::key;
use certdeploy_tests::images::{CLIENT, DEBIAN, Host, Images, SERVER};
use certdeploy_tests::pebble::Pebble;
use certdeploy_tests::process::{children, free_port};
use certdeploy_tests::{World, until};
use rustix::process::{Pid, Signal, kill_process};

const DOMAIN: &str = "a.example.test";
/// An ordinary user's id.
const USER: u32 = 1000;

/// See the module.
pub(crate) struct Scene {
    pub(crate) images: Images,
    pub(crate) world: World,
    pub(crate) pebble: Pebble,
    pub(crate) port: u16,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let world = World::new();
        let pebble = Pebble::start(&world.path("pebble"));
        let scene = Self { images: Images::ready(), world, pebble, port: free_port() };
        scene.write_configs();
        scene
    }

    pub(crate) fn host(&self) -> &Host {
        &self.images.host
    }

    pub(crate) fn mount(&self, name: &str, at: &str) -> String {
        format!("{}:{at}", self.world.path(name).display())
    }

    /// As an ordinary user with umask 002 leaves them: everything is theirs, and only the keys are private.
    pub(crate) fn write_configs(&self) {
        for name in ["conf-server", "conf-client"] {
            std::fs::create_dir(self.world.path(name)).expect("a folder");
        }
        let pusher = key::generate(&self.world.path("conf-server/server_key"), "server").expect("a key");
        let pinned = key::generate(&self.world.path("conf-client/client_key"), "client").expect("a key");
        let server = format!(
            "privkey_filename: /etc/certdeploy/server_key\nrenew_on_start: never\nclient_configs:\n  \
             - address: 127.0.0.1\n    port: {}\n    pubkey: {pinned}\n    domains: [{DOMAIN}]\n",
            self.port
        );
        let client = format!(
            "source: /certdeploy/staging\ndestination: /certdeploy/certs\nupdate_delay: null\nupdate_services:\n  \
             - {{type: docker_container, name: web}}\n  - {{type: docker_service, name: ingress}}\n  \
             - {{type: script, name: /etc/certdeploy/orphan}}\nsftpd:\n  listen_address: 127.0.0.1\n  \
             listen_port: {}\n  privkey_filename: /etc/certdeploy/client_key\n  server_pubkey: {pusher}\n",
            self.port
        );
        // Its child outlives it, and then the container's first process is the parent.
        let orphan = "#!/bin/sh\nsetsid sh -c 'sleep 0.2; touch /etc/certdeploy/alone' &\n";
        for (name, text, mode) in [
            ("conf-server/server.yml", server.as_str(), 0o664),
            ("conf-client/client.yml", client.as_str(), 0o664),
            ("conf-client/orphan", orphan, 0o775),
        ] {
            let path = self.world.path(name);
            std::fs::write(&path, text).expect("write");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("chmod");
        }
        for name in ["conf-server", "conf-client"] {
            let folder = self.world.path(name);
            std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o775)).expect("chmod");
            let files = folder.read_dir().expect("read").map(|entry| entry.expect("an entry").path());
            for path in files.chain([folder.clone()]) {
                std::os::unix::fs::chown(path, Some(USER), Some(USER)).expect("chown");
            }
        }
    }

    /// What a run of the server's image is given beside its arguments.
    pub(crate) fn server_mounts(&self) -> Vec<String> {
        let mounts = [
            self.mount("conf-server", "/etc/certdeploy"),
            self.mount("le-docker", "/etc/letsencrypt"),
            self.mount("pebble", "/pebble:ro"),
        ];
        let mut words: Vec<String> =
            ["--network", "host", "--env", "REQUESTS_CA_BUNDLE=/pebble/api.pem"].map(str::to_owned).to_vec();
        words.extend(mounts.into_iter().flat_map(|mount| ["-v".to_owned(), mount]));
        words
    }

    pub(crate) fn start_server(&self, name: &str, more: &[&str]) {
        let mounts = self.server_mounts();
        let mut words = vec![
            "run",
            "-d",
            "--name",
            name,
            "--env",
            "LOG_LEVEL=DEBUG",
            "--health-interval",
            "1s",
            "--health-timeout",
            "3s",
            "--health-retries",
            "1",
        ];
        words.extend(mounts.iter().map(String::as_str));
        words.extend(more);
        words.push(SERVER);
        let _ = self.host().ask(&words);
    }

    pub(crate) fn start_client(&self, name: &str, volume: &str) {
        let (conf, certs) = (self.mount("conf-client", "/etc/certdeploy"), format!("{volume}:/certdeploy/certs"));
        let socket = format!("{}:/var/run/docker.sock", self.host().socket().display());
        let words = ["run", "-d", "--name", name, "--network", "host", "--env", "LOG_LEVEL=DEBUG"];
        let more = [
            "--health-interval",
            "1s",
            "--health-timeout",
            "3s",
            "--health-retries",
            "1",
            "-v",
            &conf,
            "-v",
            &certs,
            "-v",
            &socket,
            CLIENT,
        ];
        let _ = self.host().ask(&[&words[..], &more].concat());
    }

    /// Issues the certificate by certbot, reached through the image's entry point.
    pub(crate) fn issue(&self) {
        let mounts = self.server_mounts();
        let port = self.pebble.http_port.to_string();
        let mut words = vec!["run", "--rm"];
        words.extend(mounts.iter().map(String::as_str));
        words.extend([SERVER, "certonly", "--standalone", "--http-01-port", &port, "--agree-tos", "--non-interactive"]);
        words.extend(["-m", "a@example.test", "--no-eff-email", "-d", DOMAIN, "--server", &self.pebble.directory]);
        let _ = self.host().ask(&words);
    }

    /// What the server has now.
    pub(crate) fn fullchain(&self) -> String {
        let path = self.world.path("le-docker/live").join(DOMAIN).join("fullchain.pem");
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Waits until a consumer, which has the volume read-only, reads what the server has.
    pub(crate) fn arrives(&self, consumer: &str) {
        let file = format!("/certs/{DOMAIN}/fullchain.pem");
        until(&format!("the certificate reaches {consumer}"), Duration::from_secs(30), || {
            let seen = self.host().docker(&["exec", consumer, "cat", &file]);
            (seen.code == Some(0) && seen.stdout == self.fullchain()).then_some(())
        });
    }

    /// A container that uses the certificates and has started.
    pub(crate) fn start_web(&self, name: &str, volume: &str) {
        let mount = format!("{volume}:/certs:ro");
        let words = ["run", "-d", "--init", "--network", "none", "--name", name, "-v", &mount, DEBIAN, "sleep", "inf"];
        let _ = self.host().ask(&words);
    }

    pub(crate) fn inspect(&self, name: &str, what: &str) -> String {
        self.host().ask(&["inspect", "--format", &format!("{{{{{what}}}}}"), name])
    }

    pub(crate) fn becomes(&self, name: &str, health: &str) {
        until(&format!("{name} becomes {health}"), Duration::from_secs(60), || {
            (self.inspect(name, ".State.Health.Status") == health).then_some(())
        });
    }

    /// `docker stop` with nothing else said: ten seconds, then KILL.
    pub(crate) fn stops(&self, name: &str) {
        let start = Instant::now();
        let _ = self.host().ask(&["stop", name]);
        assert_eq!(self.inspect(name, ".State.ExitCode"), "0", "{name} says: {}", self.log(name));
        eprintln!("{name} ended {:.1} s after docker stop", start.elapsed().as_secs_f32());
    }

    /// The daemon in a container, as this machine sees it: the child of the first process.
    pub(crate) fn daemon(&self, name: &str) -> u32 {
        let first = self.inspect(name, ".State.Pid").parse().expect("a process id");
        let children = children(first);
        assert_eq!(children.len(), 1, "{name}: {}", self.log(name));
        children[0]
    }

    pub(crate) fn log(&self, name: &str) -> String {
        self.host().docker(&["logs", name]).said()
    }
}

pub(crate) fn signal(id: u32, signal: Signal) {
    let id = i32::try_from(id).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(id, signal).expect("a signal");
}

/// The children of a process that are shells, alive or dead but not asked for.
pub(crate) fn shells(parent: u32) -> Vec<u32> {
    let stat = |id: &u32| std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    children(parent).into_iter().filter(|id| stat(id).contains(" (sh) ")).collect()
}

pub(crate) fn forced(host: &Host, service: &str) -> String {
    host.ask(&["service", "inspect", "-f", "{{.Spec.TaskTemplate.ForceUpdate}}", service])
}
