//! The Python programs on loopback, in the versions that `tests/setup` made: the client as a daemon, and the server.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use certdeploy_common::ssh::key;

use crate::peer::Peer;
use crate::process::{Daemon, Ran, command, free_port, run};
use crate::wait::{PATIENCE, until};
use crate::{Lineage, Target, World};

/// A running Python certdeploy-client.
#[derive(Debug)]
pub struct Python {
    /// How the server sees it. `staged` is its `source`.
    pub peer: Peer,
    /// The program.
    pub daemon: Daemon,
    /// Where it deploys.
    pub destination: PathBuf,
    runs: PathBuf,
    sftp_log: PathBuf,
}

/// The program `name` of one version, if `tests/setup` made it.
#[must_use]
pub fn program(version: &str, name: &str) -> Option<PathBuf> {
    let own = std::env::current_exe().expect("the path of this program");
    let inside = Path::new("python").join(version);
    own.ancestors()
        .map(|folder| folder.join(&inside))
        .find(|place| place.join("list.txt").is_file())
        .map(|place| place.join("bin").join(name))
}

impl Python {
    /// Starts the daemon of `version` in `folder`, open to the owner of `pusher_key`.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn start(version: &str, folder: &Path, pusher_key: &str) -> Self {
        let (source, destination, runs) = (folder.join("staging"), folder.join("certs"), folder.join("runs"));
        for path in [&source, &destination] {
            std::fs::create_dir_all(path).expect("a folder");
        }
        let host_key = key::generate(&folder.join("host_key"), "python").expect("a host key");
        let script = folder.join("reload-what-uses-it");
        let lines = format!("cd {} && sha256sum */fullchain.pem >>{}", destination.display(), runs.display());
        std::fs::write(&script, format!("#!/bin/sh\n{lines}\n")).expect("write the script");
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        let port = free_port();
        // Without a limit of its own 0.5 gives the script no time at all; 0.2 does not know the key.
        let limit = if version.starts_with("0.2") { "" } else { "script_timeout: 20\n" };
        let config = format!(
            "source: {}\ndestination: {}\nlog_level: DEBUG\nupdate_delay: 0s\n{limit}sftpd:\n  listen_address: 127.0.0.1\n  \
             listen_port: {port}\n  username: certdeploy\n  log_level: DEBUG\n  log_filename: {}\n  \
             privkey_filename: {}\n  server_pubkey: {pusher_key}\nupdate_services:\n  - type: script\n    name: {}\n",
            source.display(),
            destination.display(),
            folder.join("sftp.log").display(),
            folder.join("host_key").display(),
            script.display(),
        );
        std::fs::write(folder.join("client.yml"), config).expect("write client.yml");
        let program = program(version, "certdeploy-client").expect("made by tests/setup");
        let mut client = command(program);
        client.arg("--daemon").arg("--config").arg(folder.join("client.yml"));
        let mut daemon =
            Daemon::start(&format!("Python certdeploy-client {version}"), client, &folder.join("client.log"));
        daemon.says("Listening for incoming connections at ");
        let mut peer = Peer::new(&format!("python-{version}"), port, &host_key, "certdeploy", &source);
        peer.path = source.display().to_string();
        Self { peer, daemon, destination, runs, sftp_log: folder.join("sftp.log") }
    }

    /// Waits until `destination` holds what was issued last, and the script has run with it in place.
    ///
    /// # Panics
    /// It takes too long.
    pub fn deploys(&self, lineage: &Lineage) {
        let file = |name: &str| std::fs::read_to_string(self.destination.join(&lineage.name).join(name)).ok();
        until(
            &format!("{} deployed {}; it said:\n{}", self.peer.name, lineage.name, self.daemon.said()),
            PATIENCE,
            || {
                let fullchain = file("fullchain.pem")? == lineage.issued.fullchain;
                (fullchain && file("privkey.pem")? == lineage.issued.privkey).then_some(())
            },
        );
        let hash = certdeploy_common::cert::Digest::of(lineage.issued.fullchain.as_bytes());
        let line = format!("{}  {}/fullchain.pem", hash.as_str(), lineage.name);
        until(&format!("{} ran its script for {}", self.peer.name, lineage.name), PATIENCE, || {
            let runs = std::fs::read_to_string(&self.runs).unwrap_or_default();
            runs.lines().any(|run| run == line).then_some(())
        });
    }

    /// The SFTP requests it has got so far, in order, as its SSH library names them.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        let said = std::fs::read_to_string(&self.sftp_log).unwrap_or_default();
        said.lines().filter_map(|line| line.split_once("Request: ").map(|(_, verb)| verb.trim().to_owned())).collect()
    }

    /// How many connections it has had so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.daemon.said().matches("Got connection from").count()
    }
}

/// The Python certdeploy-server, for one target.
#[derive(Debug)]
pub struct Server {
    /// `server.yml`.
    pub config: PathBuf,
    program: PathBuf,
    letsencrypt: PathBuf,
    hook: PathBuf,
    log: PathBuf,
}

impl Server {
    /// Sets one up in place of the world's own: certbot's hook is a link to it. `path` is written as it is.
    ///
    /// # Panics
    /// `tests/setup` did not make this version.
    #[must_use]
    pub fn new(version: &str, world: &World, target: &Target, path: &str) -> Self {
        let program = program(version, "certdeploy-server").expect("made by tests/setup");
        let folder = world.path("server/python");
        std::fs::create_dir_all(folder.join("queue")).expect("a folder");
        let letsencrypt = world.letsencrypt();
        let hook = letsencrypt.join("renewal-hooks/deploy/certdeploy-hook");
        let _ = std::fs::remove_file(&hook);
        std::os::unix::fs::symlink(&program, &hook).expect("the hook's symlink");
        let config = folder.join("server.yml");
        let mock = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/mock/mock-certbot.sh");
        let text = format!(
            "privkey_filename: {}\nqueue_dir: {}\nlog_level: DEBUG\nrenew_exec: {}\nclient_configs:\n  - address: 127.0.0.1\n    \
             port: {}\n    path: {path}\n    pubkey: {}\n    domains: [{}]\n    needs_chain: true\n",
            world.server_key().display(),
            folder.join("queue").display(),
            mock.display(),
            target.connect_port,
            target.pinned,
            target.domains.join(", "),
        );
        std::fs::write(&config, text).expect("write server.yml");
        Self { program, config, letsencrypt, hook, log: folder.join("server.log") }
    }

    fn at(&self, program: &Path) -> Command {
        let mut command = command(program);
        command.env("CERTDEPLOY_SERVER_CONFIG", &self.config).env("MOCK_LETSENCRYPT", &self.letsencrypt);
        command
    }

    /// Runs the hook as certbot does; `lineage` is what it calls the directory.
    #[must_use]
    pub fn hook(&self, lineage: &str, domains: &str) -> Ran {
        let mut hook = self.at(&self.hook);
        hook.env("RENEWED_LINEAGE", lineage).env("RENEWED_DOMAINS", domains);
        run(hook)
    }

    /// Runs it with arguments.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = self.at(&self.program);
        command.args(arguments);
        run(command)
    }

    /// Starts it with arguments.
    #[must_use]
    pub fn start(&self, arguments: &[&str]) -> Daemon {
        let mut command = self.at(&self.program);
        command.args(arguments);
        Daemon::start("Python certdeploy-server", command, &self.log)
    }
}
