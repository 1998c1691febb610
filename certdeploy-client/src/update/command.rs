//! Running the user's executables: argv only, own process group, a time limit, capped output, and an environment
//! without anything of ours or systemd's. The only place of this crate that spawns what is not certdeploy itself.
#![expect(clippy::disallowed_methods, reason = "one of the three places that spawn: the user's executables")]

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::fs::Mode;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use super::said::{Said, last_line};
use crate::account::Account;

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It cannot be started.
    #[error("cannot start it: {source}{hint}")]
    Start {
        /// Why.
        source: io::Error,
        /// What the kernel's word means here; may be empty.
        hint: String,
    },
    /// Its end cannot be waited for.
    #[error("it cannot be waited for: {0}")]
    Wait(io::Error),
    /// It ended badly.
    #[error("it {}{}", how(*.status), last_line(.output))]
    Failed {
        /// Its status.
        status: ExitStatus,
        /// What it said, capped.
        output: String,
    },
    /// It took too long and was killed with all it had started in its process group.
    #[error("it was killed after {} s{}", .limit.as_secs(), last_line(.output))]
    TimedOut {
        /// The limit.
        limit: Duration,
        /// What it said, capped.
        output: String,
    },
}

impl CommandError {
    /// Whether a signal that ends sessions and services ended it; a shell says that of its child with 128 and more.
    #[must_use]
    pub fn is_by_signal(&self) -> bool {
        match self {
            Self::Failed { status, .. } => {
                status.signal().is_some() || matches!(status.code(), Some(129 | 130 | 137 | 143))
            }
            Self::Start { .. } | Self::Wait(_) | Self::TimedOut { .. } => false,
        }
    }
}

/// How much of the end of each output is kept, in bytes; the rest is read and thrown away.
const OUTPUT_LIMIT: usize = 64 * 1024;
/// How long a process group may take to end after SIGTERM.
const MERCY: Duration = Duration::from_secs(2);
/// How long the output is waited for after the command itself has ended: a daemon it left behind may keep it open.
const DRAIN: Duration = Duration::from_secs(1);
/// How often a text file that is still busy (ETXTBSY: just written) is tried.
const BUSY_TRIES: u32 = 20;

/// What a command gets beside its arguments.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Variables beside those that it inherits.
    pub environment: Vec<(String, String)>,
    /// Where it starts; `None` where we are.
    pub directory: Option<PathBuf>,
    /// Whom it runs as; `None` is us.
    pub user: Option<Account>,
}

/// The umask that we were started with. Ours is stricter, and not the users' business.
static UMASK: OnceLock<Mode> = OnceLock::new();

/// Notes what umask commands are to have.
pub fn inherit_umask(umask: Mode) {
    let _ = UMASK.set(umask);
}

/// Runs `program` and waits for it, for ever if `limit` is `None`.
///
/// # Errors
/// See [`CommandError`].
pub async fn run(
    program: &Path,
    args: &[String],
    surroundings: &Surroundings,
    limit: Option<Duration>,
) -> Result<(), CommandError> {
    let mut command = std::process::Command::new(program);
    if let Some(user) = &surroundings.user {
        user.apply(&mut command);
    }
    let mut command = Command::from(command);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_none_or(is_ours) {
            command.env_remove(name);
        }
    }
    if let Some(user) = &surroundings.user {
        command.envs([("USER", &user.name), ("LOGNAME", &user.name)]).env("HOME", &user.home);
    }
    command.envs(surroundings.environment.iter().map(|(name, value)| (name, value)));
    if let Some(directory) = &surroundings.directory {
        command.current_dir(directory);
    }
    let unstarted = |source| CommandError::Start { hint: hint(program, surroundings, &source), source };
    let mut child = start(&mut command).await.map_err(unstarted)?;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let guard = Guard(group);
    let (mut out, mut err) = (Said::new(OUTPUT_LIMIT), Said::new(OUTPUT_LIMIT));
    let ended = {
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let reading = async { tokio::join!(collect(stdout, &mut out), collect(stderr, &mut err)) };
        tokio::pin!(reading);
        let waiting = wait(&mut child, limit, group);
        tokio::pin!(waiting);
        let mut drained = false;
        let ended = loop {
            tokio::select! {
                ended = &mut waiting => break ended,
                _ = &mut reading, if !drained => drained = true,
            }
        };
        if !drained {
            let _ = tokio::time::timeout(DRAIN, reading).await;
        }
        ended
    };
    guard.disarm();
    let output = format!("{}{}", out.text(), err.text());
    tracing::debug!("{} said: {output}", program.display());
    match ended.map_err(CommandError::Wait)? {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(CommandError::Failed { status, output }),
        None => Err(CommandError::TimedOut { limit: limit.unwrap_or_default(), output }),
    }
}

/// Ends a process group whose end nobody waits for any more. What a command that has ended leaves behind is not touched.
struct Guard(Option<Pid>);

impl Guard {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// What a child must not inherit: our own variables, certbot's, and systemd's for this process alone.
fn is_ours(name: &str) -> bool {
    const FAMILIES: [&str; 8] = [
        "CERTDEPLOY_",
        "CERTDEPOLY_",
        "RENEWED_",
        "LISTEN_",
        "WATCHDOG_",
        "MEMORY_PRESSURE_",
        // The DNS provider's credentials, where server and client share an environment.
        "LEXICON_",
        "FDSTORE",
    ];
    // systemd.exec(5), "Environment variables set or propagated by the service manager".
    const SYSTEMD: [&str; 10] = [
        "NOTIFY_SOCKET",
        "INVOCATION_ID",
        "JOURNAL_STREAM",
        "CREDENTIALS_DIRECTORY",
        "SYSTEMD_EXEC_PID",
        "MAINPID",
        "MANAGERPID",
        "MONITOR_SERVICE_RESULT",
        "TRIGGER_UNIT",
        "PIDFILE",
    ];
    FAMILIES.iter().any(|prefix| name.starts_with(prefix)) || SYSTEMD.contains(&name)
}

/// The kernel has one word for several faults, and a strange one for a common fault.
fn hint(program: &Path, surroundings: &Surroundings, error: &io::Error) -> String {
    if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) {
        return "; it is no program: a script begins with `#!` and its interpreter, like `#!/bin/sh`".to_owned();
    }
    if error.kind() == io::ErrorKind::ExecutableFileBusy {
        return "; somebody has it open for writing".to_owned();
    }
    if error.kind() != io::ErrorKind::NotFound {
        return String::new();
    }
    if surroundings.directory.as_ref().is_some_and(|directory| !directory.is_dir()) {
        return "; its `cwd` is missing".to_owned();
    }
    interpreter(program).map(|name| format!("; its interpreter `{name}` is missing")).unwrap_or_default()
}

/// What the first line of a script names.
fn interpreter(program: &Path) -> Option<String> {
    let mut head = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(std::fs::File::open(program).ok()?, 256), &mut head).ok()?;
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    // A carriage return at its end is a fault that nobody sees, so it is shown.
    let word =
        String::from_utf8_lossy(line).trim_matches([' ', '\t']).split([' ', '\t']).next()?.escape_default().to_string();
    Some(word)
}

async fn start(command: &mut Command) -> io::Result<Child> {
    let mut tries = 0;
    loop {
        match spawn(command) {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES => {
                tries += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            other => return other,
        }
    }
}

/// A child takes its umask from the moment of its birth. What others of our threads create meanwhile has its mode said.
fn spawn(command: &mut Command) -> io::Result<Child> {
    let Some(theirs) = UMASK.get() else { return command.spawn() };
    let ours = rustix::process::umask(*theirs);
    let spawned = command.spawn();
    rustix::process::umask(ours);
    spawned
}

/// The status, or `None` when it had to be killed.
async fn wait(child: &mut Child, limit: Option<Duration>, group: Option<Pid>) -> io::Result<Option<ExitStatus>> {
    let Some(limit) = limit else { return child.wait().await.map(Some) };
    if let Ok(status) = tokio::time::timeout(limit, child.wait()).await {
        return status.map(Some);
    }
    for signal in [Signal::TERM, Signal::KILL] {
        if let Some(group) = group {
            let _ = kill_process_group(group, signal);
        }
        if let Ok(status) = tokio::time::timeout(MERCY, child.wait()).await {
            // Whatever else is left in the group goes too.
            if let Some(group) = group {
                let _ = kill_process_group(group, Signal::KILL);
            }
            status?;
            return Ok(None);
        }
    }
    Ok(None)
}

async fn collect(from: Option<impl AsyncRead + Unpin>, into: &mut Said) {
    let Some(mut from) = from else { return };
    let mut chunk = vec![0; 8192];
    while let Ok(read @ 1..) = from.read(&mut chunk).await {
        into.add(chunk.get(..read).unwrap_or_default());
    }
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("returned {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    async fn script(text: &str, limit: Duration) -> Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("script");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let environment = vec![("CERTDEPLOY_LINEAGES".to_owned(), "a".to_owned())];
        let surroundings = Surroundings { environment, ..Surroundings::default() };
        run(&path, &["one two".to_owned()], &surroundings, Some(limit)).await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn the_outcome_is_what_the_script_says() {
        let minute = Duration::from_secs(60);
        assert_eq!(script("test \"$1\" = 'one two' && test $CERTDEPLOY_LINEAGES = a", minute).await, Ok(()));
        let failed = script("echo begin; echo no such thing >&2; exit 7", minute).await;
        assert_eq!(failed, Err("it returned 7; it last said: no such thing".to_owned()));
        assert_eq!(script("kill -9 $$", minute).await, Err("it was killed by signal 9".to_owned()));
        let missing =
            run(Path::new("/nonexistent"), &[], &Surroundings::default(), None).await.unwrap_err().to_string();
        assert!(missing.starts_with("cannot start it: No such file"), "{missing}");
    }

    #[tokio::test]
    async fn a_hanging_script_is_killed_with_its_children_and_much_output_does_not_block_it() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let text = format!("sleep 1000 & echo $! > {}; wait", pid.display());
        let killed = script(&text, Duration::from_millis(300)).await;
        assert_eq!(killed, Err("it was killed after 0 s".to_owned()));
        let pid: u32 = std::fs::read_to_string(pid).unwrap().trim().parse().unwrap();
        let gone = |stat: String| stat.split(' ').nth(2) == Some("Z");
        assert!(std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, gone), "{pid} lives");
        assert_eq!(script("head -c 1000000 /dev/zero", Duration::from_secs(60)).await, Ok(()));
    }

    #[tokio::test]
    async fn a_daemon_left_behind_does_not_hold_us() {
        let begun = tokio::time::Instant::now();
        assert_eq!(script("sleep 100 & exit 0", Duration::from_secs(60)).await, Ok(()));
        assert!(begun.elapsed() < Duration::from_secs(50));
    }

    #[test]
    fn nothing_of_ours_is_inherited() {
        for name in [
            "CERTDEPLOY_CLIENT_CONFIG",
            "NOTIFY_SOCKET",
            "LISTEN_FDS",
            "RENEWED_LINEAGE",
            "WATCHDOG_USEC",
            "CREDENTIALS_DIRECTORY",
            "INVOCATION_ID",
            "LEXICON_TOKEN",
        ] {
            assert!(is_ours(name), "{name}");
        }
        assert!(!is_ours("PATH") && !is_ours("TOKEN") && !is_ours("LOGS_DIRECTORY"));
    }
}
