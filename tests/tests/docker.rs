//! Updates of containers and swarm services against a real Docker engine.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use certdeploy_tests::engine::{Engine, IMAGE};
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::pass::Pass;
use certdeploy_tests::process::{Ran, run};
use certdeploy_tests::{Lineage, World, until};

const NEEDS: &[Need] = &[Need::Root, Need::Program("dockerd"), Need::Program("busybox")];

fn pass(world: &World, lineage: &Lineage, url: &str, name: &str, updates: &[&str]) -> Ran {
    let entries: String = updates.iter().map(|update| format!("  - {update}\n")).collect();
    let lines = format!("docker_url: {url}\ndocker_timeout: 1\ndocker_request_timeout: 2\nupdate_services:\n{entries}");
    run(Pass::over(world, lineage, name).command(&lines))
}

fn started(engine: &Engine, container: &str) -> String {
    engine.ask(&["inspect", "-f", "{{.State.StartedAt}}", container])
}

#[test]
fn containers_are_meant_by_their_whole_name_or_by_filters() {
    if !can_run("docker: containers", NEEDS) {
        return;
    }
    let world = World::new();
    let lineage = world.lineage("a.example", &["a.example"]);
    let engine = Engine::start(&world.path("engine"));
    let script = "trap 'touch /hup' HUP; while :; do sleep 0.1; done";
    for (name, label) in [("web", "x=1"), ("web2", "reload=yes"), ("other", "reload=yes")] {
        let words =
            ["run", "-d", "--network", "none", "--name", name, "--label", label, IMAGE, "/bin/sh", "-c", script];
        let _ = engine.ask(&words);
    }
    let all = || ["web", "web2", "other"].map(|name| started(&engine, name));
    let go = |name: &str, updates: &[&str]| pass(&world, &lineage, &engine.url(), name, updates);

    let before = all();
    let ran = go("name", &["{type: docker_container, name: web}"]).ended(0);
    assert!(ran.stdout.contains("Docker container updated: name=web"), "{}", ran.said());
    let after = all();
    assert!(before[0] != after[0] && before[1..] == after[1..], "{before:?} {after:?}");

    let _ = go("filters", &["{type: docker_container, name: only a label, filters: {label: reload=yes}}"]).ended(0);
    let last = all();
    assert!(after[0] == last[0] && after[1] != last[1] && after[2] != last[2], "{after:?} {last:?}");

    let _ = go("signal", &["{type: docker_container, name: web, signal: HUP}"]).ended(0);
    until("the signal arrives", Duration::from_secs(10), || {
        (engine.docker(&["exec", "web", "/bin/test", "-e", "/hup"]).code == Some(0)).then_some(())
    });
    let _ = go("exec", &["{type: docker_container, name: web, exec: [/bin/touch, /a file]}"]).ended(0);
    let _ = engine.ask(&["exec", "web", "/bin/test", "-e", "/a file"]);
    assert_eq!(all(), last, "neither restarts anything");

    let ran = go("stop", &["{type: docker_container, name: web, action: stop}"]).ended(0);
    assert_eq!(engine.ask(&["inspect", "-f", "{{.State.Running}}", "web"]), "false", "{}", ran.said());
    let _ = go("start", &["{type: docker_container, name: web, action: start}"]).ended(0);
    assert_eq!(engine.ask(&["inspect", "-f", "{{.State.Running}}", "web"]), "true");
}

#[test]
fn what_failed_is_said_and_the_next_update_runs() {
    if !can_run("docker: failures", NEEDS) {
        return;
    }
    let world = World::new();
    let lineage = world.lineage("a.example", &["a.example"]);
    let engine = Engine::start(&world.path("engine"));
    let _ = engine.ask(&["run", "-d", "--network", "none", "--name", "web", IMAGE, "/bin/sleep", "100000"]);
    let hangs = world.path("hangs.sock");
    let _hangs = UnixListener::bind(&hangs).expect("a socket");
    let garbage = world.path("garbage.sock");
    let listener = UnixListener::bind(&garbage).expect("a socket");
    std::thread::spawn(move || {
        for peer in listener.incoming().flatten() {
            let mut peer = peer;
            let _ = peer.read(&mut [0; 1024]);
            let _ = peer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{\"cut\": [");
        }
    });
    let touched = world.path("touched");
    let script = world.path("after");
    std::fs::write(&script, format!("#!/bin/sh\ntouch {}\n", touched.display())).expect("write");
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let after = format!("{{type: script, name: {}}}", script.display());
    let url = |path: &std::path::Path| format!("unix://{}", path.display());
    for (name, url, update, said) in [
        (
            "none",
            engine.url(),
            "{type: docker_container, name: we}",
            "DockerContainerNotFound: no container matches name=we",
        ),
        (
            "exec",
            engine.url(),
            "{type: docker_container, name: web, exec: [/bin/sh, -c, 'echo no such; exit 7']}",
            "returned 7; it last said: no such",
        ),
        (
            "missing",
            url(&world.path("nobody.sock")),
            "{type: docker_container, name: web}",
            "nobody.sock` cannot be asked",
        ),
        ("hangs", url(&hangs), "{type: docker_container, name: web}", "hangs.sock` cannot be asked"),
        ("garbage", url(&garbage), "{type: docker_container, name: web}", "garbage.sock` cannot be asked"),
        ("no swarm", engine.url(), "{type: docker_service, name: web}", "not a swarm manager"),
    ] {
        let ran = pass(&world, &lineage, &url, name, &[update, &after]).ended(3);
        assert!(
            ran.stdout.contains("ERROR:certdeploy-client: DockerError: Failed to update "),
            "{name}: {}",
            ran.said()
        );
        assert!(ran.stdout.contains(said), "{name} lacks {said:?}: {}", ran.said());
        std::fs::remove_file(&touched).unwrap_or_else(|e| panic!("{name}: the next update did not run: {e}"));
    }
}

#[test]
fn services_get_new_tasks_and_a_failed_rollout_is_told() {
    if !can_run("docker: swarm", NEEDS) {
        return;
    }
    let world = World::new();
    let lineage = world.lineage("a.example", &["a.example"]);
    let engine = Engine::start(&world.path("engine"));
    engine.swarm();
    let flag = world.path("flag");
    std::fs::create_dir(&flag).expect("a folder");
    let mount = format!("type=bind,source={},target=/flag", flag.display());
    let sleep = "test ! -e /flag/bad && sleep 100000";
    let create = |name: &str, label: &str, on_failure: &str| {
        let words = [
            "service",
            "create",
            "-d",
            "--no-resolve-image",
            "--init",
            "--stop-grace-period",
            "1s",
            "--restart-delay",
            "0s",
            "--restart-condition",
            "none",
            "--update-monitor",
            "1s",
            "--network",
            "host",
            "--mount",
            &mount,
            "--label",
            label,
            "--update-failure-action",
            on_failure,
            "--name",
            name,
            IMAGE,
            "/bin/sh",
            "-c",
            sleep,
        ];
        let _ = engine.ask(&words);
    };
    create("web", "x=1", "pause");
    create("web2", "reload=yes", "rollback");
    let forced = |name: &str| engine.ask(&["service", "inspect", "-f", "{{.Spec.TaskTemplate.ForceUpdate}}", name]);
    let go = |name: &str, update: &str| pass(&world, &lineage, &engine.url(), name, &[update]);
    for name in ["web", "web2"] {
        until("the first task runs", Duration::from_secs(60), || {
            let tasks = engine.ask(&["service", "ps", "--format", "{{.CurrentState}}", name]);
            tasks.contains("Running").then_some(())
        });
    }
    let ran = go("name", "{type: docker_service, name: web}").ended(0);
    assert!(ran.stdout.contains("Docker service updated: name=web"), "{}", ran.said());
    assert_eq!((forced("web").as_str(), forced("web2").as_str()), ("1", "0"));
    let tasks = engine.ask(&["service", "ps", "--format", "{{.DesiredState}}", "web"]);
    assert_eq!(tasks.matches("Running").count(), 1, "{tasks}");
    assert_eq!(tasks.matches("Shutdown").count(), 1, "{tasks}");
    let _ = go("filter", "{type: docker_service, filters: {label: [reload=yes]}}").ended(0);
    let _ = go("anchored", "{type: docker_service, filters: {name: '^web2$'}}").ended(0);
    assert_eq!((forced("web").as_str(), forced("web2").as_str()), ("1", "2"));

    std::fs::write(flag.join("bad"), "").expect("write");
    let ran = go("paused", "{type: docker_service, name: web}").ended(3);
    assert!(ran.stdout.contains("the rollout of service web is paused"), "{}", ran.said());
    let ran = go("back", "{type: docker_service, name: web2, timeout: 30}").ended(3);
    assert!(ran.stdout.contains("the rollout of service web2 is rolled back"), "{}", ran.said());
}
