//! What the repository ships beside the programs: units, rules, configs; and a unit with the drop-in that `harden` prints.

use std::path::{Path, PathBuf};

use crate::need::find;
use crate::process::{Ran, binary, command, run};

/// A file of the repository, by its path in it.
#[must_use]
pub fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(name)
}

/// The drop-in for `program` with this config, as one prints it that is installed: a checkout may lie in somebody's home or
/// in `/tmp`, which the sandbox would have to leave visible.
///
/// # Panics
/// It prints none.
#[must_use]
pub fn harden(program: &str, config: &Path) -> String {
    let folder = tempfile::tempdir_in("/var/lib").expect("a folder");
    let installed = folder.path().join(program);
    std::fs::copy(binary(program), &installed).expect("copy");
    let mut harden = command(installed);
    harden.arg("harden").arg("--config").arg(config);
    run(harden).ended(0).stdout
}

/// The exposure of a shipped unit, with a drop-in if one is given, as `systemd-analyze security` counts it: 10 is all.
///
/// # Panics
/// systemd-analyze cannot tell.
#[must_use]
pub fn exposure(unit: &str, drop_in: Option<&str>) -> f64 {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy(file("systemd").join(unit), folder.path().join(unit)).expect("copy");
    if let Some(text) = drop_in {
        let at = folder.path().join(format!("{unit}.d"));
        std::fs::create_dir(&at).expect("a folder");
        std::fs::write(at.join("harden.conf"), text).expect("write");
    }
    let mut analyze = command(find("systemd-analyze").expect("systemd-analyze"));
    analyze.env("SYSTEMD_UNIT_PATH", format!("{}:", folder.path().display()));
    let ran: Ran = run({
        analyze.args(["security", "--offline=true", "--no-pager", unit]);
        analyze
    });
    let line = ran.stdout.lines().find(|line| line.contains("Overall exposure level")).unwrap_or_else(|| {
        panic!("no exposure of {unit}: {}", ran.said());
    });
    let figure = line.split_whitespace().find_map(|word| word.parse().ok());
    figure.unwrap_or_else(|| panic!("no figure in {line:?}"))
}
