//! `server.yml` -> the YAML of what holds: every key, defaults and inherited values filled in, the targets of
//! `client_config_directory` in their place, paths made absolute. It is given a config that was found good.

use std::path::{Path, PathBuf};

use certdeploy_common::setting::write::{self, Entry};
use certdeploy_common::setting::yaml::{Content, Key, Node};
use certdeploy_common::setting::{Default, Located, Place, Problems, Section, yaml};

use super::file::{ServerFile, TargetFile};
use super::kinds::Words;
use super::{directory, paths};

/// The settings that are paths, and are printed as what they mean.
const PATHS: [&str; 9] = [
    "privkey_filename",
    "privkey_passphrase_filename",
    "privkey_cert_filename",
    "ssh_agent",
    "known_hosts",
    "client_config_directory",
    "queue_dir",
    "live_directory",
    "renew_exec",
];

/// The config `text` of `file`, whole; `overrides` are keys that the command line or the environment sets.
#[must_use]
pub fn effective(file: &Path, text: &str, overrides: &[(&str, String)]) -> String {
    let Ok(node) = yaml::parse(text) else { return String::new() };
    let mut server = write::complete(ServerFile::SETTINGS, node);
    for entry in &mut server {
        if let Some((_, value)) = overrides.iter().find(|(key, _)| *key == entry.setting.key) {
            entry.node.content = write::text(value).content;
            entry.given = true;
        }
        tidy(file, entry);
    }
    let further = further(&mut server);
    renewal(&mut server);
    let own: Vec<(PathBuf, Node)> = match value(&server, "client_configs") {
        Some(Content::List(items)) => items.iter().map(|item| (file.to_owned(), item.clone())).collect(),
        Some(Content::Map(_)) => {
            let one = server.iter().find(|entry| entry.setting.key == "client_configs");
            one.map(|entry| (file.to_owned(), entry.node.clone())).into_iter().collect()
        }
        _ => Vec::new(),
    };
    let targets = own.into_iter().chain(further).map(|(file, node)| target(&file, node, &server)).collect();
    set(&mut server, "client_configs", Content::List(targets));
    write::section(server)
}

fn value<'e>(entries: &'e [Entry], key: &str) -> Option<&'e Content> {
    entries.iter().find(|entry| entry.setting.key == key).map(|entry| &entry.node.content)
}

fn set(entries: &mut [Entry], key: &str, content: Content) {
    if let Some(entry) = entries.iter_mut().find(|entry| entry.setting.key == key) {
        entry.node.content = content;
    }
}

/// Paths become absolute and the one text of a list a list, so that the result says what it means without a warning.
fn tidy(file: &Path, entry: &mut Entry) {
    let key = entry.setting.key;
    let Content::Scalar { text, .. } = &entry.node.content else { return };
    if PATHS.contains(&key) || key == "pubkey_filename" {
        let path = paths::absolute(file, key, Path::new(text));
        entry.node.content = write::text(path.display().to_string()).content;
    } else if key == "domains" {
        entry.node.content = Content::List(Words::of(text).map(write::text).collect());
    } else if key == "renew_args" {
        entry.node.content = Content::List(text.split_whitespace().map(write::text).collect());
    }
}

/// The targets of the directory, which is named no more.
fn further(server: &mut [Entry]) -> Vec<(PathBuf, Node)> {
    let path = match value(server, "client_config_directory") {
        Some(Content::Scalar { text, .. }) => PathBuf::from(text),
        _ => return Vec::new(),
    };
    set(server, "client_config_directory", Content::Null);
    let directory = Located { value: Some(path), place: Place::default() };
    let read = directory::read(&directory, &mut Problems::default());
    read.into_iter().map(|further| (further.path, further.node)).collect()
}

/// The old section becomes what it means.
fn renewal(server: &mut [Entry]) {
    let every = match value(server, "check_renew") {
        Some(Content::Map(pairs)) => pairs.iter().find(|(key, _)| key.name == "every").map(|(_, node)| node.clone()),
        _ => None,
    };
    if let Some(every) = every {
        set(server, "renew_every", every.content);
        set(server, "renew_unit", write::text("day").content);
        set(server, "check_renew", Content::Null);
    }
}

/// An entry with what it inherits.
fn target(file: &Path, node: Node, server: &[Entry]) -> Node {
    let place = node.place;
    let pairs = write::complete(TargetFile::SETTINGS, node).into_iter().map(|mut entry| {
        tidy(file, &mut entry);
        let inherits = match entry.setting.default {
            Default::Unset => !entry.given,
            Default::Yaml("null") => matches!(entry.node.content, Content::Null),
            Default::Yaml(_) | Default::Required => false,
        };
        if let Some(content) = value(server, entry.setting.key).filter(|_| inherits) {
            entry.node.content = content.clone();
        }
        (Key { place: entry.node.place, name: entry.setting.key.to_owned() }, entry.node)
    });
    Node { place, content: Content::Map(pairs.collect()) }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    const PIN: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIP+H3Nk/9uSa7LHNt8fvCPKKkNFnVE5SGC5tnthf6/OK note";

    /// Everything that the settings are, but where it was written.
    fn meaning(file: &Path, text: &str) -> String {
        let (settings, _) = parse(file, text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let debug = format!("{settings:?}");
        let mut parts = debug.split("Place {");
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |sum, part| sum + part.split_once('}').map_or("", |(_, rest)| rest))
    }

    #[test]
    fn what_is_printed_means_the_same_and_has_every_key() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("server.yml");
        let further = dir.path().join("targets");
        std::fs::create_dir(&further).unwrap();
        std::fs::write(dir.path().join("pin.pub"), PIN).unwrap();
        let more = format!("address: web2\ndomains: 'c.example, d.example'\npubkey: {PIN}\njoin_timeout: 9\n");
        std::fs::write(further.join("web2.yml"), more).unwrap();
        let one = format!("- {{address: '::1', domains: ['*.a.example'], pubkey: {PIN}, path: null, port: '33774'}}");
        let texts = [
            format!("private_key_file: server_key\nclient_configs:\n  {one}\n"),
            format!(
                "privkey_filename: /k\ncheck_renew: {{every: week}}\nrenew_args: -q renew dns,http\nclient_configs: [{}]",
                &one[2..]
            ),
            format!(
                "privkey_filename: /k\nrenew_every: monday\nrenew_at: 09:00\npush_retries: 7\nsftp_tcp_timeout: null\n\
                 fail_fast: 'no'\nlog_level: 10\nclient_config_directory: targets\nclient_configs:\n  {one}\n  \
                 - address: web1\n    lineages: [x]\n    pubkey_filename: pin.pub\n    push_retries: 0\n    \
                 push_timeout: null\n    name: \"n: '1'\"\n    needs_privkey: off\n",
            ),
        ];
        for text in texts {
            let printed = effective(&file, &text, &[]);
            assert_eq!(meaning(&file, &printed), meaning(&file, &text), "{text}\n{printed}");
            let (_, warnings) = parse(&file, &printed).unwrap();
            assert!(warnings.is_empty(), "{warnings:?}\n{printed}");
            let plain = |text: &str| text.replace("  # default", "");
            assert_eq!(plain(&effective(&file, &printed, &[])), plain(&printed));
            for setting in ServerFile::SETTINGS {
                assert!(
                    printed.contains(&format!("\n{}: ", setting.key)) || printed.contains(&format!("{}:", setting.key))
                );
            }
            for setting in TargetFile::SETTINGS {
                let entries = printed.matches("\n  - ").count();
                let found = printed.matches(&format!("    {}: ", setting.key)).count()
                    + printed.matches(&format!("  - {}: ", setting.key)).count();
                assert_eq!(found, entries, "{}\n{printed}", setting.key);
            }
        }
        let printed = effective(&file, "log_level: ERROR\n", &[("log_level", "DEBUG".to_owned())]);
        assert!(printed.contains("\nlog_level: DEBUG\n"), "{printed}");
    }
}
