//! A host in `client_configs` that runs somebody else's program: what the server must know of it. Each program's own
//! file starts it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::World;
use crate::process::{command, run};

/// One entry of `client_configs`.
#[derive(Debug)]
pub struct Peer {
    /// Its name in logs and status.
    pub name: String,
    /// `address`; loopback, unless a test says otherwise.
    pub address: String,
    /// Where it listens.
    pub port: u16,
    /// Its host key, as one line.
    pub host_key: String,
    /// The user to log in as.
    pub user: String,
    /// `path`.
    pub path: String,
    /// The directory of this machine that `path` leads to.
    pub staged: PathBuf,
    /// `domains`.
    pub domains: Vec<String>,
    /// More lines of the entry, with their line ends.
    pub extra: String,
}

impl Peer {
    /// One on loopback, with nothing to get yet.
    #[must_use]
    pub fn new(name: &str, port: u16, host_key: &str, user: &str, staged: &Path) -> Self {
        Self {
            name: name.to_owned(),
            address: "127.0.0.1".to_owned(),
            port,
            host_key: host_key.to_owned(),
            user: user.to_owned(),
            path: String::new(),
            staged: staged.to_owned(),
            domains: Vec::new(),
            extra: String::new(),
        }
    }

    fn entry(&self) -> String {
        format!(
            "  - name: {}\n    address: {}\n    port: {}\n    username: {}\n    path: '{}'\n    pubkey: {}\n    \
             domains: [{}]\n{}",
            self.name,
            self.address,
            self.port,
            self.user,
            self.path,
            self.host_key,
            self.domains.join(", "),
            self.extra,
        )
    }
}

impl World {
    /// Writes `server.yml` for peers, with more lines.
    ///
    /// # Panics
    /// The disk is full.
    pub fn write_server_for(&self, peers: &[&Peer], extra: &str) {
        let mut text = format!(
            "privkey_filename: {}\nqueue_dir: {}\nlive_directory: {}\nlog_level: DEBUG\nrenew_exec: /bin/true\n\
             push_retry_interval: 1\n{extra}client_configs:\n",
            self.server_key().display(),
            self.queue().display(),
            self.letsencrypt().join("live").display(),
        );
        for peer in peers {
            let _ = write!(text, "{}", peer.entry());
        }
        std::fs::write(self.server_config(), text).expect("write server.yml");
    }
}

/// An account that exists for one program and its children only: they see a `/etc/passwd` of their own.
#[derive(Debug)]
pub struct Account {
    /// Its name.
    pub name: &'static str,
    /// Its number, which is nobody's here.
    pub id: u32,
    /// Its home.
    pub home: PathBuf,
    passwd: PathBuf,
}

impl Account {
    /// Makes one whose home is below `folder`.
    ///
    /// # Panics
    /// Not root.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        let account = Self { name: "pusher", id: 4711, home: folder.join("home"), passwd: folder.join("passwd") };
        std::fs::create_dir_all(&account.home).expect("a home");
        account.owns(&account.home);
        let known = std::fs::read_to_string("/etc/passwd").expect("/etc/passwd");
        let line = format!("{}:x:{id}:{id}::{}:/bin/sh\n", account.name, account.home.display(), id = account.id);
        std::fs::write(&account.passwd, known + &line).expect("write passwd");
        account
    }

    /// Makes a file or directory its own.
    ///
    /// # Panics
    /// Not root.
    pub fn owns(&self, path: &Path) {
        std::os::unix::fs::chown(path, Some(self.id), Some(self.id)).expect("chown");
    }

    /// The command that runs `program` where this account exists.
    #[must_use]
    pub fn command(&self, program: &Path) -> std::process::Command {
        let mut unshare = command("/usr/bin/unshare");
        unshare.args(["--mount", "--propagation", "private", "/bin/sh", "-c"]);
        unshare.arg("mount --bind \"$0\" /etc/passwd && exec \"$@\"").arg(&self.passwd).arg(program);
        unshare
    }
}

/// Runs a command to its end, which must be good; what it wrote to stdout.
///
/// # Panics
/// It fails.
#[must_use]
pub(crate) fn output(command: std::process::Command) -> String {
    run(command).ended(0).stdout
}
