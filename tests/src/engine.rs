//! A Docker engine of the test's own: its own socket, storage and swarm, no bridge and no packet filter, so that
//! whatever else runs on the machine is not met. Its one image is busybox.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::need::find;
use crate::process::{Daemon, Ran, command, free_port, run};
use crate::until;

/// The image's name.
pub const IMAGE: &str = "test/busybox";

/// A running engine.
#[derive(Debug)]
pub struct Engine {
    socket: PathBuf,
    _daemon: Daemon,
    // After the daemon, which may still use it.
    _left: NetworkNamespace,
}

/// What an engine leaves mounted in its folder, which could not be removed because of it.
#[derive(Debug)]
struct NetworkNamespace(PathBuf);

impl Drop for NetworkNamespace {
    fn drop(&mut self) {
        let mut umount = command("/usr/bin/umount");
        umount.arg("-l").arg(&self.0);
        // There is none if it never came up.
        let _ = run(umount);
    }
}

impl Engine {
    /// Starts one in `folder`.
    ///
    /// # Panics
    /// It does not come up.
    #[must_use]
    pub fn start(folder: &Path) -> Self {
        Self::start_with(folder, command(find("dockerd").expect("dockerd")), &[])
    }

    /// Starts one by `dockerd`, which may be a command that runs it elsewhere, with more words.
    ///
    /// # Panics
    /// It does not come up.
    #[must_use]
    pub fn start_with(folder: &Path, mut dockerd: Command, more: &[&str]) -> Self {
        let path = |name: &str| folder.join(name);
        std::fs::create_dir_all(path("image/bin")).expect("a folder");
        // The machine's own settings are not for this one.
        std::fs::write(path("daemon.json"), "{}").expect("write daemon.json");
        let socket = path("docker.sock");
        dockerd.arg("--config-file").arg(path("daemon.json")).arg("--data-root").arg(path("data"));
        dockerd.arg("--exec-root").arg(path("exec")).arg("--pidfile").arg(path("pid"));
        dockerd.args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-masq=false"]);
        dockerd.arg("-H").arg(format!("unix://{}", socket.display())).args(more);
        let daemon = Daemon::start("dockerd", dockerd, &path("dockerd.log"));
        let left = NetworkNamespace(path("exec/netns/default"));
        let engine = Self { socket, _daemon: daemon, _left: left };
        until("dockerd answers", Duration::from_secs(60), || {
            (engine.docker(&["version"]).code == Some(0)).then_some(())
        });
        std::fs::copy("/bin/busybox", path("image/bin/busybox")).expect("busybox-static");
        for name in ["sh", "sleep", "touch", "test", "echo", "kill"] {
            std::os::unix::fs::symlink("busybox", path("image/bin").join(name)).expect("a link");
        }
        let archive = path("image.tar");
        let mut tar = command("/bin/tar");
        tar.arg("-C").arg(path("image")).arg("-cf").arg(&archive).arg(".");
        let _ = run(tar).ended(0);
        let _ = engine.docker(&["import", &archive.display().to_string(), IMAGE]).ended(0);
        engine
    }

    /// `docker_url`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Runs the docker command.
    #[must_use]
    pub fn docker(&self, words: &[&str]) -> Ran {
        docker_at(&self.socket, words)
    }

    /// Runs it and gives what it printed.
    ///
    /// # Panics
    /// It failed.
    #[track_caller]
    pub fn ask(&self, words: &[&str]) -> String {
        self.docker(words).ended(0).stdout.trim().to_owned()
    }

    /// The path of its socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What the engine says of something, as JSON: `docker WORDS... inspect` of one thing.
    ///
    /// # Panics
    /// It is not there.
    #[must_use]
    pub fn inspect(&self, kind: &str, name: &str) -> serde_json::Value {
        let text = self.ask(&[kind, "inspect", name]);
        let mut all: Vec<serde_json::Value> = serde_json::from_str(&text).expect("JSON");
        all.swap_remove(0)
    }

    /// Makes it the manager of a swarm of its own.
    pub fn swarm(&self) {
        let listen = format!("127.0.0.1:{}", free_port());
        let _ = self.ask(&["swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", &listen]);
    }
}

/// Runs the docker command on the engine behind a socket.
#[must_use]
pub fn docker_at(socket: &Path, words: &[&str]) -> Ran {
    let mut docker = command("/usr/bin/docker");
    docker.arg("-H").arg(format!("unix://{}", socket.display())).args(words);
    run(docker)
}

impl Drop for Engine {
    fn drop(&mut self) {
        // What it runs would go on without it.
        let _ = self.docker(&["swarm", "leave", "--force"]);
        let all = self.docker(&["ps", "-aq"]).stdout;
        let mut words = vec!["rm", "-f"];
        words.extend(all.split_whitespace());
        if words.len() > 2 {
            let _ = self.docker(&words);
        }
    }
}
