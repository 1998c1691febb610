//! A peer's path -> [`UploadPath`]: an allow-list of what may be named at all. Pure.

use certdeploy_common::cert::{FileName, Lineage};
use certdeploy_common::wire::{PushId, layout};

/// Everything a peer may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadPath {
    /// The root.
    Root,
    /// The virtual file with what is held.
    Holdings,
    /// The directory of a push.
    Push(PushId),
    /// A file of a push.
    PushFile(PushId, PushName),
    /// A directory of a plain peer.
    Lineage(Lineage),
    /// A file of a plain peer.
    LineageFile(Lineage, PlainName),
}

/// The names inside a lineage's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlainName {
    /// One of the four.
    File(FileName),
    /// One of the four under another name, from which its peer renames it when it is whole (`lftp`, `rclone`).
    Part(FileName),
    /// What certbot lays beside them in `live/`, and `scp -r` brings along. Nobody reads it.
    Readme,
    /// The same on its way.
    ReadmePart,
}

impl PlainName {
    /// What it is called on disk: a peer's own spelling of a temporary name stays a word.
    #[must_use]
    pub fn on_disk(self) -> &'static str {
        match self {
            Self::File(name) => name.as_str(),
            Self::Part(FileName::Cert) => "cert.part",
            Self::Part(FileName::Chain) => "chain.part",
            Self::Part(FileName::Fullchain) => "fullchain.part",
            Self::Part(FileName::Privkey) => "privkey.part",
            Self::Readme => "README",
            Self::ReadmePart => "README.part",
        }
    }

    /// The most bytes it may have.
    #[must_use]
    pub fn limit(self) -> u64 {
        match self {
            Self::File(name) | Self::Part(name) => name.limit(),
            Self::Readme | Self::ReadmePart => 16 * 1024,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        if let Ok(name) = text.parse() {
            return Some(Self::File(name));
        }
        let temporary = text.starts_with('.') || TEMPORARY.iter().any(|end| text.ends_with(end));
        let readme = Self::Readme.on_disk();
        if text == readme {
            return Some(Self::Readme);
        }
        if temporary && text.contains(readme) {
            return Some(Self::ReadmePart);
        }
        // The longest: `fullchain.pem` ends in `chain.pem`.
        let inside = FileName::ALL.into_iter().filter(|name| text.contains(name.as_str()));
        inside.max_by_key(|name| name.as_str().len()).filter(|_| temporary).map(Self::Part)
    }
}

/// How temporary names end that do not begin with a dot.
const TEMPORARY: [&str; 4] = [".part", ".partial", ".filepart", ".tmp"];

/// The names inside a push directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushName {
    /// One of the four.
    File(FileName),
    /// The manifest on its way.
    ManifestPart,
    /// The manifest: only as the target of the rename that commits.
    Manifest,
    /// The virtual file with the verdict.
    Receipt,
}

/// Why a path is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// It goes up and out.
    #[error("`..` leads out of what may be named")]
    Up,
    /// It is not among what may be named.
    #[error(
        "only <lineage>/{{cert,chain,fullchain,privkey}}.pem can be put here; the `path` of a target is empty, or this \
         client's `source`"
    )]
    NotAllowed,
    /// It is absolute and leads elsewhere.
    #[error("the path is not below `{0}`, this client's `source`; set the target's `path` to it or to null")]
    Elsewhere(String),
}

/// The default of a target's `path`: means the root, whatever `source` is.
const DEFAULT_PATH: &str = "/var/cache/certdeploy";

/// Reads a peer's path; `source` is what the root is called on disk, and peers may say so.
///
/// # Errors
/// See [`BadPath`].
pub fn parse(path: &str, source: &str) -> Result<UploadPath, BadPath> {
    let below = below(path, source).or_else(|| below(path, DEFAULT_PATH));
    let inside = below.unwrap_or(path);
    let mut parts = Vec::new();
    for part in inside.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.pop().is_some() => {}
            ".." => return Err(BadPath::Up),
            part => parts.push(part),
        }
    }
    match parts.as_slice() {
        [] => Ok(UploadPath::Root),
        [one] => directory(one),
        [one, file] => named(one, file),
        _ if path.starts_with('/') && below.is_none() => Err(BadPath::Elsewhere(source.to_owned())),
        _ => Err(BadPath::NotAllowed),
    }
}

fn below<'a>(path: &'a str, base: &str) -> Option<&'a str> {
    let base = base.trim_end_matches('/');
    path.strip_prefix(base).filter(|rest| !base.is_empty() && (rest.is_empty() || rest.starts_with('/')))
}

fn directory(name: &str) -> Result<UploadPath, BadPath> {
    if name == layout::HOLDINGS {
        return Ok(UploadPath::Holdings);
    }
    if let Some(push) = PushId::of_directory(name) {
        return Ok(UploadPath::Push(push));
    }
    name.parse().map(UploadPath::Lineage).map_err(|_| BadPath::NotAllowed)
}

fn named(directory_name: &str, file: &str) -> Result<UploadPath, BadPath> {
    match directory(directory_name)? {
        UploadPath::Push(push) => {
            let name = match file {
                layout::MANIFEST_PART => PushName::ManifestPart,
                layout::MANIFEST => PushName::Manifest,
                layout::RECEIPT => PushName::Receipt,
                other => PushName::File(other.parse().map_err(|()| BadPath::NotAllowed)?),
            };
            Ok(UploadPath::PushFile(push, name))
        }
        UploadPath::Lineage(lineage) => {
            let name = PlainName::parse(file).ok_or(BadPath::NotAllowed)?;
            Ok(UploadPath::LineageFile(lineage, name))
        }
        UploadPath::Root | UploadPath::Holdings | UploadPath::PushFile(..) | UploadPath::LineageFile(..) => {
            Err(BadPath::NotAllowed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(path: &str) -> String {
        match parse(path, "/certdeploy/staging") {
            Ok(UploadPath::LineageFile(lineage, file)) => format!("{lineage} {}", file.on_disk()),
            Ok(UploadPath::Lineage(lineage)) => format!("{lineage}"),
            Ok(other) => format!("{other:?}"),
            Err(error) => format!("{error:?}"),
        }
    }

    #[test]
    fn all_spellings_of_a_lineage_s_file_are_the_same() {
        for path in [
            "a.example/privkey.pem",
            "/a.example/privkey.pem",
            "/certdeploy/staging/a.example/privkey.pem",
            "/var/cache/certdeploy/a.example/privkey.pem",
            ".//a.example/./privkey.pem",
            "/a.example/../a.example/privkey.pem",
        ] {
            assert_eq!(show(path), "a.example privkey.pem", "{path}");
        }
        for path in
            ["", "/", ".", "/certdeploy/staging", "/certdeploy/staging/", "/var/cache/certdeploy", "/a.example/.."]
        {
            assert_eq!(show(path), "Root", "{path}");
        }
        assert_eq!(show("a.example/"), "a.example");
        assert_eq!(show("/.held.json"), "Holdings");
    }

    #[test]
    fn temporary_names_are_those_of_the_four() {
        for (name, part) in [
            (".in.privkey.pem", "privkey.part"),
            (".in.fullchain.pem.", "fullchain.part"),
            (".chain.pem.0a0b.part", "chain.part"),
            ("cert.pem.1a2b3c4d.partial", "cert.part"),
            ("fullchain.pem.filepart", "fullchain.part"),
            ("fullchain.pem.tmp", "fullchain.part"),
            ("README", "README"),
            (".in.README", "README.part"),
        ] {
            assert_eq!(show(&format!("a.example/{name}")), format!("a.example {part}"));
        }
        for name in ["privkey.pem.bak", "privkey.pem~", "xprivkey.pem", "privkey.part", ".part", ".ssh", "README.pem"] {
            assert_eq!(show(&format!("a.example/{name}")), "NotAllowed", "{name}");
        }
    }

    #[test]
    fn nothing_leads_out() {
        for path in [
            "../etc/passwd",
            "/certdeploy/staging/../x",
            "a/../../b",
            "....//x",
            "/certdeploy/staging-evil/privkey.pem",
            "/etc/cron.d/privkey.pem",
            "a.example/.ssh",
            "a.example/authorized_keys",
            "a/b/c",
            ".push-1/privkey.pem",
            "/.push-00000000000000000000000000000000/x",
            "a\0b",
            "é/privkey.pem",
            "/.held.json/privkey.pem",
        ] {
            let parsed = parse(path, "/certdeploy/staging");
            assert!(parsed.is_err(), "{path}: {parsed:?}");
        }
        assert!(show("/srv/other/a.example/privkey.pem").starts_with("Elsewhere"));
    }
}
