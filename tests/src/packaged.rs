//! Debian packages of the programs that are built here, made by cargo-deb from the workspace's own metadata.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::process::{Ran, binary, command, run};
use crate::shipped::file;

/// cargo-deb, made by `tests/setup` below Cargo's target directory.
fn cargo_deb() -> PathBuf {
    let own = std::env::current_exe().expect("the path of this program");
    let tools = own.ancestors().map(|folder| folder.join("tools/bin/cargo-deb"));
    tools
        .filter(|tool| tool.is_file())
        .last()
        .expect("`tools/bin/cargo-deb` below the target directory: run tests/setup")
}

/// Makes manual pages and completions where `make deb` has them too; once, as each time begins by removing them.
fn generated() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        let mut generate = command(binary("generate"));
        generate.arg(file("packaging/generated")).current_dir(file(""));
        let _ = run(generate).ended(0);
    });
}

/// Packs both programs into `folder`: the packages of the client and of the server.
///
/// # Panics
/// It fails; what cargo-deb said is shown.
#[must_use]
pub fn packages(folder: &Path, version: &str) -> [PathBuf; 2] {
    generated();
    let built = folder.join("target/release");
    std::fs::create_dir_all(&built).expect("a folder");
    ["certdeploy-client", "certdeploy-server"].map(|name| {
        // What is packed for real is optimized and stripped; these are only stripped.
        let mut strip = command("/usr/bin/strip");
        strip.arg("-o").arg(built.join(name)).arg(binary(name));
        let _ = run(strip).ended(0);
        let package = folder.join(format!("{name}_{version}.deb"));
        let mut pack = command(cargo_deb());
        // It runs cargo, which knows its home and its toolchain by the environment.
        pack.envs(std::env::vars_os()).env("CARGO_TARGET_DIR", folder.join("target")).current_dir(file(""));
        pack.args(["--no-build", "--offline", "--fast", "-p", name, "--deb-version", version, "-o"]).arg(&package);
        let ran: Ran = run(pack).ended(0);
        assert!(!ran.said().contains("warning"), "cargo-deb warns: {}", ran.said());
        package
    })
}
