//! The README against the programs: each example config parses, and the reference of settings is what the parsers have.

use std::path::Path;

use certdeploy_client::config::file::{ClientFile, KindPermissionsFile, PermissionsFile, SftpdFile, UpdateFile};
use certdeploy_common::setting::list::read_section;
use certdeploy_common::setting::{Problems, Section, Setting, yaml};
use certdeploy_server::config::file::{ServerFile, TargetFile};
use certdeploy_tests::reference::{put_between_marks, render};

fn readme() -> (std::path::PathBuf, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("README.md");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("README.md: {error}"));
    (path, text)
}

/// The fenced YAML blocks whose opening or first line names `file`.
fn examples(text: &str, file: &str) -> Vec<String> {
    let blocks = text.split("```").skip(1).step_by(2);
    blocks
        .filter(|block| block.starts_with("yaml") && block.lines().take(2).any(|line| line.contains(file)))
        .map(body)
        .collect()
}

fn body(block: &str) -> String {
    block.split_once('\n').map_or("", |(_, body)| body).to_owned()
}

#[test]
fn every_example_config_parses() {
    let (_, text) = readme();
    let (servers, clients) = (examples(&text, "server.yml"), examples(&text, "client.yml"));
    assert!(!servers.is_empty() && !clients.is_empty(), "the README shows a server.yml and a client.yml");
    for example in servers {
        let read = certdeploy_server::config::parse(Path::new("server.yml"), &example);
        let (_, warnings) = read.unwrap_or_else(|error| panic!("{error}\nin the README's\n{example}"));
        assert!(warnings.is_empty(), "{warnings:?} in the README's\n{example}");
    }
    for example in clients {
        let read = certdeploy_client::config::parse(&example, Path::new("client.yml"));
        let (_, warnings) = read.unwrap_or_else(|error| panic!("{error}\nin the README's\n{example}"));
        assert!(warnings.is_empty(), "{warnings:?} in the README's\n{example}");
    }
}

#[test]
fn reference_is_current() {
    let (path, old) = readme();
    let lists: [(&str, &'static [Setting]); 2] = [("server", ServerFile::SETTINGS), ("client", ClientFile::SETTINGS)];
    let new = lists.iter().fold(old.clone(), |text, (name, settings)| {
        put_between_marks(&text, name, &render(settings))
            .unwrap_or_else(|| panic!("README.md has no `<!-- settings: {name} -->` ... `<!-- end -->`"))
    });
    if new != old && std::env::var("UPDATE_README").is_ok_and(|value| value == "1") {
        std::fs::write(path, new).expect("write README.md");
        return;
    }
    assert!(
        new == old,
        "the README's reference is old; write it anew with:\n  UPDATE_README=1 cargo test --test documents"
    );
}

#[test]
fn every_setting_explains_itself() {
    fn look(settings: &'static [Setting], at: &str) {
        for setting in settings {
            let name = format!("{at}{}", setting.key);
            assert!(setting.doc.len() > 10 && setting.doc.ends_with('.'), "{name}: {:?}", setting.doc);
            look(setting.kind.inside.unwrap_or_default(), &format!("{name}."));
        }
    }
    look(ServerFile::SETTINGS, "server.yml: ");
    look(ClientFile::SETTINGS, "client.yml: ");
}

/// What reading `key: sample` alone complains about, as far as it is about `key`.
fn complaints<S: Section>(key: &str, sample: &str) -> Vec<String> {
    let mut problems = Problems::default();
    let _ = read_section::<S>(yaml::parse(&format!("{key}: {sample}\n")).expect("YAML"), &mut problems);
    let errors = problems.errors.into_iter().map(|complaint| complaint.message);
    errors.filter(|message| !message.contains("missing required key")).collect()
}

/// What reading `key: sample` alone complains or warns about: a lenient section only warns of what it does not know.
fn said<S: Section>(key: &str, sample: &str) -> Vec<String> {
    let mut problems = Problems::default();
    let _ = read_section::<S>(yaml::parse(&format!("{key}: {sample}\n")).expect("YAML"), &mut problems);
    problems.errors.into_iter().chain(problems.warnings).map(|complaint| complaint.message).collect()
}

fn samples<S: Section>() {
    for setting in S::SETTINGS {
        let Setting { key, kind, .. } = setting;
        for sample in kind.valid {
            assert_eq!(complaints::<S>(key, sample), Vec::<String>::new(), "{key}: {sample} is refused");
        }
        for sample in kind.invalid {
            let found = complaints::<S>(key, sample);
            // What is wrong inside a section is said of the section's own keys.
            let named = |message: &String| kind.inside.is_some() || message.contains(key);
            assert!(found.iter().any(named), "{key}: {sample} gives {found:?}");
        }
        let misspelt = format!("{key}x");
        let found = said::<S>(&misspelt, "1");
        assert!(found.iter().any(|message| message.contains(&format!("did you mean \"{key}\""))), "{found:?}");
    }
}

#[test]
fn each_setting_takes_its_samples_and_refuses_the_others() {
    samples::<ServerFile>();
    samples::<TargetFile>();
    samples::<ClientFile>();
    samples::<SftpdFile>();
    samples::<UpdateFile>();
    samples::<PermissionsFile>();
    samples::<KindPermissionsFile>();
}
