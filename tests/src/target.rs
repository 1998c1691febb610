//! One target: a `certdeploy-client` with its own directories, keys, config, update script and log of its runs.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use certdeploy_common::cert::FileName;
use certdeploy_common::ssh::key;

use crate::process::{Daemon, Ran, binary, command, free_port, port_is_free, run};
use crate::wait::{PATIENCE, until};

/// A target and where everything of it is.
#[derive(Debug)]
pub struct Target {
    /// Its name in `server.yml`.
    pub name: String,
    /// What its `client_configs` entry asks for.
    pub domains: Vec<String>,
    /// Where it listens.
    pub port: u16,
    /// Where the server connects to: the same, or a tap in front of it.
    pub connect_port: u16,
    /// The host key that the server pins.
    pub pinned: String,
    /// `destination`.
    pub destination: PathBuf,
    /// `source`.
    pub source: PathBuf,
    /// `client.yml`.
    pub config: PathBuf,
    /// Its host key.
    pub host_key: PathBuf,
    /// A line for each run of its update script: `<lineage> <generation> <hash of fullchain.pem>`.
    pub runs: PathBuf,
    /// The environment that the script saw last.
    pub script_environment: PathBuf,
    /// Its log.
    pub log: PathBuf,
    pusher_key: String,
    /// Lines added to `client.yml`.
    pub extra: String,
    /// Whether `client.yml` names the update script.
    pub updates: bool,
}

impl Target {
    /// Makes one in `folder`, open to the pusher whose public key is `pusher_key`.
    #[must_use]
    pub fn new(folder: &Path, name: &str, domains: &[&str], pusher_key: &str) -> Self {
        for part in ["", "certs", "staging"] {
            std::fs::create_dir_all(folder.join(part)).expect("a folder");
        }
        let host_key = folder.join("host_key");
        let pinned = key::generate(&host_key, name).expect("a host key");
        let port = free_port();
        let target = Self {
            name: name.to_owned(),
            domains: domains.iter().map(|name| (*name).to_owned()).collect(),
            port,
            connect_port: port,
            pinned,
            destination: folder.join("certs"),
            source: folder.join("staging"),
            config: folder.join("client.yml"),
            host_key,
            runs: folder.join("runs"),
            script_environment: folder.join("environment"),
            log: folder.join("client.log"),
            pusher_key: pusher_key.to_owned(),
            extra: String::new(),
            updates: true,
        };
        target.write_script();
        target.write_config();
        target
    }

    fn script(&self) -> PathBuf {
        self.runs.with_file_name("reload-what-uses-it")
    }

    fn write_script(&self) {
        let text = format!(
            "#!/bin/sh\nenv >{environment}\ncd {destination} || exit 1\nfor lineage in *; do\n  \
             echo \"$lineage $(readlink \"$lineage/..data\") $(sha256sum <\"$lineage/fullchain.pem\" | cut -c1-64)\"\n\
             done >>{runs}\n",
            environment = self.script_environment.display(),
            destination = self.destination.display(),
            runs = self.runs.display(),
        );
        assert!(!self.destination.to_string_lossy().contains(' '), "the script knows no quoting");
        std::fs::write(self.script(), text).expect("write the script");
        std::fs::set_permissions(self.script(), std::fs::Permissions::from_mode(0o755)).expect("chmod");
    }

    /// Writes `client.yml`.
    pub fn write_config(&self) {
        let mut text = format!(
            "destination: {}\nsource: {}\nlog_level: DEBUG\nupdate_delay: null\nsftpd:\n  listen_address: 127.0.0.1\n  \
             listen_port: {}\n  privkey_filename: {}\n  server_pubkey: {}\n",
            self.destination.display(),
            self.source.display(),
            self.port,
            self.host_key.display(),
            self.pusher_key,
        );
        if self.updates {
            let _ = write!(text, "update_services:\n  - type: script\n    name: {}\n", self.script().display());
        }
        text.push_str(&self.extra);
        std::fs::write(&self.config, text).expect("write client.yml");
    }

    /// Puts `destination` and `source` elsewhere.
    pub fn move_to(&mut self, destination: &Path, source: &Path) {
        self.destination = destination.to_owned();
        self.source = source.to_owned();
        self.write_script();
        self.write_config();
    }

    /// The command that runs `certdeploy-client` with this target's config.
    #[must_use]
    pub fn command(&self) -> std::process::Command {
        let mut command = command(binary("certdeploy-client"));
        command.arg("--config").arg(&self.config);
        command
    }

    /// Starts the daemon and waits until it listens.
    #[must_use]
    pub fn start(&self) -> Daemon {
        let mut daemon = self.start_unseen();
        daemon.says(&format!("Listening for incoming connections at 127.0.0.1:{}", self.port));
        daemon
    }

    /// Starts the daemon, once nobody holds its port any more.
    #[must_use]
    pub fn start_unseen(&self) -> Daemon {
        self.port_falls_free();
        let mut command = self.command();
        command.arg("--daemon");
        Daemon::start(&format!("certdeploy-client of {}", self.name), command, &self.log)
    }

    /// Waits until nobody listens on the port: what a killed daemon left behind must end by itself.
    pub fn port_falls_free(&self) {
        until(&format!("port {} of {} is free again", self.port, self.name), PATIENCE, || {
            port_is_free(self.port).then_some(())
        });
    }

    /// Whether nobody listens on its port.
    #[must_use]
    pub fn port_is_closed(&self) -> bool {
        port_is_free(self.port)
    }

    /// One pass over `source`, without `--daemon`.
    #[must_use]
    pub fn one_pass(&self) -> Ran {
        run(self.command())
    }

    /// The directory of a lineage.
    #[must_use]
    pub fn deployed(&self, lineage: &str) -> PathBuf {
        self.destination.join(lineage)
    }

    /// One deployed file.
    #[must_use]
    pub fn file(&self, lineage: &str, name: FileName) -> Option<String> {
        std::fs::read_to_string(self.deployed(lineage).join(name.as_str())).ok()
    }

    /// The name of the current generation's directory.
    #[must_use]
    pub fn generation(&self, lineage: &str) -> Option<PathBuf> {
        std::fs::read_link(self.deployed(lineage).join("..data")).ok()
    }

    /// Whether key and fullchain of `lineage` are those of what was issued last.
    #[must_use]
    pub fn holds(&self, lineage: &crate::Lineage) -> bool {
        [FileName::Fullchain, FileName::Privkey]
            .into_iter()
            .all(|name| self.file(&lineage.name, name).as_deref() == Some(lineage.issued.file(name)))
    }

    /// Waits until it holds what was issued last.
    pub fn receives(&self, lineage: &crate::Lineage) {
        until(&format!("{} holds the last issue of {}", self.name, lineage.name), PATIENCE, || {
            self.holds(lineage).then_some(())
        });
    }

    /// The lines of the script's runs.
    #[must_use]
    pub fn script_runs(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.runs).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Whether the script has run with what was issued last in place.
    #[must_use]
    pub fn updated(&self, lineage: &crate::Lineage) -> bool {
        let hash = certdeploy_common::cert::Digest::of(lineage.issued.fullchain.as_bytes());
        let start = format!("{} ", lineage.name);
        self.script_runs().iter().any(|line| line.starts_with(&start) && line.ends_with(hash.as_str()))
    }

    /// Waits until the script has run with what was issued last in place.
    pub fn updates(&self, lineage: &crate::Lineage) {
        until(&format!("{} ran its script for {}", self.name, lineage.name), PATIENCE, || {
            self.updated(lineage).then_some(())
        });
    }

    /// Everything below `destination` with types, modes and contents' hashes, to compare before and after; but not
    /// the client's own notes, which change when a script has run.
    #[must_use]
    pub fn snapshot(&self) -> Vec<String> {
        let mut lines = Vec::new();
        walk(&self.destination, &self.destination, &mut lines);
        lines.sort();
        lines
    }
}

fn walk(root: &Path, folder: &Path, lines: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(meta) = path.symlink_metadata() else { continue };
        let shown = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        let mode = meta.permissions().mode() & 0o7777;
        if meta.is_dir() {
            lines.push(format!("{shown}/ {mode:04o}"));
            walk(root, &path, lines);
        } else if meta.is_symlink() {
            lines.push(format!("{shown} -> {}", std::fs::read_link(&path).unwrap_or_default().display()));
        } else if !shown.contains(".json") {
            let bytes = std::fs::read(&path).unwrap_or_default();
            lines.push(format!("{shown} {mode:04o} {}", certdeploy_common::cert::Digest::of(&bytes)));
        }
    }
}
