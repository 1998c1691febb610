//! The main job on loopback: hook, queue, push, deployment, script, receipt, status.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use certdeploy_common::cert::FileName;
use certdeploy_tests::status::{acknowledged, line};
use certdeploy_tests::wait::PATIENCE;
use certdeploy_tests::{Lineage, Target, World, until};

fn one_target() -> (World, Target, Lineage) {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    world.write_server(&[&target]);
    let lineage = world.lineage("example.com", &["example.com", "www.example.com"]);
    (world, target, lineage)
}

#[test]
fn a_renewal_reaches_the_client_and_its_script() {
    let (world, target, mut lineage) = one_target();
    let mut client = target.start();
    let mut server = world.start_server();
    for _ in 0..3 {
        let hook = world.hook(&lineage).ended(0);
        assert!(hook.stderr.is_empty(), "certbot would show this as an error: {}", hook.stderr);
        target.receives(&lineage);
        target.updates(&lineage);
        lineage.renew(&world.ca);
    }
    assert_eq!(target.script_runs().len(), 3, "once for each renewal: {:?}", target.script_runs());
    assert_eq!(server.stop().code(), Some(0), "{}", server.said());
    assert_eq!(client.stop().code(), Some(0), "{}", client.said());
}

#[test]
fn what_is_deployed_has_its_modes_and_its_layout() {
    let (world, target, lineage) = one_target();
    let _client = target.start();
    let _ = world.hook(&lineage).ended(0);
    let _ = world.server(&["--push"]).ended(0);
    let folder = target.deployed("example.com");
    let mode = |name: &str| folder.join(name).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode("privkey.pem"), 0o600);
    assert_eq!(mode("fullchain.pem"), 0o644);
    assert_eq!(mode("cert.pem"), 0o644);
    assert_eq!(mode("."), 0o755);
    assert_eq!(mode("..data"), 0o755);
    for name in ["fullchain.pem", "privkey.pem", "cert.pem"] {
        assert_eq!(std::fs::read_link(folder.join(name)).unwrap().display().to_string(), format!("..data/{name}"));
        assert!(folder.join("..data").join(name).symlink_metadata().unwrap().is_file());
        assert_eq!(folder.join(name).metadata().unwrap().uid(), rustix::process::geteuid().as_raw());
    }
    assert_eq!(target.file("example.com", FileName::Cert).unwrap(), lineage.issued.cert, "derived from fullchain");
    assert!(target.generation("example.com").unwrap().display().to_string().starts_with(".gen-"));
    let source: Vec<_> = std::fs::read_dir(&target.source).unwrap().flatten().map(|e| e.path().join("x")).collect();
    let keys = source.iter().filter(|path| path.with_file_name("privkey.pem").exists());
    assert_eq!(keys.count(), 0, "no key stays in staging");
}

#[test]
fn the_script_learns_what_changed_and_nothing_of_ours_otherwise() {
    let (world, target, lineage) = one_target();
    let _client = target.start();
    let _ = world.hook(&lineage).ended(0);
    let _ = world.server(&["--push"]).ended(0);
    target.updates(&lineage);
    let environment = std::fs::read_to_string(&target.script_environment).unwrap();
    let value = |name: &str| environment.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
    assert_eq!(value("CERTDEPLOY_LINEAGES"), Some("example.com"));
    assert_eq!(value("CERTDEPLOY_DESTINATION"), Some(target.destination.to_str().unwrap()));
    assert_eq!(value("RENEWED_LINEAGE"), Some(target.deployed("example.com").to_str().unwrap()));
    for name in ["CERTDEPLOY_DOMAINS", "RENEWED_DOMAINS"] {
        let mut names: Vec<&str> = value(name).unwrap_or_default().split_whitespace().collect();
        names.sort_unstable();
        assert_eq!(names, ["example.com", "www.example.com"], "{name}");
    }
}

#[test]
fn two_targets_get_what_they_ask_for_and_nothing_else() {
    let world = World::new();
    let (one, two) = (world.target("web1", &["a.example", "b.example"]), world.target("web2", &["b.example"]));
    world.write_server(&[&one, &two]);
    let (a, b) = (world.lineage("a.example", &["a.example"]), world.lineage("b.example", &["b.example"]));
    let _clients = [one.start(), two.start()];
    let _server = world.start_server();
    let _ = world.hook(&a).ended(0);
    let _ = world.hook(&b).ended(0);
    one.receives(&a);
    one.receives(&b);
    two.receives(&b);
    assert!(!two.deployed("a.example").exists(), "web2 did not ask for a.example");
}

#[test]
fn a_bare_push_delivers_what_is_queued_and_says_how_it_went() {
    let (world, target, lineage) = one_target();
    let _ = world.hook(&lineage).ended(0);
    let down = world.server(&["--push"]).ended(3);
    assert!(down.said().contains("web1") || down.said().contains(&target.port.to_string()), "{}", down.said());
    let _client = target.start();
    let _ = world.server(&["--push"]).ended(0);
    assert!(target.holds(&lineage), "--push ends 0 only when it is deployed");
    let _ = world.server(&["--push"]).ended(0);
    target.updates(&lineage);
    assert_eq!(target.script_runs().len(), 1);
}

#[test]
fn a_target_that_comes_up_late_is_delivered_without_help() {
    let (world, target, lineage) = one_target();
    let _server = world.start_server();
    let _ = world.hook(&lineage).ended(0);
    until("the server tried", PATIENCE, || {
        let log = std::fs::read_to_string(world.path("server/server.log")).unwrap_or_default();
        log.lines().any(|line| line.contains("ttempt") || line.contains("refused")).then_some(())
    });
    let _client = target.start();
    target.receives(&lineage);
    target.updates(&lineage);
}

#[test]
fn both_daemons_go_on_after_a_restart() {
    let (world, target, mut lineage) = one_target();
    let mut client = target.start();
    let mut server = world.start_server();
    let _ = world.hook(&lineage).ended(0);
    target.updates(&lineage);
    assert_eq!(server.stop().code(), Some(0));
    lineage.renew(&world.ca);
    let _ = world.hook(&lineage).ended(0);
    assert_eq!(client.stop().code(), Some(0));
    let _server = world.start_server();
    let _client = target.start();
    target.receives(&lineage);
    target.updates(&lineage);
    assert_eq!(target.script_runs().len(), 2, "{:?}", target.script_runs());
}

#[test]
fn exit_codes_say_what_is_so() {
    let (world, target, lineage) = one_target();
    let _ = world.server(&["--no-such-option"]).ended(2);
    let _ = world.server(&["--log-level", "debug"]).ended(2);
    let nothing = world.server(&[]).ended(1);
    assert!(nothing.said().contains("Could not find lineage or domains"), "{}", nothing.said());
    for (program, arguments) in [("certdeploy-server", ["--help"]), ("certdeploy-client", ["--version"])] {
        let mut command = certdeploy_tests::process::command(certdeploy_tests::process::binary(program));
        command.args(arguments);
        let ran = certdeploy_tests::process::run(command).ended(0);
        assert!(ran.stdout.contains(program), "{}", ran.said());
    }
    // Nobody asked for this one.
    let foreign = world.lineage("foreign.example", &["foreign.example"]);
    let _ = world.hook(&foreign).ended(0);
    // A script that fails is known by the code of a push.
    let script = target.runs.with_file_name("reload-what-uses-it");
    std::fs::write(&script, "#!/bin/sh\necho no such service >&2\nexit 7\n").unwrap();
    let _client = target.start();
    let _ = world.hook(&lineage).ended(0);
    let pushed = world.server(&["--push"]);
    assert!(matches!(pushed.code, Some(0 | 3)), "deployed, the update pending or failed: {}", pushed.said());
    assert!(target.holds(&lineage));
    until("the failure is in the client's log", PATIENCE, || {
        let log = std::fs::read_to_string(&target.log).unwrap_or_default();
        log.contains(&format!("ScriptError: Script {} failed to update", script.display())).then_some(())
    });
}

#[test]
fn keygen_makes_a_private_key_and_its_public_line() {
    let world = World::new();
    for program in ["certdeploy-server", "certdeploy-client"] {
        let path = world.path(program);
        let keygen = || {
            let mut command = certdeploy_tests::process::command(certdeploy_tests::process::binary(program));
            command.arg("keygen").arg(&path);
            certdeploy_tests::process::run(command)
        };
        let _ = keygen().ended(0);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let line = std::fs::read_to_string(path.with_extension("pub")).unwrap();
        assert!(line.starts_with("ssh-ed25519 "), "{line}");
        let again = keygen().ended(1);
        assert!(again.said().contains("does not overwrite"), "{}", again.said());
    }
}

#[test]
fn status_says_who_holds_what_and_what_is_owed() {
    let world = World::new();
    let (up, down) = (world.target("web1", &["example.com"]), world.target("web2", &["example.com"]));
    world.write_server(&[&up, &down]);
    let lineage = world.lineage("example.com", &["example.com"]);
    let _client = up.start();
    let _server = world.start_server();
    let _ = world.hook(&lineage).ended(0);
    until("web1 has it and web2 was tried", PATIENCE, || {
        let status = world.status();
        let tried = line(&status, "web2", "example.com").is_some_and(|line| !line["last_error"].is_null());
        (tried && acknowledged(&status, "web1", &lineage)).then_some(())
    });
    let status = world.status();
    let held = line(&status, "web1", "example.com").unwrap();
    assert_eq!(held["generation"], 1);
    let owed = line(&status, "web2", "example.com").unwrap();
    assert_ne!(owed["state"], "delivered");
    assert_eq!(owed["owed_serial"], held["serial"]);
    assert!(owed["attempts"].as_u64() >= Some(1), "{owed}");
    let table = world.server(&["status"]).ended(3);
    for word in ["web1", "web2", "example.com", "delivered", held["serial"].as_str().unwrap()] {
        assert!(table.stdout.contains(word), "{word} is not in\n{}", table.stdout);
    }
    assert!(!table.said().contains("PRIVATE KEY"));

    let _late = down.start();
    down.receives(&lineage);
    until("nothing is owed and all updates are known to be done", PATIENCE, || {
        let status = world.status();
        let done = |name| line(&status, name, "example.com").is_some_and(|line| line["update"] == "done");
        (done("web1") && done("web2")).then_some(())
    });
    let _ = world.server(&["status"]).ended(0);
}

#[test]
fn status_learns_of_an_update_that_failed() {
    let (world, target, lineage) = one_target();
    std::fs::write(target.runs.with_file_name("reload-what-uses-it"), "#!/bin/sh\nexit 7\n").unwrap();
    let _client = target.start();
    let _server = world.start_server();
    let _ = world.hook(&lineage).ended(0);
    target.receives(&lineage);
    until("the failure is in the status", PATIENCE, || {
        let status = world.status();
        line(&status, "web1", "example.com").filter(|line| line["update"] == "failed").map(|_| ())
    });
    let _ = world.server(&["status"]).ended(3);
}

#[test]
fn idle_daemons_end_at_once_on_sigterm() {
    let (world, target, lineage) = one_target();
    let (mut client, mut server) = (target.start(), world.start_server());
    let _ = world.hook(&lineage).ended(0);
    target.updates(&lineage);
    for daemon in [&mut server, &mut client] {
        let start = std::time::Instant::now();
        assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.said());
        let took = start.elapsed();
        assert!(
            // Less than what is given to anything that goes on.
            took < std::time::Duration::from_secs(9),
            "nothing was going on, and it took {took:?}:\n{}",
            daemon.said()
        );
    }
}
