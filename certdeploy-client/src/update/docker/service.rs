//! Updates of type `docker_service`: new tasks for a swarm service, by raising its ForceUpdate, and the rollout waited
//! for. The whole spec goes back as it came.

use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error as Bollard;
use bollard::models::{Service as Swarm, ServiceUpdateStatusStateEnum as Rollout, TaskSpec};
use bollard::query_parameters::{InspectServiceOptions, ListServicesOptions, UpdateServiceOptions};

use super::{DockerError, Engine, Selection, within};
use crate::update::UpdateError;

/// Which services.
#[derive(Debug, Clone)]
pub struct Service {
    /// Which.
    pub selection: Selection,
    /// Where.
    pub engine: Engine,
    /// How long the rollout of each may take; `None` for ever.
    pub timeout: Option<Duration>,
}

/// How often somebody else may change a service between our look and our update.
const TRIES: u32 = 5;
/// How often the state of a rollout is read.
const LOOK: Duration = Duration::from_millis(500);

/// Updates every service that matches, also when an earlier one failed.
///
/// # Errors
/// See [`DockerError`]; the first, when several failed.
pub async fn run(service: &Service) -> Result<(), UpdateError> {
    let failed = |source| UpdateError::Docker { what: "service", name: service.selection.to_string(), source };
    let all = async {
        let docker = service.engine.connect(Duration::ZERO).await?;
        let mut first = None;
        for id in find(&docker, service).await? {
            let done = async {
                let before = update(&docker, &id).await?;
                rolled_out(&docker, &id, before).await
            };
            if let Err(error) = within(service.timeout, done).await {
                first.get_or_insert(error);
            }
        }
        first.map_or(Ok(()), Err)
    };
    all.await.map_err(failed)?;
    tracing::info!("Docker service updated: {}", service.selection);
    Ok(())
}

async fn find(docker: &Docker, service: &Service) -> Result<Vec<String>, DockerError> {
    let filters = Some(service.selection.filters());
    let listed = docker.list_services(Some(ListServicesOptions { filters, status: None })).await?;
    // The engine takes a name for the beginning of one; we mean the whole.
    let is_meant = |one: &Swarm| match &service.selection {
        Selection::Name(name) => one.spec.as_ref().and_then(|spec| spec.name.as_ref()) == Some(name),
        Selection::Filters(_) => true,
    };
    let found: Vec<String> = listed.into_iter().filter(is_meant).filter_map(|one| one.id).collect();
    if found.is_empty() {
        let selection = service.selection.to_string();
        return Err(DockerError::NotFound { kind: "DockerService", what: "service", selection });
    }
    Ok(found)
}

async fn read(docker: &Docker, id: &str) -> Result<Swarm, DockerError> {
    Ok(docker.inspect_service(id, None::<InspectServiceOptions>).await?)
}

/// Raises ForceUpdate. Returns when an earlier rollout had begun, to tell the new one from it.
async fn update(docker: &Docker, id: &str) -> Result<Option<String>, DockerError> {
    let mut tries = 0;
    loop {
        let service = read(docker, id).await?;
        let begun = service.update_status.and_then(|status| status.started_at);
        let mut spec = service.spec.unwrap_or_default();
        let task = spec.task_template.get_or_insert_with(TaskSpec::default);
        task.force_update = Some(task.force_update.unwrap_or_default().wrapping_add(1));
        let index = service.version.and_then(|version| version.index).unwrap_or_default();
        let options = UpdateServiceOptions {
            version: i32::try_from(index).unwrap_or(i32::MAX),
            ..UpdateServiceOptions::default()
        };
        match docker.update_service(id, spec, options, None).await {
            Ok(answer) => {
                for warning in answer.warnings.unwrap_or_default() {
                    tracing::warn!("Docker service {id}: {warning}");
                }
                return Ok(begun);
            }
            Err(error) if is_stale(&error) && tries < TRIES => tries += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

fn is_stale(error: &Bollard) -> bool {
    matches!(error, Bollard::DockerResponseServerError { message, .. } if message.contains("out of sequence"))
}

async fn rolled_out(docker: &Docker, id: &str, before: Option<String>) -> Result<(), DockerError> {
    loop {
        let service = read(docker, id).await?;
        let mode = service.spec.as_ref().and_then(|spec| spec.mode.as_ref());
        if mode.is_some_and(|mode| mode.replicated_job.is_some() || mode.global_job.is_some()) {
            // Jobs have no rollout: their tasks run anew, and that is all.
            return Ok(());
        }
        let name = service.spec.and_then(|spec| spec.name).unwrap_or_else(|| id.to_owned());
        let status = service.update_status.filter(|status| status.started_at != before);
        if let Some(status) = status {
            let message = status.message.unwrap_or_default();
            let bad = |state: &str| DockerError::Rollout {
                service: name.clone(),
                state: state.to_owned(),
                message: message.clone(),
            };
            match status.state {
                Some(Rollout::COMPLETED) => return Ok(()),
                Some(Rollout::PAUSED) => return Err(bad("paused")),
                Some(Rollout::ROLLBACK_PAUSED) => return Err(bad("rolled back, and that is paused")),
                Some(Rollout::ROLLBACK_COMPLETED) => return Err(bad("rolled back")),
                Some(Rollout::UPDATING | Rollout::ROLLBACK_STARTED | Rollout::EMPTY) | None => {}
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}
