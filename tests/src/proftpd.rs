//! proftpd with mod_sftp on a loopback port, with an account and keys of its own.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use certdeploy_common::ssh::key;

use crate::need::find;
use crate::peer::{Peer, output};
use crate::process::{Daemon, command, free_port};
use crate::wait::{PATIENCE, until};

/// Starts one in `folder` that lets the owner of `pusher_key` in. Its `path` is where a session begins.
///
/// # Panics
/// It does not start.
#[must_use]
pub fn start(folder: &Path, pusher_key: &str) -> (Peer, Daemon) {
    let (id, home) = (4712, folder.join("home"));
    std::fs::create_dir_all(&home).expect("a home");
    std::os::unix::fs::chown(&home, Some(id), Some(id)).expect("chown");
    let host_key = key::generate(&folder.join("host_key"), "proftpd").expect("a host key");
    authorize(folder, pusher_key);
    private(&folder.join("passwd"), &format!("pusher:x:{id}:{id}::{}:/bin/sh\n", home.display()));
    let port = free_port();
    std::fs::write(folder.join("proftpd.conf"), config(folder, port)).expect("write");
    let mut proftpd = command(find("proftpd").expect("proftpd"));
    proftpd.arg("-n").arg("-c").arg(folder.join("proftpd.conf"));
    let daemon = Daemon::start("proftpd", proftpd, &folder.join("proftpd.log"));
    until("proftpd answers", PATIENCE, || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    (Peer::new("proftpd", port, &host_key, "pusher", &home), daemon)
}

/// It reads keys in the form of RFC 4716 only.
fn authorize(folder: &Path, pusher_key: &str) {
    std::fs::write(folder.join("pusher.pub"), format!("{pusher_key}\n")).expect("write");
    let mut convert = command(find("ssh-keygen").expect("ssh-keygen"));
    convert.args(["-e", "-m", "RFC4716", "-f"]).arg(folder.join("pusher.pub"));
    std::fs::write(folder.join("authorized_keys"), output(convert)).expect("write");
}

fn private(path: &Path, text: &str) {
    std::fs::write(path, text).expect("write");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
}

fn config(folder: &Path, port: u16) -> String {
    let path = |name: &str| folder.join(name).display().to_string();
    format!(
        "ModulePath /usr/lib/proftpd\nLoadModule mod_sftp.c\nServerType standalone\nServerName test\nPort {port}\n\
         DefaultAddress 127.0.0.1\nUseIPv6 off\nUseReverseDNS off\nWtmpLog off\nUser nobody\nGroup nogroup\n\
         RequireValidShell off\nAuthUserFile {}\nAuthOrder mod_auth_file.c\nAuthPAM off\nPidFile {}\n\
         ScoreboardFile {}\nDelayEngine off\nAllowOverwrite on\nUmask 022\nSFTPEngine on\nSFTPHostKey {}\nSFTPAuthMethods publickey\n\
         SFTPAuthorizedUserKeys file:{}\nSFTPLog {}\nTransferLog none\nSystemLog {}\n",
        path("passwd"),
        path("pid"),
        path("scoreboard"),
        path("host_key"),
        path("authorized_keys"),
        path("sftp.log"),
        path("system.log"),
    )
}
