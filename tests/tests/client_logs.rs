//! The client's log files: both processes write into them, though one of them may not open them.

use std::os::unix::fs::PermissionsExt;

use certdeploy_tests::World;
use certdeploy_tests::pass::Pass;
use certdeploy_tests::process::{binary, command, run};
use certdeploy_tests::wait::{PATIENCE, until};

#[test]
fn both_processes_write_into_both_log_files() {
    let world = World::new();
    let mut target = world.target("web", &["a.example"]);
    let lineage = world.lineage("a.example", &["a.example"]);
    let (own, library) = (world.path("own.log"), world.path("sftp.log"));
    target.updates = false;
    target.extra =
        format!("  log_level: DEBUG\n  log_filename: {}\nlog_filename: {}\n", library.display(), own.display());
    target.write_config();
    world.write_server(&[&target]);
    let client = target.start();
    let _ = world.hook(&lineage).ended(0);
    let _ = world.server(&["--push"]).ended(0);
    let text = |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default();
    until("the receiver's line is in the file", PATIENCE, || {
        text(&own).contains("INFO:certdeploy-client: Got connection from ('127.0.0.1', ").then_some(())
    });
    assert!(text(&own).contains("Deployed lineage a.example"), "the applier's line: {}", text(&own));
    until("the library's lines are in its file", PATIENCE, || text(&library).contains(":sftp: ").then_some(()));
    assert!(!text(&own).contains(":sftp: ") && !text(&library).contains(":certdeploy-client: "));
    assert!(client.said().contains("Got connection from") && client.said().contains(":sftp: "), "{}", client.said());
    for path in [&own, &library] {
        assert_eq!(path.metadata().expect("a file").permissions().mode() & 0o777, 0o600);
    }
    let secret = std::fs::read_to_string(&target.host_key).expect("the host key");
    let canary = secret.lines().nth(2).expect("a line of the key");
    assert!(!text(&own).contains(canary) && !text(&library).contains(canary));
}

#[test]
fn options_and_variables_beat_the_config_and_a_file_that_cannot_be_written_is_said() {
    let world = World::new();
    let mut target = world.target("web", &["a.example"]);
    target.updates = false;
    target.extra = format!("log_filename: {}\n", world.path("config.log").display());
    target.write_config();
    let run = |words: &[&str], variables: &[(&str, &std::path::Path)]| {
        let mut command = target.command();
        command.args(words).envs(variables.iter().copied());
        certdeploy_tests::process::run(command)
    };
    let lines = |name: &str| std::fs::read_to_string(world.path(name)).unwrap_or_default().lines().count();
    let variable = world.path("variable.log");
    let option = world.path("option.log").display().to_string();
    let _ = run(&[], &[]).ended(0);
    let _ = run(&[], &[("CERTDEPLOY_CLIENT_LOG_FILENAME", &variable)]).ended(0);
    let _ = run(&["--log-filename", &option], &[("CERTDEPLOY_CLIENT_LOG_FILENAME", &variable)]).ended(0);
    assert!(lines("config.log") > 0 && lines("variable.log") > 0 && lines("option.log") > 0);
    assert_eq!(lines("variable.log"), lines("option.log"));
    let ran = run(&["--log-filename", "/nowhere/log"], &[]).ended(1);
    assert!(
        ran.stdout.contains("ERROR:certdeploy-client: The log file `/nowhere/log`: No such file"),
        "{}",
        ran.said()
    );
    let ran = run(&[], &[("CERTDEPOLY_CLIENT_SFTP_LOG_LEVEL", std::path::Path::new("loud"))]).ended(2);
    assert!(ran.said().contains("CERTDEPOLY_CLIENT_SFTP_LOG_LEVEL"), "{}", ran.said());
}

#[track_caller]
fn has_line(said: &str, start: &str) {
    assert!(said.lines().any(|line| line.starts_with(start)), "no line starts with {start:?}:\n{said}");
}

#[test]
fn the_words_people_grep_for_have_their_levels() {
    let world = World::new();
    let lineage = world.lineage("a.example", &["a.example"]);
    let pass = Pass::over(&world, &lineage, "words");
    let said = run(pass.command("update_services:\n  - {type: script, name: /bin/true}\n")).ended(0).stdout;
    has_line(&said, "DEBUG:certdeploy-client: Running one off deploy");
    has_line(&said, "INFO:certdeploy-client: Deploying new certs");
    has_line(&said, "INFO:certdeploy-client: Updating services");
    has_line(&said, "INFO:certdeploy-client: Script /bin/true returned=0");
    has_line(&said, "INFO:certdeploy-client: Updated services");
    let mut none = command(binary("certdeploy-client"));
    none.args(["--config", "/nowhere/client.yml"]);
    has_line(&run(none).ended(1).said(), "ERROR:certdeploy-client: Config file \"/nowhere/client.yml\" not found");

    let mut target = world.target("web", &["a.example"]);
    target.updates = false;
    target.extra = "update_services: [{type: script, name: /bin/true}]\n".to_owned();
    target.write_config();
    world.write_server(&[&target]);
    let client = target.start();
    let _ = world.hook(&lineage).ended(0);
    let _ = world.server(&["--push"]).ended(0);
    until("it is queued", PATIENCE, || client.said().contains("Queueing updates for services").then_some(()));
    has_line(&client.said(), "DEBUG:certdeploy-client: Running daemon");
    has_line(
        &client.said(),
        &format!("INFO:certdeploy-client: Listening for incoming connections at 127.0.0.1:{}", target.port),
    );
    has_line(&client.said(), "INFO:certdeploy-client: Got connection from ('127.0.0.1', ");
}

#[test]
fn the_level_comes_from_option_variable_and_config_in_this_order() {
    let world = World::new();
    let lineage = world.lineage("a.example", &["a.example"]);
    let pass = Pass::over(&world, &lineage, "level");
    let shows = |variables: &[(&str, &str)], more: &[&str]| {
        let mut client = pass.command("");
        let config = std::fs::read_to_string(pass.path("client.yml")).expect("client.yml");
        std::fs::write(pass.path("client.yml"), config.replace("log_level: DEBUG", "log_level: ERROR")).expect("write");
        client.envs(variables.iter().copied()).args(more);
        run(client).ended(0).said().contains("DEBUG:certdeploy-client: Running one off deploy")
    };
    assert!(!shows(&[], &[]));
    for name in ["CERTDEPLOY_CLIENT_LOG_LEVEL", "LOG_LEVEL"] {
        assert!(shows(&[(name, "DEBUG")], &[]), "{name}");
        assert!(!shows(&[(name, "DEBUG")], &["--log-level", "ERROR"]), "{name}");
    }
    assert!(!shows(&[("LOG_LEVEL", "debug"), ("CERTDEPLOY_CLIENT_LOG_LEVEL", "ERROR")], &[]), "the weakest name");
    assert!(!shows(&[("LOG_LEVEL", "nonsense")], &[]));
}
