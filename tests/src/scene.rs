//! A world in which the first issue of a lineage is deployed at one target: where most stories begin.

use crate::{Daemon, Lineage, Target, World};

/// See the module.
pub struct Scene {
    /// Where it plays.
    pub world: World,
    /// Who has the lineage.
    pub target: Target,
    /// What was delivered.
    pub lineage: Lineage,
}

impl Scene {
    /// Sets it, with these lines added to `server.yml`; the client's daemon runs.
    #[must_use]
    pub fn deployed(extra: &str) -> (Self, Daemon) {
        let world = World::new();
        let target = world.target("web1", &["example.com"]);
        world.write_server_with(&[&target], &world.queue(), extra);
        let lineage = world.lineage("example.com", &["example.com"]);
        let client = target.start();
        let _ = world.hook(&lineage).ended(0);
        let _ = world.server(&["--push"]).ended(0);
        target.updates(&lineage);
        (Self { world, target, lineage }, client)
    }
}
