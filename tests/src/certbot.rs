//! Debian's certbot against [`Pebble`], with this world's config directory, whose deploy hook is ours.

use std::process::Command;

use crate::World;
use crate::pebble::Pebble;
use crate::process::{Ran, command, run};

/// Issues the first certificate.
#[must_use]
pub fn issue(world: &World, pebble: &Pebble, domain: &str) -> Ran {
    let mut certbot = certbot(world, pebble);
    certbot.args(["certonly", "--standalone", "--http-01-port", &pebble.http_port.to_string(), "--agree-tos"]);
    certbot.args(["-m", "admin@example.test", "--no-eff-email", "-d", domain, "--server", &pebble.directory]);
    run(certbot)
}

/// Renews everything, due or not; certbot runs the hook of each lineage.
#[must_use]
pub fn renew(world: &World, pebble: &Pebble) -> Ran {
    let mut certbot = certbot(world, pebble);
    certbot.args(["renew", "--force-renewal", "--no-random-sleep-on-renew"]);
    run(certbot)
}

fn certbot(world: &World, pebble: &Pebble) -> Command {
    let mut certbot = command("/usr/bin/certbot");
    certbot.env("REQUESTS_CA_BUNDLE", &pebble.api_certificate).env("HOME", world.path(""));
    // The hook's one setting; certbot hands its environment on.
    certbot.env("CERTDEPLOY_SERVER_CONFIG", world.server_config());
    certbot.arg("--non-interactive").arg("--config-dir").arg(world.letsencrypt());
    certbot.arg("--work-dir").arg(world.path("certbot-work")).arg("--logs-dir").arg(world.path("certbot-logs"));
    certbot
}
