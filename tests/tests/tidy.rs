//! The rules of the repository: what each file must look like, and what must not import what.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Every file of the repository, as git knows them (new ones too), with its path from the root.
fn files() -> Vec<String> {
    let git = |arguments: &[&str]| {
        let out = Command::new("git").arg("-C").arg(root()).args(arguments).output().expect("git");
        assert!(out.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).expect("names in UTF-8")
    };
    let names = git(&["ls-files", "--cached", "--others", "--exclude-standard"]);
    names.lines().map(str::to_owned).filter(|name| root().join(name).is_file()).collect()
}

fn rust_files() -> Vec<(String, String)> {
    let rust = files().into_iter().filter(|name| name.ends_with(".rs"));
    rust.map(|name| (name.clone(), read(&name))).collect()
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The code of a file: without comments and without its unit tests.
fn code(text: &str) -> String {
    let product = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    product.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

#[track_caller]
fn none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn every_crate_of_the_design_card_is_there_by_name() {
    let manifest = read("Cargo.toml");
    for name in ["russh", "russh-sftp", "tokio", "serde", "serde_yaml", "bollard", "zbus", "clokwerk", "tracing"] {
        assert!(manifest.lines().any(|line| line.starts_with(&format!("{name} ="))), "Cargo.toml names {name}");
    }
    let architecture = read("ARCHITECTURE.md");
    for word in ["russh-keys", "russh::keys"] {
        assert!(architecture.contains(word), "ARCHITECTURE.md says where russh-keys went: {word} is not in it");
    }
}

#[test]
fn russh_is_not_older_than_its_last_known_advisory() {
    let lock = read("Cargo.lock");
    let (_, after) = lock.split_once("name = \"russh\"\nversion = \"").expect("russh in Cargo.lock");
    let version: Vec<u32> = after.split(['"', '.']).take(3).filter_map(|part| part.parse().ok()).collect();
    assert!(version >= vec![0, 65, 1], "russh {version:?} is older than 0.65.1");
}

#[test]
fn every_file_says_what_it_is_and_is_short() {
    let mut found = Vec::new();
    for (name, text) in rust_files() {
        if !text.starts_with("//!") {
            found.push(format!("{name} does not start with `//!`"));
        }
        let lines = text.lines().count();
        if lines > 400 {
            found.push(format!("{name} has {lines} lines; the limit is 400"));
        }
        let stem = Path::new(&name).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if ["util", "utils", "helper", "helpers", "misc"].contains(&stem) || name.contains("/utils/") {
            found.push(format!("{name}: name the idea instead"));
        }
    }
    none("files", &found);
}

#[test]
fn the_doorways_are_doorways() {
    for program in ["certdeploy-server", "certdeploy-client"] {
        let lines = read(&format!("{program}/src/main.rs")).lines().count();
        assert!(lines <= 15, "{program}/src/main.rs has {lines} lines");
    }
}

#[test]
fn nothing_speaks_of_the_place_it_was_written_in() {
    let words = [
        concat!("/wo", "rk/"),
        concat!("../sha", "red"),
        concat!("/tm", "p/w/"),
        concat!("Clau", "de"),
        concat!("Anth", "ropic"),
        concat!("Chat", "GPT"),
        concat!("Copi", "lot"),
    ];
    let mut found = Vec::new();
    for name in files() {
        let Ok(text) = std::fs::read_to_string(root().join(&name)) else { continue };
        found.extend(words.iter().filter(|word| text.contains(*word)).map(|word| format!("{name} says {word}")));
    }
    none("words that do not belong here", &found);
}

/// The modules of its own crate that a file names: `crate::x`, `crate::{x, y::z}`.
fn modules(text: &str) -> BTreeSet<String> {
    let word = |text: &str| text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut names = BTreeSet::new();
    for after in text.split("crate::").skip(1) {
        let Some(group) = after.strip_prefix('{') else {
            names.insert(word(after));
            continue;
        };
        let mut depth = 0;
        let mut at_start = true;
        for (place, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => at_start = true,
                c if at_start && !c.is_whitespace() => {
                    names.insert(word(&group[place..]));
                    at_start = false;
                }
                _ => {}
            }
        }
    }
    names
}

#[test]
fn grouped_imports_are_understood() {
    let names = modules("use crate::{a::{b, c}, d};\nuse crate::e::f; crate::g::h();");
    assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), ["a", "d", "e", "g"]);
}

/// Below these paths, these words must not stand in the code.
const NO_WORDS: [(&str, &[&str]); 9] = [
    ("certdeploy-common/src/", &["certdeploy_server", "certdeploy_client", "clap::", "bollard", "zbus", "rusqlite"]),
    ("certdeploy-server/src/", &["certdeploy_client", "serde_yaml", "bollard", "zbus"]),
    ("certdeploy-client/src/", &["certdeploy_server", "serde_yaml", "clokwerk", "rusqlite"]),
    ("certdeploy-server/src/hook", PURE),
    ("certdeploy-server/src/plan", PURE),
    ("certdeploy-client/src/deploy/plan", PURE),
    ("certdeploy-client/src/validate/mod", PURE),
    ("certdeploy-common/src/cert/", PURE),
    ("certdeploy-common/src/wire/", PURE),
];

const PURE: &[&str] = &[
    "std::fs",
    "TcpStream",
    "TcpListener",
    "UnixStream",
    "tokio::",
    "std::process",
    "SystemTime",
    "Instant::now",
    "tracing",
    "std::env",
];

/// Below these paths, these modules of the same crate must not be named.
const NO_MODULES: [(&str, &[&str]); 5] = [
    ("certdeploy-server/src/hook", &["push", "dispatch", "report"]),
    ("certdeploy-server/src/queue", &["push", "dispatch", "report"]),
    ("certdeploy-client/src/sftp", &["deploy", "update", "validate", "pipeline"]),
    ("certdeploy-client/src/validate", &["deploy", "update", "staging", "sftp", "pipeline"]),
    ("certdeploy-client/src/update", &["deploy", "staging", "sftp", "pipeline"]),
];

#[test]
fn nothing_imports_what_it_must_not() {
    let all = rust_files();
    let mut found = Vec::new();
    for (name, text) in all.iter().filter(|(name, _)| !name.ends_with("/tests.rs")) {
        let code = code(text);
        for (place, words) in NO_WORDS.iter().filter(|(place, _)| name.starts_with(place)) {
            let words = words.iter().filter(|word| code.contains(*word));
            found.extend(words.map(|word| format!("{name} names {word} (nothing in {place} may)")));
        }
        let modules = modules(&code);
        for (place, banned) in NO_MODULES.iter().filter(|(place, _)| name.starts_with(place)) {
            let named = banned.iter().filter(|word| modules.contains(**word));
            found.extend(named.map(|word| format!("{name} names crate::{word} (nothing in {place} may)")));
        }
        let common = name.starts_with("certdeploy-common/src/");
        if common && code.contains("russh") && !name.starts_with("certdeploy-common/src/ssh/") {
            found.push(format!("{name} names russh; in common only ssh/ may"));
        }
        if common && code.contains("serde_yaml") && name != "certdeploy-common/src/setting/yaml.rs" {
            found.push(format!("{name} names serde_yaml; only setting/yaml.rs may"));
        }
    }
    none("imports", &found);
    // A rule about a file that is not there proves nothing.
    for (place, _) in NO_WORDS.iter().chain(&NO_MODULES) {
        assert!(all.iter().any(|(name, _)| name.starts_with(place)), "no file is below {place}");
    }
}
