//! Changing a swarm service and waiting for the rollout. The whole spec goes back as it came, unknown fields included:
//! it is never taken apart further than what is changed.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::DockerError;
use super::line::Api;
use crate::update::said::cut;

/// How often somebody else may change a service between our look and our update.
const TRIES: u32 = 10;
/// The first pause after such a collision; it grows.
const PAUSE: Duration = Duration::from_millis(20);
/// How often the state of a rollout is read.
const LOOK: Duration = Duration::from_millis(250);

/// A rollout that was begun, to tell it from an earlier one.
#[derive(Debug)]
pub(super) struct Begun {
    earlier: Option<String>,
}

impl Begun {
    /// One that goes on already, whoever began it.
    pub(super) const fn before() -> Self {
        Self { earlier: None }
    }
}

/// Reads one service.
pub(super) async fn read(api: &Api, id: &str) -> Result<Value, DockerError> {
    api.get(&format!("/services/{id}")).await
}

/// A field somewhere inside, as text.
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str)
}

/// What people call the service.
pub(super) fn name(service: &Value) -> String {
    let name = text(service, "/Spec/Name").or_else(|| text(service, "/ID"));
    cut(name.unwrap_or("without a name"))
}

/// Asks for new tasks even though nothing else has changed.
pub(super) fn force(spec: &mut Value) {
    let Some(task) = object(spec, "TaskTemplate") else { return };
    let count = task.get("ForceUpdate").and_then(Value::as_u64).unwrap_or_default();
    if let Some(task) = task.as_object_mut() {
        task.insert("ForceUpdate".to_owned(), json!(count.wrapping_add(1)));
    }
}

fn object<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    let entry = value.as_object_mut()?.entry(key).or_insert_with(|| json!({}));
    if entry.is_null() {
        *entry = json!({});
    }
    Some(entry)
}

/// Lets `change` alter the newest spec and sends it back, again when somebody else was faster. `None`: `change` found
/// nothing to do.
pub(super) async fn change(
    api: &Api,
    id: &str,
    change: impl Fn(&mut Value) -> bool,
) -> Result<Option<Begun>, DockerError> {
    let mut tries = 0;
    loop {
        let mut service = read(api, id).await?;
        let earlier = text(&service, "/UpdateStatus/StartedAt").map(str::to_owned);
        let index = service.pointer("/Version/Index").and_then(Value::as_u64).unwrap_or_default();
        let mut spec = service.get_mut("Spec").map(Value::take).unwrap_or_default();
        if !change(&mut spec) {
            return Ok(None);
        }
        match api.post(&format!("/services/{id}/update?version={index}"), Bytes::from(spec.to_string())).await {
            Ok(answer) => {
                for warning in answer.get("Warnings").and_then(Value::as_array).into_iter().flatten() {
                    tracing::warn!("Docker service {}: {}", name(&service), cut(warning.as_str().unwrap_or_default()));
                }
                return Ok(Some(Begun { earlier }));
            }
            Err(error) if error.is_stale() && tries < TRIES => {
                tries += 1;
                tokio::time::sleep(PAUSE * tries).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// How a service's last update stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// There was none, or it went well.
    Done,
    /// It goes on.
    Going,
    /// It has stopped halfway, or went back.
    Bad(String),
}

/// Reads it from the service.
pub(super) fn standing(service: &Value) -> Standing {
    match text(service, "/UpdateStatus/State") {
        None | Some("" | "completed") => Standing::Done,
        Some("paused") => Standing::Bad("paused".to_owned()),
        Some("rollback_paused") => Standing::Bad("rolled back, and that is paused".to_owned()),
        Some("rollback_completed") => Standing::Bad("rolled back".to_owned()),
        Some(_) => Standing::Going,
    }
}

/// Waits until the rollout has ended, however long that takes.
pub(super) async fn finished(api: &Api, id: &str, begun: &Begun) -> Result<(), DockerError> {
    let mut empty = 0;
    loop {
        let service = read(api, id).await?;
        let mode = service.pointer("/Spec/Mode");
        if mode.is_some_and(|mode| mode.get("ReplicatedJob").is_some() || mode.get("GlobalJob").is_some()) {
            // Jobs have no rollout: their tasks run anew, and that is all.
            return Ok(());
        }
        let started = text(&service, "/UpdateStatus/StartedAt");
        if started.is_some() && started != begun.earlier.as_deref() {
            match standing(&service) {
                Standing::Done => return Ok(()),
                Standing::Going => {}
                Standing::Bad(state) => {
                    let message = cut(text(&service, "/UpdateStatus/Message").unwrap_or_default());
                    return Err(DockerError::Rollout { service: name(&service), state, message });
                }
            }
        } else {
            // Where nothing runs nothing is rolled out, and the engine never says that it is done.
            empty = if has_tasks(api, id).await? { 0 } else { empty + 1 };
            if empty >= 2 {
                return Ok(());
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn has_tasks(api: &Api, id: &str) -> Result<bool, DockerError> {
    let tasks = api.list("/tasks", &json!({"service": [id], "desired-state": ["running"]})).await?;
    Ok(!tasks.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forcing_touches_nothing_else() {
        let mut spec = json!({"TaskTemplate": {"ForceUpdate": 7, "Unknown": {"x": [1.5]}}, "New": null});
        force(&mut spec);
        assert_eq!(spec, json!({"TaskTemplate": {"ForceUpdate": 8, "Unknown": {"x": [1.5]}}, "New": null}));
        let mut spec = json!({"Name": "x"});
        force(&mut spec);
        assert_eq!(spec, json!({"Name": "x", "TaskTemplate": {"ForceUpdate": 1}}));
    }

    #[test]
    fn the_state_of_an_update_is_taken_as_the_engine_says_it() {
        let of = |state: &str| standing(&json!({"UpdateStatus": {"State": state}}));
        assert_eq!((standing(&json!({})), of("completed")), (Standing::Done, Standing::Done));
        assert_eq!((of("updating"), of("rollback_started")), (Standing::Going, Standing::Going));
        assert!(matches!(of("paused"), Standing::Bad(_)) && matches!(of("rollback_completed"), Standing::Bad(_)));
    }
}
