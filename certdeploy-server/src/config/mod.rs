//! `server.yml`: as written ([`mod@file`]) -> checked and merged ([`settings`], [`targets`]). Only this file and
//! [`directory`] open a config; [`pins`] and [`identity`] open the keys that it names.

pub mod address;
pub mod directory;
pub mod effective;
pub mod file;
pub mod identity;
pub mod kinds;
pub mod known_hosts;
pub mod log;
mod modes;
pub mod paths;
pub mod pins;
pub mod settings;
pub mod targets;

use std::path::{Path, PathBuf};

use certdeploy_common::fs::bounded::ReadError;
use certdeploy_common::fs::text::{self, TextError};
use certdeploy_common::setting::list::read_section;
use certdeploy_common::setting::place::ConfigWarning;
use certdeploy_common::setting::write;
use certdeploy_common::setting::yaml::Content;
use certdeploy_common::setting::{Complaint, ConfigError, Place, Problems, Section, yaml};

pub use settings::{Settings, Timeouts};
pub use targets::{Burst, Target, TargetId};

use file::ServerFile;
use pins::Demand;

/// Why there is no config.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is no such file. The Python program's words, which people grep for.
    #[error("FileNotFoundError: [Errno 2] No such file or directory: '{0}'")]
    Missing(String),
    /// It cannot be read.
    #[error(transparent)]
    Unreadable(ReadError),
    /// It is refused.
    #[error(transparent)]
    Refused(#[from] ConfigError),
}

/// Reads the config, with warnings about what should be written otherwise.
///
/// # Errors
/// See [`LoadError`].
pub fn load(path: &Path) -> Result<(Settings, Vec<ConfigWarning>), LoadError> {
    load_with(path, Demand::Pinned)
}

/// The same; `demand` says whether each target must have a host key.
///
/// # Errors
/// See [`LoadError`].
pub fn load_with(path: &Path, demand: Demand) -> Result<(Settings, Vec<ConfigWarning>), LoadError> {
    let text = text(path)?;
    Ok(parse_with(path, &text, demand)?)
}

/// Reads the config's text.
///
/// # Errors
/// See [`LoadError`].
pub fn text(path: &Path) -> Result<String, LoadError> {
    text::read(path).map_err(|error| match error {
        error if error.is_missing() => LoadError::Missing(path.display().to_string()),
        TextError::Unreadable(error) => LoadError::Unreadable(error),
        TextError::NotUtf8 { line, column, .. } => {
            let place = Place { line, column, ..Place::default() };
            ConfigError::single(path, Complaint::new(place, error.to_string())).into()
        }
    })
}

/// Understands the config's text; `path` is what messages call it.
///
/// # Errors
/// Everything that is wrong, in the order of the file.
pub fn parse(path: &Path, text: &str) -> Result<(Settings, Vec<ConfigWarning>), ConfigError> {
    parse_with(path, text, Demand::Pinned)
}

fn parse_with(path: &Path, text: &str, demand: Demand) -> Result<(Settings, Vec<ConfigWarning>), ConfigError> {
    let (settings, problems) = understand(path, text, demand);
    problems.finish(path, settings)
}

fn understand(path: &Path, text: &str, demand: Demand) -> (Option<Settings>, Problems) {
    let mut problems = Problems::default();
    let written = match yaml::parse(text) {
        Ok(node) => read_section::<ServerFile>(node, &mut problems),
        Err(complaint) => {
            problems.error(complaint);
            None
        }
    };
    let settings = written.and_then(|mut written| {
        paths::of_server(path, &mut written, &mut problems);
        modes::look(path, &written, &mut problems);
        let further = directory::targets(&written.client_config_directory, &mut problems);
        settings::settings(path, written, further, demand, &mut problems)
    });
    (settings, problems)
}

/// A config with all that is wrong with it.
#[derive(Debug)]
pub struct Examined {
    /// What could be understood; without the targets that are wrong.
    pub settings: Option<Settings>,
    /// What refuses it, a line each.
    pub errors: Vec<String>,
    /// What does not, a line each.
    pub warnings: Vec<String>,
}

/// Understands as much of the config's text as can be.
#[must_use]
pub fn examine(path: &Path, text: &str) -> Examined {
    let (settings, problems) = understand(path, text, Demand::Pinned);
    let (errors, warnings) = problems.lines(path);
    Examined { settings, errors, warnings }
}

/// `queue_dir` of a config that may be wrong otherwise.
///
/// # Errors
/// It cannot be read, or is no YAML.
pub fn queue_dir(path: &Path) -> Result<PathBuf, LoadError> {
    let node = yaml::parse(&text(path)?).map_err(|complaint| ConfigError::single(path, complaint))?;
    let mut entries = write::complete(ServerFile::SETTINGS, node).into_iter();
    let found = entries.find(|entry| entry.setting.key == "queue_dir").map(|entry| entry.node.content);
    let written = match found {
        Some(Content::Scalar { text, .. }) => text,
        _ => String::new(),
    };
    Ok(paths::absolute(path, "queue_dir", Path::new(&written)))
}

/// Where the keys of a config stand, for complaints about what their values lead to.
#[derive(Debug)]
pub struct Places {
    file: String,
    keys: Vec<(String, Place)>,
}

impl Places {
    /// Those of `text`, the config that is called `file`.
    #[must_use]
    pub fn of(file: &Path, text: &str) -> Self {
        let keys = match yaml::parse(text).map(|node| node.content) {
            Ok(Content::Map(pairs)) => pairs.into_iter().map(|(key, node)| (key.name, node.place)).collect(),
            _ => Vec::new(),
        };
        Self { file: file.display().to_string(), keys }
    }

    /// The start of a line about the value of `key`: `server.yml:3:5: `, or only the file's name if it was not written.
    #[must_use]
    pub fn key(&self, key: &str) -> String {
        let place = self.keys.iter().find(|(name, _)| name == key).map(|(_, place)| *place);
        place.map_or_else(|| format!("{}: ", self.file), |place| format!("{}:{place}: ", self.file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIN: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIP+H3Nk/9uSa7LHNt8fvCPKKkNFnVE5SGC5tnthf6/OK";

    fn target(more: &str) -> String {
        format!("- {{address: h, domains: [a.example], pubkey: {PIN}{more}}}\n")
    }

    fn with(head: &str, targets: &str) -> Result<Settings, String> {
        let text = format!("privkey_filename: /key\n{head}client_configs:\n{targets}");
        parse(Path::new("server.yml"), &text).map(|(settings, _)| settings).map_err(|error| error.to_string())
    }

    #[test]
    fn a_small_config_has_finite_defaults() {
        let settings = with("", &target("")).unwrap();
        assert_eq!(settings.targets[0].id.as_str(), "certdeploy@h:22+/var/cache/certdeploy");
        assert_eq!(settings.targets[0].burst, Burst { retries: 1, interval: std::time::Duration::from_secs(30) });
        assert_eq!(settings.push.at_once, 1);
        assert!(settings.targets[0].timeouts.connect.is_some() && settings.targets[0].timeouts.push.is_some());
        let settings = with("push_mode: parallel\npush_timeout: null\n", &target(", path: null, name: x")).unwrap();
        assert_eq!((settings.push.at_once, settings.targets[0].timeouts.push), (32, None));
        assert_eq!((settings.targets[0].id.as_str(), settings.targets[0].path.as_str()), ("x", ""));
    }

    #[test]
    fn each_mistake_names_its_place_and_the_way_out() {
        let cases = [
            ("pubkye: x\n", target(""), "server.yml:2:1: Invalid config option: unknown key \"pubkye\""),
            (
                "push_mode: both\n",
                target(""),
                "server.yml:2:12: Invalid value \"both\" for `push_mode`. `push_mode` must be \"serial\" or \"parallel\".",
            ),
            ("renew_at: 25:00\n", target(""), "server.yml:2:11: Invalid value \"25:00\" for `renew_at`."),
            (
                "",
                target(", pubkye: x"),
                "Invalid client config option: unknown key \"pubkye\" (did you mean \"pubkey\"?)",
            ),
            ("", target(", needs_fullchain: no, needs_privkey: no"), "every `needs_...` is false"),
            ("", "- {address: h, domains: [a.example], pubkey: AAAA}\n".into(), "not an SSH public key"),
            ("", format!("{}{}", target(""), target(", needs_chain: yes")), "two different entries are both called"),
            ("", " []\n".into(), "ConfigError: No client configs given."),
            ("", "- {address: h, domains: [a..b], pubkey: x}\n".into(), "Invalid value \"a..b\" for `domains`."),
        ];
        for (head, targets, want) in cases {
            let message = with(head, &targets).unwrap_err();
            assert!(message.contains(want), "{message}\nlacks {want}");
        }
    }

    #[test]
    fn targets_come_from_a_directory_too_and_their_mistakes_name_their_file() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("b.yml", &format!("address: b\ndomains: [b.example]\npubkey: {PIN}\n"));
        write("a.yml", &format!("address: a\ndomains: [a.example]\npubkey: {PIN}\n"));
        write(".hidden", "?");
        let head = format!("client_config_directory: {}\n", dir.path().display());
        let text = format!("privkey_filename: /key\n{head}");
        let read = |text: &str| parse(Path::new("server.yml"), text).map_err(|error| error.to_string());
        let names: Vec<String> = read(&text).unwrap().0.targets.iter().map(|target| target.address.clone()).collect();
        assert_eq!(names, ["a", "b"]);
        write("c.yml", "address: c\ndomains: [c.example]\npubkye: x\n");
        let message = read(&text).unwrap_err();
        let want = format!("{}/c.yml:3:1: Invalid client config option: unknown key \"pubkye\"", dir.path().display());
        assert!(message.contains(&want), "{message}");
        let message = read("privkey_filename: /key\nclient_config_directory: /nowhere\n").unwrap_err();
        assert!(
            message.contains("server.yml:2:26: Invalid value \"/nowhere\" for `client_config_directory`"),
            "{message}"
        );
    }

    #[test]
    fn one_target_may_be_written_twice_with_other_domains() {
        let other = format!("- {{address: h, domains: b.example, pubkey: ssh-ed25519 {PIN} note}}\n");
        let settings = with("", &format!("{}{other}", target(""))).unwrap();
        assert_eq!((settings.targets.len(), settings.targets[0].domains.len()), (1, 2));
        for (more, warned) in
            [("", false), (", push_retries: 1", false), (", push_retries: 2", true), (", push_timeout: 7", true)]
        {
            let text = format!("privkey_filename: /key\nclient_configs:\n{}{}", target(""), target(more));
            let (settings, warnings) = parse(Path::new("server.yml"), &text).unwrap();
            let first = Burst { retries: 1, interval: std::time::Duration::from_secs(30) };
            assert_eq!((settings.targets.len(), settings.targets[0].burst), (1, first));
            let said = warnings.first().map(ToString::to_string).unwrap_or_default();
            let want =
                "server.yml:4:3: \"certdeploy@h:22+/var/cache/certdeploy\" is written twice with different retries";
            assert_eq!(said.contains(want), warned, "{more}: {said}");
        }
    }

    #[test]
    fn renewal_intervals_of_old_documents_are_understood() {
        use crate::config::kinds::Unit;
        for (text, unit) in [
            ("renew_every: monday\n", Unit::Weekday(0)),
            ("renew_unit: Sunday\n", Unit::Weekday(6)),
            ("check_renew: {every: week}\n", Unit::Week),
            ("renew_at: 15:00\n", Unit::Day),
        ] {
            assert_eq!(with(text, &target("")).unwrap().renew.interval.unit, unit, "{text}");
        }
    }

    #[test]
    fn what_the_python_program_took_is_taken() {
        let seconds = std::time::Duration::from_secs;
        let of = |head: &str| with(head, &target("")).unwrap_or_else(|error| panic!("{head}: {error}"));
        for head in ["fail_fast: 'no'\n", "fail_fast: off\n", "fail_fast: N\n", "fail_fast:\n", "fail_fast: 0\n"] {
            assert!(!of(head).fail_fast, "{head}");
        }
        for head in ["fail_fast: 'Yes'\n", "fail_fast: On\n", "fail_fast: 1\n", "\"fail_fast\": true\n"] {
            assert!(of(head).fail_fast, "{head}");
        }
        for (head, retries) in [("0x1F", 31), ("1_000", 1000), ("'3'", 3), ("no", 0), ("017", 15), ("+2", 2)] {
            assert_eq!(of(&format!("push_retries: {head}\n")).targets[0].burst.retries, retries, "{head}");
        }
        assert_eq!(of("push_retry_interval: 1:00\n").targets[0].burst.interval, seconds(60));
        assert_eq!(of("join_timeout: 0\n").targets[0].timeouts.visit, None);
        let afternoon = of("renew_at: '15:00'\n").renew.interval;
        for at in ["15:00", "900", "\"15:00\"", "15:00:00"] {
            assert_eq!(of(&format!("renew_at: {at}\n")).renew.interval, afternoon, "{at}");
        }
        for none in ["null", "''", "~", ""] {
            assert_eq!(of(&format!("renew_at: {none}\n")).renew.interval.at, None, "{none}");
        }
        assert!(of("renew_unit: week\nrenew_at: 9:30\n").renew.interval.at.is_some());
        let arguments = of("renew_args: renew --preferred-challenges dns,http\n").renew.arguments;
        assert_eq!(arguments, ["renew", "--preferred-challenges", "dns,http"]);
        let json = format!(
            "{{\"privkey_filename\": \"/key\", \"client_configs\": [{{\"address\": \"h\", \"port\": \"33801\", \
             \"domains\": [\"a.example\"], \"pubkey\": \"{PIN}\", \"path\": null}}]}}"
        );
        let (settings, warnings) = parse(Path::new("server.json"), &json).unwrap();
        assert_eq!((settings.targets[0].port, warnings.len()), (33801, 0));
        let merged = format!(
            "x: 1\nprivkey_filename: /key\nclient_configs:\n- &a {{address: h, domains: 'a.example b.example', pubkey: {PIN}}}\n\
             - {{<<: *a, port: 23}}\n"
        );
        let (settings, warnings) = parse(Path::new("server.yml"), merged.trim_start_matches("x: 1\n")).unwrap();
        assert_eq!((settings.targets[1].port, settings.targets[1].domains.len(), warnings.len()), (23, 2, 2));
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for head in [
            "push_mode: Parallel",
            "push_mode: null",
            "log_level: debug",
            "log_level: null",
            "push_retries: null",
            "push_retries: 1.5",
            "renew_every: 0",
            "renew_every: true",
            "renew_unit: days",
            "renew_at: 25:00",
            "renew_at: 1440",
            "renew_every: 2\nrenew_unit: monday",
            "queue_dir: ''",
            "queue_dir: ~/queue",
            "fail_fast: perhaps",
            "fail_fast: 2022-01-01",
            "sftp_tcp_timeout: .inf",
            "push_retries: 1\npush_retries: 2",
        ] {
            let message = with(&format!("{head}\n"), &target("")).unwrap_err();
            let lines: Vec<&str> = message.lines().collect();
            assert!(lines.len() == 1 && lines[0].starts_with("server.yml:"), "{head}: {message}");
        }
    }
}
