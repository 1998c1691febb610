//! What the tests of trust share: a world with one plain sshd, keys as ssh-keygen makes them, a running ssh-agent.

use std::fmt::Write as _;
use std::io::{Seek, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::process::{Daemon, Ran, command, run};
use crate::sshd::Sshd;
use crate::wait::{PATIENCE, until};
use crate::{Lineage, World};

/// A world with one lineage, and an sshd that gets it.
pub struct Hall {
    /// The rest of the world.
    pub world: World,
    /// The peer.
    pub sshd: Sshd,
    /// What it gets.
    pub lineage: Lineage,
}

impl Hall {
    /// Makes one whose sshd lets in whom `authorized` says; `{pusher}` stands for the world's own key.
    #[must_use]
    pub fn new(authorized: &str) -> Self {
        let world = World::new();
        let authorized = authorized.replace("{pusher}", &world.pusher_key);
        let sshd = Sshd::start(&world.path("sshd"), &authorized);
        let lineage = world.lineage("example.com", &["example.com"]);
        std::fs::create_dir(world.path("staged")).expect("a folder");
        Self { world, sshd, lineage }
    }

    /// Writes `server.yml`: `head` above, and one target with the lines `entry`.
    ///
    /// # Panics
    /// The disk is full.
    pub fn configure(&self, head: &str, entry: &str) {
        let mut text = format!(
            "queue_dir: {}\nlive_directory: {}\nlog_level: INFO\nrenew_exec: /bin/true\npush_retries: 3\n\
             push_retry_interval: 0\n{head}\n",
            self.world.queue().display(),
            self.world.letsencrypt().join("live").display(),
        );
        if !head.contains("privkey_filename:") {
            let _ = writeln!(text, "privkey_filename: {}", self.world.server_key().display());
        }
        let _ = writeln!(
            text,
            "client_configs:\n  - address: 127.0.0.1\n    port: {}\n    username: root\n    path: {}\n    domains: [example.com]",
            self.sshd.port,
            self.world.path("staged").display(),
        );
        for line in entry.lines() {
            let _ = writeln!(text, "    {line}");
        }
        std::fs::write(self.world.server_config(), text).expect("write server.yml");
    }

    /// `pubkey:` with the key that sshd really has.
    #[must_use]
    pub fn pinned(&self) -> String {
        format!("pubkey: {}", self.sshd.host_key)
    }

    /// A command that pushes the lineage now.
    #[must_use]
    pub fn push_command(&self) -> std::process::Command {
        let live = self.lineage.live.display().to_string();
        self.world.server_command(&["--push", "--lineage", &live, "--domains", "example.com"])
    }

    /// Pushes the lineage now.
    #[must_use]
    pub fn push(&self) -> Ran {
        run(self.push_command())
    }

    /// Pushes, and asserts that the lineage has arrived.
    ///
    /// # Panics
    /// It has not.
    pub fn delivers(&self, what: &str) {
        let staged = self.world.path("staged/example.com");
        let _ = std::fs::remove_dir_all(&staged);
        let ran = self.push();
        assert_eq!(ran.code, Some(0), "{what}; it said:\n{}", ran.said());
        assert!(staged.join("privkey.pem").is_file(), "{what}: nothing arrived");
    }

    /// Pushes, and asserts that it ends with this code, says this, and nothing has arrived.
    ///
    /// # Panics
    /// It is otherwise.
    pub fn fails(&self, code: i32, want: &str) -> Ran {
        let staged = self.world.path("staged/example.com");
        let _ = std::fs::remove_dir_all(&staged);
        let ran = self.push();
        assert!(ran.said().contains(want), "it should say {want:?}; it said:\n{}", ran.said());
        assert_eq!(ran.code, Some(code), "it said:\n{}", ran.said());
        assert!(!staged.exists(), "something arrived");
        ran
    }
}

/// Runs a program that must succeed.
///
/// # Panics
/// It does not.
pub fn made(program: &str, arguments: &[&str]) -> Ran {
    let mut command = command(program);
    command.args(arguments);
    run(command).ended(0)
}

/// Makes a key with ssh-keygen; the private key's file and the public line.
///
/// # Panics
/// It cannot.
#[must_use]
pub fn keygen(folder: &Path, name: &str, more: &[&str]) -> (PathBuf, String) {
    let path = folder.join(name);
    let shown = path.display().to_string();
    made("ssh-keygen", &[&["-q", "-C", name, "-f", &shown], more].concat());
    let public = std::fs::read_to_string(format!("{shown}.pub")).expect("the public key");
    (path, public.trim().to_owned())
}

/// The fingerprint of a public key's file, as ssh-keygen says it.
#[must_use]
pub fn fingerprint(path: &Path) -> String {
    let said = made("ssh-keygen", &["-lf", &path.display().to_string()]).stdout;
    said.split(' ').nth(1).unwrap_or_default().to_owned()
}

/// Runs a command with this text as its input.
///
/// # Panics
/// It cannot be started, or does not end in time.
#[must_use]
pub fn answered(mut command: std::process::Command, input: &str) -> Ran {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(input.as_bytes()).and_then(|()| file.seek(SeekFrom::Start(0))).expect("write the input");
    command.stdin(Stdio::from(file));
    run(command)
}

/// A real ssh-agent.
#[derive(Debug)]
pub struct Agent {
    /// Its socket.
    pub socket: PathBuf,
    _daemon: Daemon,
}

impl Agent {
    /// Starts one in `folder`, without keys.
    #[must_use]
    pub fn start(folder: &Path) -> Self {
        let socket = folder.join("agent.sock");
        let mut command = command("ssh-agent");
        command.arg("-D").arg("-a").arg(&socket);
        let daemon = Daemon::start("ssh-agent", command, &folder.join("agent.log"));
        until("the agent answers", PATIENCE, || std::os::unix::net::UnixStream::connect(&socket).ok());
        Self { socket, _daemon: daemon }
    }

    /// Runs ssh-add.
    ///
    /// # Panics
    /// It fails.
    pub fn add(&self, arguments: &[&str]) {
        let mut command = command("ssh-add");
        command.env("SSH_AUTH_SOCK", &self.socket).args(arguments);
        let _ = run(command).ended(0);
    }
}

/// The same command where `/etc/hosts` is this text.
#[must_use]
pub fn with_hosts(folder: &Path, hosts: &str, inner: &std::process::Command) -> std::process::Command {
    let file = folder.join("hosts");
    std::fs::write(&file, hosts).expect("write hosts");
    let mut outer = command("unshare");
    outer.args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""]).arg(&file);
    outer.arg(inner.get_program()).args(inner.get_args());
    outer
}
