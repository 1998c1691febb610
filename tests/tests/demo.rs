//! `make demo` tells the truth by its exit code and leaves nothing behind, also when it fails.

use std::path::Path;

use certdeploy_tests::process::{binary, command, run};
use certdeploy_tests::{Ran, until};

/// Runs a demo program with an empty directory for everything temporary, and shows that it is empty afterwards.
fn demo(program: &Path) -> Ran {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = command(program);
    demo.env("TMPDIR", folder.path());
    let ran = run(demo);
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "{left:?} is left; it said:\n{}", ran.said());
    let name = folder.path().display().to_string();
    until("no process of the demo is left", certdeploy_tests::wait::PATIENCE, || (!runs(&name)).then_some(()));
    ran
}

/// Whether any process has `word` in its command line.
fn runs(word: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).into_owned()).any(|line| line.contains(word))
}

#[test]
fn it_shows_two_renewals_and_cleans_up() {
    let ran = demo(&binary("demo")).ended(0);
    assert_eq!(ran.stdout.matches("byte for byte").count(), 2, "{}", ran.said());
}

#[test]
fn it_fails_when_a_part_fails_and_cleans_up_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(binary("demo"), folder.path().join("demo")).unwrap();
    std::os::unix::fs::symlink(binary("certdeploy-server"), folder.path().join("certdeploy-server")).unwrap();
    std::os::unix::fs::symlink("/bin/false", folder.path().join("certdeploy-client")).unwrap();
    let _ = demo(&folder.path().join("demo")).ended(1);
}
