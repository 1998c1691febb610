//! Updates of type `docker_service`: new tasks for a swarm service, by raising its ForceUpdate, and the rollout waited
//! for.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::line::Api;
use super::rollout::text;
use super::{DockerError, Engine, Failed, Selection, none, nothing, rollout, within};
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

/// Updates every service that matches and is one of `only`, also when an earlier one failed.
///
/// # Errors
/// See [`DockerError`] and [`Failed`].
pub async fn run(service: &Service, only: Option<&BTreeSet<String>>) -> Result<(), UpdateError> {
    let name = || service.selection.to_string();
    let broken = |source| UpdateError::Docker { what: "service", name: name(), source };
    let api = service.engine.api(Duration::ZERO).await.map_err(broken)?;
    let mut found = find(&api, service).await.map_err(broken)?;
    if found.is_empty() {
        nothing("DockerService", "service", &service.selection).map_err(broken)?;
    }
    // Those that are gone have no tasks that could hold old files.
    found.retain(|id| only.is_none_or(|only| only.contains(id)));
    let mut failed = Failed::default();
    for id in &found {
        let done = async {
            let force = |spec: &mut _| {
                rollout::force(spec);
                true
            };
            match rollout::change(&api, id, force).await? {
                Some(begun) => rollout::finished(&api, id, &begun).await,
                None => Ok(()),
            }
        };
        if let Err(error) = within(service.timeout, done).await {
            failed.add(id, error);
        }
    }
    failed.of("service", name())?;
    if !found.is_empty() {
        tracing::info!("Docker service updated: {}", service.selection);
    }
    Ok(())
}

/// Asks whether there is anything to update.
///
/// # Errors
/// See [`DockerError`].
pub async fn look(service: &Service, request: Duration) -> Result<(), DockerError> {
    let engine = Engine { request, ..service.engine.clone() };
    match find(&engine.api(Duration::ZERO).await?, service).await?.is_empty() {
        true => Err(none("DockerService", "service", &service.selection)),
        false => Ok(()),
    }
}

async fn find(api: &Api, service: &Service) -> Result<Vec<String>, DockerError> {
    let listed = api.list("/services", &json!(service.selection.filters())).await?;
    // The engine takes a name for the beginning of one; we mean the whole.
    let is_meant = |one: &&Value| match &service.selection {
        Selection::Name(name) => text(one, "/Spec/Name") == Some(name),
        Selection::Filters(_) => true,
    };
    let ids = listed.iter().filter(is_meant).filter_map(|one| text(one, "/ID"));
    Ok(ids.map(str::to_owned).collect())
}
