//! `certdeploy-client check`: everything that is wrong is said at once with its place and the way out, and nothing is
//! touched; keys in the wrong place.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;

use certdeploy_tests::checked::{check, chmod, says, with};
use certdeploy_tests::pass::Pass;
use certdeploy_tests::process::run;
use certdeploy_tests::scene::Scene;
use certdeploy_tests::{Ca, World};

#[test]
fn a_good_config_is_described_with_and_without_the_daemon() {
    let (scene, mut client) = Scene::deployed("");
    let Scene { world, target, .. } = scene;
    chmod(&target.source, 0o700);
    let ran = check(&target, &[]).ended(0);
    let port = format!("the daemon runs and listens at 127.0.0.1:{}", target.port);
    says(&ran, &[&port, "note: lineage example.com: generation 1, serial ", "valid until ", "0 errors, "]);
    assert_eq!(client.stop().code(), Some(0));
    let before = target.snapshot();
    let ran = check(&target, &[]).ended(0);
    says(&ran, &["note: the daemon does not run, or not well: no daemon is running", "0 errors"]);
    assert_eq!(target.snapshot(), before);

    // What is printed is a config that means the same.
    let ran = check(&target, &["--effective", "--log-level", "WARNING"]).ended(0);
    says(&ran, &["\nlog_level: WARNING\n", "keep_generations: 3  # default", "  drain_timeout: 10  # default"]);
    assert!(ran.stderr.contains("0 errors"), "{}", ran.stderr);
    let printed = world.path("printed.yml");
    fs::write(&printed, &ran.stdout).unwrap();
    let mut command = certdeploy_tests::process::command(certdeploy_tests::process::binary("certdeploy-client"));
    command.arg("--config").arg(&printed).args(["check", "--effective"]);
    let again = run(command).ended(0);
    let plain = |text: &str| text.replace("  # default", "");
    assert_eq!(plain(&again.stdout), plain(&ran.stdout));
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let world = World::new();
    let mut target = world.target("web1", &["example.com"]);
    with(
        &mut target,
        "update_services: [{type: script, name: /nowhere/script}]\nkeep_generations: 0\nlog_filenam: x\n",
    );
    let ran = check(&target, &[]).ended(1);
    says(&ran, &["unknown key \"log_filenam\" (did you mean \"log_filename\"?)", "for `keep_generations`", "2 errors"]);
    with(&mut target, "update_services: [{type: script, name: /nowhere/script}]\n");
    fs::remove_file(&target.host_key).unwrap();
    let ran = check(&target, &[]).ended(1);
    says(&ran, &["/nowhere/script", "`privkey_filename`: cannot read `", "2 errors"]);
    assert!(check(&target, &["--effective"]).ended(1).stdout.is_empty());
    fs::remove_file(&target.config).unwrap();
    says(&check(&target, &[]).ended(1), &["not found"]);
}

#[test]
fn who_is_asked_later_is_asked_now() {
    let world = World::new();
    let mut target = world.target("web1", &["example.com"]);
    let engine = world.path("no-engine.sock");
    with(
        &mut target,
        &format!(
            "docker_url: unix://{}\nlog_filename: /nowhere/log\nupdate_services:\n- {{type: docker_container, name: x}}\n\
             - {{type: systemd, name: certdeploy-test-no-such-unit.service}}\n",
            engine.display()
        ),
    );
    chmod(&target.source, 0o777);
    let _taken = std::net::TcpListener::bind(("127.0.0.1", target.port)).unwrap();
    let ran = check(&target, &[]).ended(1);
    let taken = format!("cannot listen on 127.0.0.1:{}: another program does", target.port);
    says(&ran, &[&taken, "the log file /nowhere/log cannot be written", "2 errors"]);
    says(&ran, &["warning: the Docker engine at `unix://", "warning: unit certdeploy-test-no-such-unit.service"]);
    says(&ran, &["can be written by everybody (mode 0777)", "can be read by everybody (mode 0777)"]);
    // An engine that takes the question and says nothing is not waited for without end.
    let _mute = std::os::unix::net::UnixListener::bind(&engine).unwrap();
    let ran = check(&target, &[]).ended(1);
    says(&ran, &["no answer within 5 s"]);
    assert!(ran.elapsed.as_secs() < 20, "{:?}", ran.elapsed);
}

#[test]
fn what_the_python_program_let_pass_is_refused_or_warned_of_with_its_place() {
    let world = World::new();
    let mut target = world.target("web1", &["example.com"]);
    let mut said = |lines: &str, code: i32, words: &str| {
        with(&mut target, lines);
        let ran = check(&target, &[]).ended(code);
        let config = format!("{}:", target.config.display());
        let found = ran.said().lines().any(|line| line.contains(&config) && line.contains(words));
        assert!(found, "{words:?} is not in:\n{}", ran.said());
    };
    said("keep_generations: 2\nkeep_generations: 3\n", 1, "duplicate mapping key: keep_generations");
    let unit = |kind: &str, name: &str| format!("update_services: [{{type: {kind}, name: {name}}}]\n");
    said(&unit("systemd", "nginx.service foo"), 1, "Invalid value \"nginx.service foo\" for `name`");
    said(&unit("docker_container", "nginx.service"), 0, "looks like a unit of systemd: that is `type: systemd`");
}

#[test]
fn a_key_in_the_wrong_place_is_named() {
    let world = World::new();
    let mut target = world.target("web1", &["example.com"]);
    with(&mut target, "");
    let good = fs::read_to_string(&target.config).unwrap();
    let host_key = target.host_key.display().to_string();
    let private = fs::read_to_string(world.server_key()).unwrap();
    let block = private.lines().map(|line| format!("    {line}\n")).collect::<String>();
    let cases = [
        (
            good.replace(&host_key, &format!("{host_key}.pub")),
            "host_key.pub` holds a public key; the private one is needed",
        ),
        (
            good.replace(
                &format!("server_pubkey: {}", world.pusher_key),
                &format!("server_pubkey_filename: {}", world.server_key().display()),
            ),
            "this is a private key; the public one is needed here",
        ),
        (
            good.replace(&format!("server_pubkey: {}", world.pusher_key), &format!("server_pubkey: |\n{block}")),
            "`server_pubkey`: this is a private key",
        ),
        (
            good.replace("sftpd:\n", "sftpd:\n  user: root\n"),
            "Invalid value \"root\" for `user`. `user` must be a user without privileges",
        ),
        (good.replace(&host_key, "/nowhere/key"), "`privkey_filename`: cannot read `/nowhere/key`"),
        (good.replace("sftpd:\n", "sftpd:\n  privkey: x\n"), "both `privkey` and `privkey_filename` are given"),
    ];
    for (text, want) in cases {
        assert_ne!(text, good, "{want}");
        fs::write(&target.config, &text).unwrap();
        let ran = check(&target, &[]).ended(1);
        says(&ran, &[want, "1 error"]);
        assert!(!ran.said().contains("BEGIN OPENSSH") && !ran.said().contains(private.lines().nth(1).unwrap()));
    }
}

#[test]
fn a_host_key_in_the_config_works_as_a_key_file_does() {
    let world = World::new();
    let mut target = world.target("web1", &["example.com"]);
    with(&mut target, "");
    let key = fs::read_to_string(&target.host_key).unwrap();
    let block = key.lines().map(|line| format!("    {line}\n")).collect::<String>();
    let text = fs::read_to_string(&target.config).unwrap();
    let text = text
        .replace(&format!("  privkey_filename: {}\n", target.host_key.display()), &format!("  privkey: |\n{block}"));
    fs::write(&target.config, &text).unwrap();
    fs::remove_file(&target.host_key).unwrap();
    chmod(&target.config, 0o644);
    let ran = check(&target, &[]).ended(1);
    says(&ran, &["`privkey`: `", "can be read by others (mode 0644); mend it with: chmod 600 "]);
    chmod(&target.config, 0o600);
    let ran = check(&target, &["--effective"]).ended(0);
    assert!(
        ran.stdout.contains("privkey: \"(a private key, not shown)\"") && !ran.said().contains("BEGIN"),
        "{}",
        ran.said()
    );
    world.write_server(&[&target]);
    let lineage = world.lineage("example.com", &["example.com"]);
    let mut client = target.start();
    let _ = world.hook(&lineage).ended(0);
    let _ = world.server(&["--push"]).ended(0);
    assert!(target.holds(&lineage), "{}", client.said());
    assert_eq!(client.stop().code(), Some(0));
}

#[test]
fn an_unusable_sftpd_stops_the_daemon_and_no_pass() {
    let world = World::new();
    let mut target = world.target("web1", &["example.com"]);
    with(&mut target, "");
    let lineage = world.lineage("example.com", &["example.com"]);
    let pass = Pass::over(&world, &lineage, "unusable");
    let lines = |key: &str| format!("sftpd: {{privkey_filename: {key}, server_pubkey: {}}}\n", world.pusher_key);
    let ran = run(pass.command(&lines("/nowhere/key"))).ended(0);
    let said = "`privkey_filename`: cannot read `/nowhere/key`";
    let warned = |line: &str| line.starts_with("WARNING:") && line.contains(said) && line.contains("but no daemon");
    assert!(ran.stdout.lines().any(warned), "{}", ran.said());
    assert!(pass.path("certs/example.com/privkey.pem").exists(), "{}", ran.said());
    for word in ["--daemon", "check"] {
        let mut command = pass.command(&lines("/nowhere/key"));
        command.arg(word);
        says(&run(command).ended(1), &[said]);
    }
}

#[test]
fn a_script_that_cannot_be_run_fails_by_itself() {
    let world = World::new();
    let lineage = world.lineage("example.com", &["example.com"]);
    let pass = Pass::over(&world, &lineage, "mode");
    let script = pass.path("script");
    fs::write(&script, "#!/bin/sh\nprintf 'one\\ntwo\\n'\n").unwrap();
    chmod(&script, 0o644);
    let lines = format!("update_services: [{{type: script, name: {}}}]\n", script.display());
    let ran = run(pass.command(&lines)).ended(3);
    let (mends, fails) =
        (format!("mend it with: chmod +x {}", script.display()), format!("ScriptError: Script {}", script.display()));
    says(&ran, &[&mends, &fails]);
    assert!(pass.path("certs/example.com/privkey.pem").exists(), "{}", ran.said());
    let mut command = pass.command(&lines);
    command.arg("check");
    says(&run(command).ended(1), &[&mends]);
    chmod(&script, 0o755);
    // It is still owed. Each record is one line, whatever a script prints.
    let ran = run(pass.command(&lines)).ended(0);
    let levels = ["DEBUG:", "INFO:", "WARNING:", "ERROR:"].map(|level| format!("{level}certdeploy-client: "));
    assert!(ran.stdout.contains("one") && ran.stdout.contains("two"), "{}", ran.said());
    for line in ran.stdout.lines() {
        assert!(levels.iter().any(|start| line.starts_with(start)), "{line:?} in:\n{}", ran.said());
    }
    assert_eq!(ran.stderr, "");
}

#[test]
fn a_fullchain_in_another_order_or_with_a_key_in_it_is_refused() {
    let world = World::new();
    let lineage = world.lineage("example.com", &["example.com"]);
    let pass = Pass::over(&world, &lineage, "order");
    let (good, root) = (&lineage.issued, Ca::new().issue(&lineage.domains, certdeploy_tests::ca::Validity::usual(9)));
    let cases = [
        (format!("{}{}", good.fullchain, good.privkey), "has an unexpected PEM block `PRIVATE KEY`"),
        (format!("{}{}{}", good.cert, root.chain, good.chain), "certificate 1 of fullchain.pem was not issued by"),
        (format!("{}{}", good.fullchain, root.chain), "certificate 2 of fullchain.pem was not issued by"),
        (format!("{}{}", good.chain, good.cert), "the private key does not belong to the certificate"),
    ];
    for (fullchain, want) in cases {
        fs::write(pass.path("staging/example.com/fullchain.pem"), fullchain).unwrap();
        let ran = run(pass.command("settle_time: 0\n")).ended(1);
        says(&ran, &[want]);
        assert!(!pass.path("certs/example.com/privkey.pem").exists(), "{}", ran.said());
    }
    fs::write(pass.path("staging/example.com/fullchain.pem"), &good.fullchain).unwrap();
    let _ = run(pass.command("settle_time: 0\n")).ended(0);
}

/// An engine that knows one service, whose request heads are kept.
fn engine(socket: &Path) -> std::sync::mpsc::Receiver<String> {
    let listener = UnixListener::bind(socket).unwrap();
    let (tell, heads) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for mut peer in listener.incoming().flatten() {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && peer.read(&mut byte).is_ok_and(|read| read == 1) {
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
            let service = r#"{"ID":"s1","Version":{"Index":7},"Spec":{"Name":"web","Mode":{"ReplicatedJob":{}},"TaskTemplate":{}}}"#;
            let body = match head.lines().next().unwrap_or_default() {
                line if line.contains("/version") => r#"{"ApiVersion":"1.41","Version":"20.10"}"#.to_owned(),
                line if line.contains("/update?") => r#"{"Warnings":null}"#.to_owned(),
                line if line.contains("/services/s1") => service.to_owned(),
                _ => format!("[{service}]"),
            };
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = peer.write_all(answer.as_bytes());
            let _ = tell.send(head);
        }
    });
    heads
}

#[test]
fn credentials_of_a_registry_are_not_sent_along() {
    let world = World::new();
    let lineage = world.lineage("example.com", &["example.com"]);
    let pass = Pass::over(&world, &lineage, "registry");
    let heads = engine(&pass.path("engine"));
    fs::create_dir(pass.path(".docker")).unwrap();
    fs::write(pass.path(".docker/config.json"), r#"{"auths":{"registry.example":{"auth":"dTpw"}}}"#).unwrap();
    let url = pass.path("engine").display().to_string();
    let lines = format!("docker_url: unix:{url}\nupdate_services: [{{type: docker_service, name: web}}]\n");
    let mut command = pass.command(&lines);
    command.env("HOME", pass.path("")).env("DOCKER_CONFIG", pass.path(".docker"));
    let _ = run(command).ended(0);
    let heads: Vec<String> = heads.try_iter().collect();
    assert!(
        heads.iter().any(|head| head.contains("post ") && head.contains("/services/s1/update?version=7")),
        "{heads:?}"
    );
    assert!(!heads.iter().any(|head| head.contains("x-registry-auth") || head.contains("dtpw")), "{heads:?}");
}

#[test]
fn a_fitted_unit_can_write_its_log_wherever_that_really_is() {
    let world = World::new();
    let lineage = world.lineage("example.com", &["example.com"]);
    let pass = Pass::over(&world, &lineage, "log");
    let harden = |log: &str| {
        let mut command = pass.command(&format!("log_filename: {log}\n"));
        command.arg("harden");
        run(command)
    };
    says(&harden("relative.log").ended(1), &["the log file `relative.log`", "in `/`: write the whole path"]);
    for (key, name) in [("destination", "certs"), ("source", "staging")] {
        let mut command = pass.command("");
        command.arg("harden").current_dir(pass.path(""));
        let text = fs::read_to_string(pass.path("client.yml")).unwrap();
        let whole = format!("{key}: {}\n", pass.path(name).display());
        assert!(text.contains(&whole), "{text}");
        fs::write(pass.path("client.yml"), text.replace(&whole, &format!("{key}: {name}\n"))).unwrap();
        says(&run(command).ended(1), &[&format!("`{key}` `{name}` is looked for where the client is started")]);
    }
    let (link, real) = (pass.path("linked.log"), pass.path("elsewhere/real.log"));
    fs::create_dir(real.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let words = format!("-{}", real.parent().unwrap().canonicalize().unwrap().display());
    says(&harden(&link.display().to_string()).ended(0), &[&words]);
}
