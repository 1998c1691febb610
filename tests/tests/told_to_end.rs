//! Whoever is told to end, or killed, while updates run: nothing of a script stays behind, no other entry begins, and the
//! next run does what was left.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use certdeploy_tests::pass::Pass;
use certdeploy_tests::process::{Daemon, run};
use certdeploy_tests::wait::{PATIENCE, until};
use certdeploy_tests::{Lineage, World};
use rustix::process::Signal;

fn write(path: &Path, text: &str) -> PathBuf {
    std::fs::write(path, text).expect("write");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    path.to_owned()
}

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
            let script = write(&pass.path("script"), &text);
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
    let lines =
        format!("update_services:\n  - {{type: script, name: {}}}\n", write(&pass.path("script"), &text).display());
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
            write(&pass.path(name), &format!("#!/bin/sh\necho {name} >>{}\n{end}", pass.path("runs").display()))
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
