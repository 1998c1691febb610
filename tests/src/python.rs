//! The Python certdeploy-client as a daemon on a loopback port, in the versions that `tests/setup` made.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use certdeploy_common::ssh::key;

use crate::Lineage;
use crate::peer::Peer;
use crate::process::{Daemon, command, free_port};
use crate::wait::{PATIENCE, until};

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
