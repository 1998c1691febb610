//! Updates of type `docker_container`: restart, start, stop, signal, or a command inside. Every container that matches
//! gets its turn, also when an earlier one failed.

use std::time::Duration;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::exec::StartExecResults;
use bollard::models::{ContainerSummary, ExecConfig};
use bollard::query_parameters::{
    KillContainerOptions, ListContainersOptions, RestartContainerOptions, StopContainerOptions,
};
use futures::StreamExt;

use super::{DockerError, Engine, Selection, within};
use crate::update::UpdateError;

/// Which containers, and what to do with them.
#[derive(Debug, Clone)]
pub struct Container {
    /// Which.
    pub selection: Selection,
    /// What to do.
    pub action: Action,
    /// Where.
    pub engine: Engine,
    /// How long a container may take to end; `None` as it says itself.
    pub grace: Option<Duration>,
}

/// What can be done with a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Stop and start.
    Restart,
    /// Start what is stopped.
    Start,
    /// Stop.
    Stop,
    /// Send a signal to its first process.
    Signal(String),
    /// Run a command in it.
    Exec(Vec<String>),
}

/// The most output of a command that is kept, in bytes.
const OUTPUT_LIMIT: usize = 4096;

/// Does it to every container that matches.
///
/// # Errors
/// See [`DockerError`]; the first, when several failed.
pub async fn run(container: &Container) -> Result<(), UpdateError> {
    let failed = |source| UpdateError::Docker { what: "container", name: container.selection.to_string(), source };
    // A container's own grace is not known here; the engine's is ten seconds.
    let grace = container.grace.unwrap_or(Duration::from_secs(10));
    let bound = grace + container.engine.request;
    let all = async {
        let docker = container.engine.connect(grace).await?;
        let found = find(&docker, container).await?;
        let mut first = None;
        for id in found {
            if let Err(error) = within(Some(bound), act(&docker, &id, container)).await {
                first.get_or_insert(error);
            }
        }
        first.map_or(Ok(()), Err)
    };
    all.await.map_err(failed)?;
    tracing::info!("Docker container updated: {}", container.selection);
    Ok(())
}

async fn find(docker: &Docker, container: &Container) -> Result<Vec<String>, DockerError> {
    let options = ListContainersOptions {
        all: container.action == Action::Start,
        filters: Some(container.selection.filters()),
        ..ListContainersOptions::default()
    };
    let listed = docker.list_containers(Some(options)).await?;
    let found: Vec<String> =
        listed.into_iter().filter(|one| is_meant(one, &container.selection)).filter_map(|one| one.id).collect();
    if found.is_empty() {
        let selection = container.selection.to_string();
        return Err(DockerError::NotFound { kind: "DockerContainer", what: "container", selection });
    }
    Ok(found)
}

/// The engine takes a name for a part of one; we mean the whole.
fn is_meant(container: &ContainerSummary, selection: &Selection) -> bool {
    match selection {
        Selection::Name(name) => {
            container.names.iter().flatten().any(|one| one.strip_prefix('/').unwrap_or(one) == name)
        }
        Selection::Filters(_) => true,
    }
}

async fn act(docker: &Docker, id: &str, container: &Container) -> Result<(), DockerError> {
    let t = container.grace.map(|grace| i32::try_from(grace.as_secs()).unwrap_or(i32::MAX));
    match &container.action {
        Action::Restart => {
            docker.restart_container(id, Some(RestartContainerOptions { signal: None, t })).await?;
        }
        Action::Start => docker.start_container(id, None).await?,
        Action::Stop => docker.stop_container(id, Some(StopContainerOptions { signal: None, t })).await?,
        Action::Signal(signal) => {
            docker.kill_container(id, Some(KillContainerOptions { signal: signal.clone() })).await?;
        }
        Action::Exec(command) => exec(docker, id, command).await?,
    }
    Ok(())
}

async fn exec(docker: &Docker, id: &str, command: &[String]) -> Result<(), DockerError> {
    let config = ExecConfig {
        cmd: Some(command.to_vec()),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..ExecConfig::default()
    };
    let exec = docker.create_exec(id, config).await?.id;
    let mut said = Vec::new();
    if let StartExecResults::Attached { mut output, .. } = docker.start_exec(&exec, None).await? {
        while let Some(chunk) = output.next().await {
            let bytes = LogOutput::into_bytes(chunk?);
            let room = OUTPUT_LIMIT.saturating_sub(said.len());
            said.extend(bytes.iter().take(room));
        }
    }
    let code = docker.inspect_exec(&exec).await?.exit_code.unwrap_or_default();
    if code == 0 {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&said).into_owned();
    let last = text.trim_end().lines().last().unwrap_or_default();
    let said = if last.is_empty() { String::new() } else { format!("; it last said: {last}") };
    Err(DockerError::Exec { container: id.chars().take(12).collect(), code, said })
}
