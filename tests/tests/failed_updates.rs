//! Failed updates: only they run again, by the daemon itself, by the next pass, and by `update --failed`.

use std::path::Path;
use std::process::Command;

use certdeploy_common::fs::lock::{self, Lock};
use certdeploy_common::ssh::key;
use certdeploy_tests::pass::Pass;
use certdeploy_tests::process::{Daemon, free_port, run};
use certdeploy_tests::wait::{PATIENCE, until};
use certdeploy_tests::{Lineage, World};

/// Two scripts: one that counts its runs, and one that does so too but fails while there is a file `broken`.
fn scripts(pass: &Pass) -> String {
    let write = |name: &str, text: String| {
        let path = pass.path(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("write");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        format!("  - {{type: script, name: {}}}\n", path.display())
    };
    let good = write("good", format!("echo good >>{}", pass.path("runs").display()));
    let bad = write(
        "bad",
        format!("echo bad >>{}; ! test -e {}", pass.path("runs").display(), pass.path("broken").display()),
    );
    std::fs::write(pass.path("broken"), "").expect("write");
    format!("update_services:\n{bad}{good}")
}

fn runs(pass: &Pass) -> Vec<String> {
    runs_of(&pass.path("runs"))
}

fn runs_of(file: &Path) -> Vec<String> {
    std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn world() -> (World, Lineage) {
    let world = World::new();
    let lineage = world.lineage("a.example", &["a.example"]);
    (world, lineage)
}

#[test]
fn a_pass_and_the_command_run_only_what_failed() {
    let (world, lineage) = world();
    let pass = Pass::over(&world, &lineage, "failed");
    let updates = scripts(&pass);
    let _ = run(pass.command(&updates)).ended(3);
    assert_eq!(runs(&pass), ["bad", "good"]);
    let _ = run(pass.command(&updates)).ended(3);
    assert_eq!(runs(&pass), ["bad", "good", "bad"]);
    let with = |words: &[&str]| {
        let mut client = pass.command(&updates);
        client.args(words);
        run(client)
    };
    let _ = with(&["update", "--failed"]).ended(3);
    std::fs::remove_file(pass.path("broken")).expect("mend");
    let _ = with(&["update", "--failed"]).ended(0);
    assert_eq!(runs(&pass), ["bad", "good", "bad", "bad", "bad"]);
    let _ = with(&["update", "--failed"]).ended(0);
    let _ = run(pass.command(&updates)).ended(0);
    assert_eq!(runs(&pass).len(), 5, "nothing is owed any more");
    let _ = with(&["update"]).ended(0);
    assert_eq!(runs(&pass)[5..], ["bad", "good"], "without --failed everything runs");
}

#[test]
fn with_fail_fast_what_was_not_run_is_owed_too() {
    let (world, lineage) = world();
    let pass = Pass::over(&world, &lineage, "fast");
    let updates = format!("fail_fast: true\n{}", scripts(&pass));
    let _ = run(pass.command(&updates)).ended(1);
    assert_eq!(runs(&pass), ["bad"]);
    std::fs::remove_file(pass.path("broken")).expect("mend");
    let _ = run(pass.command(&updates)).ended(0);
    assert_eq!(runs(&pass), ["bad", "bad", "good"]);
}

#[test]
fn a_script_has_the_umask_and_directory_of_whoever_started_us_or_its_own_user() {
    let (world, lineage) = world();
    let pass = Pass::over(&world, &lineage, "surroundings");
    let said = pass.path("said");
    std::fs::write(&said, "").expect("write");
    std::fs::set_permissions(&said, std::os::unix::fs::PermissionsExt::from_mode(0o666)).expect("chmod");
    let path = pass.path("script");
    std::fs::write(&path, format!("#!/bin/sh\necho $(id -un) $(umask) $(pwd) $HOME $WHAT >>{}\n", said.display()))
        .expect("write");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let entry = |more: &str| format!("update_services:\n  - {{type: script, name: {}{more}}}\n", path.display());
    let run_with = |more: &str| {
        let client = pass.command(&entry(more));
        let mut shell = certdeploy_tests::process::command("/bin/sh");
        let words: Vec<String> = client.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        let program = client.get_program().to_string_lossy().into_owned();
        shell.arg("-c").arg("umask 027; cd /usr; exec \"$@\"").arg("sh").arg(program).args(words).arg("update");
        let _ = run(shell).ended(0);
        runs_of(&said).pop().expect("a line")
    };
    let _ = run(pass.command("")).ended(0);
    let me = String::from_utf8(std::process::Command::new("id").arg("-un").output().expect("id").stdout).expect("text");
    assert_eq!(run_with(", env: {WHAT: a b}"), format!("{} 0027 /usr /nonexistent a b", me.trim()));
    if rustix::process::geteuid().is_root() {
        assert_eq!(run_with(", user: daemon, cwd: /"), "daemon 0027 / /usr/sbin");
    }
    let ran = run(pass.command(&entry(", user: no-such-user"))).ended(1);
    assert!(ran.stdout.contains("Invalid value \"no-such-user\" for `user`"), "{}", ran.said());
}

#[test]
fn the_daemon_runs_what_failed_again_by_itself() {
    let (world, lineage) = world();
    let pass = Pass::over(&world, &lineage, "daemon");
    let host_key = pass.path("host_key");
    let _ = key::generate(&host_key, "host").expect("a key");
    let more = format!(
        "update_delay: null\nupdate_retry_interval: 0.1\nupdate_retry_max_interval: 1\nsftpd: {{listen_address: 127.0.0.1, \
         listen_port: {}, privkey_filename: {}, server_pubkey: {}}}\n",
        free_port(),
        host_key.display(),
        world.pusher_key
    );
    let mut client = pass.command(&format!("{}{more}", scripts(&pass)));
    client.arg("--daemon");
    let _daemon = Daemon::start("certdeploy-client", client, &pass.path("client.log"));
    until("three runs of what fails", PATIENCE, || (runs(&pass).len() >= 4).then_some(()));
    std::fs::remove_file(pass.path("broken")).expect("mend");
    let done = |ledger: &Path| std::fs::read_to_string(ledger).is_ok_and(|text| text.contains("\"done\""));
    until("the ledger says done", PATIENCE, || done(&pass.path("certs/a.example/.updates.json")).then_some(()));
    let runs = runs(&pass);
    assert_eq!(runs.iter().filter(|run| *run == "good").count(), 1, "{runs:?}");
}

#[test]
fn an_entry_that_was_mended_in_the_config_runs() {
    let (world, lineage) = world();
    let pass = Pass::over(&world, &lineage, "mended");
    let updates = scripts(&pass);
    let _ = run(pass.command(&updates)).ended(3);
    std::fs::remove_file(pass.path("broken")).expect("mend");
    // Nobody knows that the new name is the old one's: all of them run.
    std::fs::rename(pass.path("bad"), pass.path("better")).expect("rename");
    let updates = updates.replace("/bad}", "/better}");
    let _ = run(pass.command(&updates)).ended(0);
    assert_eq!(runs(&pass), ["bad", "good", "bad", "good"]);
    let _ = run(pass.command(&updates)).ended(0);
    assert_eq!(runs(&pass).len(), 4);
}

#[test]
fn two_processes_take_turns_with_their_updates() {
    let world = World::new();
    let lineage = world.lineage("a.example", &["a.example"]);
    let pass = Pass::over(&world, &lineage, "turns");
    let path = pass.path("update");
    let text =
        format!("#!/bin/sh\nmkdir {0} || exit 9\nsleep 0.5\nrmdir {0}\necho >>{0}.runs\n", pass.path("busy").display());
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let lines = format!("update_services:\n  - {{type: script, name: {}}}\n", path.display());
    let _ = run(pass.command(&lines)).ended(0);
    let update = |_| {
        let mut update = pass.command(&lines);
        update.arg("update");
        update
    };
    let both = [(); 3].map(update).map(|update| std::thread::spawn(move || run(update)));
    for ran in both {
        let _ = ran.join().unwrap().ended(0);
    }
    assert_eq!(std::fs::read_to_string(pass.path("busy.runs")).unwrap().lines().count(), 4);
}

/// A command `update` with these lines in its config, and the lock of another process that runs updates.
fn beside_another(world: &World, lines: &str) -> (Pass, Command, Lock) {
    let lineage = world.lineage("a.example", &["a.example"]);
    let pass = Pass::over(world, &lineage, "turns");
    let lines = format!("{lines}update_services:\n  - {{type: script, name: /bin/true}}\n");
    let _ = run(pass.command(&lines)).ended(0);
    let other = lock::try_lock(&pass.path("certs/.updating")).unwrap().unwrap();
    let mut update = pass.command(&lines);
    update.arg("update");
    (pass, update, other)
}

#[test]
fn another_processs_updates_are_not_waited_for_without_end() {
    let world = World::new();
    let (_pass, update, _other) = beside_another(&world, "update_wait: 1\n");
    let said = run(update).ended(0).said();
    for want in ["this one waits for their end", "runs updates for 1 s; this one waits no more", "Updated services"] {
        assert!(said.contains(want), "{want}: {said}");
    }
}

#[test]
fn who_waits_for_anothers_updates_ends_at_a_signal_and_begins_nothing() {
    let world = World::new();
    let (pass, update, _other) = beside_another(&world, "");
    let mut waiting = Daemon::start("an update", update, &pass.path("update.log"));
    waiting.says("this one waits for their end");
    assert_eq!(waiting.stop().code(), Some(3), "{}", waiting.said());
    assert!(!waiting.said().contains("Updating services"), "{}", waiting.said());
}
