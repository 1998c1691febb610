//! Updates of type `docker_container`: restart, start, stop, signal, or a command inside. Every container that matches
//! gets its turn, also when an earlier one failed.

use std::collections::BTreeSet;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::exec::StartExecResults;
use bollard::models::ExecConfig;
use bollard::query_parameters::{KillContainerOptions, RestartContainerOptions, StopContainerOptions};
use futures::StreamExt;
use serde_json::{Value, json};

use super::line::Api;
use super::rollout::text;
use super::signal::Signal;
use super::{DockerError, Engine, Failed, SHORT_ID, Selection, none, nothing, within};
use crate::update::said::{Said, last_line};
use crate::update::{UpdateError, digest};

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
    /// How long a command in it may take; `None` for ever.
    pub command: Option<Duration>,
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
    Signal(Signal),
    /// Run a command in it.
    Exec(Vec<String>),
}

impl Action {
    /// Tells it from others in an entry's id.
    pub(in crate::update) fn id(&self) -> String {
        match self {
            Self::Restart => "restart".to_owned(),
            Self::Start => "start".to_owned(),
            Self::Stop => "stop".to_owned(),
            Self::Signal(signal) => format!("signal {}", signal.as_str()),
            Self::Exec(command) => format!("exec {}", digest(command.iter().map(String::as_str))),
        }
    }
}

/// How much of the end of a command's output is kept, in bytes.
const OUTPUT_LIMIT: usize = 4096;
/// How long a container may take to end that says nothing about it.
const GRACE: Duration = Duration::from_secs(10);
/// The library's own limit when the container's is ours.
const AGES: Duration = Duration::from_secs(u32::MAX as u64);
/// How often a command is asked whether it has ended.
const LOOK: Duration = Duration::from_millis(100);

/// Does it to every container that matches and is one of `only`. Those that have `fallen` before may be stopped.
///
/// # Errors
/// See [`DockerError`] and [`Failed`].
pub async fn run(
    container: &Container,
    only: Option<&BTreeSet<String>>,
    fallen: &BTreeSet<String>,
) -> Result<(), UpdateError> {
    let name = || container.selection.to_string();
    let broken = |source| UpdateError::Docker { what: "container", name: name(), source };
    let api = container.engine.api(container.grace.unwrap_or(AGES)).await.map_err(broken)?;
    let Found { mut ids, left } = find(&api, container, only, fallen).await.map_err(broken)?;
    if let Some(what) = missing(container, &ids, left) {
        nothing("DockerContainer", what, &container.selection).map_err(broken)?;
    }
    // Those that are gone hold no old files.
    ids.retain(|id| only.is_none_or(|only| only.contains(id)));
    let mut failed = Failed::default();
    for id in &ids {
        let done = async {
            let bound = bound(&api, id, container).await?;
            within(bound, act(&api, id, container)).await?;
            stays(&api, id, &container.action).await
        };
        if let Err(error) = done.await {
            failed.add(id, error);
        }
    }
    failed.of("container", name())?;
    if !ids.is_empty() {
        tracing::info!("Docker container updated: {}", container.selection);
    }
    Ok(())
}

/// Asks whether there is anything to do it to.
///
/// # Errors
/// See [`DockerError`].
pub async fn look(container: &Container, request: Duration) -> Result<(), DockerError> {
    let engine = Engine { request, ..container.engine.clone() };
    let found = find(&engine.api(Duration::ZERO).await?, container, None, &BTreeSet::new()).await?;
    let what = missing(container, &found.ids, found.left);
    what.map_or(Ok(()), |what| Err(none("DockerContainer", what, &container.selection)))
}

/// How long it may take with this container; `None` is for ever.
async fn bound(api: &Api, id: &str, container: &Container) -> Result<Option<Duration>, DockerError> {
    let grace = match container.action {
        Action::Exec(_) => return Ok(container.command),
        Action::Start | Action::Signal(_) => Some(GRACE),
        Action::Restart | Action::Stop if container.grace.is_some() => container.grace,
        Action::Restart | Action::Stop => own_grace(&api.get(&format!("/containers/{id}/json")).await?),
    };
    Ok(grace.map(|grace| grace + container.engine.request))
}

/// What the container says about it itself.
fn own_grace(inspected: &Value) -> Option<Duration> {
    match inspected.pointer("/Config/StopTimeout").and_then(Value::as_i64) {
        None => Some(GRACE),
        // Negative: however long it takes.
        Some(seconds) => u64::try_from(seconds).ok().map(Duration::from_secs),
    }
}

/// What an entry means.
struct Found {
    ids: Vec<String>,
    /// Others match, and are stopped.
    left: bool,
}

/// What is stopped is left alone, unless it is to be started, or was to be running: it could not be started, or has
/// ended after a restart of ours.
async fn find(
    api: &Api,
    container: &Container,
    only: Option<&BTreeSet<String>>,
    fallen: &BTreeSet<String>,
) -> Result<Found, DockerError> {
    let listed = api.list("/containers/json?all=true", &json!(container.selection.filters())).await?;
    let (mut found, mut left) = (Vec::new(), false);
    for one in listed.iter().filter(|one| is_meant(one, &container.selection)) {
        let Some(id) = text(one, "/Id") else { continue };
        let failed = fallen.contains(id) || only.is_some_and(|only| only.contains(id));
        let stopped = matches!(text(one, "/State"), Some("created" | "exited" | "dead"));
        let meant = match container.action {
            Action::Restart if failed => true,
            Action::Restart if stopped => could_not_start(&api.get(&format!("/containers/{id}/json")).await?),
            Action::Start => true,
            Action::Restart | Action::Stop | Action::Signal(_) | Action::Exec(_) => !stopped,
        };
        left |= !meant;
        if meant {
            found.push(id.to_owned());
        }
    }
    Ok(Found { ids: found, left })
}

/// What there is none of, if there is nothing to do it to.
fn missing(container: &Container, found: &[String], left: bool) -> Option<&'static str> {
    match (found, left) {
        ([_, ..], _) => None,
        ([], true) if container.action == Action::Stop => None,
        ([], true) => Some("running container (what is stopped is left alone)"),
        ([], false) => Some("container"),
    }
}

/// A restart that stopped it and could not start it again leaves the engine's words about that.
fn could_not_start(inspected: &Value) -> bool {
    text(inspected, "/State/Error").is_some_and(|error| !error.is_empty())
}

/// How long a container is watched for a quick death once it runs.
const SETTLE: Duration = Duration::from_secs(1);

/// Whether a container that was started still runs a moment later. One that has done its work may have ended.
async fn stays(api: &Api, id: &str, action: &Action) -> Result<(), DockerError> {
    let action = match action {
        Action::Restart => "restart",
        Action::Start => "start",
        Action::Stop | Action::Signal(_) | Action::Exec(_) => return Ok(()),
    };
    let deadline = tokio::time::Instant::now() + SETTLE;
    loop {
        if let Some(how) = fell(&api.get(&format!("/containers/{id}/json")).await?) {
            return Err(DockerError::Down { container: id.chars().take(SHORT_ID).collect(), how, action });
        }
        if tokio::time::Instant::now() >= deadline {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// How it ended, if that was no good end.
fn fell(inspected: &Value) -> Option<String> {
    let state = inspected.get("State")?;
    let code = state.get("ExitCode").and_then(Value::as_i64).unwrap_or_default();
    let flag = |name: &str| state.get(name).and_then(Value::as_bool);
    match (flag("Restarting"), flag("Running")) {
        (Some(true), _) => Some(format!("ended with {code}, and the engine starts it again and again")),
        (_, Some(false)) if code != 0 => Some(format!("ended with {code}")),
        _ => None,
    }
}

/// The engine takes a name for a part of one; we mean the whole.
fn is_meant(container: &Value, selection: &Selection) -> bool {
    let names = container.get("Names").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    match selection {
        Selection::Name(name) => names.into_iter().any(|one| one.strip_prefix('/').unwrap_or(one) == name),
        Selection::Filters(_) => true,
    }
}

async fn act(api: &Api, id: &str, container: &Container) -> Result<(), DockerError> {
    let docker = api.docker();
    let t = container.grace.map(|grace| i32::try_from(grace.as_secs()).unwrap_or(i32::MAX));
    match &container.action {
        Action::Restart => {
            docker.restart_container(id, Some(RestartContainerOptions { signal: None, t })).await?;
        }
        Action::Start => docker.start_container(id, None).await?,
        Action::Stop => docker.stop_container(id, Some(StopContainerOptions { signal: None, t })).await?,
        Action::Signal(signal) => {
            docker.kill_container(id, Some(KillContainerOptions { signal: signal.as_str().to_owned() })).await?;
        }
        Action::Exec(command) => exec(api, id, command).await?,
    }
    Ok(())
}

async fn exec(api: &Api, id: &str, command: &[String]) -> Result<(), DockerError> {
    let docker = api.docker();
    let config = ExecConfig {
        cmd: Some(command.to_vec()),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..ExecConfig::default()
    };
    let exec = docker.create_exec(id, config).await?.id;
    let mut said = Said::new(OUTPUT_LIMIT);
    if let StartExecResults::Attached { mut output, .. } = docker.start_exec(&exec, None).await? {
        while let Some(chunk) = output.next().await {
            said.add(&LogOutput::into_bytes(chunk?));
        }
    }
    let container = || id.chars().take(SHORT_ID).collect();
    // Its output may end before it does.
    let code = loop {
        let inspected = api.get(&format!("/exec/{exec}/json")).await?;
        if inspected.get("Running").and_then(Value::as_bool) != Some(true) {
            break inspected.get("ExitCode").and_then(Value::as_i64);
        }
        tokio::time::sleep(LOOK).await;
    };
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(DockerError::Exec { container: container(), code, said: last_line(&said.text()) }),
        None => Err(DockerError::NoStatus { container: container() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_died_is_told_from_what_has_done_its_work() {
        let of = |running: bool, restarting: bool, code: i64| {
            fell(&json!({"State": {"Running": running, "Restarting": restarting, "ExitCode": code}}))
        };
        assert_eq!((of(true, false, 0), of(false, false, 0)), (None, None));
        assert_eq!(of(false, false, 3).as_deref(), Some("ended with 3"));
        assert!(of(true, true, 1).is_some_and(|how| how.contains("again and again")));
        assert_eq!(fell(&json!({})), None);
        let words = |error: &str| could_not_start(&json!({"State": {"Error": error}}));
        assert!(words("port is already allocated") && !words(""));
    }

    #[test]
    fn a_container_says_itself_how_long_it_may_take() {
        let of = |config: Value| own_grace(&json!({ "Config": config })).map(|grace| grace.as_secs());
        assert_eq!((of(json!({"StopTimeout": 90})), of(json!({}))), (Some(90), Some(10)));
        assert_eq!((of(json!({"StopTimeout": null})), of(json!({"StopTimeout": -1}))), (Some(10), None));
    }
}
