//! A Debian with systemd as its first process, booted by systemd-nspawn from the root file system that `tests/setup`
//! made. What it changes is gone with it, unless it has a root file system of its own. It shares the network with the
//! tests.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::network::Network;
use crate::process::{Ran, children, command, run};
use crate::wait::{holds_within, until};

/// The root file system that most tests boot.
pub const PLAIN: &str = "bookworm-2";
/// The one of the guides: with certbot, sshd, cron and make as well.
pub const GUIDES: &str = "guides-1";

/// The root file system of this name, below Cargo's target directory.
///
/// # Panics
/// It has not been made.
#[must_use]
pub fn root(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("the path of this program");
    let mut roots = own.ancestors().map(|folder| folder.join("booted").join(name));
    let made = |root: &PathBuf| root.join("usr/lib/systemd/systemd").exists();
    roots.find(made).unwrap_or_else(|| panic!("`booted/{name}` below the target directory: run tests/setup first"))
}

/// A root file system of one's own, below `folder`: it keeps what is changed, over boots.
///
/// # Panics
/// The disk is full.
#[must_use]
pub fn own_root(folder: &Path) -> PathBuf {
    own_root_of(PLAIN, folder)
}

/// The same, made of the one of this name.
///
/// # Panics
/// The disk is full.
#[must_use]
pub fn own_root_of(name: &str, folder: &Path) -> PathBuf {
    let own = folder.join("root");
    let mut copy = command("/bin/cp");
    copy.args(["-a", "--reflink=auto"]).arg(root(name)).arg(&own);
    let _ = run(copy).ended(0);
    own
}

/// A running one.
#[derive(Debug)]
pub struct Booted {
    machine: String,
    nspawn: Child,
    /// Its first process, as the host sees it.
    leader: u32,
    /// The folder of its system bus's socket.
    bus: PathBuf,
    log: PathBuf,
}

impl Booted {
    /// Boots one in `folder`; `binds` are files and folders of the host and where they are seen inside, read-only.
    ///
    /// # Panics
    /// It does not come up.
    #[must_use]
    pub fn start(folder: &Path, binds: &[(PathBuf, &str)]) -> Self {
        Self::boot(folder, &root(PLAIN), &["--volatile=overlay"], binds)
    }

    /// Boots one whose root file system keeps what it changes, see [`own_root`].
    ///
    /// # Panics
    /// It does not come up.
    #[must_use]
    pub fn start_own(folder: &Path, root: &Path) -> Self {
        Self::boot(folder, root, &[], &[])
    }

    /// The same, in a network of its own.
    ///
    /// # Panics
    /// It does not come up.
    #[must_use]
    pub fn start_on(folder: &Path, root: &Path, network: &Network) -> Self {
        let option = format!("--network-namespace-path={}", network.path().display());
        Self::boot(folder, root, &[&option], &[])
    }

    fn boot(folder: &Path, root: &Path, options: &[&str], binds: &[(PathBuf, &str)]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let machine = format!("certdeploy-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let bus = folder.join("bus");
        std::fs::create_dir_all(&bus).expect("a folder");
        for directory in cgroups(&machine) {
            std::fs::create_dir_all(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
        }
        let log = folder.join("nspawn.log");
        let file = std::fs::File::create(&log).expect("a log");
        // It must be in a control group of its own before it starts, and only a shell can do that to itself.
        let enter: Vec<String> =
            cgroups(&machine).iter().map(|group| format!("echo $$ >{}/cgroup.procs", group.display())).collect();
        let mut nspawn = command("/bin/sh");
        nspawn.arg("-c").arg(format!("{}; exec systemd-nspawn \"$@\"", enter.join("; "))).arg("sh");
        nspawn.args(["-q", "--register=no", "--keep-unit", "--console=pipe"]).args(options);
        nspawn.args(["--system-call-filter=landlock_create_ruleset landlock_add_rule landlock_restrict_self"]);
        nspawn.arg(format!("--machine={machine}")).arg("-D").arg(root);
        nspawn.arg(format!("--bind={}:/run/dbus", bus.display()));
        for (from, to) in binds {
            nspawn.arg(format!("--bind-ro={}:{to}", from.display()));
        }
        nspawn.arg("-b").stdout(file.try_clone().expect("a handle")).stderr(file);
        let nspawn = nspawn.spawn().expect("start systemd-nspawn");
        let mut booted = Self { machine, nspawn, leader: 0, bus, log };
        until(&format!("{} is up", booted.machine), Duration::from_secs(60), || {
            // Its first children are helpers that end soon; the one that stays is the first process inside.
            booted.leader = children(booted.nspawn.id()).first().copied()?;
            let ran = booted.run(&["systemctl", "is-system-running"]);
            matches!(ran.stdout.trim(), "running" | "degraded").then_some(())
        });
        booted
    }

    /// What `DBUS_SYSTEM_BUS_ADDRESS` must be for a program of the host to talk to it.
    #[must_use]
    pub fn bus_address(&self) -> String {
        format!("unix:path={}", self.bus.join("system_bus_socket").display())
    }

    /// Runs a line of a shell inside.
    #[must_use]
    pub fn shell(&self, line: &str) -> Ran {
        self.run(&["/bin/sh", "-c", line])
    }

    /// Runs a command inside.
    #[must_use]
    pub fn run(&self, words: &[&str]) -> Ran {
        run(self.command(words))
    }

    /// A command that runs inside.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> Command {
        let mut nsenter = command("/usr/bin/nsenter");
        nsenter.arg("-t").arg(self.leader.to_string()).arg("-a").args(words);
        nsenter
    }

    /// What `systemctl show` says of one property of a unit.
    #[must_use]
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.run(&["systemctl", "show", "-P", name, unit]).stdout.trim().to_owned()
    }
}

/// One in each hierarchy that systemd uses.
fn cgroups(machine: &str) -> Vec<PathBuf> {
    let all = Path::new("/sys/fs/cgroup");
    if all.join("cgroup.controllers").exists() {
        return vec![all.join(machine)];
    }
    ["systemd", "unified"]
        .iter()
        .map(|name| all.join(name))
        .filter(|at| at.is_dir())
        .map(|at| at.join(machine))
        .collect()
}

fn signal(id: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        signal(self.nspawn.id(), Signal::TERM);
        let over = |child: &mut Child| matches!(child.try_wait(), Ok(Some(_)) | Err(_));
        if !holds_within(Duration::from_secs(15), || over(&mut self.nspawn)) {
            signal(self.leader, Signal::KILL);
            let _ = self.nspawn.kill();
            let _ = self.nspawn.wait();
        }
        for directory in cgroups(&self.machine) {
            remove(&directory);
        }
        if std::thread::panicking() {
            eprintln!("--- {} said:\n{}---", self.machine, std::fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

/// Control groups go from the leaves; what is in use a moment longer is left to the machine.
fn remove(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(directory);
}
