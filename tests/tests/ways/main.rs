//! Each way to run certdeploy that the README and `docs/` describe, followed word by word in clean root file systems: the
//! fenced blocks of a page are run, or put into the file that their first line names, as they are written. What differs is
//! what a reader changes too: the example keys become those that `keygen` printed. Beside that, in the machines:
//! `cargo build` brings the programs that the tests were built with instead of compiling them again, certbot asks a pebble,
//! and timers and cron are not waited for, but get a clock or a drop-in that is nearly there.

mod daemons;
mod docker;
mod hosts;
mod minutes;
mod plain;
mod reader;
mod source;
mod swarm;

use certdeploy_tests::guide::headings;
use certdeploy_tests::need::Need;

const NEEDS: &[Need] = &[
    Need::Root,
    Need::Program("systemd-nspawn"),
    Need::Program("nsenter"),
    Need::Program("ip"),
    Need::Program("openssl"),
    Need::Program("pebble"),
];

const README: &str = "README.md";
const INSTALL: &str = "docs/install.md";
const HOOK: &str = "docs/hook.md";
const SYSTEMD: &str = "docs/systemd.md";
const CRON: &str = "docs/cron.md";
const DOCKER: &str = "docs/docker.md";
const SWARM: &str = "docs/swarm.md";

/// Sections that are followed by somebody else, or have nothing to follow.
const ELSEWHERE: [(&str, &str); 5] = [
    // By whoever runs these tests.
    (README, "The two commands"),
    // `documents.rs` and `swap.rs` have them.
    (README, "What is where on the client"),
    (README, "certdeploy-client"),
    (README, "When something is refused"),
    // `images.rs` builds the pair with these words.
    (INSTALL, "Images"),
];

#[test]
fn each_section_with_blocks_is_followed() {
    let own = ["daemons.rs", "docker.rs", "minutes.rs", "plain.rs", "swarm.rs"];
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ways");
    let tests: String = own.iter().map(|name| std::fs::read_to_string(folder.join(name)).unwrap()).collect();
    let name = |page: &str| match page {
        README => "README",
        INSTALL => "INSTALL",
        HOOK => "HOOK",
        SYSTEMD => "SYSTEMD",
        CRON => "CRON",
        DOCKER => "DOCKER",
        _ => "SWARM",
    };
    for page in [README, INSTALL, HOOK, SYSTEMD, CRON, DOCKER, SWARM] {
        for heading in headings(page) {
            let elsewhere = ELSEWHERE.contains(&(page, heading.as_str()));
            let followed = tests.contains(&format!("({}, \"{heading}\"", name(page)));
            assert!(elsewhere != followed, "{page}: {heading:?}: followed here {followed}, elsewhere {elsewhere}");
        }
    }
    for (page, heading) in ELSEWHERE {
        assert!(headings(page).iter().any(|found| found == heading), "{page} has no blocks under {heading:?}");
    }
}
