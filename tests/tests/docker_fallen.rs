//! Containers that do not come back after their restart, against a real Docker engine: it is said, the retry means them
//! and nobody else, and what somebody stopped on purpose stays as it is.

use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use certdeploy_tests::between::{Meddle, between};
use certdeploy_tests::engine::{Engine, IMAGE};
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::pass::Pass;
use certdeploy_tests::process::{Ran, run};
use certdeploy_tests::wait::PATIENCE;
use certdeploy_tests::{Lineage, World, until};

const NEEDS: &[Need] = &[Need::Root, Need::Program("dockerd"), Need::Program("busybox")];

/// An engine, and passes over one lineage.
struct Scene {
    // It ends before its folder goes.
    engine: Rc<Engine>,
    world: World,
    lineage: Lineage,
    pass: Pass,
    /// What its containers are labelled with.
    label: String,
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        let engine = Rc::new(Engine::start(&world.path("engine")));
        Self::of(world, engine, "reload=yes")
    }

    /// Another one at the same engine.
    fn beside(&self, label: &str) -> Self {
        Self::of(World::new(), Rc::clone(&self.engine), label)
    }

    fn of(world: World, engine: Rc<Engine>, label: &str) -> Self {
        let lineage = world.lineage("a.example", &["a.example"]);
        let pass = Pass::over(&world, &lineage, "fallen");
        Self { engine, world, lineage, pass, label: label.to_owned() }
    }

    /// A folder of the host.
    fn folder(&self, name: &str) -> String {
        let path = self.world.path(name);
        std::fs::create_dir_all(&path).expect("a folder");
        path.display().to_string()
    }

    /// Runs a container that sees folders of the host: `(from, to)`.
    fn container(&self, name: &str, mounts: &[(&str, &str)], more: &[&str], script: &str) {
        let mounts: Vec<String> =
            mounts.iter().map(|(from, to)| format!("--mount=type=bind,source={from},target={to}")).collect();
        let mut words = vec!["run", "-d", "--network", "none", "--name", name, "--label", &self.label];
        words.extend(mounts.iter().map(String::as_str).chain(more.iter().copied()));
        words.extend([IMAGE, "/bin/sh", "-c", script]);
        let _ = self.engine.ask(&words);
    }

    /// One that ends at once with 3 when what is deployed is what [`poison`](Self::poison) says.
    fn picky(&self, name: &str, more: &[&str]) {
        let picky = "/bin/busybox cmp -s /certs/a.example/fullchain.pem /flag/bad && exit 3; exec sleep 100000";
        let certs = self.pass.path("certs").display().to_string();
        self.container(name, &[(&certs, "/certs"), (&self.folder("flag"), "/flag")], more, picky);
    }

    /// Renews to a certificate that the picky one does not bear.
    fn poison(&mut self) {
        self.renew();
        std::fs::write(self.world.path("flag/bad"), &self.lineage.issued.fullchain).expect("write");
    }

    /// Makes it bear everything.
    fn mend(&self) {
        std::fs::remove_file(self.world.path("flag/bad")).expect("mend");
    }

    fn renew(&mut self) {
        self.lineage.renew(&self.world.ca);
        let staged = self.pass.path("staging/a.example");
        std::fs::create_dir_all(&staged).expect("a folder");
        for file in ["fullchain.pem", "privkey.pem"] {
            std::fs::copy(self.lineage.live.join(file), staged.join(file)).expect("copy");
        }
    }

    fn client(&self, entry: &str, words: &[&str]) -> Ran {
        self.client_at(&self.engine.url(), entry, words)
    }

    fn client_at(&self, url: &str, entry: &str, words: &[&str]) -> Ran {
        let lines = format!("docker_url: {url}\ndocker_timeout: 1\nupdate_services:\n  - {entry}\n");
        let mut client = self.pass.command(&lines);
        client.args(words);
        run(client)
    }

    fn deployed(&self) -> String {
        std::fs::read_to_string(self.pass.path("certs/a.example/fullchain.pem")).expect("fullchain.pem")
    }

    fn started(&self, container: &str) -> String {
        self.engine.ask(&["inspect", "-f", "{{.State.StartedAt}}", container])
    }

    fn state(&self, container: &str) -> String {
        self.engine.ask(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", container])
    }
}

#[test]
fn one_that_ends_at_once_is_a_failure() {
    if !can_run("docker: ends at once", NEEDS) {
        return;
    }
    let mut scene = Scene::new();
    scene.picky("web", &[]);
    let entry = "{type: docker_container, name: web}";
    let _ = scene.client(entry, &[]).ended(0);
    scene.poison();
    for words in [&[][..], &["update", "--failed"]] {
        let before = scene.started("web");
        let ran = scene.client(entry, words).ended(3);
        assert!(ran.stdout.contains("DockerError: Failed to update container name=web: "), "{}", ran.said());
        assert!(ran.stdout.contains("ended with 3 after its restart"), "{}", ran.said());
        assert!(!ran.stdout.contains("Docker container updated"), "{}", ran.said());
        assert_eq!((scene.state("web").as_str(), before == scene.started("web")), ("exited 3", false));
    }
    assert_eq!(scene.deployed(), scene.lineage.issued.fullchain, "nobody wanted the old ones back");
    scene.mend();
    let _ = scene.client(entry, &["update", "--failed"]).ended(0);
    assert_eq!(scene.state("web"), "running 0");
}

#[test]
fn one_that_ends_with_the_new_files_runs_with_the_old_ones_after_a_rollback() {
    if !can_run("docker: rollback", NEEDS) {
        return;
    }
    let first = Scene::new();
    for (label, meant, more) in [
        ("r=policy", "name: policy", &["--restart", "always"][..]),
        ("r=name", "name: name", &[]),
        ("r=label", "filters: {label: [r=label]}", &[]),
    ] {
        let mut scene = first.beside(label);
        let name = label.trim_start_matches("r=");
        scene.picky(name, more);
        let entry = format!("{{type: docker_container, {meant}, on_failure: rollback}}");
        let _ = scene.client(&entry, &[]).ended(0);
        let old = scene.deployed();
        scene.poison();
        let ran = scene.client(&entry, &[]).ended(3);
        assert!(ran.stdout.contains("ended with 3"), "{}", ran.said());
        assert_eq!(ran.stdout.contains("and the engine starts it again and again"), !more.is_empty(), "{}", ran.said());
        assert!(scene.deployed() == old, "{}", ran.said());
        let ledger = std::fs::read_to_string(scene.pass.path("certs/a.example/.updates.json")).expect("the ledger");
        assert!(ledger.contains("rolled back to the files of generation 1"), "{ledger}");
        assert_eq!(scene.state(name), "running 0", "{entry}: it was told of the old files: {}", ran.said());
    }
}

#[test]
fn one_that_has_ended_is_meant_by_whatever_tells_its_entry_next() {
    if !can_run("docker: has ended", NEEDS) {
        return;
    }
    let first = Scene::new();
    let mut down = Vec::new();
    for by_label in [false, true] {
        for (way, next) in [("update", &["update"][..]), ("rollback", &["rollback", "a.example"]), ("renewal", &[])] {
            let name = format!("{way}-{by_label}");
            let label = format!("w={name}");
            let mut scene = first.beside(&label);
            let meant = if by_label { format!("filters: {{label: ['{label}']}}") } else { format!("name: {name}") };
            let entry = format!("{{type: docker_container, {meant}}}");
            scene.picky(&name, &[]);
            let _ = scene.client(&entry, &[]).ended(0);
            scene.poison();
            let _ = scene.client(&entry, &[]).ended(3);
            assert_eq!(scene.state(&name), "exited 3");
            match way {
                "update" => scene.mend(),
                "renewal" => scene.renew(),
                _ => {}
            }
            let ran = scene.client(&entry, next);
            if (ran.code, scene.state(&name).as_str()) != (Some(0), "running 0") {
                down.push(format!("{meant}, {next:?}: {:?}, {}\n{}", ran.code, scene.state(&name), ran.said()));
            }
        }
    }
    assert!(down.is_empty(), "{}", down.join("\n"));
}

#[test]
fn of_several_only_the_one_that_failed_is_restarted_again() {
    if !can_run("docker: one of several", NEEDS) {
        return;
    }
    let scene = Scene::new();
    let flag = scene.folder("flag");
    for name in ["one", "two", "three"] {
        scene.container(name, &[(&flag, "/flag")], &[], &format!("test -e /flag/{name} && exit 4; exec sleep 100000"));
    }
    std::fs::write(scene.world.path("flag/two"), "").expect("write");
    let entry = "{type: docker_container, filters: {label: [reload=yes]}}";
    let all = || ["one", "two", "three"].map(|name| scene.started(name));
    let before = all();
    let ran = scene.client(entry, &[]).ended(3);
    let first = all();
    assert!(before.iter().zip(&first).all(|(before, after)| before != after), "all had their turn: {}", ran.said());
    let id = scene.engine.ask(&["inspect", "-f", "{{.Id}}", "two"]);
    let said = format!("container {} ended with 4 after its restart", &id[..12]);
    assert!(ran.stdout.contains(&said), "{said}: {}", ran.said());

    let ran = scene.client(entry, &["update", "--failed"]).ended(3);
    let second = all();
    assert!(ran.stdout.contains(&said), "{}", ran.said());
    assert!(first[0] == second[0] && first[1] != second[1] && first[2] == second[2], "{first:?} {second:?}");
    std::fs::remove_file(scene.world.path("flag/two")).expect("mend");
    // Another pass does what is owed, too.
    let ran = scene.client(entry, &[]).ended(0);
    let third = all();
    assert!(second[0] == third[0] && second[1] != third[1] && second[2] == third[2], "{}", ran.said());
    assert_eq!(scene.state("two"), "running 0");
    let _ = scene.client(entry, &["update", "--failed"]).ended(0);
    assert_eq!(all(), third, "nothing is owed any more");
}

#[test]
fn one_that_could_not_be_started_again_is_found_again() {
    if !can_run("docker: cannot start", NEEDS) {
        return;
    }
    let first = Scene::new();
    for (name, meant) in [("web", "name: web"), ("labelled", "filters: {label: [n=labelled]}")] {
        let mut scene = first.beside(&format!("n={name}"));
        let needed = scene.folder("needed");
        let rests = format!("{name}-rests");
        scene.container(name, &[(&needed, "/needed")], &[], "exec sleep 100000");
        scene.container(&rests, &[], &[], "exec sleep 100000");
        let _ = scene.engine.ask(&["stop", "-t", "0", &rests]);
        let resting = scene.state(&rests);
        let entry = format!("{{type: docker_container, {meant}}}");
        std::fs::remove_dir(&needed).expect("remove");
        for words in [&[][..], &["update", "--failed"]] {
            let ran = scene.client(&entry, words).ended(3);
            assert!(ran.stdout.contains("DockerError: Failed to update container "), "{meant}: {}", ran.said());
            assert!(ran.stdout.contains("Cannot restart container"), "{meant}: {}", ran.said());
            assert!(scene.state(name).starts_with("exited"), "{meant}: {}", scene.state(name));
        }
        let _ = scene.folder("needed");
        let ran = scene.client(&entry, &["update", "--failed"]).ended(0);
        assert_eq!(scene.state(name), "running 0", "{meant}: the retry: {}", ran.said());

        // Nobody retries, and the next certificate comes when the cause is mended.
        std::fs::remove_dir(&needed).expect("remove");
        scene.renew();
        let _ = scene.client(&entry, &[]).ended(3);
        let _ = scene.folder("needed");
        scene.renew();
        let ran = scene.client(&entry, &[]).ended(0);
        assert_eq!(scene.state(name), "running 0", "{meant}: the next certificate: {}", ran.said());
        assert_eq!(scene.state(&rests), resting, "{meant}: what was stopped on purpose rests");
    }
}

#[test]
fn the_time_to_end_reaches_the_engine() {
    if !can_run("docker: timeout", NEEDS) {
        return;
    }
    let scene = Scene::new();
    scene.container("deaf", &[], &[], "trap '' TERM; while :; do sleep 0.1; done");
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let url = between(&scene.world.path("seen.sock"), scene.engine.socket(), move |request| {
        seen.lock().expect("lock").push(request.to_owned());
        Meddle::Pass
    });
    // When it was sent each signal, by the engine's own clock; those of this very second come later.
    let signals = |count: usize| {
        until(&format!("the engine tells of {count} signals"), PATIENCE, || {
            let words = ["events", "--since", "1", "--until", "0s", "--filter", "event=kill", "--format", "{{json .}}"];
            let events = scene.engine.ask(&words);
            let signals = events.lines().map(|line| {
                let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
                let signal = event["Actor"]["Attributes"]["signal"].as_str().expect("a signal").to_owned();
                (signal, Duration::from_nanos(event["timeNano"].as_u64().expect("a time")))
            });
            let signals: Vec<(String, Duration)> = signals.collect();
            (signals.len() >= count).then_some(signals)
        })
    };
    for (number, (action, seconds)) in [("restart", 7), ("stop", 3)].into_iter().enumerate() {
        let entry = format!("{{type: docker_container, name: deaf, action: {action}, timeout: {seconds}}}");
        let ran = scene.client_at(&url, &entry, if number == 0 { &[] } else { &["update"] }).ended(0);
        let asked = asked.lock().expect("lock");
        let request = asked.iter().find(|request| request.contains(&format!("/{action}?"))).expect("a request");
        assert!(request.contains(&format!("?t={seconds} ")), "{request}");
        let signals = signals(2 * number + 2);
        let [(term, told), (kill, killed)] = &signals[2 * number..] else { panic!("{signals:?}: {}", ran.said()) };
        assert_eq!((term.as_str(), kill.as_str()), ("15", "9"));
        assert!(*killed - *told >= Duration::from_secs(seconds), "{action}: {:?}", *killed - *told);
    }
}
