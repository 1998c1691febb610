//! One run of `renew_exec`: argv without a shell, output read as it comes, the whole process group ended on time. The
//! only file of this crate that starts a program.
#![expect(clippy::disallowed_methods, reason = "the one place that spawns")]

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::fs::Mode;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::output::Output;
use crate::config::settings::RenewPolicy;

/// How long a program may take to end after SIGTERM: certbot takes its challenges back.
const MERCY: Duration = Duration::from_secs(5);
/// How long the output is waited for after the program has ended.
const DRAIN: Duration = Duration::from_secs(1);
/// How often a program that is still being written (ETXTBSY) is tried.
const BUSY_TRIES: u32 = 5;

/// Why a renewal did not happen.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// There is no certbot.
    #[error("there is no `certbot` in PATH; set `renew_exec` to the program that renews certificates")]
    NoProgram,
    /// Somebody else does it.
    #[error("another certdeploy-server with queue_dir `{}` is running `renew_exec` right now", .0.display())]
    Elsewhere(PathBuf),
    /// It cannot be started or watched.
    #[error("cannot run `{program}`: {source}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// It took too long.
    #[error("`{program}` was ended after {} seconds (`renew_timeout`){}", limit.as_secs_f64(), said(.output))]
    Timeout {
        /// The program.
        program: String,
        /// The limit.
        limit: Duration,
        /// What it printed last.
        output: String,
    },
    /// It said that it failed.
    #[error("`{command}` ended with {status}{}", said(.output))]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it printed last.
        output: String,
    },
    /// We were told to stop.
    #[error("`{program}` was ended because this process is stopping")]
    Stopped {
        /// The program.
        program: String,
    },
}

impl RenewError {
    /// Whether certbot itself failed, or somebody else runs it: the exit code says so (3), but nothing has to be mended
    /// here. A certbot that cannot run, or does not end, has.
    #[must_use]
    pub const fn is_no_fault_of_ours(&self) -> bool {
        matches!(self, Self::Failed { .. } | Self::Elsewhere(_))
    }

    /// The line for the log, in the words of the Python program.
    #[must_use]
    pub fn complaint(&self, fail_fast: bool) -> String {
        if !fail_fast {
            return format!("Failed to renew or check for renewable certificates. {self}");
        }
        if let Self::Failed { command, status, output } = self {
            return format!("CertDeployError: Failed to run `{command}`: it ended with {status}{}", said(output));
        }
        format!("CertDeployError: Failed to run: {self}")
    }
}

/// The end of it, which is where programs say what went wrong; a line of the log has room for 4096 characters.
fn said(output: &str) -> String {
    const SHOWN: usize = 3_000;
    let skip = output.chars().count().saturating_sub(SHOWN);
    let end: String = output.chars().skip(skip).collect();
    match skip {
        _ if end.is_empty() => ", and said nothing".to_owned(),
        0 => format!(", and said: {end}"),
        _ => format!(", and said: [...] {end}"),
    }
}

/// The program that would run; `None` if there is none.
#[must_use]
pub fn program(policy: &RenewPolicy) -> Option<PathBuf> {
    let runs = |file: &PathBuf| file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok();
    policy.program.clone().or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|directory| directory.join("certbot")).find(runs)
    })
}

/// Runs certbot once; `config` is what the hook that it calls will read.
///
/// # Errors
/// See [`RenewError`].
pub async fn run(policy: &RenewPolicy, config: &Path, stop: &CancellationToken) -> Result<(), RenewError> {
    let program = program(policy).ok_or(RenewError::NoProgram)?;
    let name = program.display().to_string();
    let words: Vec<&str> = std::iter::once(name.as_str()).chain(policy.arguments.iter().map(String::as_str)).collect();
    tracing::debug!("Checking for renewable certificates. Using command: {words:?}");
    let start = |source| RenewError::Start { program: name.clone(), source };
    let (mut child, mut pipe) = spawn(&program, policy, config).await.map_err(start)?;
    let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw));
    let mut output = Output::default();
    let ended = tokio::select! {
        ended = watch(&mut child, &mut pipe, &mut output) => Some(ended),
        () = limit(policy.timeout) => None,
        () = stop.cancelled() => None,
    };
    let Some(status) = ended else {
        // It is read until its end, or a program that still has much to say would never come to it.
        tokio::select! {
            () = end(&mut child, &group) => {}
            () = drain_for_ever(&mut pipe, &mut output) => {}
        }
        group.0 = None;
        output.finish();
        return Err(if stop.is_cancelled() {
            RenewError::Stopped { program: name }
        } else {
            let limit = policy.timeout.unwrap_or_default();
            RenewError::Timeout { program: name, limit, output: output.tail() }
        });
    };
    // What is left of the group is to live on.
    group.0 = None;
    let status = status.map_err(start)?;
    output.finish();
    tracing::info!("Checked for renewable certificates.");
    let code = status.code().map_or_else(|| status.to_string(), |code| code.to_string());
    let said = output.tail();
    let command = words.join(" ");
    tracing::debug!("Ran `{command}` returned {code} and produced combined stdout/stderr: {said}");
    if status.success() { Ok(()) } else { Err(RenewError::Failed { command, status, output: said }) }
}

/// Starts it, both outputs in one pipe, so that its lines stay in order.
/// The umask that we were started with. Ours is stricter, and certbot's certificates are for who reads them.
static UMASK: OnceLock<Mode> = OnceLock::new();

/// Notes what umask `renew_exec` is to have.
pub fn inherit_umask(umask: Mode) {
    let _ = UMASK.set(umask);
}

/// A child takes its umask from the moment of its birth. What others of our threads make meanwhile lies in the queue's
/// directory, which is nobody else's, or has its mode said.
fn born(command: &mut Command) -> std::io::Result<Child> {
    let Some(theirs) = UMASK.get() else { return command.spawn() };
    let ours = rustix::process::umask(*theirs);
    let spawned = command.spawn();
    rustix::process::umask(ours);
    spawned
}

async fn spawn(program: &Path, policy: &RenewPolicy, config: &Path) -> std::io::Result<(Child, pipe::Receiver)> {
    let (reader, writer) = std::io::pipe()?;
    let reader = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
    // The command is dropped at the end of this function: it holds our end of the pipe, and the output would never end.
    let mut command = Command::new(program);
    command
        .args(&policy.arguments)
        .env_clear()
        .envs(environment(std::env::vars_os(), config))
        .stdin(Stdio::null())
        .stdout(OwnedFd::from(writer.try_clone()?))
        .stderr(OwnedFd::from(writer))
        .process_group(0)
        .kill_on_drop(true);
    let mut tries = 0;
    loop {
        match born(&mut command) {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES => {
                tries += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            spawned => return Ok((spawned?, reader)),
        }
    }
}

async fn watch(child: &mut Child, pipe: &mut pipe::Receiver, output: &mut Output) -> std::io::Result<ExitStatus> {
    let status = tokio::select! {
        status = child.wait() => status?,
        read = drain(pipe, output) => {
            read?;
            child.wait().await?
        }
    };
    // A service that one of its hooks has started may hold the pipe for ever, and is to live on.
    let _ = tokio::time::timeout(DRAIN, drain(pipe, output)).await;
    Ok(status)
}

async fn drain(pipe: &mut pipe::Receiver, output: &mut Output) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match pipe.read(&mut buffer).await? {
            0 => return Ok(()),
            count => output.push(buffer.get(..count).unwrap_or_default()),
        }
    }
}

async fn drain_for_ever(pipe: &mut pipe::Receiver, output: &mut Output) {
    let _ = drain(pipe, output).await;
    std::future::pending().await
}

async fn limit(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => tokio::time::sleep(timeout).await,
        None => std::future::pending().await,
    }
}

/// A process group that does not outlive the wait for it: if that is given up, it is killed.
struct Group(Option<Pid>);

impl Group {
    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Ends the whole process group: SIGTERM, then SIGKILL for who is left of it.
async fn end(child: &mut Child, group: &Group) {
    for signal in [Signal::TERM, Signal::KILL] {
        group.signal(signal);
        let _ = tokio::time::timeout(MERCY, child.wait()).await;
    }
}

/// What the program inherits: everything (the CA's certificates, the DNS provider's password) but our own variables and
/// what systemd tells this process alone; and the config for the hook. `CREDENTIALS_DIRECTORY` stays: the hook reads the
/// key's passphrase there.
fn environment(
    all: impl IntoIterator<Item = (OsString, OsString)>,
    config: &Path,
) -> impl Iterator<Item = (OsString, OsString)> {
    let ours = |name: &OsString| {
        let name = name.to_string_lossy();
        let prefixes = ["CERTDEPLOY_", "CERTDEPOLY_", "WATCHDOG_", "LISTEN_"];
        name == "NOTIFY_SOCKET" || prefixes.iter().any(|prefix| name.starts_with(prefix))
    };
    let config = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
    let hook = ("CERTDEPLOY_SERVER_CONFIG".into(), config.into_os_string());
    all.into_iter().filter(move |(name, _)| !ours(name)).chain([hook])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::kinds::{OnStart, Unit};
    use crate::renew::schedule::Interval;

    fn policy(dir: &Path, script: &str, timeout: Duration) -> RenewPolicy {
        let program = dir.join("certbot");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        RenewPolicy {
            interval: Interval { count: 1, unit: Unit::Day, at: None },
            program: Some(program),
            arguments: vec!["renew".into(), "a b".into()],
            timeout: Some(timeout),
            on_start: OnStart::Overdue,
            jitter: Duration::ZERO,
        }
    }

    async fn ran(script: &str, timeout: Duration) -> Result<(), RenewError> {
        let dir = tempfile::tempdir().unwrap();
        run(&policy(dir.path(), script, timeout), Path::new("/c.yml"), &CancellationToken::new()).await
    }

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn arguments_are_not_split_and_the_hook_finds_the_config() {
        ran("[ \"$2\" = 'a b' ] && [ \"$CERTDEPLOY_SERVER_CONFIG\" = /c.yml ]", LONG).await.unwrap();
        let error = ran("echo no; echo reason >&2; exit 3", LONG).await.unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("no\nreason"), "{error}");
        let nowhere = RenewPolicy { program: Some("/nowhere/certbot".into()), ..policy(Path::new("/tmp"), "", LONG) };
        let error = run(&nowhere, Path::new("/c"), &CancellationToken::new()).await.unwrap_err();
        assert!(matches!(error, RenewError::Start { .. }));
    }

    #[tokio::test]
    async fn more_output_than_is_kept_is_read_and_its_end_is_kept() {
        let error = ran("head -c 50000000 /dev/zero; echo; echo the end; exit 1", LONG).await.unwrap_err();
        let RenewError::Failed { output, .. } = error else { panic!("{error}") };
        assert!(output.len() <= 64 * 1024 && output.ends_with("\nthe end"), "{}", output.len());
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_ended_with_what_it_started_and_what_it_said_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let pids = dir.path().join("pids");
        // Both ignore SIGTERM; the one in the background keeps the output open.
        let script = format!(
            "trap '' TERM; (trap '' TERM; sleep 1000 & wait; sleep 1000) & echo $! >{0}; echo waiting; sleep 1000",
            pids.display()
        );
        let policy = policy(dir.path(), &script, Duration::from_millis(500));
        let error = run(&policy, Path::new("/c"), &CancellationToken::new()).await.unwrap_err();
        assert!(error.to_string().ends_with("(`renew_timeout`), and said: waiting"), "{error}");
        let child: i32 = std::fs::read_to_string(pids).unwrap().trim().parse().unwrap();
        let gone = || rustix::process::test_kill_process(Pid::from_raw(child).unwrap()).is_err();
        for _ in 0..500 {
            // It is a zombie until init has seen it.
            let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            if gone() || stat.contains(") Z ") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{child} lives");
    }

    #[tokio::test]
    async fn what_a_hook_leaves_running_lives_on_and_is_not_waited_for() {
        let begun = std::time::Instant::now();
        ran("sleep 20 & exit 0", LONG).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    }

    #[test]
    fn our_own_variables_are_not_inherited() {
        let all = [
            "CERTDEPLOY_SERVER_DAEMON",
            "CERTDEPOLY_PUSH_ONLY",
            "CERTDEPLOY_SERVER_CONFIG",
            "NOTIFY_SOCKET",
            "WATCHDOG_USEC",
            "LISTEN_FDS",
            "CREDENTIALS_DIRECTORY",
            "LEXICON_TOKEN",
        ];
        let kept: Vec<_> =
            environment(all.map(|name| (name.into(), "x".into())), Path::new("/c")).map(|(name, _)| name).collect();
        assert_eq!(kept, ["CREDENTIALS_DIRECTORY", "LEXICON_TOKEN", "CERTDEPLOY_SERVER_CONFIG"]);
    }
}
