//! OpenSSH's `known_hosts`: the text -> which keys a host may show and which it must not (sshd(8), "SSH_KNOWN_HOSTS
//! FILE FORMAT"). Pure; it must not decide what follows.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use certdeploy_common::ssh::key::{self, KeyError};
use ring::hmac;
use russh::keys::PublicKey;

/// What a file says.
#[derive(Debug, Default)]
pub struct KnownHosts {
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    number: u32,
    mark: Mark,
    hosts: Hosts,
    key: Result<PublicKey, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    None,
    Revoked,
    Authority,
}

#[derive(Debug)]
enum Hosts {
    /// The line is a key alone.
    Any,
    /// `web1,*.example.com,!old.example.com`
    Patterns(Vec<String>),
    /// `|1|salt|hash`
    Hashed { salt: hmac::Key, hash: Vec<u8> },
}

/// Whether a line may be a key alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `known_hosts`: each line names its hosts.
    Hosts,
    /// The key file of one host, as `ssh-keygen` or `ssh-keyscan` writes it.
    Keys,
}

/// What a file says of one host; numbers are lines.
#[derive(Debug, Default)]
pub struct Found {
    /// Keys that it may show.
    pub keys: Vec<(u32, PublicKey)>,
    /// Keys that it must not show.
    pub revoked: Vec<(u32, PublicKey)>,
    /// Keys of authorities, which are not used.
    pub authorities: Vec<u32>,
    /// Why keys of other kinds are not used.
    pub unused: Vec<String>,
}

impl KnownHosts {
    /// Reads a file. The lines that say nothing come beside it, with the reason.
    #[must_use]
    pub fn parse(text: &str, form: Form) -> (Self, Vec<(u32, &'static str)>) {
        let mut lines = Vec::new();
        let mut strange = Vec::new();
        // Editors of Windows write a mark before the first line.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (number, text) in (1..).zip(text.lines().map(str::trim)) {
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            match line(number, text, form) {
                Ok(line) => lines.push(line),
                Err(reason) => strange.push((number, reason)),
            }
        }
        (Self { lines }, strange)
    }

    /// Whether there is a line that names hosts.
    #[must_use]
    pub fn names_hosts(&self) -> bool {
        self.lines.iter().any(|line| !matches!(line.hosts, Hosts::Any))
    }

    /// What it says of `host` at `port`. A port other than 22 has entries of its own, `[host]:port`; without any, those
    /// of the host count, as OpenSSH has it. Revoked is revoked in either.
    #[must_use]
    pub fn of(&self, host: &str, port: u16) -> Found {
        self.marked(host, port, |_| true)
    }

    /// What it revokes of them, and nothing else: of a host that is pinned elsewhere the other lines are not asked. Each
    /// hashed line costs an HMAC for each host.
    #[must_use]
    pub fn revoked(&self, host: &str, port: u16) -> Found {
        self.marked(host, port, |mark| mark == Mark::Revoked)
    }

    fn marked(&self, host: &str, port: u16, wanted: fn(Mark) -> bool) -> Found {
        let host = host.to_ascii_lowercase();
        let exact = format!("[{host}]:{port}");
        if port == 22 {
            return self.named(&[&host, &exact], wanted);
        }
        let found = self.named(&[&exact], wanted);
        let is_known = !(found.keys.is_empty() && found.authorities.is_empty() && found.unused.is_empty());
        let mut plain = self.named(&[&host], if is_known { |mark| mark == Mark::Revoked } else { wanted });
        plain.revoked.extend(found.revoked);
        plain.revoked.sort_by_key(|(line, _)| *line);
        plain.revoked.dedup_by_key(|(line, _)| *line);
        if is_known { Found { revoked: plain.revoked, ..found } } else { plain }
    }

    fn named(&self, names: &[&str], wanted: fn(Mark) -> bool) -> Found {
        let mut found = Found::default();
        let wanted = self.lines.iter().filter(|line| wanted(line.mark));
        for line in wanted.filter(|line| line.hosts.include(names)) {
            match (&line.key, line.mark) {
                (Ok(key), Mark::None) => found.keys.push((line.number, key.clone())),
                (Ok(key), Mark::Revoked) => found.revoked.push((line.number, key.clone())),
                (_, Mark::Authority) => found.authorities.push(line.number),
                (Err(error), Mark::None) => found.unused.push(error.clone()),
                // It could not be shown anyway.
                (Err(_), Mark::Revoked) => {}
            }
        }
        found
    }
}

fn line(number: u32, text: &str, form: Form) -> Result<Line, &'static str> {
    if let Some(key) = read(text) {
        let alone = Line { number, mark: Mark::None, hosts: Hosts::Any, key };
        return if form == Form::Keys { Ok(alone) } else { Err("it names no host") };
    }
    let (mark, rest) = match text.split_once(char::is_whitespace) {
        Some(("@revoked", rest)) => (Mark::Revoked, rest.trim_start()),
        Some(("@cert-authority", rest)) => (Mark::Authority, rest.trim_start()),
        Some((mark, _)) if mark.starts_with('@') => return Err("the marker is not known"),
        Some(_) | None => (Mark::None, text),
    };
    let (hosts, key) = rest.split_once(char::is_whitespace).ok_or("there is no key")?;
    let hosts = Hosts::parse(hosts).ok_or("the hashed host is damaged")?;
    let key = read(key).ok_or("there is no SSH public key")?;
    Ok(Line { number, mark, hosts, key })
}

/// A key, or why keys of its kind are not used; `None` if it is no key.
fn read(text: &str) -> Option<Result<PublicKey, String>> {
    match key::parse_public(text) {
        Err(KeyError::NotPublic) => None,
        read => Some(read.map_err(|error| error.to_string())),
    }
}

impl Hosts {
    fn parse(word: &str) -> Option<Self> {
        let Some(hashed) = word.strip_prefix("|1|") else {
            return Some(Self::Patterns(word.to_ascii_lowercase().split(',').map(str::to_owned).collect()));
        };
        let (salt, hash) = hashed.split_once('|')?;
        let bytes = |text: &str| STANDARD.decode(text).ok().filter(|bytes| bytes.len() == 20);
        // Made once: with many hashed lines and many targets most of the time goes into these.
        let salt = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &bytes(salt)?);
        Some(Self::Hashed { salt, hash: bytes(hash)? })
    }

    fn include(&self, names: &[&str]) -> bool {
        #[cfg(test)]
        tests::ASKED.with(|asked| asked.set(asked.get() + 1));
        match self {
            Self::Any => true,
            // ssh hashes one name alone, the one that comes first.
            Self::Hashed { salt, hash } => {
                names.first().is_some_and(|name| hmac::verify(salt, name.as_bytes(), hash).is_ok())
            }
            Self::Patterns(patterns) => {
                let fits = |pattern: &str| names.iter().any(|name| matches(pattern.as_bytes(), name.as_bytes()));
                let refused = patterns.iter().filter_map(|pattern| pattern.strip_prefix('!')).any(fits);
                !refused && patterns.iter().filter(|pattern| !pattern.starts_with('!')).any(|pattern| fits(pattern))
            }
        }
    }
}

/// `*` is any text, `?` any one character; nothing else is special. Linear in the product of the lengths.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while seen < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at + 1, seen));
                at += 1;
            }
            Some(byte) if *byte == b'?' || name.get(seen) == Some(byte) => {
                at += 1;
                seen += 1;
            }
            Some(_) | None => {
                let Some((after, from)) = star else { return false };
                star = Some((after, from + 1));
                (at, seen) = (after, from + 1);
            }
        }
    }
    pattern.iter().skip(at).all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIP+H3Nk/9uSa7LHNt8fvCPKKkNFnVE5SGC5tnthf6/OK";
    const B: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEuhX3Q690lnBhpfGHOs0j4CuCxE3E3jekWehvHRmVKt";
    const RSA: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQChxzhNZWbkC/umGy3OdP4QPcPBYly7c+tTMbelOIMGiYMwlrbwLbz9eds1wQ2f8RAm6oQjKX3oyBmjt98T0CxcbOcnj/MWwppBQ0o1hvkmVEtsLLJMC77OKYcIMYjaJxKYaPxb0HUtCqZc1YFyVOPHT++vCnOid4pmZPmF6Fqt2Q==";

    fn known(text: &str) -> KnownHosts {
        let (known, strange) = KnownHosts::parse(text, Form::Hosts);
        assert_eq!(strange, [], "{text}");
        known
    }

    /// A and B, as far as they are found.
    fn keys(found: &Found) -> String {
        let name = |(_, key): &(u32, PublicKey)| {
            if key.key_data() == key::parse_public(A).unwrap().key_data() { 'A' } else { 'B' }
        };
        found.keys.iter().map(name).collect()
    }

    #[test]
    fn hosts_are_found_by_name_port_wildcard_and_negation() {
        let text = format!(
            "# a comment\n\nWeb1,192.0.2.1 {A} root@web1\n[web1]:2222 {B}\n*.example.com,!old.example.com {A}\n\
             2001:db8::7 {B}\nw?b9 {A}\nweb1 {B}\n[web4]:22 {A}\n"
        );
        let known = known(&text);
        for (host, port, want) in [
            ("web1", 22, "AB"),
            ("WEB1", 22, "AB"),
            ("192.0.2.1", 22, "A"),
            ("web1", 2222, "B"),
            ("web1", 23, "AB"),
            ("a.example.com", 22, "A"),
            ("a.b.example.com", 22, "A"),
            ("example.com", 22, ""),
            ("old.example.com", 22, ""),
            ("2001:db8::7", 22, "B"),
            ("web9", 22, "A"),
            ("wb9", 22, ""),
            ("web4", 22, "A"),
            ("web2", 22, ""),
        ] {
            assert_eq!(keys(&known.of(host, port)), want, "{host}:{port}");
        }
    }

    #[test]
    fn hashed_hosts_as_openssh_writes_them_are_found() {
        // ssh-keygen -H of `web1.example.com` and `[web1.example.com]:2222`.
        let text = format!(
            "|1|JRr338zO9GeBgO9JcJ4mr76/7TE=|IaMmiI1zCkVdWVRMA4SOUZzUhs4= {A}\n\
             |1|5LK7YECXZYRXFyMASDWe3HArnK8=|JGHF+f9HpMOnme5AapgWiGqbw1o= {B}\n"
        );
        let known = known(&text);
        assert_eq!(keys(&known.of("web1.example.com", 22)), "A");
        assert_eq!(keys(&known.of("web1.example.com", 2222)), "B");
        assert_eq!(keys(&known.of("web2.example.com", 22)), "");
    }

    thread_local! {
        /// How many lines were asked about a host.
        pub(super) static ASKED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }

    /// How many lines are asked when the config says `text` of a host, and `known_hosts` has a hundred hashed lines and
    /// a revoked one.
    fn asked(text: &str) -> usize {
        let dir = tempfile::tempdir().unwrap();
        let line = format!("|1|JRr338zO9GeBgO9JcJ4mr76/7TE=|IaMmiI1zCkVdWVRMA4SOUZzUhs4= {A}\n");
        let file = dir.path().join("known_hosts");
        std::fs::write(&file, line.repeat(100) + &format!("@revoked * {B}\n")).unwrap();
        let file = file.display();
        let entry = format!("{{address: web1.example.com, domains: [a.example]{text}}}");
        let text = format!("privkey_filename: /k\nknown_hosts: {file}\nclient_configs: [{entry}]\n");
        ASKED.set(0);
        let parsed = crate::config::parse(std::path::Path::new("server.yml"), &text);
        assert!(parsed.is_ok(), "{parsed:?}");
        ASKED.get()
    }

    #[test]
    fn a_host_that_is_pinned_elsewhere_asks_only_what_is_revoked() {
        assert_eq!(asked(&format!(", pubkey: {A}")), 1);
        assert_eq!(asked(&format!(", pubkey: {A}, port: 2222")), 2, "by both of its names");
        assert_eq!(asked(""), 101);
    }

    #[test]
    fn marks_and_kinds_are_told_apart() {
        let text = format!("@revoked * {B}\n@cert-authority *.example.com {A}\nweb1 {A}\nweb1 {B}\nweb2 {RSA}\n");
        let known = known(&text);
        let found = known.of("web1", 2222);
        assert_eq!((keys(&found).as_str(), found.revoked.len(), found.revoked[0].0), ("AB", 1, 1));
        assert_eq!(known.of("x.example.com", 22).authorities, [2]);
        let found = known.of("web2", 22);
        assert_eq!(found.keys.len() + found.unused.len(), 1);
        assert_eq!(found.unused.is_empty(), key::rsa());
    }

    #[test]
    fn lines_that_say_nothing_are_named() {
        let text = format!("web1\n@new web1 {A}\n|1|x|y {A}\nweb1 ssh-ed25519 AAAA\nweb1 1024 37 123\n{A}\n");
        let (_, strange) = KnownHosts::parse(&text, Form::Hosts);
        assert_eq!(strange.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_byte_order_mark_hides_nothing() {
        assert_eq!(keys(&known(&format!("\u{feff}web1 {A}\n")).of("web1", 22)), "A");
    }

    #[test]
    fn the_key_file_of_a_host_may_hold_keys_alone() {
        let text = format!("# web1:22 SSH-2.0-OpenSSH\n{A} root@web1\nweb1 {B}\n{}\n", &B[12..]);
        let (known, strange) = KnownHosts::parse(&text, Form::Keys);
        assert_eq!(strange, []);
        assert!(known.names_hosts());
        assert_eq!(keys(&known.of("web1", 22)), "ABB");
        assert_eq!(keys(&known.of("web2", 22)), "AB");
    }

    #[test]
    fn patterns_match_as_a_shell_does_and_end_soon() {
        for (pattern, name, want) in
            [("*", "", true), ("a*c", "abbc", true), ("a*c", "abbd", false), ("?", "", false), ("a**", "a", true)]
        {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), want, "{pattern} {name}");
        }
        assert!(!matches("*a".repeat(2000).as_bytes(), "a".repeat(1999).as_bytes()));
    }
}
