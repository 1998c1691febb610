//! Updates of containers and swarm services against a real Docker engine.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use certdeploy_tests::between::{Meddle, between};
use certdeploy_tests::engine::{Engine, IMAGE};
use certdeploy_tests::need::{Need, can_run, find};
use certdeploy_tests::pass::Pass;
use certdeploy_tests::process::{Ran, command, free_port, run};
use certdeploy_tests::wait::{PATIENCE, until};
use certdeploy_tests::{Lineage, World};

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

    let ran = go("filters", &["{type: docker_container, name: only a label, filters: {label: reload=yes}}"]).ended(0);
    assert!(ran.stdout.contains("Docker container updated: filters=label=reload=yes"), "{}", ran.said());
    let last = all();
    assert!(after[0] == last[0] && after[1] != last[1] && after[2] != last[2], "{after:?} {last:?}");

    // What is meant may be on other machines of the fleet only.
    let ran = go("nobody", &["{type: docker_container, filters: {label: reload=no}}"]).ended(0);
    assert!(
        ran.stdout.contains("WARNING:certdeploy-client: No container matches filters=label=reload=no"),
        "{}",
        ran.said()
    );
    assert!(!ran.stdout.contains("Docker container updated"), "{}", ran.said());

    let _ = go("signal", &["{type: docker_container, name: web, signal: HUP}"]).ended(0);
    until("the signal arrives", PATIENCE, || {
        (engine.docker(&["exec", "web", "/bin/test", "-e", "/hup"]).code == Some(0)).then_some(())
    });
    let _ = go("exec", &["{type: docker_container, name: web, exec: [/bin/touch, /a file]}"]).ended(0);
    let _ = engine.ask(&["exec", "web", "/bin/test", "-e", "/a file"]);
    assert_eq!(all(), last, "neither restarts anything");

    let ran = go("stop", &["{type: docker_container, name: web, action: stop}"]).ended(0);
    assert_eq!(engine.ask(&["inspect", "-f", "{{.State.Running}}", "web"]), "false", "{}", ran.said());
    let _ = go("stopped", &["{type: docker_container, name: web, action: stop}"]).ended(0);
    let left = "no running container (what is stopped is left alone) matches name=web";
    for (name, more) in [("restart it", ""), ("signal it", ", signal: HUP"), ("exec in it", ", exec: [/bin/true]")] {
        let ran = go(name, &[&format!("{{type: docker_container, name: web{more}}}")]).ended(3);
        assert!(ran.stdout.contains(left), "{name}: {}", ran.said());
    }
    let mut check = Pass::over(&world, &lineage, "check").command(&format!(
        "docker_url: {}\nupdate_services:\n- {{type: docker_container, name: web}}\n\
         - {{type: docker_container, name: we}}\n- {{type: docker_container, name: web2}}\n\
         - {{type: docker_service, name: web}}\n- {{type: rc, name: certdeploy-no-such}}\n",
        engine.url()
    ));
    check.arg("check");
    let said = run(check).ended(0).said();
    for want in [left, "no container matches name=we", "not a swarm manager", "rc service certdeploy-no-such: there is"]
    {
        assert!(said.lines().any(|line| line.contains("warning: ") && line.contains(want)), "{want}: {said}");
    }
    assert!(!said.contains("web2"), "{said}");
    let _ = go("start", &["{type: docker_container, name: web, action: start}"]).ended(0);
    assert_eq!(engine.ask(&["inspect", "-f", "{{.State.Running}}", "web"]), "true");
}

#[test]
fn the_engine_is_found_by_every_form_of_its_url() {
    if !can_run("docker: addresses", NEEDS) {
        return;
    }
    let world = World::new();
    let lineage = world.lineage("a.example", &["a.example"]);
    let at = format!("127.0.0.1:{}", free_port());
    let tcp = format!("tcp://{at}");
    let dockerd = command(find("dockerd").expect("dockerd"));
    let engine = Engine::start_with(&world.path("engine"), dockerd, &["--tls=false", "-H", &tcp]);
    let _ = engine.ask(&["run", "-d", "--network", "none", "--name", "web", IMAGE, "/bin/sleep", "100000"]);
    let two_slashes = engine.url().replace("unix:///", "unix://");
    for (n, url) in [engine.url(), two_slashes, tcp, format!("http://{at}/"), at].iter().enumerate() {
        let before = started(&engine, "web");
        let ran = pass(&world, &lineage, url, &format!("url{n}"), &["{type: docker_container, name: web}"]).ended(0);
        assert_ne!(before, started(&engine, "web"), "{url}: {}", ran.said());
    }
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
    let refuses = |name: &str, part: &'static str| {
        between(&world.path(name), engine.socket(), move |request| match request.contains(part) {
            true => Meddle::refusal(500, "the engine is tired"),
            false => Meddle::Pass,
        })
    };
    let huge = |name: &str, part: &'static str| {
        let answer = move |request: &str| match request.contains(part) {
            true => Meddle::refusal(500, &"huge ".repeat(2_000_000)),
            false => Meddle::Pass,
        };
        between(&world.path(name), engine.socket(), answer)
    };
    let mute = between(&world.path("mute.sock"), engine.socket(), |request| {
        let body = "{\"Running\": false, \"ExitCode\": null}";
        match request.starts_with("GET ") && request.contains("/exec/") {
            true => Meddle::Answer(format!("HTTP/1.1 200 X\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into()),
            false => Meddle::Pass,
        }
    });
    for (name, url, update, said) in [
        (
            "huge list",
            huge("huge-list.sock", "/containers/json"),
            "{type: docker_container, name: web}",
            "status code 500: {",
        ),
        ("huge restart", huge("huge-restart.sock", "/restart"), "{type: docker_container, name: web}", "huge huge"),
        ("mute", mute, "{type: docker_container, name: web, exec: [/bin/touch, /x]}", "the engine does not say how"),
        (
            "silent exec",
            engine.url(),
            "{type: docker_container, name: web, exec: [/bin/sh, -c, 'exec >&- 2>&-; sleep 1; exit 7']}",
            "returned 7",
        ),
        (
            "long exec",
            engine.url(),
            "{type: docker_container, name: web, exec: [/bin/sh, -c, 'sleep 100'], timeout: 1}",
            "not done after 1 s",
        ),
        (
            "list",
            refuses("list.sock", "/containers/json"),
            "{type: docker_container, name: web}",
            "status code 500: the engine is tired",
        ),
        (
            "restart",
            refuses("restart.sock", "/restart"),
            "{type: docker_container, name: web}",
            "status code 500: the engine is tired",
        ),
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
        assert!(ran.stdout.len() < 10_000, "{name}: {} bytes of log", ran.stdout.len());
        assert!(ran.stdout.contains(said), "{name} lacks {said:?}: {}", ran.said());
        assert!(!ran.stdout.contains("Docker container updated"), "{name}: {}", ran.said());
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
    let ran = go("both", "{type: docker_service, name: web2, filters: {label: [x=1]}}").ended(0);
    assert!(ran.stdout.contains("`filters` are not heeded"), "{}", ran.said());
    assert_eq!((forced("web").as_str(), forced("web2").as_str()), ("1", "2"), "the name is meant");
    let ran = go("nobody", "{type: docker_service, filters: {label: [reload=no]}}").ended(0);
    assert!(ran.stdout.contains("No service matches filters=label=reload=no"), "{}", ran.said());
    let _ = go("anchored", "{type: docker_service, filters: {name: '^web2$'}}").ended(0);
    assert_eq!((forced("web").as_str(), forced("web2").as_str()), ("1", "3"));

    std::fs::write(flag.join("bad"), "").expect("write");
    let ran = go("paused", "{type: docker_service, name: web}").ended(3);
    assert!(ran.stdout.contains("the rollout of service web is paused"), "{}", ran.said());
    let ran = go("back", "{type: docker_service, name: web2, timeout: 30}").ended(3);
    assert!(ran.stdout.contains("the rollout of service web2 is rolled back"), "{}", ran.said());
}
