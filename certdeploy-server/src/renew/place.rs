//! Where certbot has its configs and hooks, seen from the lineages and from the words it is started with. Must not start it.

use std::path::{Path, PathBuf};

use certdeploy_common::daemon::unit::places::end;

/// certbot's own, unless it is told otherwise (`certbot(1)`, `--config-dir`).
const USUAL: &str = "/etc/letsencrypt";

/// certbot's directory: as it is told; else its usual one, if the lineages are those; else the one that has lineages and
/// their configs side by side, by its own name or by that to which links lead.
#[must_use]
pub fn directory(live: &Path, arguments: &[String]) -> PathBuf {
    directory_beside(live, arguments, Path::new(USUAL))
}

fn directory_beside(live: &Path, arguments: &[String], usual: &Path) -> PathBuf {
    if let Some(said) = argument(arguments, "--config-dir") {
        return PathBuf::from(said);
    }
    let real = end(live);
    if end(&usual.join("live")) == real {
        return usual.to_owned();
    }
    let beside = [live, &real].into_iter().filter_map(Path::parent);
    let own = beside.clone().find(|directory| directory.join("renewal").is_dir());
    own.or_else(|| live.parent()).unwrap_or(live).to_owned()
}

/// `--option value` or `--option=value`.
#[must_use]
pub fn argument<'a>(words: &'a [String], option: &str) -> Option<&'a str> {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == option {
            return words.next().map(String::as_str);
        }
        if let Some(value) = word.strip_prefix(option).and_then(|rest| rest.strip_prefix('=')) {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_certbot_are_found_in_both_ways_to_write_them() {
        let words = ["renew", "--work-dir", "/a", "--logs-dir=/b"].map(str::to_owned);
        assert_eq!(argument(&words, "--work-dir"), Some("/a"));
        assert_eq!(argument(&words, "--logs-dir"), Some("/b"));
        assert_eq!(argument(&words, "--config-dir"), None);
    }

    #[test]
    fn links_to_certbots_lineages_and_away_from_its_directory_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for made in ["usual/live", "other/live", "other/renewal", "moved", "bare/live"] {
            std::fs::create_dir_all(at(made)).unwrap();
        }
        for (link, to) in [("to-usual", "usual/live"), ("to-other", "other/live")] {
            std::os::unix::fs::symlink(at(to), at(link)).unwrap();
        }
        let told = ["--config-dir=/told".to_owned()];
        let of = |live: &str, words: &[String]| directory_beside(&at(live), words, &at("usual"));
        assert_eq!(of("usual/live", &told), Path::new("/told"));
        assert_eq!(of("usual/live", &[]), at("usual"));
        assert_eq!(of("to-usual", &[]), at("usual"));
        assert_eq!(of("other/live", &[]), at("other"));
        assert_eq!(of("to-other", &[]), at("other"));
        assert_eq!(of("bare/live", &[]), at("bare"));
        std::fs::remove_dir(at("usual/live")).unwrap();
        std::os::unix::fs::symlink(at("moved"), at("usual/live")).unwrap();
        assert_eq!(of("moved", &[]), at("usual"));
    }
}
