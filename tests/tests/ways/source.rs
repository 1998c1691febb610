//! What a person has before the first line of a page: the sources, a `cargo`, and Debian packages that were made of them.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use certdeploy_tests::guide::blocks;
use certdeploy_tests::process::{binary, command, run};
use certdeploy_tests::shipped::file;

const PROGRAMS: [&str; 3] = ["certdeploy-client", "certdeploy-server", "generate"];

/// Stripped copies of what the tests were built with.
pub(crate) fn programs(to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for name in PROGRAMS {
        let mut strip = command("/usr/bin/strip");
        strip.arg("-o").arg(to.join(name)).arg(binary(name));
        let _ = run(strip).ended(0);
    }
}

/// A `cargo` that builds by copying from `built`, and hands everything else to `otherwise`.
pub(crate) fn cargo(at: &Path, built: &str, otherwise: &str) {
    let text = format!(
        "#!/bin/sh\nset -eu\ncase \"$*\" in\n\
         'build --release --locked' | 'build --workspace --release --locked')\n\
         mkdir -p target/release\ncp {built}/* target/release/ ;;\n*) {otherwise} ;;\nesac\n"
    );
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    std::fs::write(at, text).unwrap();
    std::fs::set_permissions(at, PermissionsExt::from_mode(0o755)).unwrap();
}

/// The repository without what was built.
pub(crate) fn sources(to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    let mut tar = command("/bin/sh");
    tar.args(["-euc", "tar -C \"$0\" --exclude=./target --exclude=./.git -c . | tar -C \"$1\" -x"]);
    let _ = run({
        tar.arg(file("")).arg(to);
        tar
    })
    .ended(0);
}

/// Follows `heading` of the page on a machine that builds; the packages that it makes.
pub(crate) fn packages((page, heading): (&str, &str), folder: &Path) -> Vec<PathBuf> {
    let (tree, built, bin) = (folder.join("builder"), folder.join("built"), folder.join("builder-bin"));
    sources(&tree);
    programs(&built);
    let real = PathBuf::from(std::env::var_os("CARGO").expect("a test that cargo runs"));
    cargo(&bin.join("cargo"), &built.display().to_string(), &format!("exec {} \"$@\"", real.display()));
    let own = std::env::current_exe().unwrap();
    let tools = own.ancestors().map(|folder| folder.join("tools/bin")).find(|tools| tools.join("cargo-deb").is_file());
    let path = [bin, tools.expect("cargo-deb: run tests/setup"), "/usr/sbin:/usr/bin:/sbin:/bin".into()];
    let path = path.map(|folder| folder.display().to_string()).join(":");
    for block in blocks(page).into_iter().filter(|block| block.heading == heading) {
        let mut sh = command("/bin/sh");
        // It runs cargo, which knows its home and its toolchain by the environment.
        sh.envs(std::env::vars_os()).env("PATH", &path).env("CARGO_NET_OFFLINE", "true").env_remove("CARGO_TARGET_DIR");
        sh.args(["-euc", &block.text]).current_dir(&tree);
        let _ = run(sh).ended(0);
    }
    let made = std::fs::read_dir(tree.join("target/debian")).unwrap().map(|entry| entry.unwrap().path());
    made.filter(|path| path.extension().is_some_and(|extension| extension == "deb")).collect()
}
