//! Whoever is told to end, or killed, while updates run: nothing of a script stays behind, no other entry begins, and the
//! next run does what was left.

use std::time::{Duration, Instant};

use certdeploy_tests::pass::Pass;
use certdeploy_tests::process::{Daemon, executable, run};
use certdeploy_tests::wait::{PATIENCE, until};
use certdeploy_tests::{Lineage, World};
use rustix::process::Signal;

fn scene() -> (World, Lineage) {
    let world = World::new();
    let lineage = world.lineage("a.example", &["a.example"]);
    (world, lineage)
}

/// The processes of a group that are alive.
fn group(id: &str) -> Vec<String> {
    let stats = std::fs::read_dir("/proc").expect("/proc").flatten();
    let stats = stats.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    let member = |stat: &String| {
        let mut words = stat.rsplit_once(") ").map(|(_, rest)| rest).unwrap_or_default().split(' ');
        words.next().is_some_and(|state| state != "Z") && words.nth(1) == Some(id)
    };
    stats.filter(member).collect()
}

#[test]
fn a_pass_that_is_told_to_end_leaves_nothing_of_a_script_that_hangs_and_the_next_runs_it_again() {
    let (world, lineage) = scene();
    for (name, entry) in [("update", "name: {script}"), ("check", "name: /bin/true, check: {script}")] {
        for twice in [false, true] {
            let pass = Pass::over(&world, &lineage, &format!("told-{name}-{twice}"));
            let (runs, go) = (pass.path("runs"), pass.path("go"));
            // A group of three, two of which hear nothing; the run ends by itself only when it may.
            let text = format!(
                "#!/bin/sh\ntrap '' TERM\nsleep 1000 & one=$!\n(trap - TERM; exec sleep 1000) & two=$!\n\
                 echo $$ >>{}\nwhile ! test -e {}; do sleep 0.05; done\nkill -KILL $one $two\n",
                runs.display(),
                go.display()
            );
            let script = executable(&pass.path("script"), &text);
            let entry = entry.replace("{script}", &script.display().to_string());
            let lines = format!("update_services:\n  - {{type: script, {entry}}}\n");
            let ids = || -> Vec<String> {
                std::fs::read_to_string(&runs).unwrap_or_default().lines().map(str::to_owned).collect()
            };
            let mut client = Daemon::start("certdeploy-client", pass.command(&lines), &pass.path("client.log"));
            until("the script runs", PATIENCE, || (ids().len() == 1).then_some(()));
            until("all three of its group run", PATIENCE, || (group(&ids()[0]).len() >= 3).then_some(()));
            let begun = Instant::now();
            client.signal(Signal::TERM);
            client.says("Stopping on SIGTERM");
            if twice {
                client.signal(Signal::TERM);
            }
            assert_eq!(client.ends().code(), Some(3), "{}", client.said());
            let took = begun.elapsed();
            let grace = Duration::from_secs(10);
            let fine = if twice { took < Duration::from_secs(9) } else { (grace..grace * 4).contains(&took) };
            assert!(fine, "{name} {twice}: {took:?}: {}", client.said());
            assert!(client.said().contains("Ended by a signal"), "{}", client.said());
            until("nothing of the group is left", PATIENCE, || group(&ids()[0]).is_empty().then_some(()));

            std::fs::write(&go, "").expect("write");
            let ran = run(pass.command(&lines)).ended(0);
            assert_eq!(ids().len(), 2, "{name} {twice}: it runs again: {}", ran.said());
            let _ = run(pass.command(&lines)).ended(0);
            assert_eq!(ids().len(), 2, "and is not owed any more");
        }
    }
}

#[test]
fn a_pass_that_is_told_to_end_waits_for_a_script_that_ends_in_time() {
    let (world, lineage) = scene();
    let pass = Pass::over(&world, &lineage, "in-time");
    let (runs, go) = (pass.path("runs"), pass.path("go"));
    let text = format!("#!/bin/sh\necho >>{}\nwhile ! test -e {}; do sleep 0.05; done\n", runs.display(), go.display());
    let lines = format!(
        "update_services:\n  - {{type: script, name: {}}}\n",
        executable(&pass.path("script"), &text).display()
    );
    let mut client = Daemon::start("certdeploy-client", pass.command(&lines), &pass.path("client.log"));
    until("the script runs", PATIENCE, || runs.exists().then_some(()));
    client.signal(Signal::TERM);
    client.says("Stopping on SIGTERM");
    std::fs::write(&go, "").expect("write");
    assert_eq!(client.ends().code(), Some(0), "{}", client.said());
    let _ = run(pass.command(&lines)).ended(0);
    assert_eq!(std::fs::read_to_string(&runs).expect("runs").lines().count(), 1, "it was done");
}

/// Two scripts, of which the first ends only when it may.
struct Two {
    pass: Pass,
    lines: String,
}

impl Two {
    fn of(world: &World, lineage: &Lineage, name: &str) -> Self {
        let pass = Pass::over(world, lineage, name);
        let script = |name: &str, end: &str| {
            executable(&pass.path(name), &format!("#!/bin/sh\necho {name} >>{}\n{end}", pass.path("runs").display()))
        };
        let wait = format!("while ! test -e {}; do sleep 0.05; done\n", pass.path("go").display());
        let (one, two) = (script("one", &wait), script("two", ""));
        let entries = [one, two].map(|path| format!("  - {{type: script, name: {}}}\n", path.display()));
        Self { lines: format!("update_services:\n{}", entries.concat()), pass }
    }

    fn start(&self, words: &[&str]) -> Daemon {
        let mut client = self.pass.command(&self.lines);
        client.args(words);
        let client = Daemon::start("certdeploy-client", client, &self.pass.path("client.log"));
        until("the first script runs", PATIENCE, || (!self.runs().is_empty()).then_some(()));
        client
    }

    fn go(&self) {
        std::fs::write(self.pass.path("go"), "").expect("write");
    }

    /// What has run since this was asked last.
    fn runs(&self) -> Vec<String> {
        let runs = std::fs::read_to_string(self.pass.path("runs")).unwrap_or_default();
        runs.lines().map(str::to_owned).collect()
    }

    fn forget(&self) {
        let _ = std::fs::remove_file(self.pass.path("runs"));
        let _ = std::fs::remove_file(self.pass.path("go"));
    }

    /// Runs a pass, which may not wait.
    fn pass(&self) -> Vec<String> {
        self.forget();
        self.go();
        let _ = run(self.pass.command(&self.lines)).ended(0);
        self.runs()
    }
}

#[test]
fn who_is_told_to_end_begins_no_other_entry_and_the_next_run_does_what_was_left() {
    let (world, lineage) = scene();
    let two = Two::of(&world, &lineage, "no-other");
    for words in [&[][..], &["update"], &["update"]] {
        two.forget();
        let mut client = two.start(words);
        client.signal(Signal::TERM);
        client.says("Stopping on SIGTERM");
        two.go();
        assert_eq!(client.ends().code(), Some(3), "{}", client.said());
        assert!(client.said().contains("Ended by a signal"), "{}", client.said());
        assert_eq!(two.runs(), ["one"], "{words:?}");
        assert_eq!(two.pass(), ["two"], "{words:?}: what was left, and nothing else");
        assert_eq!(two.pass(), [""; 0], "{words:?}: nothing is owed any more");
    }
}

#[test]
fn an_update_by_hand_that_is_killed_is_done_by_the_next_pass() {
    let (world, lineage) = scene();
    let two = Two::of(&world, &lineage, "killed");
    assert_eq!(two.pass(), ["one", "two"]);
    two.forget();
    let mut client = two.start(&["update"]);
    client.signal(Signal::KILL);
    assert_eq!(client.ends().code(), None, "{}", client.said());
    assert_eq!(two.pass(), ["one", "two"]);
    assert_eq!(two.pass(), [""; 0]);
}

#[test]
fn what_was_done_before_the_cut_is_not_done_again() {
    let (world, lineage) = scene();
    for by_second_signal in [true, false] {
        let two = Two::of(&world, &lineage, &format!("cut-{by_second_signal}"));
        // The second one hangs.
        std::fs::write(two.pass.path("go"), "").expect("write");
        let hangs = format!("#!/bin/sh\necho two >>{}\nsleep 1000\n", two.pass.path("runs").display());
        let quick = std::fs::read_to_string(two.pass.path("two")).expect("the script");
        executable(&two.pass.path("two"), &hangs);
        let mut client = two.start(&[]);
        until("the second one runs", PATIENCE, || (two.runs().len() == 2).then_some(()));
        client.signal(Signal::TERM);
        client.says("Stopping on SIGTERM");
        if by_second_signal {
            client.signal(Signal::TERM);
        }
        assert_eq!(client.ends().code(), Some(3), "{}", client.said());
        executable(&two.pass.path("two"), &quick);
        assert_eq!(two.pass(), ["two"], "{by_second_signal}");
        assert_eq!(two.pass(), [""; 0]);
    }
}

#[test]
fn a_signal_that_ends_the_script_as_well_blames_no_files() {
    let (world, mut lineage) = scene();
    for check in [false, true] {
        let pass = Pass::over(&world, &lineage, &format!("both-{check}"));
        let begun = pass.path("begun");
        let hang = format!("test -e {}", pass.path("quiet").display());
        let text = format!("#!/bin/sh\n{hang} && exit 0\necho $$ >{}\nexec sleep 1000\n", begun.display());
        let script = executable(&pass.path("script"), &text).display().to_string();
        let entry = if check { format!("name: /bin/true, check: {script}") } else { format!("name: {script}") };
        let lines = format!("update_services:\n  - {{type: script, {entry}, on_failure: rollback}}\n");
        std::fs::write(pass.path("quiet"), "").expect("write");
        let _ = run(pass.command(&lines)).ended(0);
        lineage.renew(&world.ca);
        let staged = pass.path("staging/a.example");
        std::fs::create_dir_all(&staged).expect("a folder");
        for file in ["fullchain.pem", "privkey.pem"] {
            std::fs::copy(lineage.live.join(file), staged.join(file)).expect("copy");
        }
        std::fs::remove_file(pass.path("quiet")).expect("remove");
        let mut client = Daemon::start("certdeploy-client", pass.command(&lines), &pass.path("client.log"));
        until("it runs", PATIENCE, || std::fs::read_to_string(&begun).is_ok_and(|id| !id.is_empty()).then_some(()));
        let id: i32 = std::fs::read_to_string(&begun).expect("an id").trim().parse().expect("an id");
        // As at the end of a session: the script's turn comes first.
        rustix::process::kill_process(rustix::process::Pid::from_raw(id).expect("an id"), Signal::TERM).expect("kill");
        client.signal(Signal::TERM);
        assert_eq!(client.ends().code(), Some(3), "{}", client.said());
        let new = std::fs::read(lineage.live.join("fullchain.pem")).expect("read");
        assert!(std::fs::read(pass.path("certs/a.example/fullchain.pem")).expect("read") == new, "{}", client.said());
        std::fs::write(pass.path("quiet"), "").expect("write");
        let _ = run(pass.command(&lines)).ended(0);
        let word = std::fs::read_to_string(pass.path("certs/a.example/.updates.json")).expect("the ledger");
        assert!(word.contains(r#""update":"done""#), "{word}");
    }
}

#[test]
fn an_update_that_is_ended_while_it_waits_for_its_turn_is_done_by_the_next_pass() {
    let (world, lineage) = scene();
    let two = Two::of(&world, &lineage, "waits");
    assert_eq!(two.pass(), ["one", "two"]);
    two.forget();
    let mut first = two.start(&["update"]);
    let mut command = two.pass.command(&two.lines);
    command.arg("update");
    let mut second = Daemon::start("the second", command, &two.pass.path("second.log"));
    second.says("Another certdeploy-client runs updates; this one waits for their end");
    second.signal(Signal::TERM);
    assert_eq!(second.ends().code(), Some(3), "{}", second.said());
    two.go();
    assert_eq!(first.ends().code(), Some(0), "{}", first.said());
    assert_eq!(two.pass(), ["one", "two"]);
    assert_eq!(two.pass(), [""; 0]);
}

#[test]
fn a_parent_that_ignores_the_end_of_children_fails_nothing() {
    let (world, lineage) = scene();
    let pass = Pass::over(&world, &lineage, "ignores");
    let client = pass.command("update_services: [{type: script, name: /bin/true}]\n");
    let mut ignoring = certdeploy_tests::process::command("/usr/bin/env");
    ignoring.arg("--ignore-signal=CHLD").arg(client.get_program()).args(client.get_args());
    let ran = run(ignoring).ended(0);
    assert!(ran.said().contains("Updated services"), "{}", ran.said());
}
