//! Who may push: keys as the config writes them -> [`Pusher`]s, each with what it may upload. It reads the file that
//! `server_pubkey_filename` names and nothing else.

use std::collections::BTreeSet;
use std::path::Path;

use certdeploy_common::cert::Lineage;
use certdeploy_common::fs::bounded;
use certdeploy_common::setting::value::{Given, List, Maybe, Text};
use certdeploy_common::setting::yaml::{Content, Node};
use certdeploy_common::setting::{Complaint, Kind, Located, Place, Problems, Section, Value};
use certdeploy_common::settings;
use certdeploy_common::ssh::key;
use russh::keys::PublicKey;
use serde::{Deserialize, Serialize};

use super::file::SftpdFile;

/// The largest `server_pubkey_filename`, in bytes.
const KEYS: u64 = 64 * 1024;

settings! {
    /// Keys of an entry of `server_pubkey` that is a mapping.
    pub struct PusherFile ("server_pubkey option") {
        pubkey: Text = required, old [], "The public key of this pusher, as one line.";
        lineages: Given<List<Text>> = unset, old [], "The lineages it may upload; it sees no others either. Not given: all.";
        username: Maybe<Text> = yaml "null", old [], "The name it must log in with. Not given: the `username` above.";
    }
}

/// One entry of `server_pubkey`: a key alone, or a mapping.
#[derive(Debug)]
pub struct PusherEntry;
impl Value for PusherEntry {
    type Out = PusherFile;
    const KIND: Kind = Kind {
        name: "text or mapping",
        expected: "be a public key as one line, or a mapping with `pubkey`",
        valid: &["ssh-ed25519 AAAA", "{pubkey: ssh-ed25519 AAAA, lineages: [a.example]}"],
        invalid: &["[[a]]"],
        inside: Some(PusherFile::SETTINGS),
    };
    fn read(key: &str, node: Node, problems: &mut Problems) -> Result<PusherFile, Complaint> {
        let place = node.place;
        let found = node.kind();
        let message = format!(
            "Invalid sftpd option: `{key}`: expected a mapping of keys (`pubkey: ...`) or a public key as one line, found {found}"
        );
        let refused = Complaint::new(place, message);
        match node.content {
            Content::Scalar { text, .. } => Ok(PusherFile {
                pubkey: Located { value: text, place },
                lineages: Located { value: None, place },
                username: Located { value: None, place },
            }),
            Content::Map(map) => {
                let before = problems.errors.len();
                PusherFile::read_map(place, map, problems).ok_or_else(|| {
                    // What is wrong inside has been said with its own place.
                    if problems.errors.len() > before { problems.errors.pop().unwrap_or(refused) } else { refused }
                })
            }
            Content::Null | Content::List(_) => Err(refused),
        }
    }
}

/// Which lineages somebody may upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// All.
    All,
    /// These.
    Only(BTreeSet<Lineage>),
}

impl Scope {
    /// Whether `lineage` is among them.
    #[must_use]
    pub fn allows(&self, lineage: &Lineage) -> bool {
        match self {
            Self::All => true,
            Self::Only(lineages) => lineages.contains(lineage),
        }
    }
}

/// Somebody who may push.
#[derive(Debug, Clone)]
pub struct Pusher {
    /// The name it logs in with.
    pub username: String,
    /// Its key.
    pub key: PublicKey,
    /// What it may upload.
    pub scope: Scope,
}

/// All who may push; what is wrong goes to `problems`.
pub(super) fn pushers(place: Place, file: &SftpdFile, problems: &mut Problems) -> Option<Vec<Pusher>> {
    let before = problems.errors.len();
    let found = match &file.server_pubkey_filename.value {
        Some(path) => {
            unread(file, problems);
            from_file(path, file, problems)
        }
        None => written(file, problems),
    };
    if problems.errors.len() > before {
        return None;
    }
    if found.is_empty() {
        let message = "Invalid sftpd option: neither `server_pubkey` nor `server_pubkey_filename`: nobody could log in; give the content of the server's `.pub` file";
        problems.error(Complaint::new(place, message));
        return None;
    }
    let mut pushers: Vec<Pusher> = Vec::with_capacity(found.len());
    for Located { value: pusher, place } in found {
        let same = pushers.iter().find(|other| other.key.key_data() == pusher.key.key_data());
        if same.is_some_and(|other| other.scope != pusher.scope) {
            let key = key::fingerprint(&pusher.key);
            let message = format!(
                "Invalid sftpd option: `server_pubkey`: the key {key} stands here twice with different `lineages`; keep one of the two"
            );
            problems.error(Complaint::new(place, message));
            return None;
        }
        pushers.push(pusher);
    }
    Some(pushers)
}

/// The file of keys wins, as in certdeploy 0.5; but its keys may upload everything, which whoever named lineages does
/// not expect.
fn unread(file: &SftpdFile, problems: &mut Problems) {
    const BOTH: &str = "`server_pubkey` is not read beside `server_pubkey_filename`";
    for entry in &file.server_pubkey.value {
        let PusherFile { lineages, username, .. } = &entry.value;
        if lineages.value.is_some() {
            let message = format!(
                "Invalid sftpd option: {BOTH}, so its `lineages` would confine nobody; write all keys into `server_pubkey` and remove `server_pubkey_filename`"
            );
            problems.error(Complaint::new(entry.place, message));
        } else if username.value.is_some() {
            problems.warn(entry.place, format!("{BOTH}, so this `username` means nothing; remove one of the two"));
        }
    }
}

fn written(file: &SftpdFile, problems: &mut Problems) -> Vec<Located<Pusher>> {
    let mut pushers = Vec::new();
    for entry in &file.server_pubkey.value {
        let PusherFile { pubkey, lineages, username } = &entry.value;
        let scope = scope(lineages, problems);
        let (keys, strange) = keys(&pubkey.value);
        if let Some((_, cause)) = strange.first() {
            let message = format!("Invalid sftpd option: `server_pubkey`: {cause}");
            problems.error(Complaint::new(pubkey.place, message));
        }
        let Some(scope) = scope else { continue };
        let username = username.value.as_ref().unwrap_or(&file.username.value);
        pushers.extend(keys.into_iter().map(|key| Located {
            value: Pusher { username: username.clone(), key, scope: scope.clone() },
            place: entry.place,
        }));
    }
    pushers
}

fn scope(given: &Located<Option<Vec<Located<String>>>>, problems: &mut Problems) -> Option<Scope> {
    let Some(names) = &given.value else { return Some(Scope::All) };
    if names.is_empty() {
        let message = "Invalid server_pubkey option: `lineages` is empty, so this pusher could upload nothing; name its lineages, or leave `lineages` out for all";
        problems.error(Complaint::new(given.place, message));
        return None;
    }
    let mut lineages = BTreeSet::new();
    for name in names {
        match name.value.parse() {
            Ok(lineage) => _ = lineages.insert(lineage),
            Err(error) => {
                let message = format!("Invalid value \"{}\" for `lineages`. {error}", name.value);
                problems.error(Complaint::new(name.place, message));
            }
        }
    }
    (lineages.len() == names.len()).then_some(Scope::Only(lineages))
}

fn from_file(path: &Path, file: &SftpdFile, problems: &mut Problems) -> Vec<Located<Pusher>> {
    let place = file.server_pubkey_filename.place;
    let mut complain = |cause: &str| {
        let message = format!("Invalid sftpd option: `server_pubkey_filename`: {cause}");
        problems.error(Complaint::new(place, message));
    };
    let text = match bounded::text(path, KEYS) {
        Ok(text) => text,
        Err(error) => {
            complain(&error.to_string());
            return Vec::new();
        }
    };
    let (keys, strange) = keys(&text);
    for (line, cause) in &strange {
        complain(&format!("`{}`, line {line}: {cause}", path.display()));
    }
    if keys.is_empty() && strange.is_empty() {
        complain(&format!("`{}` holds no key; expected lines like `ssh-ed25519 AAAA...`", path.display()));
    }
    let pusher = |key| Pusher { username: file.username.value.clone(), key, scope: Scope::All };
    keys.into_iter().map(|key| Located { value: pusher(key), place }).collect()
}

/// The keys of a text with one on each line, as in `authorized_keys`: empty lines and comments mean nothing. Then the
/// lines that are none, by number.
fn keys(text: &str) -> (Vec<PublicKey>, Vec<(usize, String)>) {
    let (mut keys, mut strange) = (Vec::new(), Vec::new());
    if text.contains("PRIVATE KEY-----") {
        return (keys, vec![(1, key::KeyError::IsPrivate.to_string())]);
    }
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim).enumerate();
    let mut lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).peekable();
    if lines.peek().is_none() && !text.contains('#') {
        strange.push((1, key::KeyError::NotPublic.to_string()));
    }
    for (number, line) in lines {
        match key::parse_public(line) {
            Ok(key) => keys.push(key),
            Err(error) => strange.push((number + 1, error.to_string())),
        }
    }
    (keys, strange)
}

#[cfg(test)]
mod tests {
    use super::*;
    use certdeploy_common::setting::list::read_section;
    use certdeploy_common::setting::yaml;

    const A: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIP+H3Nk/9uSa7LHNt8fvCPKKkNFnVE5SGC5tnthf6/OK";
    const B: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEuhX3Q690lnBhpfGHOs0j4CuCxE3E3jekWehvHRmVKt";

    /// Each pusher as `username letter lineages`, or what is wrong.
    fn read(text: &str) -> Result<Vec<String>, String> {
        let mut problems = Problems::default();
        let file: Option<SftpdFile> = read_section(yaml::parse(text).unwrap(), &mut problems);
        let found = file.and_then(|file| pushers(Place::default(), &file, &mut problems));
        let (errors, _) = problems.lines(Path::new("c"));
        let show = |pusher: Pusher| {
            let letter = if pusher.key.to_openssh().unwrap() == A { 'A' } else { 'B' };
            let scope = match pusher.scope {
                Scope::All => "*".to_owned(),
                Scope::Only(lineages) => lineages.iter().map(Lineage::as_str).collect::<Vec<_>>().join(","),
            };
            format!("{} {letter} {scope}", pusher.username)
        };
        match found {
            Some(found) if errors.is_empty() => Ok(found.into_iter().map(show).collect()),
            _ => Err(errors.join("\n")),
        }
    }

    #[test]
    fn one_key_a_list_and_mappings_with_what_they_may_upload() {
        for (text, want) in [
            (format!("server_pubkey: {A}"), vec!["certdeploy A *"]),
            (format!("username: u\nserver_pubkey: ['{A} comment', {B}]"), vec!["u A *", "u B *"]),
            (
                format!("server_pubkey:\n- {A}\n- {{pubkey: {B}, lineages: [b.example, a.example], username: other}}"),
                vec!["certdeploy A *", "other B a.example,b.example"],
            ),
            (format!("server_pubkey: {{pubkey: {A}, lineages: a.example}}"), vec!["certdeploy A a.example"]),
            (format!("server_pubkey: |\n  # both\n  {A}\n\n  {B}\n"), vec!["certdeploy A *", "certdeploy B *"]),
            (format!("server_pubkey: [{{pubkey: {A}, username: x}}, {A}]"), vec!["x A *", "certdeploy A *"]),
        ] {
            assert_eq!(read(&text).as_deref(), Ok(want.into_iter().map(str::to_owned).collect::<Vec<_>>().as_slice()));
        }
    }

    #[test]
    fn what_is_wrong_is_said_at_its_place() {
        for (text, want) in [
            (String::new(), "neither `server_pubkey` nor `server_pubkey_filename`: nobody could log in"),
            ("server_pubkey: []".to_owned(), "nobody could log in"),
            ("server_pubkey: x".to_owned(), "c:1:16: Invalid sftpd option: `server_pubkey`: not an SSH public key"),
            ("server_pubkey: ''".to_owned(), "`server_pubkey`: not an SSH public key"),
            (format!("server_pubkey: [{{pubkey: {A}, lineages: []}}]"), "`lineages` is empty"),
            (format!("server_pubkey: [{{pubkey: {A}, lineages: null}}]"), "`lineages` is empty"),
            (format!("server_pubkey: [{{pubkey: {A}, lineages: [../x]}}]"), "Invalid value \"../x\" for `lineages`"),
            (format!("server_pubkey: [{{pubkey: {A}, lineage: a}}]"), "(did you mean \"lineages\"?)"),
            ("server_pubkey: [{lineages: [a]}]".to_owned(), "missing required key `pubkey`"),
            (
                format!("server_pubkey:\n- {A}\n- {{pubkey: {A} again, lineages: [a.example]}}"),
                "c:3:3: Invalid sftpd option: `server_pubkey`: the key SHA256:",
            ),
        ] {
            let said = read(&text).unwrap_err();
            assert!(said.contains(want), "{text}:\n{said}\nlacks {want}");
        }
    }

    #[test]
    fn a_file_of_keys_wins_and_may_have_comments() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let text = format!("server_pubkey: x\nserver_pubkey_filename: {}\n", path.display());
        assert!(read(&text).unwrap_err().contains("cannot read `"));
        std::fs::write(&path, format!("# old and new\n{B} one\r\n\n  {A}\n")).unwrap();
        assert_eq!(read(&text).unwrap(), ["certdeploy B *", "certdeploy A *"]);
        std::fs::write(&path, format!("{A}\nrestrict {B}\n")).unwrap();
        assert!(read(&text).unwrap_err().contains("/keys`, line 2: not an SSH public key"));
        std::fs::write(&path, "# none yet\n").unwrap();
        assert!(read(&text).unwrap_err().contains("holds no key"));
        std::fs::write(&path, B).unwrap();
        let beside =
            |entry: &str| read(&format!("server_pubkey:\n- {entry}\nserver_pubkey_filename: {}\n", path.display()));
        assert_eq!(beside(&format!("{{pubkey: {A}, username: x}}")).unwrap(), ["certdeploy B *"]);
        let said = beside(&format!("{{pubkey: {A}, lineages: a.example}}")).unwrap_err();
        assert!(said.contains("c:2:3: ") && said.contains("would confine nobody"), "{said}");
    }
}
