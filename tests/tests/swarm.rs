//! Updates of type `docker_service` in a real swarm: what comes back to the engine is what it gave, whoever else is at
//! work; and what it does not do is said.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use certdeploy_tests::between::{Meddle, between};
use certdeploy_tests::engine::{Engine, docker_at};
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::pass::Pass;
use certdeploy_tests::process::{Ran, run};
use certdeploy_tests::swarm::{Swarm, forced, service, tasks};
use certdeploy_tests::{Lineage, World};

const NEEDS: &[Need] = &[Need::Root, Need::Program("dockerd"), Need::Program("busybox")];
const SLEEP: &str = "sleep 100000";

fn scene() -> (World, Lineage) {
    let world = World::new();
    let lineage = world.lineage("a.example", &["a.example"]);
    (world, lineage)
}

fn pass(world: &World, lineage: &Lineage, url: &str, name: &str, updates: &[&str]) -> Ran {
    let entries: String = updates.iter().map(|update| format!("  - {update}\n")).collect();
    let lines = format!("docker_url: {url}\ndocker_request_timeout: 3\nupdate_services:\n{entries}");
    run(Pass::over(world, lineage, name).command(&lines))
}

/// What the engine says of a service, without what a forced update must change.
fn spec(engine: &Engine, name: &str) -> serde_json::Value {
    let mut service = engine.inspect("service", name);
    service["Spec"]["TaskTemplate"].as_object_mut().expect("a template").remove("ForceUpdate");
    service["Spec"].take()
}

#[test]
fn the_spec_goes_back_whole_and_nothing_waits_for_tasks_that_there_are_not() {
    if !can_run("swarm: spec", NEEDS) {
        return;
    }
    let (world, lineage) = scene();
    let engine = Engine::start(&world.path("engine"));
    engine.swarm();
    let words = ["config", "create", "conf", "/etc/hostname"];
    let _ = engine.ask(&words);
    let _ = engine.ask(&["secret", "create", "old", "/etc/hostname"]);
    let options = "--replicas 2 --label a=b --container-label c=d --env E=1 --hostname {{.Node.Hostname}}-x \
        --config source=conf,target=/conf,mode=0440 --secret source=old,target=s,uid=3,gid=4,mode=0400 \
        --mount type=tmpfs,target=/t,tmpfs-size=65536,tmpfs-mode=1770 --mount type=volume,source=vol,target=/v,volume-label=x=y \
        --limit-memory 64m --reserve-memory 4m --limit-cpu 0.25 --limit-pids 100 --ulimit nofile=100:200 \
        --cap-add NET_RAW --cap-drop CHOWN --sysctl kernel.msgmax=8193 --dns 127.0.0.1 --dns-option ndots:1 \
        --dns-search example.org --host h:10.0.0.1 --group 5 --user 7 --workdir / --tty --stop-signal SIGINT --read-only \
        --health-cmd true --health-interval 1s --health-retries 5 --log-driver json-file --log-opt max-size=1m \
        --constraint node.role==manager --placement-pref spread=node.labels.dc --replicas-max-per-node 3 --isolation default \
        --update-parallelism 2 --update-max-failure-ratio 0.3 --update-order start-first --update-failure-action rollback \
        --rollback-parallelism 3 --rollback-monitor 7s --rollback-max-failure-ratio 0.1 --restart-max-attempts 3 --restart-window 9s";
    let options: Vec<&str> = options.split_whitespace().collect();
    service(&engine, "full", 2, &options, SLEEP);
    let before = spec(&engine, "full");
    for needle in
        ["Ulimits", "Sysctls", "CapabilityAdd", "MaxReplicas", "Healthcheck", "TmpfsOptions", "RollbackConfig"]
    {
        assert!(before.to_string().contains(needle), "{needle} is not in the spec: {before}");
    }
    let go = |name: &str| {
        let update = format!("{{type: docker_service, name: {name}, timeout: 60}}");
        pass(&world, &lineage, &engine.url(), name, &[&update])
    };
    let _ = go("full").ended(0);
    assert_eq!((spec(&engine, "full"), forced(&engine, "full")), (before, 1));

    service(&engine, "none", 0, &["--replicas", "0"], SLEEP);
    service(&engine, "nowhere", 0, &["--mode", "global", "--constraint", "node.role==worker"], SLEEP);
    service(&engine, "everywhere", 1, &["--mode", "global"], SLEEP);
    for name in ["none", "nowhere", "everywhere"] {
        let ran = go(name).ended(0);
        assert!(ran.elapsed < Duration::from_secs(55), "{name} took {:?}: {}", ran.elapsed, ran.said());
        assert_eq!(forced(&engine, name), 1, "{name}");
    }
}

#[test]
fn somebody_else_s_change_is_kept_and_what_the_engine_cannot_do_is_said() {
    if !can_run("swarm: meddling", NEEDS) {
        return;
    }
    let (world, lineage) = scene();
    let engine = Engine::start(&world.path("engine"));
    engine.swarm();
    service(&engine, "web", 1, &[], SLEEP);
    let update = "{type: docker_service, name: web, timeout: 60}";

    // Twice somebody changes the service between our look and our update.
    let (changes, other) = (Arc::new(AtomicUsize::new(0)), engine.socket().to_owned());
    let counted = Arc::clone(&changes);
    let url = between(&world.path("stale.sock"), engine.socket(), move |request| {
        if request.contains("/update?") {
            let n = counted.fetch_add(1, Ordering::SeqCst);
            if n < 2 {
                let label = format!("other{n}=yes");
                let _ = docker_at(&other, &["service", "update", "-d", "--label-add", &label, "web"]).ended(0);
            }
        }
        Meddle::Pass
    });
    let _ = pass(&world, &lineage, &url, "stale", &[update]).ended(0);
    assert_eq!((changes.load(Ordering::SeqCst), forced(&engine, "web")), (3, 1));
    let labels = engine.inspect("service", "web")["Spec"]["Labels"].to_string();
    assert!(labels.contains("other0") && labels.contains("other1"), "{labels}");

    type Bad = fn(&str) -> Meddle;
    let bad: [(&str, Bad, &str); 5] = [
        (
            "always stale",
            |r| on(r, "/update?", || Meddle::refusal(500, "rpc error: update out of sequence")),
            "out of sequence",
        ),
        (
            "no leader",
            |r| on(r, "/services/", || Meddle::refusal(503, "rpc error: The swarm does not have a leader.")),
            "does not have a leader",
        ),
        (
            "cut",
            |r| on(r, "/services/", || Meddle::Answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{\"a\":".into())),
            "is no JSON",
        ),
        (
            "short",
            |r| on(r, "/update?", || Meddle::Answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{".into())),
            "did not answer as it should",
        ),
        (
            "stalls",
            |r| on(r, "/services/", || Meddle::Hold(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{".into())),
            "no whole answer within 3 s",
        ),
    ];
    for (name, meddle, said) in bad {
        let url = between(&world.path(&format!("{name}.sock")), engine.socket(), meddle);
        let begun = Instant::now();
        let ran = pass(&world, &lineage, &url, name, &[update]).ended(3);
        assert!(ran.stdout.contains(said), "{name} lacks {said:?}: {}", ran.said());
        assert!(!ran.stdout.contains("Docker service updated"), "{name}: {}", ran.said());
        assert!(begun.elapsed() < Duration::from_secs(40), "{name} took {:?}", begun.elapsed());
    }
    assert_eq!(forced(&engine, "web"), 1, "none of these reached the service");
}

fn on(request: &str, part: &str, answer: impl Fn() -> Meddle) -> Meddle {
    if request.contains(part) { answer() } else { Meddle::Pass }
}

#[test]
fn two_clients_at_once_both_have_their_way() {
    if !can_run("swarm: two clients", NEEDS) {
        return;
    }
    let (world, lineage) = scene();
    let engine = Engine::start(&world.path("engine"));
    engine.swarm();
    service(&engine, "web", 1, &[], SLEEP);
    std::thread::scope(|scope| {
        let clients = ["one", "two"].map(|name| {
            let (world, lineage, engine) = (&world, &lineage, &engine);
            scope.spawn(move || {
                pass(world, lineage, &engine.url(), name, &["{type: docker_service, name: web, timeout: 60}"])
            })
        });
        for client in clients {
            let _ = client.join().expect("a client").ended(0);
        }
    });
    assert_eq!(forced(&engine, "web"), 2);
}

#[test]
fn two_nodes_and_a_worker_that_cannot() {
    let needs = [NEEDS, &[Need::Program("ip")]].concat();
    if !can_run("swarm: two nodes", &needs) {
        return;
    }
    let (world, lineage) = scene();
    let swarm = Swarm::start(&world.path("swarm"));
    service(&swarm.manager, "web", 2, &["--mode", "global", "--label", "reload=yes"], SLEEP);
    let before = tasks(&swarm.manager, "web");
    let go = |engine: &Engine, name: &str, update: &str| pass(&world, &lineage, &engine.url(), name, &[update]);
    let _ = go(&swarm.manager, "two", "{type: docker_service, filters: {label: [reload=yes]}, timeout: 60}").ended(0);
    let after = tasks(&swarm.manager, "web");
    let nodes = |tasks: &[String]| {
        let mut nodes: Vec<String> =
            tasks.iter().filter_map(|task| task.split(' ').nth(1).map(str::to_owned)).collect();
        nodes.sort();
        nodes
    };
    assert_eq!(nodes(&before), nodes(&after));
    assert!(after.len() == 2 && after.iter().all(|task| task.ends_with("Running")), "{after:?}");
    assert!(after.iter().all(|task| !before.contains(task)), "both are new: {before:?} {after:?}");

    for update in [
        "{type: docker_service, name: web}",
        "{type: docker_secret, name: tls, file: fullchain, lineages: [a.example]}",
    ] {
        let ran = go(&swarm.worker, if update.contains("secret") { "secret" } else { "service" }, update).ended(3);
        let sentence = "not a swarm manager";
        assert!(ran.stdout.contains(sentence) && ran.stdout.contains("Run this client on a manager"), "{}", ran.said());
    }
}
