//! Debian's certbot against [`Pebble`], with this world's config directory, whose deploy hook is ours.

use std::process::Command;

use crate::World;
use crate::pebble::Pebble;
use crate::process::{Ran, command, run};
use crate::wait::{PATIENCE, until};

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

/// What `renew_exec` and `renew_args` are for this world: nothing is renewed that is not due.
#[must_use]
pub fn settings(world: &World) -> String {
    let mut words = vec!["renew".to_owned(), "--no-random-sleep-on-renew".to_owned()];
    words.extend(places(world));
    format!("renew_exec: {PROGRAM}\nrenew_args: [{}]\n", words.join(", "))
}

/// What certbot, and so the daemon that starts it, needs in its environment.
pub fn environment(command: &mut Command, world: &World, pebble: &Pebble) {
    command.env("REQUESTS_CA_BUNDLE", &pebble.api_certificate).env("HOME", world.path(""));
}

/// Tells certbot that the lineage `name` is to be renewed so long before it expires.
///
/// # Panics
/// There is no such lineage.
pub fn renew_before_expiry(world: &World, name: &str, time: &str) {
    let file = world.letsencrypt().join(format!("renewal/{name}.conf"));
    let text = std::fs::read_to_string(&file).expect("the lineage's renewal config");
    let kept = text.lines().filter(|line| !line.contains("renew_before_expiry"));
    let text: Vec<&str> = kept.collect();
    std::fs::write(&file, format!("renew_before_expiry = {time}\n{}\n", text.join("\n"))).expect("write it");
}

/// Runs certbot until no other one runs: it refuses to be the second, and a daemon looks for what is due at its first start.
///
/// # Panics
/// The other one does not end.
pub fn alone(mut certbot: impl FnMut() -> Ran) -> Ran {
    until("no other certbot runs", PATIENCE, || {
        let ran = certbot();
        (!ran.said().contains("Another instance of Certbot is already running")).then_some(ran)
    })
}

const PROGRAM: &str = "/usr/bin/certbot";

fn certbot(world: &World, pebble: &Pebble) -> Command {
    let mut certbot = command(PROGRAM);
    environment(&mut certbot, world, pebble);
    // The hook's one setting; certbot hands its environment on.
    certbot.env("CERTDEPLOY_SERVER_CONFIG", world.server_config());
    certbot.args(places(world));
    certbot
}

fn places(world: &World) -> [String; 7] {
    let path = |name: &str| world.path(name).display().to_string();
    let (work, logs) = (path("certbot-work"), path("certbot-logs"));
    let option = |name: &str| name.to_owned();
    [
        option("--non-interactive"),
        option("--config-dir"),
        path("le"),
        option("--work-dir"),
        work,
        option("--logs-dir"),
        logs,
    ]
}
