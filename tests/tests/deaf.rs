//! Pushers that log in, ask for much and read none of it: each has its limits, nothing of it stays, and others get in.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::process::{children, command};
use certdeploy_tests::wait::{PATIENCE, holds_within};
use certdeploy_tests::{World, memory, python, until};

const NEEDS: &[Need] = &[Need::Python("0.5.4")];

/// So many of them, once all are connected; they leave with this value.
struct Deaf(Child);

impl Deaf {
    fn come(world: &World, port: u16, how: &str, count: usize) -> Self {
        let mut deaf = command(python::program("0.5.4", "python").expect("the virtual environment"));
        deaf.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("python/deaf.py"));
        deaf.args([&port.to_string(), "certdeploy"]).arg(world.server_key()).args([how, &count.to_string()]);
        let mut child = deaf.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n");
        Self(child)
    }
}

impl Drop for Deaf {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// `count` of them, who stay or leave; then all is as it was before, and a push goes through.
fn leaves_nothing(how: &str, count: usize, stay: bool) {
    if !can_run("deaf", NEEDS) {
        return;
    }
    let world = World::new();
    let target = world.target("web", &["a.example"]);
    let mut lineage = world.lineage("a.example", &["a.example"]);
    world.write_server(&[&target]);
    let text = std::fs::read_to_string(&target.config).expect("client.yml");
    let limits = "sftpd:\n  max_connections: 4\n  idle_timeout: 3\n  session_timeout: 6\n";
    std::fs::write(&target.config, text.replace("sftpd:\n", limits)).expect("write");
    let mut client = target.start();
    let receiver = until("a receiver", PATIENCE, || children(client.id()).first().copied());
    let _ = world.hook(&lineage).ended(0);
    let _ = world.server(&["--push"]).ended(0);
    let before = memory::descriptors(receiver);
    let staged = || {
        let incoming = std::fs::read_dir(target.source.join(".incoming")).expect("staging").flatten();
        incoming.filter(|entry| entry.file_name().to_string_lossy().starts_with(".session-")).count()
    };

    let deaf = Deaf::come(&world, target.port, how, count);
    let deaf = stay.then_some(deaf);
    lineage.renew(&world.ca);
    let _ = world.hook(&lineage).ended(0);
    until(&format!("a push goes through: {}", client.said()), PATIENCE, || {
        (world.server(&["--push"]).code == Some(0)).then_some(())
    });
    let left = || (memory::descriptors(receiver), staged());
    let gone = holds_within(PATIENCE, || left().0 <= before && left().1 == 0);
    assert!(gone, "of {before} descriptors and no session there are now {:?}", left());
    drop(deaf);
    assert!(client.runs() && children(client.id()).contains(&receiver), "the same processes");
    let said = client.said();
    assert!(!said.contains("panicked") && !said.contains("is given up"), "{said}");
}

#[test]
fn answers_that_nobody_reads() {
    leaves_nothing("answers", 4, true);
}

#[test]
fn a_few_answers_that_nobody_reads_with_files_open() {
    leaves_nothing("few", 4, false);
}

#[test]
fn data_for_a_channel_that_serves_nothing() {
    leaves_nothing("channel", 4, true);
}
