//! Updates of type `systemd`: asked over D-Bus, the job's result waited for and the unit's state read after it, so that
//! nothing is called restarted that was not. With `systemd_exec` that executable is run instead.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::StreamExt;
use zbus::OwnedObjectPath;

use super::UpdateError;
use super::command::{self, CommandError, Surroundings};
use super::said::cut;

/// A unit and what to do with it.
#[derive(Debug, Clone)]
pub struct Unit {
    /// Its full name.
    pub name: String,
    /// What to do.
    pub action: Action,
    /// `systemctl`, instead of D-Bus.
    pub executable: Option<PathBuf>,
    /// How long it may take; `None` for ever.
    pub timeout: Option<Duration>,
}

/// What can be done with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Stop and start; starts what is stopped.
    Restart,
    /// Read the files anew; fails for what does not run.
    Reload,
    /// Reload where that is possible, else restart.
    ReloadOrRestart,
    /// Restart only what runs.
    TryRestart,
    /// Start.
    Start,
    /// Stop.
    Stop,
}

impl Action {
    /// Reads it as the config writes it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let all = [Self::Restart, Self::Reload, Self::ReloadOrRestart, Self::TryRestart, Self::Start, Self::Stop];
        all.into_iter().find(|action| action.as_str() == text)
    }

    /// The name in the config.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Reload => "reload",
            Self::ReloadOrRestart => "reload-or-restart",
            Self::TryRestart => "try-restart",
            Self::Start => "start",
            Self::Stop => "stop",
        }
    }

    const fn done(self) -> &'static str {
        match self {
            Self::Restart => "restarted",
            Self::Reload => "reloaded",
            Self::ReloadOrRestart => "reloaded or restarted",
            Self::TryRestart => "restarted if it ran",
            Self::Start => "started",
            Self::Stop => "stopped",
        }
    }
}

/// Why systemd did not do it.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// There is no bus, or nobody answers there.
    #[error("systemd cannot be asked over D-Bus: {}. Where there is no system bus, set `systemd_exec`", cut(&.0.to_string()))]
    Bus(zbus::Error),
    /// Somebody took the connection, but said nothing.
    #[error("systemd cannot be asked over D-Bus: no answer within {} s, so nothing was done", .0.as_secs())]
    Silent(Duration),
    /// The call was refused: no such unit, masked, not allowed.
    #[error("{0}")]
    Refused(String),
    /// The job ended otherwise than done.
    #[error("the job's result is `{0}`{hint}", hint = if .0 == "invalid" { ": the unit does not run, so it cannot be reloaded" } else { "" })]
    Job(String),
    /// The job is done, but the unit is not as it should be.
    #[error("the unit is {state} ({result}) afterwards")]
    State {
        /// Its ActiveState.
        state: String,
        /// Its Result.
        result: String,
    },
    /// It took too long; systemd goes on with it.
    #[error("not done after {} s; systemd goes on with the job", .0.as_secs())]
    TimedOut(Duration),
    /// `systemd_exec` failed.
    #[error(transparent)]
    Command(#[from] CommandError),
}

impl From<zbus::Error> for SystemdError {
    fn from(error: zbus::Error) -> Self {
        if let zbus::Error::MethodError(name, text, _) = &error {
            let name = name.as_str().rsplit('.').next().unwrap_or_default();
            let text = text.as_ref().map_or(name.to_owned(), |text| format!("{name}: {text}"));
            return Self::Refused(cut(&text));
        }
        Self::Bus(error)
    }
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;
    fn ref_unit(&self, name: &str) -> zbus::Result<()>;
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn reload_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn reload_or_restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn try_restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    #[zbus(signal)]
    fn job_removed(&self, id: u32, job: OwnedObjectPath, unit: String, result: String) -> zbus::Result<()>;
}

#[zbus::proxy(interface = "org.freedesktop.systemd1.Unit", default_service = "org.freedesktop.systemd1")]
trait Unit {
    #[zbus(property)]
    fn active_state(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn condition_result(&self) -> zbus::Result<bool>;
}

#[zbus::proxy(interface = "org.freedesktop.systemd1.Service", default_service = "org.freedesktop.systemd1")]
trait Service {
    #[zbus(property)]
    fn result(&self) -> zbus::Result<String>;
    #[zbus(property, name = "Type")]
    fn kind(&self) -> zbus::Result<String>;
}

/// Whether it can be the full name of a unit (systemd.unit(5)).
#[must_use]
pub fn is_unit_name(name: &str) -> bool {
    const KINDS: [&str; 11] =
        ["service", "socket", "device", "mount", "automount", "swap", "target", "path", "timer", "slice", "scope"];
    let Some((stem, kind)) = name.rsplit_once('.') else { return false };
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_' | '.' | '\\' | '@');
    !stem.is_empty() && name.len() <= 255 && KINDS.contains(&kind) && stem.chars().all(fine)
}

/// Does it and waits for the result.
///
/// # Errors
/// See [`SystemdError`].
pub async fn run(unit: &Unit) -> Result<(), UpdateError> {
    let failed = |source| UpdateError::Systemd { name: unit.name.clone(), action: unit.action.as_str(), source };
    let done = match &unit.executable {
        Some(systemctl) => {
            let words = [unit.action.as_str().to_owned(), unit.name.clone()];
            let surroundings = Surroundings::default();
            command::run(systemctl, &words, &surroundings, unit.timeout).await.map_err(SystemdError::from)
        }
        None => over_bus(unit).await,
    };
    done.map_err(failed)?;
    tracing::info!("Systemd unit {} {}.", unit.name, unit.action.done());
    Ok(())
}

/// How long systemd may take to answer that it has begun, whatever the unit's own limit is; D-Bus has the same.
const ANSWER: Duration = Duration::from_secs(25);

/// What systemd has of a unit: `loaded`, `not-found`, `masked`...
///
/// # Errors
/// See [`SystemdError`].
pub async fn load_state(name: &str) -> Result<String, SystemdError> {
    let bus = zbus::Connection::system().await.map_err(SystemdError::Bus)?;
    let path = ManagerProxy::new(&bus).await?.load_unit(name).await?;
    let unit = zbus::Proxy::new(&bus, "org.freedesktop.systemd1", path, "org.freedesktop.systemd1.Unit").await?;
    Ok(unit.get_property("LoadState").await?)
}

async fn over_bus(unit: &Unit) -> Result<(), SystemdError> {
    let begun = Instant::now();
    let limit = unit.timeout.map_or(ANSWER, |limit| limit.min(ANSWER));
    let asked = tokio::time::timeout(limit, ask(unit)).await.unwrap_or(Err(SystemdError::Silent(limit)))?;
    match unit.timeout {
        None => asked.ended(unit).await,
        Some(limit) => {
            let left = limit.saturating_sub(begun.elapsed());
            tokio::time::timeout(left, asked.ended(unit)).await.unwrap_or(Err(SystemdError::TimedOut(limit)))
        }
    }
}

/// A job that systemd has begun.
struct Asked {
    bus: zbus::Connection,
    manager: ManagerProxy<'static>,
    removed: JobRemovedStream,
    job: OwnedObjectPath,
}

async fn ask(unit: &Unit) -> Result<Asked, SystemdError> {
    const REPLACE: &str = "replace";
    let bus = zbus::Connection::system().await.map_err(SystemdError::Bus)?;
    let manager = ManagerProxy::new(&bus).await?;
    manager.subscribe().await?;
    // Before the job is made: a short one is over before anybody could begin to listen.
    let removed = manager.receive_job_removed().await?;
    let name = unit.name.as_str();
    // What has ended is forgotten at once, with its result, unless somebody holds it. It is let go with the connection.
    let held = match manager.load_unit(name).await {
        Ok(_) => manager.ref_unit(name).await,
        Err(error) => Err(error),
    };
    if let Err(error) = held {
        tracing::debug!("{name} cannot be held: {error}");
    }
    let job = match unit.action {
        Action::Restart => manager.restart_unit(name, REPLACE).await?,
        Action::Reload => manager.reload_unit(name, REPLACE).await?,
        Action::ReloadOrRestart => manager.reload_or_restart_unit(name, REPLACE).await?,
        Action::TryRestart => manager.try_restart_unit(name, REPLACE).await?,
        Action::Start => manager.start_unit(name, REPLACE).await?,
        Action::Stop => manager.stop_unit(name, REPLACE).await?,
    };
    Ok(Asked { bus, manager, removed, job })
}

impl Asked {
    /// Waits for the end of the job and looks at what it left.
    async fn ended(mut self, unit: &Unit) -> Result<(), SystemdError> {
        loop {
            let Some(signal) = self.removed.next().await else {
                return Err(SystemdError::Refused("the bus closed the connection".to_owned()));
            };
            let ended = signal.args()?;
            if ended.job == self.job {
                if ended.result != "done" {
                    return Err(SystemdError::Job(cut(&ended.result)));
                }
                break;
            }
        }
        settled(&self.bus, &self.manager, unit).await
    }
}

/// How long a unit that starts without saying when it is ready is watched for a quick death.
const SETTLE: Duration = Duration::from_secs(1);
/// How often its state is read meanwhile.
const LOOK: Duration = Duration::from_millis(100);

/// What systemd knows of a unit after the job.
#[derive(Debug, Clone, PartialEq, Eq)]
struct After {
    state: String,
    result: String,
    kind: String,
    condition: bool,
}

async fn settled(bus: &zbus::Connection, manager: &ManagerProxy<'_>, unit: &Unit) -> Result<(), SystemdError> {
    let path = manager.load_unit(&unit.name).await?;
    let deadline = tokio::time::Instant::now() + SETTLE;
    loop {
        let after = look(bus, &path).await?;
        judge(unit.action, &after)?;
        // Only these are called started before they are; everything else has said so itself.
        let premature = matches!(after.kind.as_str(), "simple" | "exec" | "idle") && unit.action != Action::Stop;
        if !premature || tokio::time::Instant::now() >= deadline {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn look(bus: &zbus::Connection, path: &OwnedObjectPath) -> Result<After, SystemdError> {
    let unit = UnitProxy::builder(bus).path(path).cache_properties(zbus::proxy::CacheProperties::No).build().await?;
    let service =
        ServiceProxy::builder(bus).path(path).cache_properties(zbus::proxy::CacheProperties::No).build().await?;
    Ok(After {
        state: unit.active_state().await?,
        condition: unit.condition_result().await.unwrap_or(true),
        // Other kinds of units have neither.
        result: service.result().await.unwrap_or_default(),
        kind: service.kind().await.unwrap_or_default(),
    })
}

/// Whether the state that a done job left is the one that was asked for.
fn judge(action: Action, after: &After) -> Result<(), SystemdError> {
    let wrong = || SystemdError::State { state: after.state.clone(), result: after.result.clone() };
    match (action, after.state.as_str()) {
        (_, "failed") => Err(wrong()),
        (Action::Stop, _) | (Action::TryRestart, "inactive") => Ok(()),
        // A oneshot has done its work and is gone; anything else has not been started, or has ended at once.
        // The job is done, so this start is another one: systemd tries again what has died.
        (Action::Restart | Action::TryRestart | Action::ReloadOrRestart | Action::Start, "activating")
            if after.kind != "oneshot" =>
        {
            Err(wrong())
        }
        (_, "inactive" | "deactivating") if after.kind != "oneshot" || !after.condition => {
            if after.condition {
                Err(wrong())
            } else {
                Err(SystemdError::State {
                    state: after.state.clone(),
                    result: "a condition of the unit does not hold".to_owned(),
                })
            }
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_names_are_whole() {
        for good in ["nginx.service", "a@b.service", "dev-sda.device", "x\\x2dy.mount", "certbot.timer"] {
            assert!(is_unit_name(good), "{good}");
        }
        for bad in ["nginx", "nginx.service foo", ".service", "nginx.conf", "a/b.service", "-.", ""] {
            assert!(!is_unit_name(bad), "{bad}");
        }
    }

    #[test]
    fn the_state_decides_whether_a_done_job_is_a_success() {
        let after = |state: &str, kind: &str, condition| After {
            state: state.into(),
            result: "exit-code".into(),
            kind: kind.into(),
            condition,
        };
        for (action, after, fine) in [
            (Action::Restart, after("active", "notify", true), true),
            (Action::Restart, after("failed", "simple", true), false),
            (Action::Restart, after("inactive", "oneshot", true), true),
            (Action::Restart, after("inactive", "oneshot", false), false),
            (Action::Restart, after("inactive", "simple", true), false),
            (Action::Reload, after("active", "simple", true), true),
            (Action::TryRestart, after("inactive", "simple", true), true),
            (Action::Stop, after("inactive", "simple", true), true),
            (Action::Stop, after("failed", "simple", true), false),
            (Action::Restart, after("activating", "simple", true), false),
            (Action::Start, after("activating", "oneshot", true), true),
        ] {
            assert_eq!(judge(action, &after).is_ok(), fine, "{action:?} {after:?}");
        }
    }
}
