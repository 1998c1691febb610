//! A swarm of two nodes, manager and worker, each an engine in a network namespace of its own; and services in a swarm.

use std::path::Path;
use std::time::Duration;

use crate::engine::{Engine, IMAGE};
use crate::need::find;
use crate::network::Network;
use crate::until;

/// How long a swarm may take for anything.
pub const SLOW: Duration = Duration::from_secs(60);

/// The two nodes; they go with this value.
#[derive(Debug)]
pub struct Swarm {
    /// The manager.
    pub manager: Engine,
    /// The worker.
    pub worker: Engine,
    _networks: [Network; 2],
}

impl Swarm {
    /// Starts it.
    ///
    /// # Panics
    /// It does not come up.
    #[must_use]
    pub fn start(folder: &Path) -> Self {
        let networks = [Network::new(), Network::new()];
        networks[0].join("10.77.0.1", &networks[1], "10.77.0.2");
        let dockerd = find("dockerd").expect("dockerd").display().to_string();
        let start = |n: usize| Engine::start_with(&folder.join(format!("node{n}")), networks[n].command(&dockerd), &[]);
        let (manager, worker) = (start(0), start(1));
        let _ = manager.ask(&["swarm", "init", "--advertise-addr", "10.77.0.1", "--listen-addr", "10.77.0.1:2377"]);
        let token = manager.ask(&["swarm", "join-token", "-q", "worker"]);
        let _ = worker.ask(&["swarm", "join", "--token", &token, "--advertise-addr", "10.77.0.2", "10.77.0.1:2377"]);
        until("both nodes are ready", SLOW, || {
            let nodes = manager.ask(&["node", "ls", "--format", "{{.Status}}"]);
            (nodes.matches("Ready").count() == 2).then_some(())
        });
        Self { manager, worker, _networks: networks }
    }
}

/// Makes a service whose tasks come up quickly, and waits until `running` of them run.
///
/// # Panics
/// They do not.
pub fn service(manager: &Engine, name: &str, running: usize, more: &[&str], script: &str) {
    let mut words = vec!["service", "create", "-d", "--no-resolve-image", "--init", "--name", name];
    words.extend(["--stop-grace-period", "1s", "--restart-delay", "0s", "--restart-condition", "none"]);
    words.extend(["--update-monitor", "1s", "--update-delay", "0s", "--network", "host"]);
    words.extend(more);
    words.extend([IMAGE, "/bin/sh", "-c", script]);
    let _ = manager.ask(&words);
    until(&format!("{running} tasks of {name} run"), SLOW, || {
        (tasks(manager, name).iter().filter(|task| task.ends_with("Running")).count() >= running).then_some(())
    });
}

/// The tasks of a service that are meant to run: `ID NODE STATE`.
#[must_use]
pub fn tasks(manager: &Engine, name: &str) -> Vec<String> {
    let words = [
        "service",
        "ps",
        "--no-trunc",
        "-f",
        "desired-state=running",
        "--format",
        "{{.ID}} {{.Node}} {{.CurrentState}}",
    ];
    let listed = manager.ask(&[&words[..], &[name]].concat());
    listed.lines().map(|line| line.split_whitespace().take(3).collect::<Vec<_>>().join(" ")).collect()
}

/// How often new tasks were forced.
#[must_use]
pub fn forced(manager: &Engine, name: &str) -> u64 {
    manager.inspect("service", name)["Spec"]["TaskTemplate"]["ForceUpdate"].as_u64().unwrap_or_default()
}
