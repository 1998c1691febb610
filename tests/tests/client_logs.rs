//! The client's log files: both processes write into them, though one of them may not open them.

use std::os::unix::fs::PermissionsExt;

use certdeploy_tests::World;
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
