//! Going back: by hand, and by an entry whose check or update fails. Readers see one whole set at any time.

use std::path::Path;

use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::pass::Pass;
use certdeploy_tests::process::run;
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
    let staged = pass.path("staging/a.example");
    std::fs::create_dir_all(&staged).expect("a folder");
    for file in ["fullchain.pem", "privkey.pem"] {
        std::fs::copy(lineage.live.join(file), staged.join(file)).expect("copy");
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
fn nginx_serves_the_new_certificate_after_the_update_and_the_old_one_after_a_rollback() {
    let needs = [Need::Root, Need::Program("systemd-nspawn"), Need::Program("openssl")];
    if !can_run("rollback: nginx", &needs) {
        return;
    }
    let world = World::new();
    let mut lineage = world.lineage("a.example", &["a.example"]);
    let pass = Pass::over(&world, &lineage, "nginx");
    let port = certdeploy_tests::process::free_port();
    let site = pass.path("site.conf");
    let text = format!(
        "server {{\n listen 127.0.0.1:{port} ssl;\n ssl_certificate /certs/a.example/fullchain.pem;\n \
         ssl_certificate_key /certs/a.example/privkey.pem;\n}}\n"
    );
    std::fs::write(&site, text).expect("write");
    let booted = certdeploy_tests::booted::Booted::start(
        &world.path(""),
        &[(site, "/etc/nginx/sites-enabled/default"), (pass.path("certs"), "/certs")],
    );
    let lines = "update_services:\n  - {type: systemd, name: nginx.service, action: reload-or-restart}\n";
    let client = |words: &[&str]| {
        let mut client = pass.command(lines);
        client.args(words).env("DBUS_SYSTEM_BUS_ADDRESS", booted.bus_address());
        run(client)
    };
    // s_client shows the leaf as PEM, which is how fullchain.pem begins.
    let serves = |fullchain: &[u8]| {
        let want = String::from_utf8_lossy(fullchain).into_owned();
        certdeploy_tests::until("nginx serves it", certdeploy_tests::wait::PATIENCE, || {
            let mut openssl = certdeploy_tests::process::command("/usr/bin/openssl");
            openssl.args(["s_client", "-connect", &format!("127.0.0.1:{port}")]);
            let shown = run(openssl).stdout;
            let leaf = shown.find("-----BEGIN CERTIFICATE")?..shown.find("-----END CERTIFICATE")?;
            want.starts_with(&shown[leaf]).then_some(())
        });
    };
    let _ = client(&[]).ended(0);
    let first = deployed(&pass);
    serves(&first);
    lineage.renew(&world.ca);
    stage(&pass, &lineage);
    let _ = client(&[]).ended(0);
    assert!(deployed(&pass) != first);
    serves(&deployed(&pass));
    let _ = client(&["rollback", "a.example"]).ended(0);
    assert!(deployed(&pass) == first);
    serves(&first);
}
