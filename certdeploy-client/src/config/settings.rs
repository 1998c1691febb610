//! [`ClientFile`] -> [`Settings`]: the values made strong, the files they name looked at, each failure at its place.

use std::path::{Path, PathBuf};
use std::time::Duration;

use certdeploy_common::daemon::logging::{LogFormat, LogLevel};
use certdeploy_common::setting::place::{ConfigError, ConfigWarning};
use certdeploy_common::setting::{Complaint, Located, Place, Problems};

use super::file::{ClientFile, SftpdFile};
use super::modes;
use super::permissions::{Permissions, permissions};
use super::sftpd::{self, Sftpd};
use super::updates;
use crate::update::Entry;
use crate::update::delay::Retry;

/// What a config must be good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// What needs no receiver, one pass above all: an unusable `sftpd` is a warning.
    Pass,
    /// The daemon: an unusable `sftpd` is an error. An update that will fail is none: the others run.
    Daemon,
    /// All that is in it.
    All,
}

/// Everything the program runs by; immutable once made.
#[derive(Debug)]
pub struct Settings {
    /// Where the certificates are put.
    pub destination: PathBuf,
    /// The staging directory.
    pub source: PathBuf,
    /// The receiver's part; `None` without a host key or when it is unusable, which is fine for one pass.
    pub sftpd: Option<Sftpd>,
    /// Why there is no receiver's part, for the message of `--daemon`.
    pub no_sftpd: Option<Complaint>,
    /// What is updated after a deployment, in order.
    pub updates: Vec<Entry>,
    /// How long the daemon waits before it runs them.
    pub update_delay: Duration,
    /// When failed updates run again.
    pub update_retry: Retry,
    /// How long another process's updates are waited for.
    pub update_wait: Duration,
    /// How often services are compared with the current versions of their secrets; `None` is never.
    pub secret_interval: Option<Duration>,
    /// How many generations are kept.
    pub keep_generations: usize,
    /// How long a replaced generation is kept at least.
    pub generation_min_age: Duration,
    /// Modes and owners of what is deployed.
    pub permissions: Permissions,
    /// How long a set in `source` may be no whole one after its last change.
    pub settle_time: Duration,
    /// The limit of one validation.
    pub validate_timeout: Duration,
    /// Stop at the first failed update.
    pub fail_fast: bool,
    /// What is logged, where and how.
    pub log: LogPolicy,
}

/// What is logged, where and how.
#[derive(Debug, Clone)]
pub struct LogPolicy {
    /// Our own lines.
    pub level: LogLevel,
    /// How lines look.
    pub format: LogFormat,
    /// A file beside the stream.
    pub file: Option<PathBuf>,
    /// The lines of the SSH and SFTP library.
    pub library_level: LogLevel,
    /// A file for these.
    pub library_file: Option<PathBuf>,
}

/// Turns what the file says into what the program runs by.
///
/// # Errors
/// All that is wrong, with places.
pub fn check(file: ClientFile, path: &Path, demand: Demand) -> Result<(Settings, Vec<ConfigWarning>), ConfigError> {
    let mut problems = Problems::default();
    let settings = settings(path, file, demand, &mut problems);
    problems.finish(path, settings)
}

/// The same; what is wrong goes to `problems`.
pub(super) fn settings(path: &Path, file: ClientFile, demand: Demand, problems: &mut Problems) -> Option<Settings> {
    modes::look(path, &file, problems);
    let common = updates::Common::of(&file, demand, problems);
    let log = LogPolicy {
        level: file.log_level.value,
        format: file.log_format.value,
        file: file.log_filename.value.clone(),
        library_level: file.sftpd.value.log_level.value.unwrap_or(LogLevel::Error),
        library_file: file.sftpd.value.log_filename.value.clone(),
    };
    let destination = directory("destination", file.destination, problems);
    let place = file.source.place;
    let source = directory("source", file.source, problems);
    if let (Some(destination), Some(source)) = (&destination, &source) {
        apart(place, destination, source, problems);
    }
    let permissions = permissions(file.file_permissions.value, problems);
    let entries = file.update_services.value;
    let updates: Option<Vec<Option<Entry>>> =
        common.map(|common| entries.into_iter().map(|entry| updates::entry(entry, &common, problems)).collect());
    let (sftpd, no_sftpd) = match receiver(path, file.sftpd, demand, problems) {
        Ok(sftpd) => (sftpd, None),
        Err(complaint) => (None, Some(complaint)),
    };
    Some(Settings {
        destination: destination?,
        source: source?,
        sftpd,
        no_sftpd,
        updates: updates?.into_iter().collect::<Option<_>>()?,
        update_delay: file.update_delay.value,
        secret_interval: file.docker_secret_interval.value,
        update_retry: Retry { first: file.update_retry_interval.value, longest: file.update_retry_max_interval.value },
        update_wait: file.update_wait.value,
        keep_generations: usize::try_from(file.keep_generations.value).unwrap_or(usize::MAX),
        generation_min_age: file.generation_min_age.value,
        permissions: permissions?,
        settle_time: file.settle_time.value,
        validate_timeout: file.validate_timeout.value,
        fail_fast: file.fail_fast.value,
        log,
    })
}

/// The receiver's part, or why there is none. `Ok(None)`: it is wrong, and said so as an error.
fn receiver(
    path: &Path,
    file: Located<SftpdFile>,
    demand: Demand,
    problems: &mut Problems,
) -> Result<Option<Sftpd>, Complaint> {
    let Located { value: file, place } = file;
    if file.privkey_filename.value.is_none() && file.privkey.value.is_none() {
        let message = "Invalid sftpd option: `privkey_filename` is needed with --daemon; make a key with `certdeploy-client keygen PATH`";
        return Err(Complaint::new(place, message));
    }
    let mut inside = Problems::default();
    let sftpd = sftpd::sftpd(path, place, file, &mut inside);
    problems.warnings.append(&mut inside.warnings);
    inside.errors.sort();
    if demand != Demand::Pass {
        problems.errors.append(&mut inside.errors);
        return Ok(sftpd);
    }
    // A pass talks to nobody, and a key that is missing must not keep certificates from being put in place.
    let Some(first) = inside.errors.first() else { return Ok(sftpd) };
    let mut all = first.clone();
    for Complaint { place, message } in inside.errors.iter().skip(1) {
        all.message.push_str(&format!("; {place}: {message}"));
    }
    for Complaint { place, message } in inside.errors {
        problems.warn(place, format!("{message} (with this `sftpd` a pass can run, but no daemon)"));
    }
    Err(all)
}

fn directory(key: &str, given: Located<PathBuf>, problems: &mut Problems) -> Option<PathBuf> {
    if given.value.is_dir() {
        return std::path::absolute(&given.value).ok();
    }
    let written = given.value.display().to_string();
    problems.error(Complaint::value(given.place, &written, key, "be a directory that exists"));
    None
}

/// Staging and deployed files must not mix: what is deployed would be taken for an upload, or the other way round.
fn apart(place: Place, destination: &Path, source: &Path, problems: &mut Problems) {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let (inner, outer) = (real(source), real(destination));
    let how = match (inner.starts_with(&outer), outer.starts_with(&inner)) {
        (true, true) => "is `destination`",
        (true, false) => "lies inside `destination`",
        (false, true) => "has `destination` inside it",
        (false, false) => return,
    };
    let message = format!(
        "Invalid config option: `source` ({}) {how} ({}); uploads and deployed files need directories of their own, beside each other",
        source.display(),
        destination.display(),
    );
    problems.error(Complaint::new(place, message));
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use certdeploy_common::ssh::key;
    use tempfile::TempDir;

    use super::*;
    use crate::config::{self, Error};
    use crate::update::Updater;
    use crate::update::docker::address::Address;
    use crate::update::docker::container::Action;

    const PIN: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIP+H3Nk/9uSa7LHNt8fvCPKKkNFnVE5SGC5tnthf6/OK";
    const RSA: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQD1Sv3ulkKjwVD61fIAhkpz9cq1opEGpLb0J72HZbfyqaSarK2+9uhCPEdOzhD2\
        +hDPw6mo70hJd8+mOZAoA6tNnqVb4lFI43Q98ipRSIxH4uo8XezMK2b3PxZ0sMQOV3yVSVn/AcNPAwtagv5XgANw78e7aDWtsT7AfkCy7qmu6w==";

    /// Reads a config with `lines` in a folder that has the two directories and a host key.
    fn load(folder: &TempDir, lines: &str, demand: Demand) -> Result<(Settings, String), String> {
        let at = folder.path();
        for name in ["in", "out"] {
            std::fs::create_dir_all(at.join(name)).unwrap();
        }
        let path = at.join("client.yml");
        let text = format!("source: AT/in\ndestination: AT/out\n{lines}").replace("AT", &at.display().to_string());
        std::fs::write(&path, text).unwrap();
        let said = |warnings: Vec<ConfigWarning>| warnings.iter().map(|warning| format!("{warning}\n")).collect();
        config::load(&path, demand)
            .map(|(settings, warnings)| (settings, said(warnings)))
            .map_err(|error: Error| error.to_string())
    }

    #[test]
    fn an_unusable_sftpd_is_a_warning_for_a_pass_and_an_error_for_all_else() {
        let folder = tempfile::tempdir().unwrap();
        let host_key = folder.path().join("key");
        let _ = key::generate(&host_key, "x").unwrap();
        std::fs::copy(&host_key, folder.path().join("open")).unwrap();
        std::fs::set_permissions(folder.path().join("open"), std::fs::Permissions::from_mode(0o644)).unwrap();
        let good = format!("sftpd:\n  privkey_filename: AT/key\n  server_pubkey: {PIN}\n");
        let (settings, warnings) = load(&folder, &good, Demand::Pass).unwrap();
        assert!(settings.sftpd.is_some() && !warnings.contains("no daemon"), "{warnings}");
        let mut cases = vec![
            (good.replace("AT/key", "AT/nowhere"), "`privkey_filename`: cannot read `"),
            (good.replace("AT/key", "AT/open"), "can be read by others"),
            (good.replace("AT/key", "AT/in"), "`privkey_filename`: "),
            (good.replace(&format!("  server_pubkey: {PIN}\n"), ""), "nobody could log in"),
            (good.replace(PIN, "nonsense"), "not an SSH public key"),
            (format!("{good}  listen_address: 10.0.0.1:x\n"), "for `listen_address`"),
        ];
        if !key::rsa() {
            cases.push((good.replace(PIN, RSA), "`server_pubkey`: "));
        }
        for (lines, want) in cases {
            let (settings, warnings) = load(&folder, &lines, Demand::Pass).unwrap();
            assert!(warnings.contains(want) && warnings.contains("no daemon"), "{want}: {warnings}");
            let complaint = settings.no_sftpd.unwrap();
            assert!(settings.sftpd.is_none() && complaint.message.contains(want), "{}", complaint.message);
            assert!(complaint.place.line > 2);
            for demand in [Demand::Daemon, Demand::All] {
                let said = load(&folder, &lines, demand).unwrap_err();
                assert!(said.contains(want) && said.contains("client.yml:"), "{said}");
            }
        }
        let two = good.replace("AT/key", "AT/nowhere").replace(PIN, "nonsense");
        let (settings, _) = load(&folder, &two, Demand::Pass).unwrap();
        let all = settings.no_sftpd.unwrap().message;
        assert!(
            all.contains("cannot read `") && all.contains("; 5:18: Invalid sftpd option: `server_pubkey`"),
            "{all}"
        );
        let said = load(&folder, &format!("{good}  lisen_port: 1\n"), Demand::Pass).unwrap_err();
        assert!(said.contains("unknown key \"lisen_port\""), "{said}");
    }

    #[test]
    fn an_empty_text_is_nothing_where_it_was_for_the_python_program() {
        let folder = tempfile::tempdir().unwrap();
        let lines = "log_filename: ''\nsystemd_exec: ''\nrc_service_exec: ' '\ndocker_url: URL\nsftpd:\n  log_filename: ''\n  \
            server_pubkey_filename: ''\n  privkey_filename: ''\n  log_level: null\n  socket_backlog: 0\nupdate_services:\n\
            - {type: systemd, name: a.service, action: ''}\n- {type: docker_container, name: a, action: ''}\n";
        for url in ["null", "''"] {
            let (settings, warnings) = load(&folder, &lines.replace("URL", url), Demand::Pass).unwrap();
            assert_eq!(warnings, "");
            assert_eq!((&settings.log.file, &settings.log.library_file), (&None, &None));
            assert_eq!(settings.log.library_level, LogLevel::Error);
            assert!(settings.no_sftpd.unwrap().message.contains("is needed with --daemon"));
            let [Entry { updater: Updater::Unit(unit), .. }, Entry { updater: Updater::Container(container), .. }] =
                settings.updates.as_slice()
            else {
                panic!("{:?}", settings.updates);
            };
            assert_eq!((&unit.executable, unit.action.as_str()), (&None, "restart"));
            assert_eq!(container.engine.at, Address::Unix("/var/run/docker.sock".into()));
        }
        let _ = key::generate(&folder.path().join("key"), "x").unwrap();
        let lines = format!("sftpd: {{privkey_filename: AT/key, server_pubkey: {PIN}, socket_backlog: 0}}\n");
        let (settings, _) = load(&folder, &lines, Demand::Daemon).unwrap();
        assert_eq!(settings.sftpd.unwrap().backlog, 1);
    }

    #[test]
    fn an_update_that_will_fail_by_itself_refuses_no_config_but_a_check_says_it() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        let of = |entry: &str| format!("rc_service_exec: /nowhere/service\nupdate_services:\n- {entry}\n");
        for (entry, want) in [
            ("{type: script, name: AT/script}", "must be executable; mend it with: chmod +x "),
            ("{type: script, name: /bin/true, cwd: /nowhere}", "`cwd` must be a directory that exists"),
            ("{type: rc, name: nginx}", "Invalid value \"/nowhere/service\" for `rc_service_exec`"),
        ] {
            for demand in [Demand::Pass, Demand::Daemon] {
                let (settings, warnings) = load(&folder, &of(entry), demand).unwrap();
                assert!(warnings.contains(want) && warnings.contains("Until then this update fails."), "{warnings}");
                assert_eq!(settings.updates.len(), 1);
            }
            assert!(load(&folder, &of(entry), Demand::All).unwrap_err().contains(want));
        }
        // A script that is not there was refused by the Python program too.
        let said = load(&folder, &of("{type: script, name: AT/nowhere}"), Demand::Pass).unwrap_err();
        assert!(said.contains("for `name`. `name` must be an executable"), "{said}");
        let said = load(&folder, &of("{type: script, name: /bin/true, args: [\"a\\0b\"]}"), Demand::Pass).unwrap_err();
        assert!(said.contains("`args` must hold no NUL"), "{said}");
        for (env, named) in [("'A=B': c", "A=B"), ("'': c", ""), ("OK: c, NUL: \"\\0\"", "NUL")] {
            let entry = format!("{{type: script, name: /bin/true, env: {{{env}}}}}");
            let said = load(&folder, &of(&entry), Demand::Pass).unwrap_err();
            assert!(said.contains(&format!("Invalid value \"{named}\" for `env`. `env` must have names")), "{said}");
        }
    }

    #[test]
    fn keys_that_the_python_program_did_not_read_are_taken_with_a_warning() {
        let folder = tempfile::tempdir().unwrap();
        let lines = "fail_fast: 5\ninit_timeout: true\nupdate_services:\n\
            - {type: docker_container, name: a, action: Reload, timeout: yes}\n- {type: systemd, name: a.service}\n";
        let (settings, warnings) = load(&folder, lines, Demand::All).unwrap();
        for want in ["`action: reload` is taken as `restart`", "`fail_fast` should be", "`init_timeout` should be"] {
            assert!(warnings.contains(want), "{want}: {warnings}");
        }
        assert!(settings.fail_fast);
        let [Entry { updater: Updater::Container(container), .. }, Entry { updater: Updater::Unit(unit), .. }] =
            settings.updates.as_slice()
        else {
            panic!("{:?}", settings.updates);
        };
        let one = Some(Duration::from_secs(1));
        assert!(matches!(container.action, Action::Restart) && container.grace == one && unit.timeout == one);
        let said = load(&folder, &lines.replace("action: Reload", "signal: HUPP"), Demand::All).unwrap_err();
        assert!(said.contains("Invalid value \"HUPP\" for `signal`. `signal` must be a signal like HUP"), "{said}");
        let said = load(&folder, &lines.replace("Reload", "Reload, signal: HUP"), Demand::All).unwrap_err();
        assert!(said.contains("`signal` and `exec` go with their own `action` only"), "{said}");
    }
}
