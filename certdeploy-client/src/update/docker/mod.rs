//! The Docker engine: where it is, whom an entry means, and how its answers become errors. What is done with
//! containers and services is in the files below.

pub mod container;
pub mod service;

use std::collections::HashMap;
use std::time::Duration;

use bollard::Docker;

/// The engine that an entry talks to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    /// Where it listens.
    pub at: Address,
    /// How long one request may take, beside what it is asked to wait for.
    pub request: Duration,
}

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A socket.
    Unix(String),
    /// Plain HTTP over TCP.
    Http(String),
}

/// Why the engine did not do it.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// It cannot be reached.
    #[error("the Docker engine at `{url}` cannot be asked: {source}")]
    Unreachable {
        /// Its address.
        url: String,
        /// Why.
        source: bollard::errors::Error,
    },
    /// It refused.
    #[error("{0}")]
    Refused(#[from] bollard::errors::Error),
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
    /// A rollout went wrong.
    #[error("the rollout of service {service} is {state}: {message}")]
    Rollout {
        /// Which.
        service: String,
        /// `paused`, `rollback_completed`, ...
        state: String,
        /// The engine's words.
        message: String,
    },
    /// It takes too long.
    #[error("not done after {} s; the engine goes on", .0.as_secs())]
    TimedOut(Duration),
}

impl Address {
    /// Reads `docker_url`, in the forms that the Python program took.
    ///
    /// # Errors
    /// What it must be.
    pub fn parse(url: &str) -> Result<Self, &'static str> {
        const MUST: &str = "be unix://PATH, tcp://HOST:PORT or http://HOST:PORT";
        let url = url.trim();
        if let Some(path) = url.strip_prefix("unix://") {
            let path = path.trim_start_matches('/');
            return if path.is_empty() { Err(MUST) } else { Ok(Self::Unix(format!("/{path}"))) };
        }
        let rest = url.strip_prefix("tcp://").or_else(|| url.strip_prefix("http://")).unwrap_or(url);
        let host = rest.trim_end_matches('/');
        match host.rsplit_once(':') {
            Some((name, port)) if !name.is_empty() && !name.contains('/') && port.parse::<u16>().is_ok() => {
                Ok(Self::Http(host.to_owned()))
            }
            _ => Err(MUST),
        }
    }

    fn url(&self) -> String {
        match self {
            Self::Unix(path) => format!("unix://{path}"),
            Self::Http(host) => format!("tcp://{host}"),
        }
    }
}

impl Engine {
    /// Connects, and agrees on a version of the API. `wait` is how long an answer is meant to take.
    async fn connect(&self, wait: Duration) -> Result<Docker, DockerError> {
        let unreachable = |source| DockerError::Unreachable { url: self.at.url(), source };
        // Whole seconds are all that the library takes.
        let limit = (self.request + wait).as_secs().max(1);
        let client = match &self.at {
            Address::Unix(path) => Docker::connect_with_unix(path, limit, bollard::API_DEFAULT_VERSION),
            Address::Http(host) => {
                Docker::connect_with_http(&format!("tcp://{host}"), limit, bollard::API_DEFAULT_VERSION)
            }
        };
        client.map_err(unreachable)?.negotiate_version().await.map_err(unreachable)
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
    fn the_url_is_taken_in_all_documented_forms() {
        for unix in ["unix://var/run/docker.sock", "unix:///var/run/docker.sock"] {
            assert_eq!(Address::parse(unix), Ok(Address::Unix("/var/run/docker.sock".into())));
        }
        for http in ["tcp://h:2375", "http://h:2375/", "h:2375"] {
            assert_eq!(Address::parse(http), Ok(Address::Http("h:2375".into())), "{http}");
        }
        for bad in ["", "unix://", "ssh://h", "https://h:2376", "h", "tcp://h:x"] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }

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
