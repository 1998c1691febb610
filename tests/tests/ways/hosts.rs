//! Two booted Debians with a cable between them: one runs certbot, the other is web1.example.com and needs certificates.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use certdeploy_tests::booted::{Booted, GUIDES, own_root_of};
use certdeploy_tests::certbot;
use certdeploy_tests::network::Network;
use certdeploy_tests::pebble::Pebble;
use certdeploy_tests::process::{Daemon, Ran, run};
use certdeploy_tests::wait::holds_within;

use crate::reader::Place;
use crate::source;

/// The certificate's name.
pub(crate) const NAME: &str = "www.example.com";
/// More than `update_delay` and a busy machine take.
pub(crate) const SLOW: Duration = Duration::from_secs(60);
const SERVER: &str = "10.79.0.1";
const CLIENT: &str = "10.79.0.2";
/// Where a person has the sources, and where the pages are followed.
fn here() -> PathBuf {
    "/root/certdeploy".into()
}

pub(crate) struct Machine {
    folder: PathBuf,
    pub(crate) root: PathBuf,
    /// Programs in the foreground of a terminal.
    terminals: RefCell<Vec<Daemon>>,
    booted: Booted,
    pub(crate) network: Network,
}

impl Machine {
    fn start(folder: PathBuf, network: Network, prepare: impl FnOnce(&Path)) -> Self {
        std::fs::create_dir_all(&folder).unwrap();
        let root = own_root_of(GUIDES, &folder);
        source::sources(&inside(&root, &here()));
        source::programs(&root.join("root/built"));
        source::cargo(&root.join("usr/local/bin/cargo"), "/root/built", "echo \"cargo: $*\" >&2; exit 1");
        let hosts = format!("127.0.0.1 localhost\n{CLIENT} web1.example.com\n");
        std::fs::write(root.join("etc/hosts"), hosts).unwrap();
        prepare(&root);
        let booted = Booted::start_on(&folder.join("booted"), &root, &network);
        Self { folder, root, terminals: RefCell::default(), booted, network }
    }

    fn command(&self, lines: &str) -> Command {
        let here = here().display().to_string();
        self.booted.command(&["/usr/bin/env", "-C", &here, "HOME=/root", "/bin/sh", "-euc", lines])
    }

    /// Copies a file to where the pages are followed.
    pub(crate) fn gets(&self, path: &Path) {
        std::fs::copy(path, inside(&self.root, &here()).join(path.file_name().unwrap())).unwrap();
    }

    /// Lines of a shell that must succeed; what they printed.
    #[track_caller]
    pub(crate) fn does(&self, lines: &str) -> String {
        self.did(lines, self.sh(lines))
    }

    #[track_caller]
    fn did(&self, lines: &str, ran: Ran) -> String {
        assert_eq!(ran.code, Some(0), "{lines}: {}\n{}", ran.said(), self.state());
        ran.stdout.trim().to_owned()
    }

    /// Runs what is in /etc/cron.d by the real cron, whose clock is five seconds before a quarter of an hour, until `done`.
    pub(crate) fn cron(&self, done: impl Fn() -> bool) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let ahead = 900 - (now + 5) % 900;
        self.does("systemctl stop cron.service");
        let log = self.folder.join("cron.log");
        let cron = self.command(&format!("exec faketime -f +{ahead}s cron -f"));
        let cron = Daemon::start("cron", cron, &log);
        assert!(holds_within(SLOW, done), "cron has not done it: {}", self.state());
        self.does("kill $(cat /run/crond.pid)");
        drop(cron);
    }
}

impl Place for Machine {
    fn sh(&self, lines: &str) -> Ran {
        run(self.command(lines))
    }

    fn stays(&self, line: &str) {
        let mut terminals = self.terminals.borrow_mut();
        let log = self.folder.join(format!("terminal-{}.log", terminals.len()));
        terminals.push(Daemon::start(line, self.command(line), &log));
    }

    fn put(&self, path: &str, text: &str) {
        let path = inside(&self.root, Path::new(path));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn state(&self) -> String {
        let terminals: String = self.terminals.borrow().iter().map(Daemon::said).collect();
        format!("{terminals}{}", self.booted.shell("journalctl --no-pager -n 60; systemctl --no-pager --failed").said())
    }
}

pub(crate) struct Hosts {
    pub(crate) server: Machine,
    pub(crate) client: Machine,
    _pebble: Pebble,
    pub(crate) folder: tempfile::TempDir,
}

impl Hosts {
    pub(crate) fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("certdeploy-ways-").tempdir_in("/var/tmp").unwrap();
        let (one, other) = (Network::new(), Network::new());
        one.join(SERVER, &other, CLIENT);
        let pebble = Pebble::start_on(&folder.path().join("pebble"), &one, "127.0.0.1");
        let certbot = |root: &Path| {
            // It sleeps up to eight minutes before it renews where there is no terminal.
            let settings = format!("server = {}\nno-random-sleep-on-renew = true\n", pebble.directory);
            append(&root.join("etc/letsencrypt/cli.ini"), &settings);
            let authority = std::fs::read_to_string(&pebble.api_certificate).unwrap();
            append(&root.join("etc/ssl/certs/ca-certificates.crt"), &authority);
        };
        let (server, client) = std::thread::scope(|scope| {
            let server = scope.spawn(|| Machine::start(folder.path().join("server"), one, certbot));
            let client = Machine::start(folder.path().join("client"), other, |_| {});
            (server.join().unwrap(), client)
        });
        let hosts = Self { server, client, _pebble: pebble, folder };
        // What a person has who comes to these pages.
        let _ =
            hosts.server.does(&format!("certbot certonly -n --standalone --agree-tos -m admin@example.com -d {NAME}"));
        hosts
    }

    /// What certbot has now.
    pub(crate) fn issued(&self) -> String {
        std::fs::read_to_string(self.server.root.join(format!("etc/letsencrypt/live/{NAME}/fullchain.pem"))).unwrap()
    }

    /// certbot renews, as its own timer would let it; who gets it is not waited for.
    pub(crate) fn renews(&self) {
        let old = self.issued();
        let renew = "certbot renew --force-renewal --no-random-sleep-on-renew";
        let _ = self.server.did(renew, certbot::alone(|| self.server.sh(renew)));
        assert_ne!(self.issued(), old);
    }

    pub(crate) fn holds(&self) -> bool {
        let deployed = self.client.root.join(format!("etc/ssl/certdeploy/{NAME}/fullchain.pem"));
        std::fs::read_to_string(deployed).is_ok_and(|text| text == self.issued())
    }

    #[track_caller]
    pub(crate) fn arrives(&self) {
        let state = || format!("{}\n{}", self.server.state(), self.client.state());
        let there = holds_within(SLOW, || self.holds());
        assert!(there, "what was issued does not arrive: {}", state());
    }

    /// nginx on the client shows what certbot has.
    #[track_caller]
    pub(crate) fn is_shown(&self) {
        let leaf = |text: &str| text.split("-----END").next().unwrap_or_default().replace('\n', "");
        let want = leaf(&self.issued());
        let shown = holds_within(SLOW, || {
            let mut openssl = self.client.network.command("/usr/bin/openssl");
            openssl.args(["s_client", "-connect", "127.0.0.1:443", "-servername", NAME]);
            run(openssl).stdout.replace('\n', "").contains(&want)
        });
        assert!(shown, "nginx does not show what was issued: {}", self.client.state());
    }
}

/// A path of the machine, as the host sees it.
fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap())
}

fn append(path: &Path, text: &str) {
    let old = std::fs::read_to_string(path).unwrap_or_default();
    std::fs::write(path, format!("{old}\n{text}")).unwrap();
}
