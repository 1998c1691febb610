//! The server's log over real runs: the words and levels of certdeploy 0.5, its files and forms, and that no secret is
//! ever in it.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use certdeploy_tests::process::{binary, command, run};
use certdeploy_tests::wait::PATIENCE;
use certdeploy_tests::{Lineage, Target, World, until};
use rustix::process::Signal;
use serde_json::Value;

fn one_target(extra: &str) -> (World, Target, Lineage) {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    world.write_server_with(&[&target], &world.queue(), extra);
    let lineage = world.lineage("example.com", &["example.com"]);
    (world, target, lineage)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Takes the `log_level` out of the config, so that it can be given.
fn without_level(world: &World) {
    let config = read(&world.server_config());
    std::fs::write(world.server_config(), config.replace("log_level: DEBUG\n", "")).unwrap();
}

#[track_caller]
fn has_line(log: &str, start: &str) {
    assert!(log.lines().any(|line| line.starts_with(start)), "no line begins with {start:?} in\n{log}");
}

#[test]
fn the_words_people_grep_for_have_their_levels() {
    let (world, target, mut lineage) = one_target("");
    let (live, place) = (lineage.live.display().to_string(), format!("certdeploy@[127.0.0.1]:{}", target.port));

    let hook = world.hook(&lineage).ended(0).stdout;
    has_line(&hook, "DEBUG:certdeploy-server: Running manual push or hook");
    has_line(&hook, "DEBUG:certdeploy-server: Adding lineage to queue.");

    // Nobody listens.
    let failed = world.server(&["--push"]).ended(3).stdout;
    has_line(&failed, "DEBUG:certdeploy-server: Running manual push without a running daemon");
    has_line(&failed, "DEBUG:certdeploy-server: Server.serve_forever: one_shot=True");
    has_line(&failed, &format!("INFO:certdeploy-server: Queued lineage {live} for client "));
    has_line(&failed, &format!("INFO:certdeploy-server: Pushing {live} to {place}"));
    has_line(&failed, &format!("ERROR:certdeploy-server: Error syncing with 127.0.0.1:{}: ", target.port));
    has_line(&failed, "WARNING:certdeploy-server: Attempt #1 failed. Retrying sync to ");
    has_line(&failed, "ERROR:certdeploy-server: Attempt #2 of 2 failed. Not retrying sync ");

    let _client = target.start();
    let pushed = world.server(&["--push"]).ended(0).stdout;
    has_line(&pushed, &format!("INFO:certdeploy-server: Pushed {live} to {place} in 1 attempts"));
    has_line(&pushed, &format!("DEBUG:certdeploy-server: Done pushing all lineages to {place}"));

    let renewed = world.server(&["--renew"]).ended(0).stdout;
    has_line(&renewed, "DEBUG:certdeploy-server: Running renew");
    has_line(&renewed, "DEBUG:certdeploy-server: Checking for renewable certificates. Using command: [\"/bin/true\"");
    has_line(&renewed, "INFO:certdeploy-server: Checked for renewable certificates.");
    has_line(
        &renewed,
        "DEBUG:certdeploy-server: Ran `/bin/true renew` returned 0 and produced combined stdout/stderr: ",
    );

    let mut server = world.start_server();
    server.says("DEBUG:certdeploy-server: Running daemon\n");
    server.says("DEBUG:certdeploy-server: Server.serve_forever: one_shot=False\n");
    lineage.renew(&world.ca);
    let _ = world.hook(&lineage).ended(0);
    target.receives(&lineage);
    server.says(&format!("INFO:certdeploy-server: Pushed {live} to {place} in 1 attempts\n"));

    let nothing = world.server(&[]).ended(1).stdout;
    has_line(&nothing, "ERROR:certdeploy-server: Could not find lineage or domains. lineage: None, domains: ");
    let mut missing = command(binary("certdeploy-server"));
    missing.args(["--push", "--config", "/etc/certdeploy-is-not-here/server.yml"]);
    let missing = run(missing).ended(1).stdout;
    let want = "[Errno 2] No such file or directory: '/etc/certdeploy-is-not-here/server.yml'";
    has_line(&missing, &format!("ERROR:certdeploy-server: FileNotFoundError: {want}"));
}

#[test]
fn errors_alone_are_logged_unless_more_is_asked_for() {
    let (world, target, lineage) = one_target("");
    without_level(&world);
    let _client = target.start();
    let quiet = world.hook(&lineage).ended(0);
    assert_eq!(quiet.said(), "", "certbot shows what a hook says");
    for (name, value, shown) in [
        ("CERTDEPLOY_SERVER_LOG_LEVEL", "INFO", true),
        ("CERTDEPLOY_LOG_LEVEL", "INFO", true),
        ("LOG_LEVEL", "info", true),
        ("LOG_LEVEL", "nonsense", false),
        ("CERTDEPLOY_SERVER_LOG_LEVEL", "CRITICAL", false),
    ] {
        let mut hook = world.hook_command(&lineage);
        hook.env(name, value);
        let said = run(hook).ended(0).stdout;
        assert_eq!(said.contains("INFO:certdeploy-server: Queued lineage"), shown, "{name}={value}: {said}");
        assert!(!said.contains("DEBUG:"), "{said}");
    }
    for (name, value) in [("CERTDEPLOY_SERVER_LOG_LEVEL", "info"), ("CERTDEPOLY_SFTP_LOG_LEVEL", "11")] {
        let mut hook = world.hook_command(&lineage);
        hook.env(name, value);
        assert!(run(hook).ended(2).stderr.contains(&format!("Invalid value for '{name}': '{value}'")));
    }
}

#[test]
fn a_log_file_gets_everything_besides_stdout_and_is_opened_anew() {
    let (world, target, mut lineage) = one_target("log_filename: LOG\n");
    let log = world.path("server/certdeploy.log");
    let config = read(&world.server_config()).replace("LOG\n", &format!("{}\n", log.display()));
    std::fs::write(world.server_config(), config).unwrap();
    let _client = target.start();
    let hook = world.hook(&lineage).ended(0).stdout;
    assert_eq!(read(&log), hook, "the same lines, appended");
    assert_eq!(log.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let mut server = world.start_server();
    target.receives(&lineage);
    server.says("Pushed ");
    until("the file has it too", PATIENCE, || read(&log).contains("Pushed ").then_some(()));
    assert!(read(&log).starts_with(&hook), "appended");
    // As logrotate does it.
    let old = world.path("server/certdeploy.log.1");
    std::fs::rename(&log, &old).unwrap();
    server.signal(Signal::HUP);
    server.says("Reloaded `");
    lineage.renew(&world.ca);
    let _ = world.hook(&lineage).ended(0);
    target.receives(&lineage);
    until("the new file has it", PATIENCE, || read(&log).contains("Pushed ").then_some(()));
    // A config that is refused does not keep the old file open.
    let (kept, older) = (read(&old), world.path("server/certdeploy.log.2"));
    std::fs::rename(&log, &older).unwrap();
    std::fs::write(world.server_config(), "nonsense").unwrap();
    server.signal(Signal::HUP);
    server.says("is not reloaded");
    until("the new file is there", PATIENCE, || read(&log).contains("is not reloaded").then_some(()));
    assert_eq!(read(&old), kept, "nothing more went there");
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn the_names_of_the_streams_print_nothing_twice() {
    let (world, _target, lineage) = one_target("");
    for name in ["stdout", "/dev/stdout", "/proc/self/fd/1", "/dev/null"] {
        let mut hook = world.hook_command(&lineage);
        hook.env("CERTDEPLOY_SERVER_LOG_FILENAME", name);
        let ran = run(hook).ended(0);
        assert_eq!(ran.stdout.matches("Adding lineage to queue.").count(), 1, "{name}: {}", ran.said());
        assert_eq!(ran.stderr, "", "{name}");
    }
    for name in ["stderr", "/dev/stderr"] {
        let mut hook = world.hook_command(&lineage);
        hook.arg("--log-filename").arg(name);
        let ran = run(hook).ended(0);
        assert_eq!(ran.stdout, ran.stderr, "{name}");
        assert!(ran.stderr.contains("Adding lineage to queue."), "{name}");
    }
    assert!(!Path::new("stdout").exists());
}

#[test]
fn a_log_file_that_cannot_be_written_stops_a_daemon_but_no_hook() {
    let (world, target, lineage) = one_target("log_filename: /nowhere/log\n");
    for mode in ["--daemon", "--push", "--renew"] {
        let ran = world.server(&[mode]).ended(1);
        let said = ran.said();
        let want = "server.yml:7:15: Invalid value \"/nowhere/log\" for `log_filename`. `log_filename` must be a file that can \
                    be written: No such file or directory";
        assert!(said.contains(want), "{mode}: {said}");
    }
    let hook = world.hook(&lineage).ended(0);
    assert!(
        hook.said().contains("ERROR:certdeploy-server: The log goes to stdout alone: `/nowhere/log`"),
        "{}",
        hook.said()
    );
    let _ = world.server(&["status"]).ended(3);
    let _client = target.start();
    // An option beats the config.
    let _ = world.server(&["--push", "--log-filename", "/dev/null"]).ended(0);
    assert!(target.holds(&lineage));
    let ran = world.server(&["--push", "--log-filename=/nowhere/else"]).ended(1);
    assert!(ran.said().contains("the log file `/nowhere/else`: No such file or directory"), "{}", ran.said());
}

#[test]
fn the_ssh_library_has_a_logger_of_its_own() {
    let (world, target, lineage) = one_target("");
    without_level(&world);
    let _client = target.start();
    let file = world.path("server/sftp.log");
    let _ = world.hook(&lineage).ended(0);
    let quiet = world.server(&["--push"]).ended(0);
    assert_eq!(quiet.said(), "");
    let (live, path) = (lineage.live.display().to_string(), file.display().to_string());
    let again = ["--push", "--lineage", &live, "--domains", "example.com"];
    let options = ["--sftp-log-level", "DEBUG", "--sftp-log-filename", &path];
    let ran = world.server(&[&again[..], &options].concat()).ended(0);
    assert!(ran.stdout.lines().all(|line| line.starts_with("DEBUG:sftp: ")), "{}", ran.stdout);
    assert!(ran.stdout.lines().count() > 10, "{}", ran.stdout);
    // The library goes on speaking while the process ends: the last lines may be missing.
    assert!(read(&file).lines().count() > 10 && ran.stdout.starts_with(&read(&file)), "{}", read(&file));
    // Our own file does not get them.
    let own = world.path("server/own.log");
    let options = ["--sftp-log-level", "DEBUG", "--log-level", "INFO", "--log-filename", own.to_str().unwrap()];
    let ran = world.server(&[&again[..], &options].concat()).ended(0);
    assert!(ran.stdout.contains("DEBUG:sftp: ") && ran.stdout.contains("INFO:certdeploy-server: Pushed"));
    assert!(read(&own).contains("INFO:certdeploy-server: Pushed") && !read(&own).contains("sftp: "), "{}", read(&own));
}

#[test]
fn no_secret_is_in_any_log_even_at_the_lowest_level() {
    let (world, target, mut lineage) = one_target("sftp_log_level: DEBUG\n");
    let _client = target.start();
    let mut server = world.start_server();
    let mut secrets = vec![read(&world.server_key())];
    for _ in 0..2 {
        secrets.push(lineage.issued.privkey.clone());
        let _ = world.hook(&lineage).ended(0);
        target.updates(&lineage);
        lineage.renew(&world.ca);
    }
    let log = server.said();
    assert!(log.contains("DEBUG:sftp: "), "{log}");
    for secret in secrets {
        let lines: Vec<&str> = secret.lines().filter(|line| !line.starts_with('-') && line.len() > 8).collect();
        assert!(!lines.is_empty());
        for line in lines {
            assert!(!log.contains(line), "a line of a key is in the log");
            // As a list of numbers, which is how bytes are printed.
            let bytes = format!("{:?}", &line.as_bytes()[..8]);
            assert!(!log.contains(bytes.trim_matches(['[', ']'])), "bytes of a key are in the log");
        }
    }
    assert!(!log.contains("PRIVATE KEY"));
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn json_is_one_object_a_line_with_what_it_is_about() {
    let (world, target, lineage) = one_target("log_format: json\nsftp_log_level: DEBUG\n");
    let _client = target.start();
    let mut server = world.start_server();
    target.receives(&lineage);
    until("it says so", PATIENCE, || server.said().contains("Pushed ").then_some(()));
    assert_eq!(server.stop().code(), Some(0));
    let lines: Vec<Value> = server.said().lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let pushed = lines.iter().find(|line| line["message"].as_str().unwrap().starts_with("Pushed ")).unwrap();
    assert_eq!((pushed["level"].as_str(), pushed["logger"].as_str()), (Some("INFO"), Some("certdeploy-server")));
    assert_eq!(
        (pushed["fields"]["target"].as_str(), pushed["fields"]["lineage"].as_str()),
        (Some("web1"), Some("example.com"))
    );
    let time = pushed["timestamp"].as_str().unwrap();
    assert!(time.len() == "2026-11-22T04:45:29.000Z".len() && time.ends_with('Z'), "{time}");
    assert!(lines.iter().any(|line| line["logger"] == "sftp" && line["target"].as_str().unwrap().starts_with("russh")));
}

#[test]
fn a_journal_that_is_not_there_leaves_text() {
    let (world, _target, lineage) = one_target("log_format: journald\n");
    if Path::new("/run/systemd/journal/socket").exists() {
        return;
    }
    let said = world.hook(&lineage).ended(0).stdout;
    assert!(said.contains("WARNING:certdeploy-server: `log_format: journald`, but there is no journal"), "{said}");
    has_line(&said, "DEBUG:certdeploy-server: Adding lineage to queue.");
}

#[test]
fn words_that_are_no_text_are_refused_and_not_changed() {
    let (world, _target, lineage) = one_target("");
    let odd = std::ffi::OsStr::from_bytes(b"/live/caf\xe9");
    let mut by_option = world.server_command(&["--domains", "example.com", "--lineage"]);
    by_option.arg(odd);
    let mut by_variable = world.hook_command(&lineage);
    by_variable.env("RENEWED_LINEAGE", odd);
    for command in [by_option, by_variable] {
        assert!(run(command).ended(2).stderr.contains("is not UTF-8"));
    }
    let mut foreign = world.hook_command(&lineage);
    foreign.env("SOMETHING_ELSE", odd);
    let _ = run(foreign).ended(0);
}

#[test]
fn help_says_how_it_ends_and_what_it_reads() {
    let (world, ..) = one_target("");
    let help = world.server(&["--help"]).ended(0).stdout;
    for word in ["--sftp-log-filename", "CERTDEPLOY_SERVER_SFTP_LOG_LEVEL", "SIGHUP", "Exit codes:", "\n  3  "] {
        assert!(help.contains(word), "{word} is not in\n{help}");
    }
}
