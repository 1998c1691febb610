//! The Docker engine: where it is, whom an entry means, and how its answers become errors. What is done with
//! containers, services and secrets is in the files below.

pub mod address;
mod capped;
pub mod container;
mod line;
mod rollout;
pub mod secret;
pub mod service;
pub mod signal;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use bollard::errors::Error as Bollard;
use certdeploy_common::cert::Lineage;

use self::address::{Address, TlsFiles};
use self::line::{Api, Line};
use super::UpdateError;
use super::said::cut;

/// The engine that an entry talks to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    /// Where it listens.
    pub at: Address,
    /// TLS over TCP; `None` is plain.
    pub tls: Option<TlsFiles>,
    /// How long one request may take, beside what it is asked to wait for.
    pub request: Duration,
}

/// Why the engine did not do it.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// It cannot be reached.
    #[error("the Docker engine at `{url}` cannot be asked: {reason}")]
    Unreachable {
        /// Its address.
        url: String,
        /// Why.
        reason: String,
    },
    /// It refused.
    #[error("Docker responded with status code {status}: {message}{}", way_out(.message))]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Its words.
        message: String,
    },
    /// The answer did not come, or not whole.
    #[error("the Docker engine did not answer as it should: {0}")]
    Broken(String),
    /// Nothing matches.
    #[error("{kind}NotFound: no {what} matches {selection}")]
    NotFound {
        /// The class of the Python program.
        kind: &'static str,
        /// What was looked for.
        what: &'static str,
        /// How.
        selection: String,
    },
    /// A command in a container failed.
    #[error("the command in container {container} returned {code}{said}")]
    Exec {
        /// Which.
        container: String,
        /// Its status.
        code: i64,
        /// What it said last.
        said: String,
    },
    /// A container did not stay up.
    #[error("container {container} {how} after its {action}")]
    Down {
        /// Which.
        container: String,
        /// What it did.
        how: String,
        /// What was done to it.
        action: &'static str,
    },
    /// A command in a container has no status.
    #[error("the command in container {container} ended, but the engine does not say how")]
    NoStatus {
        /// Which.
        container: String,
    },
    /// A rollout went wrong.
    #[error("the rollout of service {service} is {state}: {message}")]
    Rollout {
        /// Which.
        service: String,
        /// `paused`, `rolled back`, ...
        state: String,
        /// The engine's words.
        message: String,
    },
    /// The name of a secret, with the lineage in it, is none.
    #[error(
        "a secret cannot be called `{0}`: its `name` must be at most 51 letters, digits, `-`, `_` and `.`; write an entry with a short `name` for this lineage"
    )]
    SecretName(String),
    /// One secret for several lineages.
    #[error(
        "one secret cannot hold several lineages ({0}): put `{{lineage}}` into its `name`, or write one entry for each, with `lineages`"
    )]
    SeveralLineages(String),
    /// What the secret is to hold is not there.
    #[error(
        "the files of lineage {lineage} cannot be taken: {reason} (the server sends what the `needs_...` keys of this target say)"
    )]
    Files {
        /// Which.
        lineage: Lineage,
        /// Why.
        reason: String,
    },
    /// It takes too long.
    #[error("not done after {} s; the engine goes on", .0.as_secs())]
    TimedOut(Duration),
}

/// What a person can do about a refusal.
fn way_out(message: &str) -> &'static str {
    if message.contains("not a swarm manager") { " Run this client on a manager of the swarm." } else { "" }
}

impl DockerError {
    fn refused(status: u16, message: &str) -> Self {
        Self::Refused { status, message: cut(message) }
    }

    fn broken(what: &dyn std::fmt::Display) -> Self {
        Self::Broken(cut(&what.to_string()))
    }

    fn status(&self) -> Option<u16> {
        if let Self::Refused { status, .. } = self { Some(*status) } else { None }
    }

    /// Somebody else has changed it since we looked.
    fn is_stale(&self) -> bool {
        matches!(self, Self::Refused { message, .. } if message.contains("out of sequence"))
    }
}

/// Of several things, those that failed: what the engine calls each, and why. At least one.
#[derive(Debug, Default)]
pub struct Failed(BTreeMap<String, DockerError>);

/// How many of them are named in one line.
const NAMED: usize = 5;

impl Failed {
    fn add(&mut self, part: &str, error: DockerError) {
        self.0.insert(part.to_owned(), error);
    }

    pub(in crate::update) fn parts(&self) -> BTreeSet<String> {
        self.0.keys().cloned().collect()
    }

    /// The end of an update of all `found`.
    fn of(self, what: &'static str, name: String) -> Result<(), UpdateError> {
        if self.0.is_empty() { Ok(()) } else { Err(UpdateError::Some { what, name, failed: self }) }
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (number, (part, error)) in self.0.iter().take(NAMED).enumerate() {
            if number > 0 {
                write!(f, "; {}: ", part.chars().take(SHORT_ID).collect::<String>())?;
            }
            write!(f, "{error}")?;
        }
        match self.0.len().checked_sub(NAMED) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, "; and {more} more"),
        }
    }
}

/// How much of an id people are shown.
const SHORT_ID: usize = 12;

impl From<Bollard> for DockerError {
    fn from(error: Bollard) -> Self {
        if let Bollard::DockerResponseServerError { status_code, message } = error {
            return Self::refused(status_code, &message);
        }
        Self::broken(&error)
    }
}

impl Engine {
    /// Whether it can be reached and speaks a version of the API that we do.
    ///
    /// # Errors
    /// See [`DockerError::Unreachable`].
    pub async fn answers(&self) -> Result<(), DockerError> {
        // The library's own limit, which says less, comes later than ours.
        self.api(Duration::from_secs(1)).await.map(drop)
    }

    /// Connects, and agrees on a version of the API. `wait` is how long the library's answers are meant to take.
    async fn api(&self, wait: Duration) -> Result<Api, DockerError> {
        let unreachable = |reason: String| DockerError::Unreachable { url: self.at.to_string(), reason };
        let line = Line::new(self).map_err(|error| unreachable(error.to_string()))?;
        // The library bounds the wait for an answer, not the answer itself.
        match tokio::time::timeout(self.request, line.docker(self.request + wait)).await {
            Ok(Ok(docker)) => Ok(Api::new(line, docker, self.request)),
            Ok(Err(Bollard::DockerResponseServerError { status_code, message })) => {
                Err(unreachable(DockerError::refused(status_code, &message).to_string()))
            }
            Ok(Err(error)) => Err(unreachable(self.without_identity(cut(&error.to_string())))),
            Err(_) => Err(unreachable(format!("no answer within {} s", self.request.as_secs()))),
        }
    }

    /// An engine that misses our certificate only says that it is a bad one.
    fn without_identity(&self, reason: String) -> String {
        let anonymous = self.tls.as_ref().is_some_and(|tls| tls.identity.is_none());
        if anonymous && reason.contains("fatal alert") {
            return format!("{reason}; it demands a certificate of ours: set `docker_tls_cert` and `docker_tls_key`");
        }
        reason
    }
}

/// Whom an entry means: one exact name, or everything that matches filters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// The exact name.
    Name(String),
    /// The engine's filters.
    Filters(HashMap<String, Vec<String>>),
}

impl Selection {
    /// A name counts only without filters; a single anchored name filter (`^x$`) is the exact name.
    #[must_use]
    pub fn new(name: Option<&str>, filters: Option<&[(String, Vec<String>)]>) -> Option<Self> {
        match (name, filters) {
            (_, Some(filters)) if !filters.is_empty() => Some(match filters {
                [(key, values)] if key == "name" && values.len() == 1 => {
                    let value = values.first().map(String::as_str).unwrap_or_default();
                    match value.strip_prefix('^').and_then(|value| value.strip_suffix('$')) {
                        Some(exact) => Self::Name(exact.to_owned()),
                        None => Self::Filters(filters.iter().cloned().collect()),
                    }
                }
                filters => Self::Filters(filters.iter().cloned().collect()),
            }),
            (Some(name), _) if !name.is_empty() => Some(Self::Name(name.to_owned())),
            _ => None,
        }
    }

    fn filters(&self) -> HashMap<String, Vec<String>> {
        match self {
            Self::Name(name) => HashMap::from([("name".to_owned(), vec![name.clone()])]),
            Self::Filters(filters) => filters.clone(),
        }
    }
}

impl std::fmt::Display for Selection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => write!(f, "name={name}"),
            Self::Filters(filters) => {
                let mut pairs: Vec<String> =
                    filters.iter().map(|(key, values)| format!("{key}={}", values.join(","))).collect();
                pairs.sort();
                write!(f, "filters={}", pairs.join(" "))
            }
        }
    }
}

fn none(kind: &'static str, what: &'static str, selection: &Selection) -> DockerError {
    DockerError::NotFound { kind, what, selection: selection.to_string() }
}

/// What follows when nothing matches. A name that is nobody's is a fault; filters may be for a whole fleet, and on this
/// machine there may be nothing that they mean.
fn nothing(kind: &'static str, what: &'static str, selection: &Selection) -> Result<(), DockerError> {
    match selection {
        Selection::Name(_) => Err(none(kind, what, selection)),
        Selection::Filters(_) => {
            tracing::warn!("No {what} matches {selection}, so nothing was updated");
            Ok(())
        }
    }
}

/// Gives `work` at most `limit`.
async fn within<T>(
    limit: Option<Duration>,
    work: impl Future<Output = Result<T, DockerError>>,
) -> Result<T, DockerError> {
    match limit {
        None => work.await,
        Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or(Err(DockerError::TimedOut(limit))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchored_name_filter_is_the_exact_name_and_filters_beat_the_name() {
        let filters = |key: &str, value: &str| vec![(key.to_owned(), vec![value.to_owned()])];
        let exact = filters("name", "^ingress_nginx$");
        assert_eq!(Selection::new(None, Some(&exact)), Some(Selection::Name("ingress_nginx".into())));
        let loose = filters("name", "web");
        assert!(matches!(Selection::new(Some("label only"), Some(&loose)), Some(Selection::Filters(_))));
        assert_eq!(Selection::new(Some("x"), None), Some(Selection::Name("x".into())));
        assert_eq!(Selection::new(None, None), None);
        assert_eq!(Selection::new(Some(""), Some(&[])), None);
    }
}
