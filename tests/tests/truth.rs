//! Exit codes, status and messages say what is so, also when the queue or a person's hand goes wrong.

use certdeploy_tests::status::line;
use certdeploy_tests::wait::PATIENCE;
use certdeploy_tests::{World, until};

#[test]
fn a_daemon_whose_queue_was_removed_ends_with_an_error_instead_of_serving_a_ghost() {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    world.write_server(&[&target]);
    let lineage = world.lineage("example.com", &["example.com"]);
    let mut server = world.start_server();
    server.says("Serving 1 target");
    std::fs::remove_dir_all(world.queue()).unwrap();
    let _ = world.hook(&lineage).ended(0);
    assert_eq!(server.ends().code(), Some(1), "{}", server.said());
    assert!(server.said().contains("was removed or replaced while this daemon had it open"), "{}", server.said());
    // What a supervisor does; the hook's renewal is in the new queue.
    let _client = target.start();
    let _server = world.start_server();
    target.receives(&lineage);
}

#[test]
fn status_is_not_fine_when_the_queue_cannot_be_used() {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    world.write_server(&[&target]);
    let none = world.server(&["status"]).ended(0);
    assert!(none.stdout.contains("none"), "a queue that is not made yet is no error: {}", none.said());
    std::fs::write(world.queue(), "a file").unwrap();
    let refused = world.server(&["status"]).ended(1);
    assert!(refused.said().contains("queue_dir `"), "{}", refused.said());
}

#[test]
fn a_bare_push_learns_what_became_of_updates() {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    world.write_server(&[&target]);
    let lineage = world.lineage("example.com", &["example.com"]);
    let _client = target.start();
    let _ = world.hook(&lineage).ended(0);
    let _ = world.server(&["--push"]).ended(0);
    target.updates(&lineage);
    until("--push asks when the update was due", PATIENCE, || {
        let _ = world.server(&["--push"]).ended(0);
        let status = world.status();
        let line = line(&status, "web1", "example.com")?.to_string();
        line.contains("done").then_some(())
    });
}

#[test]
fn a_key_in_the_place_of_its_path_is_never_repeated() {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    world.write_server(&[&target]);
    let key = std::fs::read_to_string(world.server_key()).unwrap();
    let inline: String = key.lines().map(|line| format!("  {line}\n")).collect();
    let text = std::fs::read_to_string(world.server_config()).unwrap();
    let rest = text.lines().filter(|line| !line.starts_with("privkey_filename")).collect::<Vec<_>>().join("\n");
    std::fs::write(world.server_config(), format!("privkey_filename: |\n{inline}{rest}\n")).unwrap();
    let refused = world.server(&["--push"]).ended(1).said();
    assert!(refused.contains("`privkey_filename` must be a path"), "{refused}");
    for line in key.lines().filter(|line| !line.is_empty()) {
        assert!(!refused.contains(line), "{refused}");
    }
}

#[test]
fn a_lineage_that_nobody_wants_is_said_to_the_person_who_asked() {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    world.write_server(&[&target]);
    let lineage = world.lineage("other.example", &["other.example"]);
    let path = lineage.live.display().to_string();
    let by_hand = ["--log-level", "ERROR", "--lineage", &path, "--domains", "other.example", "--push"];
    let said = world.server(&by_hand).ended(0).said();
    assert!(said.contains("No target gets"), "{said}");
    std::fs::write(lineage.live.join("fullchain.pem"), "no certificate").unwrap();
    let said = world.server(&by_hand).ended(0).said();
    assert!(said.contains("No target gets") && said.contains("; and: lineage"), "{said}");
}

#[test]
fn a_log_that_cannot_be_written_stops_nothing() {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ended = target.command().args(["--log-level", "DEBUG"]).stdout(full()).stderr(full()).status().unwrap();
    assert_eq!(ended.code(), Some(0));
}

#[test]
fn a_lineage_that_a_person_mistyped_is_refused_and_not_owed() {
    let world = World::new();
    let target = world.target("web", &["a.example"]);
    world.write_server(&[&target]);
    let ran = world.server(&["--lineage", "a.exmaple", "--domains", "a.example"]).ended(1);
    assert!(ran.stdout.contains("a.exmaple` does not exist"), "{}", ran.said());
    let _ = world.server(&["--push", "--lineage", "a.exmaple", "--domains", "nobody.example"]).ended(0);
    let _ = world.server(&["status"]).ended(0);
}

#[test]
fn a_certificate_with_thousands_of_names_is_delivered() {
    let world = World::new();
    let mut target = world.target("web", &["h7.example"]);
    target.updates = false;
    target.write_config();
    let names: Vec<String> = (0..2500).map(|n| format!("h{n}.example")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let lineage = world.lineage("many", &names);
    world.write_server(&[&target]);
    let _client = target.start();
    let _ = world.hook(&lineage).ended(0);
    let _ = world.server(&["--push"]).ended(0);
    let deployed = std::fs::read(target.destination.join("many/fullchain.pem")).expect("fullchain.pem");
    assert_eq!(deployed, std::fs::read(lineage.live.join("fullchain.pem")).expect("live"));
}
