//! The Python servers 0.2.2 and 0.5.4 against our client: three lineages at once by `--push` and by the daemon, the
//! hook, the spellings of `path`, and what of these is refused.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::time::{Duration, Instant};

use certdeploy_common::cert::FileName;
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::python::Server;
use certdeploy_tests::wait::PATIENCE;
use certdeploy_tests::{Daemon, Lineage, Target, World, until};

const NAMES: [&str; 3] = ["one.example", "two.example", "three.example"];

/// From the first word of a push to the last lineage in place.
const AT_MOST: Duration = Duration::from_secs(10);

/// Who runs our client.
#[derive(Clone, Copy)]
enum As {
    /// Two processes.
    Root,
    /// One.
    Nobody,
}

struct Scene {
    client: Daemon,
    target: Target,
    server: Server,
    world: World,
}

impl Scene {
    /// `None`: not on this machine. `path` is given the target's `source`.
    fn new(version: &'static str, who: As, path: impl Fn(&str) -> String) -> Option<Self> {
        let name = format!("python_servers {version}");
        if !can_run(&name, &[Need::Root, Need::Python(version)]) {
            return None;
        }
        let world = World::new();
        let target = world.target("web1", &NAMES);
        let server = Server::new(version, &world, &target, &path(&target.source.display().to_string()));
        let client = start(&target, who);
        Some(Self { world, target, server, client })
    }

    fn three(&self) -> Vec<Lineage> {
        NAMES.iter().map(|name| self.world.lineage(name, &[name])).collect()
    }

    fn hook(&self, lineage: &Lineage) {
        let _ = self.server.hook(&lineage.live.display().to_string(), &lineage.renewed_domains()).ended(0);
    }

    /// Queues all, starts the server that way, and takes the time until all are in place.
    fn pushed(&self, lineages: &[Lineage], mode: &str) -> Daemon {
        lineages.iter().for_each(|lineage| self.hook(lineage));
        assert!(!lineages.iter().any(|lineage| self.target.holds(lineage)), "only queued");
        let mut server = self.server.start(&[mode]);
        server.says("Pushing ");
        let start = Instant::now();
        lineages.iter().for_each(|lineage| self.target.receives(lineage));
        let took = start.elapsed();
        println!("three lineages by {mode}: {took:?}");
        assert!(took < AT_MOST, "three lineages took {took:?}; the server said:\n{}", server.said());
        server
    }

    /// Each was deployed that often, by a connection of its own, and nothing of it is left.
    fn deployed_each(&mut self, lineages: &[Lineage], times: usize) {
        lineages.iter().for_each(|lineage| self.target.updates(lineage));
        let said = self.client.said();
        for name in NAMES {
            let deployed = format!("Deployed lineage {name} ");
            assert_eq!(said.matches(&deployed).count(), times, "{name}:\n{said}");
            let (key, chain) = (self.target.deployed(name).join("privkey.pem"), FileName::Chain);
            assert_eq!(key.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
            assert!(self.target.file(name, chain).is_some(), "needs_chain");
        }
        assert_eq!(said.matches("Got connection from").count(), 3 * times, "{said}");
        assert!(!said.contains("in place already"), "none came twice:\n{said}");
        assert!(self.client.runs());
    }
}

fn start(target: &Target, who: As) -> Daemon {
    match who {
        As::Root => target.start(),
        As::Nobody => {
            let folder = target.config.parent().unwrap();
            let owned = std::process::Command::new("chown").args(["-R", "65534:65534"]).arg(folder).status().unwrap();
            assert!(owned.success());
            let mut command = target.command();
            command.arg("--daemon").uid(65534).gid(65534);
            let mut client = Daemon::start("certdeploy-client of nobody", command, &target.log);
            client.says("Listening for incoming connections at ");
            assert!(client.said().contains("one process"), "{}", client.said());
            client
        }
    }
}

fn as_written(path: &str) -> String {
    path.to_owned()
}

fn three_lineages(version: &'static str, who: As, modes: &[&str]) {
    let Some(mut scene) = Scene::new(version, who, as_written) else { return };
    let mut lineages = scene.three();
    for mode in modes {
        lineages.iter_mut().for_each(|lineage| lineage.renew(&scene.world.ca));
        let mut server = scene.pushed(&lineages, mode);
        if *mode == "--push" {
            assert_eq!(server.ends().code(), Some(0), "{}", server.said());
        } else {
            server.says("Queue length is 0");
            assert!(server.runs(), "{}", server.said());
        }
    }
    scene.deployed_each(&lineages, modes.len());
}

#[test]
fn three_lineages_of_0_5_4() {
    three_lineages("0.5.4", As::Root, &["--push", "--daemon"]);
}

#[test]
fn three_lineages_of_0_2_2() {
    three_lineages("0.2.2", As::Root, &["--push", "--daemon"]);
}

#[test]
fn three_lineages_of_0_5_4_for_one_process() {
    three_lineages("0.5.4", As::Nobody, &["--push"]);
}

#[test]
fn three_lineages_of_0_2_2_for_one_process() {
    three_lineages("0.2.2", As::Nobody, &["--daemon"]);
}

/// certbot's renewal runs the Python server's hook.
fn renewed(version: &'static str) {
    let Some(mut scene) = Scene::new(version, As::Root, as_written) else { return };
    scene.target.domains = vec!["example.com".to_owned()];
    scene.server = Server::new(version, &scene.world, &scene.target, &scene.target.source.display().to_string());
    let lineage = scene.world.lineage("example.com", &["www.example.com", "example.com"]);
    let renew = scene.server.run(&["--renew"]).ended(0);
    let push = scene.server.run(&["--push"]).ended(0);
    until(&format!("it arrives; the server said:\n{}{}", renew.said(), push.said()), PATIENCE, || {
        scene.target.updated(&lineage).then_some(())
    });
    assert!(scene.target.holds(&lineage));
}

#[test]
fn a_renewal_with_the_hook_of_0_5_4() {
    renewed("0.5.4");
}

#[test]
fn a_renewal_with_the_hook_of_0_2_2() {
    renewed("0.2.2");
}

/// Queues one lineage, as certbot would call it, and pushes it.
fn one_push(scene: &Scene, called: impl Fn(&Lineage) -> String) -> (Lineage, String) {
    let lineage = scene.world.lineage(NAMES[0], &[NAMES[0]]);
    let _ = scene.server.hook(&called(&lineage), NAMES[0]).ended(0);
    let push = scene.server.run(&["--push"]).ended(0);
    (lineage, push.said())
}

fn live(lineage: &Lineage) -> String {
    lineage.live.display().to_string()
}

#[test]
fn paths_that_mean_the_source() {
    let spellings: [fn(&str) -> String; 3] = [
        |_| "''".to_owned(),
        |source| format!("{source}/"),
        // What a config without `path` means.
        |_| "/var/cache/certdeploy".to_owned(),
    ];
    for spelling in spellings {
        let Some(scene) = Scene::new("0.5.4", As::Root, spelling) else { return };
        let (lineage, said) = one_push(&scene, live);
        until(&format!("it is deployed; the server said:\n{said}"), PATIENCE, || {
            scene.target.holds(&lineage).then_some(())
        });
    }
}

/// Both ends say that, and why, instead of keeping what nobody would ever deploy.
#[track_caller]
fn refused(version: &'static str, path: fn(&str) -> String, called: fn(&Lineage) -> String, why: &str) {
    let Some(mut scene) = Scene::new(version, As::Root, path) else { return };
    let (_, said) = one_push(&scene, called);
    // 0.2 swallows it.
    assert!(said.contains("ERROR:certdeploy-server: Error syncing") || version == "0.2.2", "{said}");
    scene.client.says(why);
    assert!(std::fs::read_dir(&scene.target.destination).unwrap().next().is_none(), "{}", scene.client.said());
    assert!(scene.client.runs());
}

#[test]
fn a_path_below_the_source_is_refused() {
    refused("0.2.2", |_| "sub/dir".to_owned(), live, "the `path` of a target is empty, or this client's `source`");
    refused("0.5.4", |source| format!("{source}/sub"), live, "the `path` of a target is empty, or this client's");
}

#[test]
fn a_path_elsewhere_is_refused() {
    refused("0.5.4", |_| "/srv/certs".to_owned(), live, "is not below");
}

#[test]
fn a_lineage_with_a_slash_at_its_end_is_refused() {
    refused("0.5.4", as_written, |lineage| format!("{}/", lineage.live.display()), "this is a directory");
}
