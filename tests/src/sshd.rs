//! OpenSSH's sshd on a loopback port, sftp only, with keys of its own.

use std::path::{Path, PathBuf};

use certdeploy_common::ssh::key;

use crate::need::find;
use crate::process::{Daemon, command, free_port};
use crate::wait::{PATIENCE, until};

/// A running sshd.
#[derive(Debug)]
pub struct Sshd {
    /// Where it listens.
    pub port: u16,
    /// Its host key, as one line.
    pub host_key: String,
    _daemon: Daemon,
}

impl Sshd {
    /// Starts one in `folder` that lets the owner of `pusher_key` in.
    #[must_use]
    pub fn start(folder: &Path, pusher_key: &str) -> Self {
        std::fs::create_dir_all(folder).expect("a folder");
        // sshd wants this directory for its own separation of privileges; a machine that boots it makes it at boot.
        std::fs::create_dir_all("/run/sshd").expect("/run/sshd");
        let host_key = key::generate(&folder.join("host_key"), "sshd").expect("a host key");
        std::fs::write(folder.join("authorized_keys"), format!("{pusher_key}\n")).expect("write");
        let port = free_port();
        std::fs::write(folder.join("sshd_config"), config(folder, port)).expect("write sshd_config");
        let mut sshd = command(find("sshd").expect("sshd"));
        sshd.args(["-D", "-e", "-f"]).arg(folder.join("sshd_config"));
        let mut daemon = Daemon::start("sshd", sshd, &folder.join("sshd.log"));
        daemon.says("Server listening");
        until("sshd answers", PATIENCE, || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        Self { port, host_key, _daemon: daemon }
    }
}

fn config(folder: &Path, port: u16) -> String {
    let path = |name: &str| -> PathBuf { folder.join(name) };
    format!(
        "ListenAddress 127.0.0.1\nPort {port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\nUsePAM no\n\
         PasswordAuthentication no\nPermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n\
         ForceCommand internal-sftp\n",
        path("host_key").display(),
        path("authorized_keys").display(),
    )
}
