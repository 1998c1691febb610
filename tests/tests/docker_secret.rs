//! Updates of type `docker_secret` in a real swarm: the tasks see the deployed bytes, under the file name, owner and
//! mode they had; nothing happens without a change; nothing is removed that is still needed; no log has the content.

use certdeploy_tests::engine::Engine;
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::pass::Pass;
use certdeploy_tests::process::{Ran, free_port, run};
use certdeploy_tests::swarm::{SLOW, Swarm, forced, service};
use certdeploy_tests::{Daemon, Lineage, World, until};

const NEEDS: &[Need] = &[Need::Root, Need::Program("dockerd"), Need::Program("busybox")];
const SLEEP: &str = "test ! -e /flag/bad && sleep 100000";

fn stage(pass: &Pass, lineage: &Lineage) {
    let staged = pass.path("staging").join(&lineage.name);
    std::fs::create_dir_all(&staged).expect("a folder");
    for file in ["fullchain.pem", "privkey.pem"] {
        std::fs::copy(lineage.live.join(file), staged.join(file)).expect("copy");
    }
}

/// What the service's one task reads at `path`, and the file's mode, owner and group.
fn seen(engine: &Engine, service: &str, path: &str) -> (String, String) {
    until("a task runs", SLOW, || {
        let label = format!("label=com.docker.swarm.service.name={service}");
        let id = engine.ask(&["ps", "-q", "-f", &label, "-f", "status=running"]);
        let [id] = id.lines().collect::<Vec<_>>()[..] else { return None };
        let content = engine.docker(&["exec", id, "/bin/busybox", "cat", path]);
        let stat = engine.docker(&["exec", id, "/bin/busybox", "stat", "-c", "%a %u %g", path]);
        (content.code == Some(0) && stat.code == Some(0)).then(|| (content.stdout, stat.stdout.trim().to_owned()))
    })
}

fn both(lineage: &Lineage) -> String {
    format!("{}{}", lineage.issued.fullchain, lineage.issued.privkey)
}

fn versions(engine: &Engine, name: &str) -> Vec<String> {
    let label = format!("label=certdeploy.secret={name}");
    let mut all: Vec<String> =
        engine.ask(&["secret", "ls", "-f", &label, "--format", "{{.Name}}"]).lines().map(str::to_owned).collect();
    all.sort();
    all
}

/// No line of any key, plain or as the engine's API carries it, is in what the client said.
fn is_silent(ran: &Ran, lineage: &Lineage) {
    let text = both(lineage);
    for line in text.lines().filter(|line| line.len() > 20 && !line.starts_with("-----")) {
        assert!(!ran.said().contains(line), "{}", ran.said());
    }
    assert!(!ran.said().contains("hunter2"), "a service's environment: {}", ran.said());
    assert!(!ran.said().contains("LS0tLS1CRUdJTi"), "-----BEGIN in base64: {}", ran.said());
}

#[test]
fn services_move_to_the_new_version_and_old_ones_are_removed() {
    if !can_run("docker_secret", NEEDS) {
        return;
    }
    let world = World::new();
    let mut lineage = world.lineage("a.example", &["a.example"]);
    let engine = Engine::start(&world.path("engine"));
    engine.swarm();
    let by_hand = world.path("by-hand");
    std::fs::write(&by_hand, "made by hand\n").expect("write");
    for name in ["web-tls", "other"] {
        let _ = engine.ask(&["secret", "create", name, &by_hand.display().to_string()]);
    }
    let flag = world.path("flag");
    std::fs::create_dir(&flag).expect("a folder");
    let mount = format!("type=bind,source={},target=/flag", flag.display());
    let secret = "source=web-tls,target=tls.pem,uid=33,gid=34,mode=0440";
    let options = ["--secret", secret, "--secret", "other", "--mount", &mount, "--env", "PASSWORD=hunter2"];
    service(&engine, "web", 1, &options, SLEEP);
    service(&engine, "second", 1, &["--secret", "web-tls"], SLEEP);
    service(&engine, "stranger", 1, &["--secret", "other"], SLEEP);
    let index = |name: &str| engine.inspect("service", name)["Version"]["Index"].as_u64().expect("an index");
    let untouched = index("stranger");

    let pass = Pass::over(&world, &lineage, "secret");
    let entry = "{type: docker_secret, name: web-tls, file: [fullchain, privkey], lineages: [a.example], timeout: 60}";
    // The engine's library would log whole requests and answers on this level.
    let noisy = "sftpd: {log_level: DEBUG}";
    let lines = format!("docker_url: {}\n{noisy}\nupdate_services:\n  - {entry}\n", engine.url());
    let client = |words: &[&str], code: i32, lineage: &Lineage| {
        let mut client = pass.command(&lines);
        client.args(words);
        let ran = run(client).ended(code);
        is_silent(&ran, lineage);
        ran
    };
    let ran = client(&[], 0, &lineage);
    assert!(ran.stdout.contains("Docker secret updated: name=web-tls version=web-tls-"), "{}", ran.said());
    assert_eq!(seen(&engine, "web", "/run/secrets/tls.pem"), (both(&lineage), "440 33 34".to_owned()));
    assert_eq!(seen(&engine, "web", "/run/secrets/other").0, "made by hand\n");
    assert_eq!(seen(&engine, "second", "/run/secrets/web-tls"), (both(&lineage), "444 0 0".to_owned()));
    assert_eq!(index("stranger"), untouched);
    let first = versions(&engine, "web-tls");
    let labels = engine.inspect("secret", &first[0])["Spec"]["Labels"].clone();
    assert_eq!(labels["certdeploy.lineage"], "a.example");
    assert!(labels["certdeploy.serial"].as_str().is_some_and(|serial| serial.len() > 4), "{labels}");

    // The same again: nothing is made and no task is new.
    let before = (index("web"), index("second"));
    let _ = client(&["update"], 0, &lineage);
    assert_eq!((versions(&engine, "web-tls"), (index("web"), index("second"))), (first.clone(), before));

    // A rollout that fails: reported, nothing is removed, and a retry finishes it.
    lineage.renew(&world.ca);
    stage(&pass, &lineage);
    std::fs::write(flag.join("bad"), "").expect("write");
    let ran = client(&[], 3, &lineage);
    assert!(ran.stdout.contains("DockerError: Failed to update secret name=web-tls: "), "{}", ran.said());
    assert!(ran.stdout.contains("the rollout of service web is paused"), "{}", ran.said());
    assert!(!ran.stdout.contains("Docker secret updated"), "{}", ran.said());
    assert_eq!(seen(&engine, "second", "/run/secrets/web-tls").0, both(&lineage), "the others have theirs");
    let _ = client(&["update", "--failed"], 3, &lineage);
    std::fs::remove_file(flag.join("bad")).expect("mend");
    let _ = client(&["update", "--failed"], 0, &lineage);
    assert_eq!(seen(&engine, "web", "/run/secrets/tls.pem"), (both(&lineage), "440 33 34".to_owned()));
    let second = versions(&engine, "web-tls");
    assert!(second.len() == 2 && second.contains(&first[0]), "{second:?}");

    // One older version is kept; what was made by hand is not ours to remove.
    lineage.renew(&world.ca);
    stage(&pass, &lineage);
    let _ = client(&[], 0, &lineage);
    let third = versions(&engine, "web-tls");
    assert!(third.len() == 2 && !third.contains(&first[0]), "{third:?}");
    assert_eq!(engine.ask(&["secret", "ls", "-q", "-f", "name=web-tls"]).lines().count(), 3);

    // Back again: the version before is there still.
    let _ = client(&["rollback", "a.example"], 0, &lineage);
    assert_eq!(versions(&engine, "web-tls"), third);
    let old = std::fs::read_to_string(pass.path("certs/a.example/fullchain.pem")).expect("fullchain.pem");
    assert!(old != lineage.issued.fullchain && seen(&engine, "web", "/run/secrets/tls.pem").0.starts_with(&old));
    assert_eq!((index("stranger"), forced(&engine, "stranger")), (untouched, 0));
}

#[test]
fn each_lineage_has_its_own_and_what_is_meant_must_be_clear() {
    if !can_run("docker_secret: lineages", NEEDS) {
        return;
    }
    let world = World::new();
    let (one, two) = (world.lineage("a.example", &["a.example"]), world.lineage("b.example", &["b.example"]));
    let engine = Engine::start(&world.path("engine"));
    engine.swarm();
    let pass = Pass::over(&world, &one, "each");
    stage(&pass, &two);
    let with =
        |entry: &str| run(pass.command(&format!("docker_url: {}\nupdate_services:\n  - {entry}\n", engine.url())));
    for (entry, said) in [
        ("{type: docker_secret, name: tls, file: fullchain}", "put {lineage} into `name`"),
        (
            "{type: docker_secret, name: tls, file: fullchain, lineages: [a.example, b.example]}",
            "put {lineage} into `name`",
        ),
        ("{type: docker_secret, name: tls, lineages: [a.example]}", "needs a `file`"),
        ("{type: docker_secret, file: fullchain, lineages: [a.example]}", "needs a `name`"),
        ("{type: docker_secret, name: 'a b', file: fullchain, lineages: [a.example]}", "must be at most 51"),
        (
            "{type: docker_secret, name: tls, file: combined, lineages: [a.example]}",
            "must be cert, chain, fullchain or privkey",
        ),
    ] {
        let ran = with(entry).ended(1);
        assert!(ran.stdout.contains("Invalid ") && ran.stdout.contains(said), "{entry}: {}", ran.said());
    }
    let _ = with("{type: docker_secret, name: 'tls-{lineage}', file: fullchain}").ended(0);
    for lineage in [&one, &two] {
        assert_eq!(versions(&engine, &format!("tls-{}", lineage.name)).len(), 1);
    }
    // A service may be made with a version by its name, too.
    let version = versions(&engine, "tls-b.example").remove(0);
    service(&engine, "web", 1, &["--secret", &format!("source={version},target=b.pem")], "sleep 100000");
    assert_eq!(seen(&engine, "web", "/run/secrets/b.pem").0, two.issued.fullchain);
}

#[test]
fn a_service_that_fails_with_the_new_files_gets_the_old_ones_back() {
    if !can_run("docker_secret: rollback", NEEDS) {
        return;
    }
    let world = World::new();
    let mut lineage = world.lineage("a.example", &["a.example"]);
    let engine = Engine::start(&world.path("engine"));
    engine.swarm();
    let flag = world.path("flag");
    std::fs::create_dir(&flag).expect("a folder");
    std::fs::write(flag.join("hand"), "made by hand\n").expect("write");
    let _ = engine.ask(&["secret", "create", "tls", &flag.join("hand").display().to_string()]);
    let mount = format!("type=bind,source={},target=/flag", flag.display());
    let picky = "/bin/busybox cmp -s /run/secrets/tls /flag/bad || sleep 100000";
    service(&engine, "web", 1, &["--secret", "tls", "--mount", &mount], picky);
    let pass = Pass::over(&world, &lineage, "picky");
    let entry =
        "{type: docker_secret, name: tls, file: fullchain, lineages: [a.example], timeout: 60, on_failure: rollback}";
    let lines = format!("docker_url: {}\nupdate_services:\n  - {entry}\n", engine.url());
    let _ = run(pass.command(&lines)).ended(0);
    let old = lineage.issued.fullchain.clone();
    assert_eq!(seen(&engine, "web", "/run/secrets/tls").0, old);

    lineage.renew(&world.ca);
    stage(&pass, &lineage);
    std::fs::write(flag.join("bad"), &lineage.issued.fullchain).expect("write");
    let ran = run(pass.command(&lines)).ended(3);
    assert!(ran.stdout.contains("the rollout of service web is paused"), "{}", ran.said());
    assert_eq!(std::fs::read_to_string(pass.path("certs/a.example/fullchain.pem")).expect("fullchain.pem"), old);
    assert_eq!(seen(&engine, "web", "/run/secrets/tls").0, old, "{}", ran.said());
}

#[test]
fn a_rollout_that_goes_on_is_waited_for_and_not_begun_anew() {
    if !can_run("docker_secret: slow", NEEDS) {
        return;
    }
    let world = World::new();
    let lineage = world.lineage("a.example", &["a.example"]);
    let engine = Engine::start(&world.path("engine"));
    engine.swarm();
    let by_hand = world.path("by-hand");
    std::fs::write(&by_hand, "made by hand\n").expect("write");
    let _ = engine.ask(&["secret", "create", "tls", &by_hand.display().to_string()]);
    service(&engine, "web", 2, &["--replicas", "2", "--secret", "tls", "--update-delay", "5s"], SLEEP);
    let pass = Pass::over(&world, &lineage, "slow");
    let client = |words: &[&str], timeout: u32| {
        let entry =
            format!("{{type: docker_secret, name: tls, file: fullchain, lineages: [a.example], timeout: {timeout}}}");
        let mut client = pass.command(&format!("docker_url: {}\nupdate_services:\n  - {entry}\n", engine.url()));
        client.args(words);
        run(client)
    };
    let ran = client(&[], 1).ended(3);
    assert!(ran.stdout.contains("not done after 1 s"), "{}", ran.said());
    let state = || engine.inspect("service", "web")["UpdateStatus"].clone();
    let begun = state();
    assert_eq!(begun["State"], "updating", "{begun}");
    let ran = client(&["update", "--failed"], 60).ended(0);
    let ended = state();
    assert_eq!(ended["State"], "completed", "it was waited for: {}", ran.said());
    assert_eq!((forced(&engine, "web"), &ended["StartedAt"]), (0, &begun["StartedAt"]), "{}", ran.said());
}

#[test]
fn a_task_on_another_node_gets_it_too() {
    if !can_run("docker_secret: two nodes", &[NEEDS, &[Need::Program("ip")]].concat()) {
        return;
    }
    let world = World::new();
    let lineage = world.lineage("a.example", &["a.example"]);
    let swarm = Swarm::start(&world.path("swarm"));
    let by_hand = world.path("by-hand");
    std::fs::write(&by_hand, "made by hand\n").expect("write");
    let _ = swarm.manager.ask(&["secret", "create", "tls", &by_hand.display().to_string()]);
    let options = ["--secret", "tls", "--constraint", "node.role==worker"];
    service(&swarm.manager, "far", 1, &options, "sleep 100000");
    let pass = Pass::over(&world, &lineage, "far");
    let entry =
        "{type: docker_secret, name: tls, file: [privkey, fullchain], keep: 0, lineages: [a.example], timeout: 60}";
    let ran =
        run(pass.command(&format!("docker_url: {}\nupdate_services:\n  - {entry}\n", swarm.manager.url()))).ended(0);
    let want = format!("{}{}", lineage.issued.privkey, lineage.issued.fullchain);
    assert_eq!(seen(&swarm.worker, "far", "/run/secrets/tls").0, want, "{}", ran.said());
}

/// As `docker stack deploy` does with a file that names the first version.
#[test]
fn what_somebody_lets_refer_to_the_first_version_again_is_moved_over_again() {
    if !can_run("docker_secret: undone", NEEDS) {
        return;
    }
    let world = World::new();
    let lineage = world.lineage("a.example", &["a.example"]);
    let engine = Engine::start(&world.path("engine"));
    engine.swarm();
    let by_hand = world.path("by-hand");
    std::fs::write(&by_hand, "made by hand\n").expect("write");
    let _ = engine.ask(&["secret", "create", "web-tls", &by_hand.display().to_string()]);
    service(&engine, "web", 1, &["--secret", "source=web-tls,target=tls.pem"], "sleep 100000");
    let pass = Pass::over(&world, &lineage, "kept");
    let host_key = world.path("host_key");
    let _ = certdeploy_common::ssh::key::generate(&host_key, "host").expect("a key");
    let lines = format!(
        "docker_url: {}\ndocker_secret_interval: 1\nupdate_delay: null\nupdate_services:\n  \
         - {{type: docker_secret, name: web-tls, file: [fullchain, privkey], lineages: [a.example]}}\nsftpd:\n  listen_address: 127.0.0.1\n  \
         listen_port: {}\n  privkey_filename: {}\n  server_pubkey: {}\n",
        engine.url(),
        free_port(),
        host_key.display(),
        world.pusher_key,
    );
    let mut daemon = pass.command(&lines);
    daemon.arg("--daemon");
    let mut client = Daemon::start("certdeploy-client", daemon, &world.path("client.log"));
    client.says("Docker secret updated: name=web-tls version=web-tls-");
    let refers = || engine.inspect("service", "web")["Spec"]["TaskTemplate"]["ContainerSpec"]["Secrets"][0].clone();
    let current = || refers()["SecretName"].as_str().is_some_and(|name| name.starts_with("web-tls-"));
    until("the service has the first version of ours", SLOW, || current().then_some(()));
    let change = ["service", "update", "-d", "--secret-rm"];
    let version = refers()["SecretName"].as_str().expect("a name").to_owned();
    let back = ["--secret-add", "source=web-tls,target=tls.pem", "web"];
    let _ = engine.ask(&[&change[..], &[version.as_str()], &back[..]].concat());
    until(&format!("it has that again: {}", client.said()), SLOW, || current().then_some(()));
    until("the task reads it", SLOW, || {
        (seen(&engine, "web", "/run/secrets/tls.pem").0 == both(&lineage)).then_some(())
    });
}
