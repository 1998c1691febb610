//! One test's world: a directory of its own with the server's key, config and queue, a CA, certbot's config directory
//! and the hook's symlink in it, and any number of targets. All of it goes with this value.

use std::fmt::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use certdeploy_common::ssh::key;
use tempfile::TempDir;

use crate::process::{Daemon, Ran, binary, command, run};
use crate::{Ca, Lineage, Target};

/// See the module.
pub struct World {
    root: TempDir,
    /// Issues the lineages.
    pub ca: Ca,
    /// The server's public key.
    pub pusher_key: String,
}

impl World {
    /// Makes an empty one.
    ///
    /// # Panics
    /// The disk is full, there is no randomness, or the programs are not built.
    #[must_use]
    pub fn new() -> Self {
        let root = tempfile::Builder::new().prefix("certdeploy-").tempdir().expect("a temporary directory");
        // The receiver runs as another user and must be able to walk through.
        std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755)).expect("chmod");
        let hooks = root.path().join("le/renewal-hooks/deploy");
        std::fs::create_dir_all(&hooks).expect("a folder");
        std::fs::create_dir_all(root.path().join("server")).expect("a folder");
        symlink(binary("certdeploy-server"), hooks.join("certdeploy-hook")).expect("the hook's symlink");
        let pusher_key = key::generate(&root.path().join("server/key"), "certdeploy-server").expect("a key");
        Self { root, ca: Ca::new(), pusher_key }
    }

    /// A path in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// certbot's config directory.
    #[must_use]
    pub fn letsencrypt(&self) -> PathBuf {
        self.path("le")
    }

    /// The server's private key.
    #[must_use]
    pub fn server_key(&self) -> PathBuf {
        self.path("server/key")
    }

    /// `server.yml`.
    #[must_use]
    pub fn server_config(&self) -> PathBuf {
        self.path("server/server.yml")
    }

    /// `queue_dir`, unless a test chose another.
    #[must_use]
    pub fn queue(&self) -> PathBuf {
        self.path("server/queue")
    }

    /// Makes a target's directories, keys and config.
    #[must_use]
    pub fn target(&self, name: &str, domains: &[&str]) -> Target {
        Target::new(&self.path(name), name, domains, &self.pusher_key)
    }

    /// Makes the first issue of a lineage.
    #[must_use]
    pub fn lineage(&self, name: &str, domains: &[&str]) -> Lineage {
        Lineage::new(&self.letsencrypt(), &self.ca, name, domains)
    }

    /// Writes `server.yml` for these targets.
    pub fn write_server(&self, targets: &[&Target]) {
        self.write_server_with(targets, &self.queue(), "");
    }

    /// Writes `server.yml` for these targets with another queue and more lines.
    ///
    /// # Panics
    /// The disk is full.
    pub fn write_server_with(&self, targets: &[&Target], queue: &Path, extra: &str) {
        let certbot = if extra.contains("renew_exec:") { "" } else { "renew_exec: /bin/true\n" };
        let mut text = format!(
            "privkey_filename: {}\nqueue_dir: {}\nlive_directory: {}\nlog_level: DEBUG\n{certbot}\
             push_retry_interval: 1\n{extra}\
             client_configs:\n",
            self.server_key().display(),
            queue.display(),
            self.letsencrypt().join("live").display(),
        );
        for target in targets {
            let _ = write!(
                text,
                "  - name: {}\n    address: 127.0.0.1\n    port: {}\n    path: ''\n    pubkey: {}\n    domains: [{}]\n",
                target.name,
                target.connect_port,
                target.pinned,
                target.domains.join(", "),
            );
        }
        std::fs::write(self.server_config(), text).expect("write server.yml");
    }

    /// The hook's command, exactly as certbot runs it.
    #[must_use]
    pub fn hook_command(&self, lineage: &Lineage) -> std::process::Command {
        let mut command = command(self.letsencrypt().join("renewal-hooks/deploy/certdeploy-hook"));
        command.env("RENEWED_LINEAGE", &lineage.live).env("RENEWED_DOMAINS", lineage.renewed_domains());
        command.env("CERTDEPLOY_SERVER_CONFIG", self.server_config());
        command
    }

    /// Runs the hook for a lineage.
    #[must_use]
    pub fn hook(&self, lineage: &Lineage) -> Ran {
        run(self.hook_command(lineage))
    }

    /// The command `certdeploy-server --config ...` with more arguments.
    #[must_use]
    pub fn server_command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = command(binary("certdeploy-server"));
        command.arg("--config").arg(self.server_config()).args(arguments);
        command
    }

    /// Runs `certdeploy-server` with arguments.
    #[must_use]
    pub fn server(&self, arguments: &[&str]) -> Ran {
        run(self.server_command(arguments))
    }

    /// Starts the server's daemon.
    #[must_use]
    pub fn start_server(&self) -> Daemon {
        Daemon::start("certdeploy-server", self.server_command(&["--daemon"]), &self.path("server/server.log"))
    }

    /// `status --json`.
    ///
    /// # Panics
    /// It prints no JSON.
    #[must_use]
    pub fn status(&self) -> serde_json::Value {
        let ran = self.server(&["status", "--json"]);
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("status --json: {error}\n{}", ran.said()))
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}
