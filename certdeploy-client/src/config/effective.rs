//! `client.yml` -> the YAML of what holds: every key, defaults filled in, what the command line says in its place, paths
//! made absolute. It is given a config that was found good. A key that stands in the config is not shown.

use std::path::Path;

use certdeploy_common::setting::write::{self, Entry};
use certdeploy_common::setting::yaml::{Content, Key, Node};
use certdeploy_common::setting::{Place, Section, yaml};

use super::file::ClientFile;

/// The settings that are paths, and are printed as what they mean; the last ones are in `sftpd`.
const PATHS: [&str; 8] = [
    "destination",
    "source",
    "docker_tls_ca",
    "docker_tls_cert",
    "docker_tls_key",
    "log_filename",
    "privkey_filename",
    "server_pubkey_filename",
];

/// What the command line and the environment say instead of the config.
#[derive(Debug, Default)]
pub struct Overrides {
    /// Keys of the config.
    pub own: Vec<(&'static str, String)>,
    /// Keys of `sftpd`.
    pub sftpd: Vec<(&'static str, String)>,
}

/// The config `text`, whole.
#[must_use]
pub fn effective(text: &str, overrides: &Overrides) -> String {
    let Ok(node) = yaml::parse(text) else { return String::new() };
    let mut entries = write::complete(ClientFile::SETTINGS, node);
    for (key, value) in &overrides.own {
        if let Some(entry) = entries.iter_mut().find(|entry| entry.setting.key == *key) {
            entry.node.content = write::text(value).content;
            entry.given = true;
        }
    }
    if let Some(entry) = entries.iter_mut().find(|entry| entry.setting.key == "sftpd") {
        sftpd(entry, &overrides.sftpd);
    }
    for entry in &mut entries {
        absolute(entry.setting.key, &mut entry.node.content);
    }
    write::section(entries)
}

fn sftpd(entry: &mut Entry, overrides: &[(&'static str, String)]) {
    let given = std::mem::replace(&mut entry.node.content, Content::Null);
    let mut pairs = if let Content::Map(pairs) = given { pairs } else { Vec::new() };
    for (key, value) in overrides {
        pairs.retain(|(name, _)| name.name != *key);
        pairs.push((Key { place: Place::default(), name: (*key).to_owned() }, write::text(value)));
    }
    for (key, node) in &mut pairs {
        if key.name == "privkey" && !matches!(node.content, Content::Null) {
            node.content = write::text("(a private key, not shown)").content;
        }
        absolute(&key.name, &mut node.content);
    }
    let place = entry.node.place;
    entry.node = Node { place, content: Content::Map(pairs) };
}

fn absolute(key: &str, content: &mut Content) {
    let Content::Scalar { text, .. } = content else { return };
    let stream = ["stdout", "stderr"].contains(&text.as_str());
    if PATHS.contains(&key)
        && !text.is_empty()
        && !stream
        && let Ok(path) = std::path::absolute(Path::new(text))
    {
        *content = write::text(path.display().to_string()).content;
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::SftpdFile;
    use super::super::parse;
    use super::*;

    const PIN: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIP+H3Nk/9uSa7LHNt8fvCPKKkNFnVE5SGC5tnthf6/OK note";

    /// Everything that the settings are, but where it was written.
    fn meaning(text: &str) -> String {
        let (file, _) = parse(text, Path::new("c")).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let debug = format!("{file:?}");
        let mut parts = debug.split("Place {");
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |sum, part| sum + part.split_once('}').map_or("", |(_, rest)| rest))
    }

    #[test]
    fn what_is_printed_means_the_same_and_has_every_key() {
        for text in [
            "destination: /d\n".to_owned(),
            format!(
                "destination: /d\nsource: /s\nupdate_sevices: []\nupdate_delay: 1h30m\nsystemd_timeout: null\n\
                 sftpd: {{listen_port: '2222', privkey_file: /k, server_pubkey: {PIN}}}\n\
                 file_permissions: {{mode: 0640, privkey: {{group: ssl-cert}}}}\n"
            ),
            format!(
                "destination: /d\nsftpd:\n  server_pubkey:\n  - {PIN}\n  - {{pubkey: {PIN}, lineages: [a.example]}}\n\
                 update_services:\n- {{type: systemd, name: nginx.service, action: reload, timeout: null}}\n\
                 - {{type: script, name: /bin/true, args: [a, 'b c'], env: {{A: 'no'}}, lineages: x}}\n"
            ),
        ] {
            let printed = effective(&text, &Overrides::default());
            assert_eq!(meaning(&printed), meaning(&text), "{text}\n{printed}");
            let (_, warnings) = parse(&printed, Path::new("c")).unwrap();
            assert!(warnings.is_empty(), "{warnings:?}\n{printed}");
            for setting in ClientFile::SETTINGS.iter().chain(SftpdFile::SETTINGS) {
                assert!(printed.contains(&format!("{}:", setting.key)), "{}\n{printed}", setting.key);
            }
        }
    }

    #[test]
    fn the_command_line_is_in_it_and_keys_are_not() {
        let text = "destination: d\nsftpd: {privkey: |-\n  hunter2, listen_port: 1}\n";
        let text =
            text.replace("{privkey: |-\n  hunter2, listen_port: 1}", "\n  privkey: |\n    hunter2\n  log_level: INFO");
        let overrides = Overrides {
            own: vec![("log_level", "DEBUG".to_owned())],
            sftpd: vec![("log_level", "WARNING".to_owned()), ("log_filename", "/l".to_owned())],
        };
        let printed = effective(&text, &overrides);
        assert!(printed.contains("\nlog_level: DEBUG\n") && printed.contains("\n  log_level: WARNING\n"), "{printed}");
        assert!(printed.contains("  log_filename: /l\n") && !printed.contains("hunter2"), "{printed}");
        let here = std::env::current_dir().unwrap().join("d");
        assert!(printed.contains(&format!("destination: {}\n", here.display())), "{printed}");
    }
}
