//! What a suite needs of the machine. One that cannot run says so by name; under `CERTDEPLOY_TESTS_STRICT=1` it fails.

use std::io::Write;
use std::path::PathBuf;

/// One thing that a suite needs.
#[derive(Debug, Clone, Copy)]
pub enum Need {
    /// To be root.
    Root,
    /// A program in the PATH or in `/usr/sbin`.
    Program(&'static str),
    /// A version of the Python certdeploy, made by `tests/setup`.
    Python(&'static str),
}

/// Whether the suite `name` can run here.
///
/// # Panics
/// It cannot, and `CERTDEPLOY_TESTS_STRICT=1`.
#[must_use]
pub fn can_run(name: &str, needs: &[Need]) -> bool {
    let missing: Vec<String> = needs.iter().filter_map(|need| missing(*need)).collect();
    if missing.is_empty() {
        return true;
    }
    let sentence = format!("SKIPPED {name}: needs {}; run `make test` as root", missing.join(", "));
    assert!(std::env::var_os("CERTDEPLOY_TESTS_STRICT").is_none_or(|value| value != "1"), "{sentence}");
    // Not `eprintln!`: the test runner would swallow it.
    let _ = writeln!(std::io::stderr(), "{sentence}");
    false
}

fn missing(need: Need) -> Option<String> {
    match need {
        Need::Root => (!rustix::process::geteuid().is_root()).then(|| "root".to_owned()),
        Need::Program(name) => find(name).is_none().then(|| format!("`{name}`")),
        Need::Python(version) => crate::python::program(version, "certdeploy-client")
            .is_none()
            .then(|| format!("the Python certdeploy {version} of tests/setup")),
    }
}

/// The absolute path of a program.
#[must_use]
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).map(|folder| folder.join(name)).find(|file| file.is_file())
}
