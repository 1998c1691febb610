//! Going back: by hand, and by an entry whose check or update fails. Readers see one whole set at any time.

use std::path::Path;

use certdeploy_common::cert::FileName;
use certdeploy_common::cert::FileName::{Cert, Chain, Fullchain, Privkey};
use certdeploy_tests::ca::Issued;
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::pass::Pass;
use certdeploy_tests::process::{command, run};
use certdeploy_tests::python::program;
use certdeploy_tests::{Lineage, World};

fn script(pass: &Pass, name: &str, text: &str) -> String {
    let path = pass.path(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("write");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    path.display().to_string()
}

fn deployed(pass: &Pass) -> Vec<u8> {
    std::fs::read(pass.path("certs/a.example/fullchain.pem")).expect("fullchain.pem")
}

fn stage(pass: &Pass, lineage: &Lineage) {
    put(pass, &lineage.issued, &[Fullchain, Privkey]);
}

/// Puts these files of a set into staging, and nothing else.
fn put(pass: &Pass, set: &Issued, names: &[FileName]) {
    let staged = pass.path("staging/a.example");
    let _ = std::fs::remove_dir_all(&staged);
    std::fs::create_dir_all(&staged).expect("a folder");
    for name in names {
        std::fs::write(staged.join(name.as_str()), set.file(*name)).expect("write");
    }
}

fn runs(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn by_hand_step_by_step_and_what_was_left_does_not_come_back_by_itself() {
    let world = World::new();
    let mut lineage = world.lineage("a.example", &["a.example"]);
    let pass = Pass::over(&world, &lineage, "by-hand");
    let update = script(&pass, "update", &format!("echo $RENEWED_LINEAGE >>{}", pass.path("runs").display()));
    let lines = format!("keep_generations: 6\nupdate_services:\n  - {{type: script, name: {update}}}\n");
    let client = |words: &[&str]| {
        let mut client = pass.command(&lines);
        client.args(words);
        run(client)
    };
    let mut sets = Vec::new();
    for _ in 0..3 {
        stage(&pass, &lineage);
        let _ = client(&[]).ended(0);
        sets.push(deployed(&pass));
        lineage.renew(&world.ca);
    }
    assert_eq!(runs(&pass.path("runs")).len(), 3);
    let ran = client(&["rollback", "a.example"]).ended(0);
    assert!(deployed(&pass) == sets[1], "{}", ran.said());
    assert!(ran.stdout.contains("has the files of generation 2 again"), "{}", ran.said());
    assert_eq!(runs(&pass.path("runs")).len(), 4, "its updates ran");

    // The same files again: refused, and what is there stays.
    std::fs::create_dir_all(pass.path("staging/a.example")).expect("a folder");
    for name in ["fullchain.pem", "privkey.pem"] {
        std::fs::copy(
            pass.path(&format!("certs/a.example/.gen-3/{name}")),
            pass.path(&format!("staging/a.example/{name}")),
        )
        .expect("copy");
    }
    let ran = client(&[]).ended(1);
    assert!(ran.stdout.contains("was rolled back here"), "{}", ran.said());
    assert!(deployed(&pass) == sets[1]);

    let _ = client(&["rollback", "a.example"]).ended(0);
    assert!(deployed(&pass) == sets[0], "one further");
    let ran = client(&["rollback", "a.example"]).ended(1);
    assert!(ran.stdout.contains("no earlier generation"), "{}", ran.said());
    let ran = client(&["rollback", "b.example"]).ended(1);
    assert!(ran.stdout.contains("there is no lineage b.example"), "{}", ran.said());
    let _ = client(&["rollback", "../x"]).ended(2);

    stage(&pass, &lineage);
    let _ = client(&[]).ended(0);
    assert_eq!(
        deployed(&pass),
        std::fs::read(lineage.live.join("fullchain.pem")).expect("live"),
        "a newer one is taken"
    );
}

#[test]
fn a_failed_check_touches_nothing_and_brings_the_old_files_back() {
    let world = World::new();
    let mut lineage = world.lineage("a.example", &["a.example"]);
    let pass = Pass::over(&world, &lineage, "check");
    let check = script(
        &pass,
        "check",
        &format!(
            "! test -e {} || ! cmp -s \"$RENEWED_LINEAGE/fullchain.pem\" {}/fullchain.pem",
            pass.path("broken").display(),
            lineage.live.display()
        ),
    );
    let update = script(
        &pass,
        "update",
        &format!("sha256sum <\"$RENEWED_LINEAGE/fullchain.pem\" >>{}", pass.path("runs").display()),
    );
    let lines =
        format!("update_services:\n  - {{type: script, name: {update}, check: {check}, on_failure: rollback}}\n");
    let _ = run(pass.command(&lines)).ended(0);
    let old = deployed(&pass);
    lineage.renew(&world.ca);
    stage(&pass, &lineage);
    std::fs::write(pass.path("broken"), "").expect("write");
    let ran = run(pass.command(&lines)).ended(3);
    assert!(ran.stdout.contains("CheckError: "), "{}", ran.said());
    assert!(deployed(&pass) == old, "{}", ran.said());
    let runs = runs(&pass.path("runs"));
    assert!(runs.len() == 2 && runs[0] == runs[1], "told of the old files only: {runs:?}");
    let ledger = std::fs::read_to_string(pass.path("certs/a.example/.updates.json")).expect("the ledger");
    assert!(ledger.contains("rolled back to the files of generation 1"), "{ledger}");
    let _ = run(pass.command(&lines)).ended(0);
}

#[test]
fn a_failure_that_goes_on_is_not_the_files_fault_and_goes_back_once() {
    let world = World::new();
    let mut lineage = world.lineage("a.example", &["a.example"]);
    let pass = Pass::over(&world, &lineage, "goes-on");
    let update = script(&pass, "update", &format!("! test -e {}", pass.path("broken").display()));
    let lines =
        format!("keep_generations: 9\nupdate_services:\n  - {{type: script, name: {update}, on_failure: rollback}}\n");
    let mut sets = Vec::new();
    for number in 0..4 {
        stage(&pass, &lineage);
        if number == 3 {
            std::fs::write(pass.path("broken"), "").expect("write");
        }
        let _ = run(pass.command(&lines)).ended(if number == 3 { 3 } else { 0 });
        sets.push(deployed(&pass));
        lineage.renew(&world.ca);
    }
    assert!(sets[3] == sets[2], "once");
    for _ in 0..3 {
        let mut again = pass.command(&lines);
        again.args(["update", "--failed"]);
        let ran = run(again).ended(3);
        assert!(ran.stdout.contains("was rolled back already"), "{}", ran.said());
        assert!(deployed(&pass) == sets[2], "{}", ran.said());
    }
}

#[test]
fn what_was_left_behind_stays_unwanted_over_further_steps_and_beside_other_files() {
    let world = World::new();
    let mut lineage = world.lineage("a.example", &["a.example"]);
    let pass = Pass::over(&world, &lineage, "unwanted");
    let client = |words: &[&str]| {
        let mut client = pass.command("keep_generations: 9\n");
        client.args(words);
        run(client)
    };
    let mut sets = Vec::new();
    for _ in 0..3 {
        stage(&pass, &lineage);
        let _ = client(&[]).ended(0);
        sets.push(lineage.issued.clone());
        lineage.renew(&world.ca);
    }
    for _ in 0..2 {
        let _ = client(&["rollback", "a.example"]).ended(0);
    }
    assert!(deployed(&pass) == sets[0].fullchain.as_bytes());
    let plain = [Fullchain, Privkey];
    for set in [&sets[2], &sets[1]] {
        for names in [&plain[..], &[Chain, Fullchain, Privkey], &[Cert, Chain, Fullchain, Privkey], &[Cert, Privkey]] {
            put(&pass, set, names);
            let ran = client(&[]).ended(1);
            assert!(ran.stdout.contains("was rolled back here"), "{names:?}: {}", ran.said());
            assert!(deployed(&pass) == sets[0].fullchain.as_bytes(), "{names:?}: {}", ran.said());
            let link = std::fs::read_link(pass.path("certs/a.example/..data")).expect("a link");
            assert_eq!(link, Path::new(".gen-5"), "{names:?}");
        }
    }
    // New modes are a generation of their own; they do not make anybody forget.
    let modes = "keep_generations: 9\nfile_permissions: {privkey: {mode: 0640}}\n";
    put(&pass, &sets[2], &plain);
    let ran = run(pass.command(modes)).ended(1);
    assert!(ran.stdout.contains("was rolled back here"), "{}", ran.said());
    stage(&pass, &lineage);
    let _ = run(pass.command(modes)).ended(0);
    assert!(deployed(&pass) == lineage.issued.fullchain.as_bytes(), "a newer one is taken");
}

/// What the Python server uploads, and the Python client deploys.
const UPLOADED: [FileName; 3] = [Chain, Fullchain, Privkey];

#[test]
fn what_the_python_program_left_comes_back_by_hand_and_by_the_first_failure() {
    for (version, by_hand) in [("0.5.4", true), ("0.5.4", false), ("0.2.2", true), ("0.2.2", false)] {
        if can_run("rollback: what the Python program left", &[Need::Python(version)]) {
            back_to_plain_files(version, by_hand);
        }
    }
}

fn back_to_plain_files(version: &str, by_hand: bool) {
    let world = World::new();
    let mut lineage = world.lineage("a.example", &["a.example"]);
    let pass = Pass::over(&world, &lineage, "plain");
    let old = lineage.issued.clone();
    put(&pass, &old, &UPLOADED);
    let config = pass.path("python.yml");
    let (source, destination) = (pass.path("staging"), pass.path("certs"));
    let text = format!("source: {}\ndestination: {}\nlog_level: DEBUG\n", source.display(), destination.display());
    std::fs::write(&config, text).expect("write");
    let mut python = command(program(version, "certdeploy-client").expect("made by tests/setup"));
    python.arg("--config").arg(&config);
    let _ = run(python).ended(0);
    let place = |name: &FileName| pass.path("certs/a.example").join(name.as_str());
    let shows = |set: &Issued| {
        UPLOADED.iter().all(|name| std::fs::read_to_string(place(name)).ok().as_deref() == Some(set.file(*name)))
    };
    assert!(shows(&old) && UPLOADED.iter().all(|name| !place(name).is_symlink()));

    lineage.renew(&world.ca);
    put(&pass, &lineage.issued, &UPLOADED);
    let refuses = format!("! cmp -s \"$RENEWED_LINEAGE/fullchain.pem\" {}/fullchain.pem", lineage.live.display());
    let update = script(&pass, "update", if by_hand { "exit 0" } else { &refuses });
    let lines = format!("update_services:\n  - {{type: script, name: {update}, on_failure: rollback}}\n");
    let client = |words: &[&str]| {
        let mut client = pass.command(&lines);
        client.args(words);
        run(client)
    };
    let mut ran = client(&[]).ended(if by_hand { 0 } else { 3 });
    if by_hand {
        assert!(shows(&lineage.issued), "{}", ran.said());
        ran = client(&["rollback", "a.example"]).ended(0);
        assert!(ran.stdout.contains("has the files of generation 0 again"), "{}", ran.said());
    }
    assert!(shows(&old), "{}", ran.said());
    let link = std::fs::read_link(place(&Privkey)).expect("a link of ours");
    assert_eq!(link, Path::new("..data/privkey.pem"), "readers see one whole set");

    // It is ours now: the same set is nothing new, and what it was put in the place of is not wanted.
    let generation = || std::fs::read_link(pass.path("certs/a.example/..data")).expect("a link");
    let now = generation();
    put(&pass, &old, &UPLOADED);
    let _ = client(&[]).ended(0);
    assert_eq!(generation(), now);
    put(&pass, &lineage.issued, &UPLOADED);
    let ran = client(&[]).ended(1);
    assert!(ran.stdout.contains("was rolled back here") && shows(&old), "{}", ran.said());
}

/// One pass over what was issued last.
fn issued(pass: &Pass, lines: &str, lineage: &Lineage, code: i32) {
    stage(pass, lineage);
    let _ = run(pass.command(lines)).ended(code);
}

#[test]
fn a_step_further_back_is_not_to_what_had_failed() {
    let world = World::new();
    let mut lineage = world.lineage("a.example", &["a.example"]);
    let pass = Pass::over(&world, &lineage, "failed-before");
    let update = script(&pass, "update", &format!("! test -e {}", pass.path("broken").display()));
    let lines =
        format!("keep_generations: 9\nupdate_services:\n  - {{type: script, name: {update}, on_failure: rollback}}\n");
    issued(&pass, &lines, &lineage, 0);
    let first = deployed(&pass);
    lineage.renew(&world.ca);
    std::fs::write(pass.path("broken"), "").expect("write");
    issued(&pass, &lines, &lineage, 3);
    assert!(deployed(&pass) == first);
    std::fs::remove_file(pass.path("broken")).expect("mend");
    lineage.renew(&world.ca);
    issued(&pass, &lines, &lineage, 0);
    let client = |code: i32| {
        let mut client = pass.command(&lines);
        client.args(["rollback", "a.example"]);
        run(client).ended(code)
    };
    let _ = client(0);
    assert!(deployed(&pass) == first);
    let ran = client(1);
    assert!(ran.stdout.contains("no earlier generation"), "the second one failed here: {}", ran.said());
    assert!(deployed(&pass) == first);
}

#[test]
fn what_another_program_wrote_over_a_rollback_can_be_gone_back_from() {
    let world = World::new();
    let mut lineage = world.lineage("a.example", &["a.example"]);
    let pass = Pass::over(&world, &lineage, "over-it");
    let lines = "keep_generations: 9\n";
    let client = |words: &[&str]| {
        let mut client = pass.command(lines);
        client.args(words);
        run(client).ended(0)
    };
    issued(&pass, lines, &lineage, 0);
    let first = deployed(&pass);
    lineage.renew(&world.ca);
    issued(&pass, lines, &lineage, 0);
    let _ = client(&["rollback", "a.example"]);
    lineage.renew(&world.ca);
    for name in ["fullchain.pem", "privkey.pem", "cert.pem", "chain.pem"] {
        let path = pass.path("certs/a.example").join(name);
        let _ = std::fs::remove_file(&path);
        if name.starts_with(['f', 'p']) {
            std::fs::copy(lineage.live.join(name), path).expect("copy");
        }
    }
    let _ = client(&[]);
    assert!(deployed(&pass) == std::fs::read(lineage.live.join("fullchain.pem")).expect("live"));
    let _ = client(&["rollback", "a.example"]);
    assert!(deployed(&pass) == first, "not to what was rolled back");
}

#[test]
fn the_usual_number_of_generations_is_enough_to_go_back_twice() {
    let world = World::new();
    let mut lineage = world.lineage("a.example", &["a.example"]);
    let pass = Pass::over(&world, &lineage, "twice");
    let lines = "generation_min_age: 0\n";
    let mut sets = Vec::new();
    for _ in 0..4 {
        issued(&pass, lines, &lineage, 0);
        sets.push(deployed(&pass));
        lineage.renew(&world.ca);
    }
    let back = |code| {
        let mut client = pass.command(lines);
        client.args(["rollback", "a.example"]);
        run(client).ended(code)
    };
    let kept = || pass.path("certs/a.example").read_dir().expect("a folder").flatten();
    let generations = || kept().filter(|entry| entry.file_name().to_string_lossy().starts_with(".gen-")).count();
    for set in [&sets[2], &sets[1]] {
        let ran = back(0);
        assert!(deployed(&pass) == *set, "{}", ran.said());
    }
    assert!(back(1).said().contains("no earlier generation"), "three sets were kept");
    // What is there twice goes with the next deployment.
    issued(&pass, lines, &lineage, 0);
    assert_eq!(generations(), 3);
}
