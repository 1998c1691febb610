//! dropbear with OpenSSH's sftp-server behind it, on a loopback port, with an account and keys of its own.

use std::path::Path;

use crate::need::find;
use crate::peer::{Account, Peer, output};
use crate::process::{Daemon, command, free_port};
use crate::wait::{PATIENCE, until};

/// Starts one in `folder` that lets the owner of `pusher_key` in. Its `path` is where a session begins.
///
/// # Panics
/// It does not start.
#[must_use]
pub fn start(folder: &Path, pusher_key: &str) -> (Peer, Daemon) {
    std::fs::create_dir_all(folder).expect("a folder");
    let account = Account::new(folder);
    let keys = account.home.join(".ssh");
    std::fs::create_dir_all(&keys).expect("a folder");
    std::fs::write(keys.join("authorized_keys"), format!("{pusher_key}\n")).expect("write");
    for path in [&keys, &keys.join("authorized_keys")] {
        account.owns(path);
    }
    let mut keygen = command(find("dropbearkey").expect("dropbearkey"));
    keygen.args(["-t", "ed25519", "-f"]).arg(folder.join("host_key"));
    let said = output(keygen);
    let host_key = said.lines().find(|line| line.starts_with("ssh-ed25519 ")).expect("a public key").to_owned();
    let port = free_port();
    let mut dropbear = account.command(&find("dropbear").expect("dropbear"));
    dropbear.args(["-F", "-E", "-s", "-j", "-k", "-p", &format!("127.0.0.1:{port}"), "-r"]);
    dropbear.arg(folder.join("host_key")).arg("-P").arg(folder.join("pid"));
    let daemon = Daemon::start("dropbear", dropbear, &folder.join("dropbear.log"));
    until("dropbear answers", PATIENCE, || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    (Peer::new("dropbear", port, &host_key, account.name, &account.home), daemon)
}
