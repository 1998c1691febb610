//! Child processes: daemons that write to a file and end with their owner, and runs with a time limit.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::{PATIENCE, holds_within, until};

/// The path of one of our programs, next to the running test.
///
/// # Panics
/// It has not been built.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("the path of this program");
    let mut folder = own.parent().expect("a folder").to_owned();
    if folder.ends_with("deps") {
        folder.pop();
    }
    let program = folder.join(name);
    assert!(program.is_file(), "{} is missing: run `make build` first", program.display());
    program
}

/// A command in a clean environment: nothing of ours, nothing of certbot's, nothing of an agent's.
#[must_use]
pub fn command(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("HOME", "/nonexistent").env("LANG", "C.UTF-8").stdin(Stdio::null());
    command
}

/// How a run ended.
#[derive(Debug)]
pub struct Ran {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// The process id it had.
    pub id: u32,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
    /// How long it took.
    pub elapsed: Duration,
}

impl Ran {
    /// Everything it said.
    #[must_use]
    pub fn said(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// Asserts the exit code.
    ///
    /// # Panics
    /// It is another.
    #[track_caller]
    pub fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "exit code; it said:\n{}", self.said());
        self
    }
}

/// Runs a command to its end.
///
/// # Panics
/// It cannot be started, or does not end in time.
pub fn run(mut command: Command) -> Ran {
    let (out, err) = (tempfile::tempfile().expect("a file"), tempfile::tempfile().expect("a file"));
    command.stdout(out.try_clone().expect("a handle")).stderr(err.try_clone().expect("a handle"));
    let start = Instant::now();
    let mut child = command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
    let ended = holds_within(Duration::from_secs(120), || child.try_wait().expect("wait").is_some());
    let elapsed = start.elapsed();
    if !ended {
        let _ = child.kill();
    }
    let status = child.wait().expect("wait");
    let ran = Ran { code: status.code(), id: child.id(), stdout: whole(out), stderr: whole(err), elapsed };
    assert!(ended, "{command:?} did not end within two minutes; it said:\n{}", ran.said());
    ran
}

fn whole(mut file: File) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes)).expect("read what it said");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A running program whose output goes to a file; it ends with this value.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
    from: u64,
}

impl Daemon {
    /// Starts it; both outputs are appended to `log`.
    ///
    /// # Panics
    /// It cannot be started.
    #[must_use]
    pub fn start(name: &str, mut command: Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("open the log");
        let from = file.metadata().map_or(0, |meta| meta.len());
        command.stdout(file.try_clone().expect("a handle")).stderr(file);
        let child = command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        Self { name: name.to_owned(), child, log: log.to_owned(), from }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What this run has said so far.
    #[must_use]
    pub fn said(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        let from = usize::try_from(self.from).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(from..).unwrap_or_default()).into_owned()
    }

    /// Waits until it says `needle`.
    ///
    /// # Panics
    /// It ends first or takes too long.
    pub fn says(&mut self, needle: &str) {
        until(&format!("{} says {needle:?}; it said:\n{}", self.name, self.said()), PATIENCE, || {
            if self.said().contains(needle) {
                return Some(());
            }
            let ended = self.child.try_wait().expect("wait");
            assert!(ended.is_none(), "{} ended ({ended:?}) before it said {needle:?}:\n{}", self.name, self.said());
            None
        });
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM; how it ended.
    ///
    /// # Panics
    /// It does not end in time.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        until(&format!("{} ends on SIGTERM", self.name), PATIENCE, || self.child.try_wait().expect("wait"))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Waits for its end by itself.
    ///
    /// # Panics
    /// It does not end in time.
    pub fn ends(&mut self) -> ExitStatus {
        until(&format!("{} ends; it said:\n{}", self.name, self.said()), PATIENCE, || {
            self.child.try_wait().expect("wait")
        })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        self.signal(Signal::TERM);
        let ended = holds_within(Duration::from_secs(5), || matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)));
        if !ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- {} said:\n{}---", self.name, self.said());
        }
    }
}

/// Writes a program that can be run, and gives its path back.
///
/// # Panics
/// The disk is full.
pub fn executable(path: &Path, text: &str) -> PathBuf {
    std::fs::write(path, text).expect("write");
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    path.to_owned()
}

/// A free TCP port of loopback, below those that the kernel gives to outgoing connections, so that none of these can
/// take it before our program does.
///
/// # Panics
/// None is free.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let spread = u16::try_from(std::process::id() % 100).unwrap_or_default() * 100;
    (0..10_000)
        .map(|_| 20_000 + (spread + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000)
        .find(|port| port_is_free(*port))
        .expect("a free port")
}

/// Whether nobody listens there.
#[must_use]
pub fn port_is_free(port: u16) -> bool {
    std::net::TcpListener::bind(("127.0.0.1", port)).is_ok()
}

/// The descriptors of a process and what they lead to.
///
/// # Panics
/// It is gone.
#[must_use]
pub fn open_files(id: u32) -> BTreeMap<String, PathBuf> {
    let entries = std::fs::read_dir(format!("/proc/{id}/fd")).expect("the descriptors of a process").flatten();
    let target = |entry: &std::fs::DirEntry| std::fs::read_link(entry.path()).unwrap_or_default();
    entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), target(&entry))).collect()
}

/// The ids of the children of a process.
#[must_use]
pub fn children(parent: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|id: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let after_name = stat.rsplit_once(") ").map(|(_, rest)| rest).unwrap_or_default();
        after_name.split(' ').nth(1).and_then(|word| word.parse().ok()) == Some(parent)
    })
    .collect()
}
