//! What is shipped beside units and packages: the lines for a plain sshd, cron's, logrotate's.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use certdeploy_common::cert::FileName;
use certdeploy_tests::need::{Need, can_run, find};
use certdeploy_tests::process::{binary, command, run};
use certdeploy_tests::shipped::file;
use certdeploy_tests::sshd::{self, Serves};
use certdeploy_tests::{World, sftp, ssh};

#[test]
fn a_plain_sshd_takes_certificates_and_nothing_else() {
    if !can_run("shipped_files", &[Need::Root, Need::Program("sshd"), Need::Program("sftp")]) {
        return;
    }
    let world = World::new();
    // What sshd locks somebody into must be root's alone, up to the root.
    let cache = tempfile::tempdir_in("/var/lib").unwrap();
    std::fs::set_permissions(cache.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(cache.path().join("not-yours"), "secret").unwrap();
    let (mut peer, _sshd) = sshd::start(&world.path("sshd"), &world.pusher_key, Serves::Shipped(cache.path()));
    let mut lineage = world.lineage("example.com", &["example.com"]);
    peer.domains = vec!["example.com".to_owned()];
    world.write_server_for(&[&peer], "");
    for _ in 0..2 {
        let _ = world.hook(&lineage).ended(0);
        let _ = world.server(&["--push"]).ended(0);
        for name in [FileName::Fullchain, FileName::Privkey] {
            let staged = cache.path().join("certdeploy/example.com").join(name.as_str());
            assert_eq!(std::fs::read_to_string(&staged).unwrap(), lineage.issued.file(name));
            assert_eq!(staged.metadata().unwrap().permissions().mode() & 0o077, 0, "{name} is for its owner alone");
        }
        lineage.renew(&world.ca);
    }

    let sftp = |commands: &str| sftp::batch_as(&world, &peer.user, peer.port, &peer.host_key, commands);
    let local = world.path("got").display().to_string();
    for refused in [
        format!("get /not-yours {local}\n"),
        format!("get /certdeploy/example.com/privkey.pem {local}\n"),
        "symlink /etc/passwd x\n".to_owned(),
        "ln not-yours x\n".to_owned(),
        "mkdir /elsewhere\n".to_owned(),
        "ls /etc\n".to_owned(),
    ] {
        let ran = sftp(&refused);
        assert_ne!(ran.code, Some(0), "{refused}: {}", ran.said());
    }
    assert!(!Path::new(&local).exists() || std::fs::read(&local).unwrap().is_empty(), "something was read");

    // No command but SFTP, and no way through.
    let key = world.server_key();
    let mut shell = ssh::client(&peer.user, peer.port, &[&key]);
    shell.args(["127.0.0.1", "touch", "/certdeploy/made-by-a-shell"]);
    let ran = run(shell);
    assert!(ran.said().contains("This service allows sftp connections only."), "a shell: {}", ran.said());
    assert!(!cache.path().join("certdeploy/made-by-a-shell").exists());
    let mut through = ssh::client(&peer.user, peer.port, &[&key]);
    through.args(["-v", "-W", &format!("127.0.0.1:{}", peer.port), "127.0.0.1"]);
    let ran = run(through);
    assert!(!ran.stdout.contains("SSH-2.0"), "a way through: {}", ran.said());
    assert!(ran.said().contains("administratively prohibited"), "a way through: {}", ran.said());
}

/// Its home is where it writes: a stolen key must not be able to let another one in that stays.
#[test]
fn no_key_counts_that_the_pusher_itself_can_put_there() {
    let text = std::fs::read_to_string(file("packaging/sshd_config.d/certdeploy.conf")).unwrap();
    let lines: Vec<&str> = text.lines().filter_map(|line| line.trim().strip_prefix("AuthorizedKeysFile ")).collect();
    let [files] = lines.as_slice() else { panic!("{lines:?}") };
    assert!(files.split_whitespace().all(|file| file.starts_with("/etc/certdeploy/")), "{files}");
}

/// The lines that are jobs, also those that wait to be chosen.
fn jobs(text: &str) -> Vec<Vec<&str>> {
    let lines = text.lines().map(|line| line.trim_start_matches('#'));
    let starts = |line: &&str| line.starts_with('*') || line.chars().next().is_some_and(|c| c.is_ascii_digit());
    lines.filter(starts).map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn what_cron_is_given_is_what_the_programs_take() {
    let text = std::fs::read_to_string(file("packaging/cron/certdeploy")).unwrap();
    let jobs = jobs(&text);
    assert_eq!(jobs.len(), 3, "{jobs:?}");
    for job in jobs {
        assert_eq!(job[5], "root", "{job:?}");
        for call in job[6..].split(|word| *word == ";") {
            // An option that does not exist would be complained about before the config that does not.
            let mut program = command(binary(call[0]));
            program.args(&call[1..]).args(["--config", "/nonexistent/x.yml"]);
            let ran = run(program);
            assert_eq!(ran.code, Some(1), "{call:?}: {}", ran.said());
            assert!(ran.said().contains("/nonexistent/x.yml"), "{call:?}: {}", ran.said());
        }
    }
}

#[test]
fn logs_are_rotated_and_the_daemon_is_told() {
    if !can_run("shipped_files", &[Need::Root, Need::Program("logrotate")]) {
        return;
    }
    for side in ["client", "server"] {
        let folder = tempfile::tempdir_in("/var/lib").unwrap();
        let log = folder.path().join(format!("{side}.log"));
        std::fs::write(&log, "a line\n").unwrap();
        let told = folder.path().join("told");
        let systemctl = folder.path().join("systemctl");
        std::fs::write(&systemctl, format!("#!/bin/sh\necho \"$@\" >>{}\n", told.display())).unwrap();
        std::fs::set_permissions(&systemctl, std::fs::Permissions::from_mode(0o755)).unwrap();
        let text = std::fs::read_to_string(file(&format!("packaging/logrotate/certdeploy-{side}"))).unwrap();
        let config = folder.path().join("logrotate.conf");
        std::fs::write(&config, text.replace("/var/log/certdeploy", &folder.path().display().to_string())).unwrap();
        let mut logrotate = command(find("logrotate").unwrap());
        logrotate.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", folder.path().display()));
        logrotate.arg("-f").arg("-s").arg(folder.path().join("state")).arg(&config);
        let _ = run(logrotate).ended(0);
        assert!(folder.path().join(format!("{side}.log.1")).exists() && !log.exists());
        let told = std::fs::read_to_string(told).unwrap_or_default();
        assert_eq!(told, format!("kill --kill-who=main --signal=HUP certdeploy-{side}.service\n"));
    }
}

/// What packages and `make install` bring for shells and for man(1).
#[test]
fn completions_complete_and_manual_pages_are_read_without_error() {
    let shells = [Need::Program("bash"), Need::Program("zsh"), Need::Program("fish"), Need::Program("mandoc")];
    if !can_run("shipped_files: completions", &shells) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut generate = command(binary("generate"));
    generate.arg(folder.path()).current_dir(file(""));
    let _ = run(generate).ended(0);
    let made = |name: String| folder.path().join(name).display().to_string();
    let words = |shell: &str, script: &str, file: &str| {
        let mut shell = command(find(shell).expect("the shell"));
        shell.args(["-c", script, file]).env("TERM", "dumb").env("HOME", folder.path());
        run(shell).ended(0).stdout
    };
    for (program, begun, whole) in [("certdeploy-client", "rollb", "rollback"), ("certdeploy-server", "enr", "enroll")]
    {
        let bash = made(format!("completions/{program}.bash"));
        let script = format!(
            "source \"$0\" && words=($(complete -p {program})) && COMP_WORDS=({program} {begun}) && COMP_CWORD=1 && \
             for n in ${{!words[@]}}; do test ${{words[n]}} != -F || ${{words[n+1]}} {program} {begun} {program}; done && \
             echo \"${{COMPREPLY[@]}}\""
        );
        assert_eq!(words("bash", &script, &bash).trim(), whole, "bash");
        let fish = made(format!("completions/{program}.fish"));
        let script = format!("source {fish}; complete -C '{program} {begun}'");
        assert!(words("fish", &script, "").starts_with(whole), "fish");
        let mut zsh = command(find("zsh").expect("zsh"));
        zsh.arg("-n").arg(made(format!("completions/_{program}")));
        assert_eq!(run(zsh).ended(0).said(), "", "zsh");
    }
    let mut pages = 0;
    for page in std::fs::read_dir(folder.path().join("man")).unwrap().map(|page| page.unwrap().path()) {
        let mut mandoc = command(find("mandoc").expect("mandoc"));
        mandoc.args(["-T", "lint", "-W", "error"]).arg(&page);
        assert_eq!(run(mandoc).ended(0).said(), "", "{}", page.display());
        pages += 1;
    }
    assert!(pages > 6, "{pages} pages");
}
