//! What certbot's own configs and hooks say it will do. It decides nothing, and follows no program.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use certdeploy_common::fs::text;

/// Whose home a plugin looks into when nothing else is said: the unit's user.
const HOME: &str = "/root";

/// What certbot's configs and hooks say it will do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Certbot {
    /// Where it writes besides its own directories.
    pub webroots: BTreeSet<PathBuf>,
    /// What else its configs name: credentials of a DNS plugin, and all other paths.
    pub reads: BTreeSet<PathBuf>,
    /// Its working directories, where a config says another.
    pub work: BTreeSet<PathBuf>,
    /// The directories of its logs, where a config says another.
    pub logs: BTreeSet<PathBuf>,
    /// Its directories of configs, where a config says another.
    pub configs: BTreeSet<PathBuf>,
    /// Whether it listens itself.
    pub listens: bool,
    /// Programs and plugins of which nothing is known.
    pub unknown: BTreeSet<String>,
}

impl Certbot {
    /// Reads what is below certbot's directory, its general configs, and `more` of these; what cannot be read is unknown.
    pub(super) fn look(directory: &Path, more: impl Iterator<Item = PathBuf>) -> Self {
        let mut found = Self::default();
        let general = [directory.to_owned(), "/etc/letsencrypt".into(), Path::new(HOME).join(".config/letsencrypt")];
        let general: BTreeSet<PathBuf> = general.iter().map(|folder| folder.join("cli.ini")).collect();
        let general = general.into_iter().filter(|path| path.exists()).chain(more);
        for path in files(&directory.join("renewal")).into_iter().chain(general) {
            match text::read(&path) {
                Ok(text) => found.config(&text),
                Err(error) => _ = found.unknown.insert(error.to_string()),
            }
        }
        for when in ["pre", "deploy", "post"] {
            for path in files(&directory.join("renewal-hooks").join(when)) {
                let end = path.canonicalize().unwrap_or_else(|_| path.clone());
                if end.file_name().is_none_or(|name| name != "certdeploy-server") {
                    found.unknown.insert(format!("the hook {}", path.display()));
                }
            }
        }
        found
    }

    /// Reads one file of `renewal/`, lines `key = value` and a section of webroots; or `cli.ini`, whose keys are options.
    fn config(&mut self, text: &str) {
        let mut webroots = false;
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
            if line.starts_with('[') {
                webroots = line == "[[webroot_map]]";
                continue;
            }
            let Some((key, value)) = pair(line) else { continue };
            let paths = paths(value);
            self.reads.extend(paths.iter().cloned());
            match key.trim_start_matches('-').replace('-', "_").as_str() {
                _ if webroots => self.webroots.extend(paths),
                "webroot_path" | "w" => self.webroots.extend(paths),
                "work_dir" => self.work.extend(paths),
                "logs_dir" => self.logs.extend(paths),
                "config_dir" => self.configs.extend(paths),
                key @ ("authenticator" | "installer") => self.plugin(key, value),
                "configurator" | "a" | "i" => self.plugin("configurator", value),
                key if is_yes(value) && is_plugin(key) => self.plugin("plugin", &key.replace('_', "-")),
                key if key.ends_with("_hook") && !is_nothing(value) && !is_ours(value) => {
                    self.unknown.insert(format!("the hook `{value}`"));
                }
                _ => {}
            }
        }
    }

    /// A plugin is chosen as `key`.
    fn plugin(&mut self, key: &str, value: &str) {
        match value {
            "standalone" => self.listens = true,
            "webroot" => {}
            // Their usual places of credentials, which no config of certbot's names.
            "dns-route53" => _ = self.reads.insert(Path::new(HOME).join(".aws")),
            "dns-google" => _ = self.reads.insert(Path::new(HOME).join(".config/gcloud")),
            dns if dns.starts_with("dns-") => {}
            nothing if is_nothing(nothing) => {}
            unknown => _ = self.unknown.insert(format!("certbot's {key} {unknown}")),
        }
    }
}

/// `key = value`, and as `cli.ini` may have it also `key: value` and `key value`.
fn pair(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once('=').or_else(|| line.split_once(':')).or_else(|| line.split_once(' '))?;
    Some((key.trim(), value.trim().trim_matches(['"', '\''])))
}

/// The absolute paths in a value, which may be a list with commas.
fn paths(value: &str) -> Vec<PathBuf> {
    let words = value.split(',').map(|word| word.trim().trim_matches(['"', '\'']));
    let path = |word: &str| match word.strip_prefix("~/") {
        Some(rest) => Some(Path::new(HOME).join(rest)),
        None => word.starts_with('/').then(|| PathBuf::from(word)),
    };
    words.filter_map(path).collect()
}

fn is_nothing(value: &str) -> bool {
    ["None", "null", ""].contains(&value)
}

fn is_yes(value: &str) -> bool {
    ["true", "yes", "1"].contains(&value.to_ascii_lowercase().as_str())
}

/// Whether a key of `cli.ini` without a value of its own chooses a plugin.
fn is_plugin(key: &str) -> bool {
    ["standalone", "webroot", "nginx", "apache", "manual"].contains(&key) || key.starts_with("dns_")
}

/// Whether a hook is our own program and nothing more: a line with blanks is for a shell.
fn is_ours(value: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    value.chars().all(plain) && Path::new(value).file_name().is_some_and(|name| name == "certdeploy-server")
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = directory.read_dir().into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set<const N: usize>(paths: [&str; N]) -> BTreeSet<PathBuf> {
        paths.map(PathBuf::from).into()
    }

    #[test]
    fn certbot_s_configs_say_what_it_needs() {
        let mut certbot = Certbot::default();
        certbot.config(
            "cert = /etc/letsencrypt/live/a/cert.pem\n[renewalparams]\nauthenticator = webroot\ninstaller = None\n\
             webroot_path = /srv/a,\nrenew_hook = /usr/bin/certdeploy-server\n[[webroot_map]]\na.example = /srv/b\n",
        );
        assert_eq!(certbot.webroots, set(["/srv/a", "/srv/b"]));
        assert!(certbot.unknown.is_empty() && !certbot.listens, "{certbot:?}");
        certbot.config("authenticator = standalone\npre_hook = systemctl stop nginx\ninstaller = nginx\n");
        assert!(certbot.listens);
        assert_eq!(certbot.unknown.len(), 2, "{certbot:?}");
        certbot.config("renew_hook = /bin/sh x; certdeploy-server\n");
        assert_eq!(certbot.unknown.len(), 3, "{certbot:?}");
    }

    #[test]
    fn credentials_are_read_wherever_they_are() {
        let mut certbot = Certbot::default();
        certbot.config(
            "[renewalparams]\nauthenticator = dns-cloudflare\ndns_cloudflare_credentials = /root/cf.ini\n\
             x = /home/a, \"/tmp/b\"\ny = ~/.secrets/c\n",
        );
        assert_eq!(certbot.reads, set(["/root/cf.ini", "/home/a", "/tmp/b", "/root/.secrets/c"]));
        certbot.config("authenticator = dns-route53\n");
        certbot.config("authenticator = dns-google\n");
        assert!(certbot.reads.is_superset(&set(["/root/.aws", "/root/.config/gcloud"])), "{certbot:?}");
        assert!(certbot.unknown.is_empty(), "{certbot:?}");
    }

    #[test]
    fn cli_ini_is_read_as_well() {
        let mut certbot = Certbot::default();
        certbot.config(
            "# deploy-hook = no\nmax-log-backups = 0\npreconfigured-renewal = True\nwork-dir = /srv/w\nlogs_dir: /srv/l\n\
             standalone = True\nwebroot-path /srv/r\ndns-route53 = true\ndeploy-hook = certdeploy-server\n",
        );
        assert_eq!(
            (&certbot.work, &certbot.logs, &certbot.webroots),
            (&set(["/srv/w"]), &set(["/srv/l"]), &set(["/srv/r"]))
        );
        assert!(certbot.listens && certbot.unknown.is_empty(), "{certbot:?}");
        assert!(certbot.reads.contains(Path::new("/root/.aws")));
        certbot.config("pre-hook = systemctl stop nginx\nnginx = True\n");
        assert_eq!(certbot.unknown.len(), 2, "{certbot:?}");
    }
}
