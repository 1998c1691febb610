//! Which host keys a target may show: its `pubkey`, else its `pubkey_filename`, else its entries in `known_hosts`; never
//! one that `known_hosts` revokes. It reads these files and nothing else.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use certdeploy_common::fs::bounded;
use certdeploy_common::setting::{Complaint, Located, Place, Problems};
use certdeploy_common::ssh::key;
use russh::keys::PublicKey;

use super::file::TargetFile;
use super::known_hosts::{Form, Found, KnownHosts};

/// The largest `known_hosts`, in bytes.
pub const KNOWN_HOSTS: u64 = 4 * 1024 * 1024;
/// The largest `pubkey_filename`, in bytes.
const KEYS: u64 = 64 * 1024;

/// Whether a target without a pin is a mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Yes: nothing goes to a host that could be anybody.
    Pinned,
    /// No, nor are pins that cannot be read: `enroll` is about to get one.
    Anything,
    /// They are not looked at: the hook sends nothing, and a renewal must not be lost or wait for what only a push needs.
    NotNow,
}

/// What is known of host keys beside the entries of targets.
pub struct PinBook {
    demand: Demand,
    path: Option<PathBuf>,
    known: KnownHosts,
    file: u16,
    /// Lines about authorities that were warned about.
    authorities: BTreeSet<u32>,
}

impl PinBook {
    /// Reads the file that `known_hosts` names. One that is missing says nothing: `enroll` makes it.
    pub fn open(written: &Located<Option<PathBuf>>, demand: Demand, problems: &mut Problems) -> Self {
        let path = written.value.clone();
        let mut book = Self { demand, path, known: KnownHosts::default(), file: 0, authorities: BTreeSet::new() };
        let Some(path) = book.path.as_ref().filter(|_| demand != Demand::NotNow) else { return book };
        match bounded::text(path, KNOWN_HOSTS) {
            Ok(text) => {
                let (known, strange) = KnownHosts::parse(&text, Form::Hosts);
                book.file = problems.further(path.clone());
                for (line, reason) in strange {
                    problems.warn(book.place(line), format!("this line is ignored: {reason}"));
                }
                book.known = known;
            }
            Err(error) if error.is_missing() => {}
            Err(error) => {
                let message = format!("Invalid value \"{}\" for `known_hosts`. {error}", path.display());
                problems.error(Complaint::new(written.place, message));
            }
        }
        book
    }

    fn place(&self, line: u32) -> Place {
        Place { file: self.file, line: line.into(), column: 1 }
    }

    /// The keys of the target that is written as `entry`; what is wrong goes to `problems`.
    pub fn pins(
        &mut self,
        entry: &TargetFile,
        place: Place,
        host: Option<&str>,
        problems: &mut Problems,
    ) -> Vec<PublicKey> {
        if self.demand == Demand::NotNow {
            return Vec::new();
        }
        let mut complaints = Vec::new();
        let Some(host) = host else {
            written(entry, &mut complaints);
            self.complain(complaints, problems);
            return Vec::new();
        };
        let port = entry.port.value;
        let is_pinned = !entry.pubkey.value.is_empty() || entry.pubkey_filename.value.is_some();
        let found = if is_pinned { self.known.revoked(host, port) } else { self.known.of(host, port) };
        let pinned = if !entry.pubkey.value.is_empty() {
            written(entry, &mut complaints)
        } else if let Some(path) = &entry.pubkey_filename.value {
            from_file(path, host, port).unwrap_or_else(|cause| {
                let message = format!("Invalid value \"{}\" for `pubkey_filename`. {cause}", path.display());
                complaints.push(Complaint::new(entry.pubkey_filename.place, message));
                Vec::new()
            })
        } else {
            self.warn_of_authorities(host, &found, problems);
            found.keys.iter().map(|(_, key)| key.clone()).collect()
        };
        if pinned.is_empty() && complaints.is_empty() {
            complaints.push(Complaint::new(place, self.nothing_known(host, port, &found)));
        }
        self.complain(complaints, problems);
        unrevoked(pinned, place, host, &found, problems)
    }

    fn complain(&self, complaints: Vec<Complaint>, problems: &mut Problems) {
        if self.demand == Demand::Pinned {
            complaints.into_iter().for_each(|complaint| problems.error(complaint));
        }
    }

    fn warn_of_authorities(&mut self, host: &str, found: &Found, problems: &mut Problems) {
        for line in &found.authorities {
            if self.authorities.insert(*line) {
                let message = format!(
                    "`@cert-authority` is not used, host keys are pinned one by one: \
                     get that of {host} with `certdeploy-server enroll {host}`"
                );
                problems.warn(self.place(*line), message);
            }
        }
    }

    fn nothing_known(&self, host: &str, port: u16, found: &Found) -> String {
        let shown = shown(host, port);
        let why = match (&self.path, found.unused.first()) {
            (Some(path), Some(cause)) => format!("`{}` has no key of {shown} that is used: {cause}", path.display()),
            (Some(path), None) => format!(
                "the host key of {shown} is neither in `pubkey` nor in `pubkey_filename` nor in `{}`",
                path.display()
            ),
            (None, _) => format!(
                "the host key of {shown} is neither in `pubkey` nor in `pubkey_filename`, and `known_hosts` is not set"
            ),
        };
        let fetch = format!("get it with `certdeploy-server enroll {shown}`");
        format!("Invalid client config option: missing required key `pubkey`: {why}; {fetch}")
    }
}

/// What `enroll` calls a host.
#[must_use]
pub fn shown(host: &str, port: u16) -> String {
    match (port, host.contains(':')) {
        (22, _) => host.to_owned(),
        (_, true) => format!("[{host}]:{port}"),
        (_, false) => format!("{host}:{port}"),
    }
}

fn written(entry: &TargetFile, complaints: &mut Vec<Complaint>) -> Vec<PublicKey> {
    let mut keys = Vec::new();
    for line in &entry.pubkey.value {
        match key::parse_public(&line.value) {
            Ok(pin) => keys.push(pin),
            Err(error) => {
                let message = format!("Invalid value for client config option `pubkey`: {error}");
                complaints.push(Complaint::new(line.place, message));
            }
        }
    }
    keys
}

/// The keys in the file of one target. Lines of other hosts do not count: somebody may have named a whole `known_hosts`.
fn from_file(path: &Path, host: &str, port: u16) -> Result<Vec<PublicKey>, String> {
    let text = bounded::text(path, KEYS).map_err(|error| error.to_string())?;
    let (known, strange) = KnownHosts::parse(&text, Form::Keys);
    if let Some((line, reason)) = strange.first() {
        return Err(format!("Line {line}: {reason}; expected lines like `ssh-ed25519 AAAA...`"));
    }
    let found = known.of(host, port);
    let mut keys: Vec<PublicKey> = found.keys.into_iter().map(|(_, key)| key).collect();
    keys.retain(|key| !found.revoked.iter().any(|(_, revoked)| revoked.key_data() == key.key_data()));
    if !keys.is_empty() {
        return Ok(keys);
    }
    Err(match found.unused.into_iter().next() {
        Some(cause) => format!("It holds no key that is used: {cause}"),
        None if known.names_hosts() => format!("Its lines are about other hosts than {}", shown(host, port)),
        None => "It holds no host key; expected lines like `ssh-ed25519 AAAA...`".to_owned(),
    })
}

/// What is left without the revoked keys. If nothing is, the target stays without any: it is refused whatever it shows,
/// and the others go on.
fn unrevoked(
    mut keys: Vec<PublicKey>,
    place: Place,
    host: &str,
    found: &Found,
    problems: &mut Problems,
) -> Vec<PublicKey> {
    let revoked = |key: &PublicKey| found.revoked.iter().any(|(_, other)| other.key_data() == key.key_data());
    let before = keys.len();
    keys.retain(|key| !revoked(key));
    if keys.len() < before {
        let then =
            if keys.is_empty() { "nothing is sent to it until another key is pinned" } else { "it is not taken" };
        problems.warn(place, format!("a host key of {host} is `@revoked` in `known_hosts`: {then}"));
    }
    keys
}

#[cfg(test)]
mod tests {
    use crate::config::parse;

    const A: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIP+H3Nk/9uSa7LHNt8fvCPKKkNFnVE5SGC5tnthf6/OK";
    const B: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEuhX3Q690lnBhpfGHOs0j4CuCxE3E3jekWehvHRmVKt";

    struct Written(tempfile::TempDir);

    impl Written {
        fn new(known_hosts: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("known_hosts"), known_hosts).unwrap();
            Self(dir)
        }

        /// The pins of the first target as letters and the warnings, or what is wrong.
        fn read(&self, head: &str, entry: &str) -> Result<(String, Vec<String>), String> {
            let here = |text: &str| text.replace("HERE", &self.0.path().display().to_string());
            let (head, entry) = (here(head), here(entry));
            let text = format!(
                "privkey_filename: /key\n{head}client_configs:\n  - {{address: h, domains: [a.example]{entry}}}\n"
            );
            let (settings, warnings) =
                parse(&self.0.path().join("server.yml"), &text).map_err(|error| error.to_string())?;
            let letter = |pin: &russh::keys::PublicKey| if pin.to_openssh().unwrap() == A { 'A' } else { 'B' };
            let pins = settings.targets[0].pins.iter().map(letter).collect();
            Ok((pins, warnings.iter().map(ToString::to_string).collect()))
        }
    }

    const KNOWN: &str = "known_hosts: HERE/known_hosts\n";

    #[test]
    fn pubkey_comes_before_its_file_and_known_hosts_last() {
        let written = Written::new(&format!("h {A}\n"));
        std::fs::write(written.0.path().join("keys"), format!("# old and new\n{B} comment\n{A}\n")).unwrap();
        for (entry, want) in [
            (format!(", pubkey: [{B}]"), "B"),
            (format!(", pubkey: [{A}, {B}], pubkey_filename: HERE/keys"), "AB"),
            (", pubkey_filename: HERE/keys".to_owned(), "BA"),
            (String::new(), "A"),
        ] {
            let (pins, warnings) = written.read(KNOWN, &entry).unwrap();
            assert_eq!((pins.as_str(), warnings.len()), (want, 0), "{entry}");
        }
    }

    #[test]
    fn a_target_without_a_host_key_is_refused_with_the_command_that_gets_it() {
        let written = Written::new(&format!("other {A}\n@cert-authority h {A}\n"));
        let said = written.read("", ", port: 2222").unwrap_err();
        assert!(said.contains("server.yml:3:5: Invalid client config option: missing required key `pubkey`"), "{said}");
        assert!(said.contains("`known_hosts` is not set; get it with `certdeploy-server enroll h:2222`"), "{said}");
        let said = written.read(KNOWN, "").unwrap_err();
        assert!(said.contains("/known_hosts`; get it with `certdeploy-server enroll h`"), "{said}");
        let said = written.read("known_hosts: HERE/missing\n", "").unwrap_err();
        assert!(said.contains("/missing`; get it with"), "{said}");
        for (head, entry, want) in [
            ("", ", pubkey_filename: HERE/known_hosts", "Its lines are about other hosts than h"),
            ("", ", pubkey_filename: HERE/nowhere", "for `pubkey_filename`. cannot read `"),
            ("", ", pubkey: x, pubkey_filename: HERE/known_hosts", "option `pubkey`: not an SSH public key"),
            ("known_hosts: HERE\n", "", "for `known_hosts`. `"),
        ] {
            let said = written.read(head, entry).unwrap_err();
            assert!(said.contains(want), "{said}\nlacks {want}");
        }
    }

    #[test]
    fn a_revoked_key_is_none_wherever_it_is_pinned() {
        let written = Written::new(&format!("@revoked * {B}\nh {B}\nh {A}\n"));
        let (pins, warnings) = written.read(KNOWN, "").unwrap();
        assert_eq!(pins, "A");
        assert!(
            warnings[0].ends_with("a host key of h is `@revoked` in `known_hosts`: it is not taken"),
            "{warnings:?}"
        );
        let (pins, warnings) = written.read(KNOWN, &format!(", pubkey: [{B}]")).unwrap();
        assert_eq!(pins, "");
        assert!(warnings[0].contains("nothing is sent to it until another key is pinned"), "{warnings:?}");
    }

    #[test]
    fn lines_that_mean_nothing_or_are_not_used_are_warned_about_with_their_place() {
        let written = Written::new(&format!("h {A}\nnonsense\n@cert-authority * {B}\n"));
        let (pins, warnings) = written.read(KNOWN, "").unwrap();
        assert_eq!(pins, "A");
        assert!(warnings[0].ends_with("/known_hosts:2:1: this line is ignored: there is no key"), "{warnings:?}");
        assert!(warnings[1].contains("/known_hosts:3:1: `@cert-authority` is not used"), "{warnings:?}");
    }

    #[test]
    fn two_entries_of_one_target_with_other_pins_stay_a_mistake() {
        let written = Written::new(&format!("h {A}\n"));
        let second = format!("}}\n  - {{address: h, domains: [b.example], pubkey: {B}");
        let said = written.read(KNOWN, &second).unwrap_err();
        assert!(said.contains("two different entries are both called"), "{said}");
        let second = format!("}}\n  - {{address: h, domains: [b.example], pubkey: {A}");
        assert!(written.read(KNOWN, &second).is_ok());
    }
}
