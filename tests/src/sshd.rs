//! OpenSSH's sshd on a loopback port, sftp only, with keys of its own.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use certdeploy_common::ssh::key;

use crate::need::find;
use crate::peer::{Account, Peer};
use crate::process::{Daemon, command, free_port};
use crate::shipped::file;
use crate::wait::{PATIENCE, until};

/// A running sshd that lets root in.
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
        let serves = "Subsystem sftp internal-sftp\nForceCommand internal-sftp\n";
        let (port, host_key, daemon) = run(folder, pusher_key, serves, command);
        Self { port, host_key, _daemon: daemon }
    }
}

/// How SFTP is served to an account of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serves<'a> {
    /// By sshd itself.
    Internal,
    /// By the program `sftp-server`, through the account's shell.
    External,
    /// By sshd itself, with this directory as the root; its parents belong to root alone.
    Chroot(&'a Path),
    /// By sshd itself, as `packaging/sshd_config.d` has it, with this directory in the place of `/var/cache`.
    Shipped(&'a Path),
}

/// Starts one in `folder` that lets the owner of `pusher_key` in. Its `path` is where a session begins.
///
/// # Panics
/// It does not start.
#[must_use]
pub fn start(folder: &Path, pusher_key: &str, serves: Serves<'_>) -> (Peer, Daemon) {
    std::fs::create_dir_all(folder).expect("a folder");
    let account = Account::new(folder);
    let lines = match serves {
        Serves::Internal => "Subsystem sftp internal-sftp\nForceCommand internal-sftp\n".to_owned(),
        Serves::External => "Subsystem sftp /usr/lib/openssh/sftp-server\n".to_owned(),
        Serves::Chroot(root) => format!(
            "Subsystem sftp internal-sftp\nForceCommand internal-sftp -d /incoming\nChrootDirectory {}\n",
            root.display()
        ),
        Serves::Shipped(root) => format!("Subsystem sftp internal-sftp\n{}", shipped(account.name, root, folder)),
    };
    let staged = match serves {
        Serves::Internal | Serves::External => account.home.clone(),
        Serves::Chroot(root) => {
            let incoming = root.join("incoming");
            std::fs::create_dir_all(&incoming).expect("a folder");
            account.owns(&incoming);
            incoming
        }
        Serves::Shipped(root) => {
            let source = root.join("certdeploy");
            std::fs::create_dir_all(&source).expect("a folder");
            account.owns(&source);
            source
        }
    };
    let (port, host_key, daemon) = run(folder, pusher_key, &lines, |program| account.command(&program));
    (Peer::new("sshd", port, &host_key, account.name, &staged), daemon)
}

/// The shipped lines for another account, another place, and keys in `folder`.
fn shipped(account: &str, root: &Path, folder: &Path) -> String {
    let text = std::fs::read_to_string(file("packaging/sshd_config.d/certdeploy.conf")).expect("the shipped lines");
    text.replace("User certdeploy", &format!("User {account}"))
        .replace("/var/cache", &root.display().to_string())
        .replace("/etc/certdeploy/authorized_keys", &folder.join("authorized_keys").display().to_string())
}

/// Starts some in `folder` for root that run `program` with one argument in the place of their own SFTP: each argument
/// has a port.
///
/// # Panics
/// They do not start.
#[must_use]
pub fn start_instead(
    folder: &Path,
    pusher_key: &str,
    program: &Path,
    arguments: &[String],
) -> Vec<(Vec<Peer>, Daemon)> {
    // sshd listens on 16 ports at most; one is its own.
    let start = |(number, arguments): (usize, &[String])| {
        let ports: Vec<u16> = arguments.iter().map(|_| free_port()).collect();
        let mut lines = "Subsystem sftp internal-sftp\n".to_owned();
        for port in &ports {
            let _ = writeln!(lines, "Port {port}");
        }
        for (port, argument) in ports.iter().zip(arguments) {
            let _ = write!(lines, "Match LocalPort {port}\nForceCommand {} {argument}\n", program.display());
        }
        let folder = folder.join(number.to_string());
        let (_, host_key, daemon) = run(&folder, pusher_key, &lines, command);
        let peer = |(port, argument): (&u16, &String)| Peer::new(argument, *port, &host_key, "root", &folder);
        (ports.iter().zip(arguments).map(peer).collect(), daemon)
    };
    arguments.chunks(15).enumerate().map(start).collect()
}

fn run(
    folder: &Path,
    pusher_key: &str,
    serves: &str,
    command: impl FnOnce(PathBuf) -> std::process::Command,
) -> (u16, String, Daemon) {
    std::fs::create_dir_all(folder).expect("a folder");
    // sshd wants this directory for its own separation of privileges; a machine that boots it makes it at boot.
    std::fs::create_dir_all("/run/sshd").expect("/run/sshd");
    let host_key = key::generate(&folder.join("host_key"), "sshd").expect("a host key");
    std::fs::write(folder.join("authorized_keys"), format!("{pusher_key}\n")).expect("write");
    let port = free_port();
    std::fs::write(folder.join("sshd_config"), config(folder, port, serves)).expect("write sshd_config");
    let mut sshd = command(find("sshd").expect("sshd"));
    sshd.args(["-D", "-e", "-f"]).arg(folder.join("sshd_config"));
    let mut daemon = Daemon::start("sshd", sshd, &folder.join("sshd.log"));
    daemon.says("Server listening");
    until("sshd answers", PATIENCE, || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    (port, host_key, daemon)
}

fn config(folder: &Path, port: u16, serves: &str) -> String {
    let path = |name: &str| -> PathBuf { folder.join(name) };
    format!(
        "ListenAddress 127.0.0.1\nPort {port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\nUsePAM no\n\
         PasswordAuthentication no\nPermitRootLogin prohibit-password\n\
         MaxStartups 100\n{serves}",
        path("host_key").display(),
        path("authorized_keys").display(),
    )
}
