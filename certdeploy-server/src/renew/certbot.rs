//! One run of `renew_exec`: argv without a shell, output read as it comes, the whole process group ended on time. The
//! only file of this crate that starts a program.
#![expect(clippy::disallowed_methods, reason = "the one place that spawns")]

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::config::settings::RenewPolicy;

/// The most output that is kept, in bytes: the end of it.
const OUTPUT_LIMIT: usize = 64 * 1024;
/// How long a program may take to end after SIGTERM, and its descendants to let go of the output.
const GRACE: Duration = Duration::from_secs(5);

/// Why a renewal did not happen.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// There is no certbot.
    #[error("there is no `certbot` in PATH; set `renew_exec` to the program that renews certificates")]
    NoProgram,
    /// It cannot be started or watched.
    #[error("cannot run `{program}`: {source}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// It took too long.
    #[error("`{program}` was ended after {} seconds (`renew_timeout`)", limit.as_secs_f64())]
    Timeout {
        /// The program.
        program: String,
        /// The limit.
        limit: Duration,
    },
    /// It said that it failed.
    #[error("`{command}` {status}, and said: {output}")]
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

/// The program that would run; `None` if there is none.
#[must_use]
pub fn program(policy: &RenewPolicy) -> Option<PathBuf> {
    policy.program.clone().or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|directory| directory.join("certbot")).find(|file| file.is_file())
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
    let (reader, writer) = std::io::pipe().map_err(start)?;
    let mut output = pipe::Receiver::from_owned_fd(OwnedFd::from(reader)).map_err(start)?;
    let mut command = Command::new(&program);
    command
        .args(&policy.arguments)
        .env_clear()
        .envs(environment(std::env::vars_os(), config))
        .stdin(Stdio::null())
        .stdout(OwnedFd::from(writer.try_clone().map_err(start)?))
        .stderr(OwnedFd::from(writer))
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(start)?;
    // The command holds our end of the pipe: the output would never end.
    drop(command);
    let mut tail = Tail::default();
    let ended = tokio::select! {
        ended = watch(&mut child, &mut output, &mut tail) => Ok(ended.map_err(start)?),
        () = limit(policy.timeout) => Err(RenewError::Timeout {
            program: name.clone(),
            limit: policy.timeout.unwrap_or_default(),
        }),
        () = stop.cancelled() => Err(RenewError::Stopped { program: name.clone() }),
    };
    let status = match ended {
        Ok(status) => status,
        Err(error) => {
            end(&mut child).await;
            return Err(error);
        }
    };
    tracing::info!("Checked for renewable certificates.");
    let code = status.code().map_or_else(|| status.to_string(), |code| code.to_string());
    let said = tail.text();
    let command = words.join(" ");
    tracing::debug!("Ran `{command}` returned {code} and produced combined stdout/stderr: {said}");
    if status.success() { Ok(()) } else { Err(RenewError::Failed { command, status, output: said }) }
}

async fn watch(child: &mut Child, output: &mut pipe::Receiver, tail: &mut Tail) -> std::io::Result<ExitStatus> {
    let status = tokio::select! {
        status = child.wait() => status?,
        read = drain(output, tail) => {
            read?;
            child.wait().await?
        }
    };
    // Something it left behind may hold the pipe for ever.
    let _ = tokio::time::timeout(GRACE, drain(output, tail)).await;
    Ok(status)
}

async fn drain(output: &mut pipe::Receiver, tail: &mut Tail) -> std::io::Result<()> {
    let mut buffer = vec![0; 8192];
    loop {
        match output.read(&mut buffer).await? {
            0 => return Ok(()),
            count => tail.push(buffer.get(..count).unwrap_or_default()),
        }
    }
}

async fn limit(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => tokio::time::sleep(timeout).await,
        None => std::future::pending().await,
    }
}

/// Ends the whole process group: SIGTERM, then SIGKILL.
async fn end(child: &mut Child) {
    use rustix::process::{Pid, Signal, kill_process_group};
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let Some(group) = group else { return };
    let _ = kill_process_group(group, Signal::TERM);
    let _ = tokio::time::timeout(GRACE, child.wait()).await;
    let _ = kill_process_group(group, Signal::KILL);
    let _ = tokio::time::timeout(GRACE, child.wait()).await;
}

/// What the program inherits: everything but our own variables, and the config for the hook.
fn environment(
    all: impl IntoIterator<Item = (OsString, OsString)>,
    config: &Path,
) -> impl Iterator<Item = (OsString, OsString)> {
    let ours = |name: &OsString| {
        let name = name.to_string_lossy();
        name.starts_with("CERTDEPLOY_") || name.starts_with("CERTDEPOLY_") || name == "NOTIFY_SOCKET"
    };
    let config = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
    let hook = ("CERTDEPLOY_SERVER_CONFIG".into(), config.into_os_string());
    all.into_iter().filter(move |(name, _)| !ours(name)).chain([hook])
}

#[derive(Default)]
struct Tail(Vec<u8>);

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        if self.0.len() > 2 * OUTPUT_LIMIT {
            self.0.drain(..self.0.len() - OUTPUT_LIMIT);
        }
    }

    fn text(&self) -> String {
        let from = self.0.len().saturating_sub(OUTPUT_LIMIT);
        String::from_utf8_lossy(self.0.get(from..).unwrap_or_default()).trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::kinds::Unit;
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
        }
    }

    async fn ran(script: &str, timeout: Duration) -> Result<(), RenewError> {
        let dir = tempfile::tempdir().unwrap();
        run(&policy(dir.path(), script, timeout), Path::new("/c.yml"), &CancellationToken::new()).await
    }

    #[tokio::test]
    async fn arguments_are_not_split_and_more_output_than_a_pipe_holds_is_read() {
        let long = Duration::from_secs(30);
        let script = "[ \"$2\" = 'a b' ] && [ \"$CERTDEPLOY_SERVER_CONFIG\" = /c.yml ] && head -c 300000 /dev/zero";
        ran(script, long).await.unwrap();
        let error = ran("echo no; echo reason >&2; exit 3", long).await.unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("no\nreason"), "{error}");
        let nowhere = RenewPolicy { program: Some("/nowhere/certbot".into()), ..policy(Path::new("/tmp"), "", long) };
        let error = run(&nowhere, Path::new("/c"), &CancellationToken::new()).await.unwrap_err();
        assert!(matches!(error, RenewError::Start { .. }));
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_ended_with_what_it_started() {
        let error = ran("sleep 1000 & sleep 1000", Duration::from_millis(200)).await.unwrap_err();
        assert!(matches!(error, RenewError::Timeout { .. }), "{error}");
    }

    #[test]
    fn our_own_variables_are_not_inherited() {
        let all = ["CERTDEPLOY_SERVER_DAEMON", "CERTDEPOLY_PUSH_ONLY", "CERTDEPLOY_SERVER_CONFIG", "LEXICON_TOKEN"];
        let kept: Vec<_> =
            environment(all.map(|name| (name.into(), "x".into())), Path::new("/c")).map(|(name, _)| name).collect();
        assert_eq!(kept, ["LEXICON_TOKEN", "CERTDEPLOY_SERVER_CONFIG"]);
    }
}
