//! `file_permissions` -> [`Permissions`]: mode, owner and group of each kind of file, names of users looked up.

use std::fmt;

use certdeploy_common::cert::FileName;
use certdeploy_common::setting::mode::Mode;
use certdeploy_common::setting::{Complaint, Located, Problems};

use super::file::{KindPermissionsFile, PermissionsFile};

/// Mode and owner of one kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilePermissions {
    /// The mode.
    pub mode: Mode,
    /// Who it belongs to.
    pub owner: Ownership,
}

/// Who something belongs to, as far as that is to be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ownership {
    /// The owner, if it is to be changed.
    pub user: Option<u32>,
    /// The group, if it is to be changed.
    pub group: Option<u32>,
}

/// Modes and owners of what is deployed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permissions {
    /// `cert.pem`.
    pub cert: FilePermissions,
    /// `chain.pem`.
    pub chain: FilePermissions,
    /// `fullchain.pem`.
    pub fullchain: FilePermissions,
    /// `privkey.pem`.
    pub privkey: FilePermissions,
    /// The mode of lineage directories and generations, if it is configured; else 0755 for those that are made.
    pub directory: Option<Mode>,
    /// Who directories belong to.
    pub owner: Ownership,
}

impl Permissions {
    /// What holds when nothing is configured.
    pub const USUAL: Self = {
        let owner = Ownership { user: None, group: None };
        let certificate = FilePermissions { mode: Mode::new(0o644), owner };
        let privkey = FilePermissions { mode: Mode::new(0o600), owner };
        Self { cert: certificate, chain: certificate, fullchain: certificate, privkey, directory: None, owner }
    };

    /// Those of a kind of file.
    #[must_use]
    pub const fn file(&self, name: FileName) -> FilePermissions {
        match name {
            FileName::Cert => self.cert,
            FileName::Chain => self.chain,
            FileName::Fullchain => self.fullchain,
            FileName::Privkey => self.privkey,
        }
    }
}

impl fmt::Display for Ownership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |id: Option<u32>| id.map_or_else(|| "-".to_owned(), |id| id.to_string());
        write!(f, "{}:{}", show(self.user), show(self.group))
    }
}

/// As records keep it, to tell when it has changed.
impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in FileName::ALL {
            let FilePermissions { mode, owner } = self.file(name);
            write!(f, "{mode} {owner} ")?;
        }
        match self.directory {
            Some(mode) => write!(f, "{mode} {}", self.owner),
            None => write!(f, "- {}", self.owner),
        }
    }
}

/// Reads the section.
pub(super) fn permissions(file: PermissionsFile, problems: &mut Problems) -> Option<Permissions> {
    let owner = ownership(&file.owner, &file.group, problems);
    let common = Common { mode: file.mode.value, owner: owner.unwrap_or_default() };
    let kinds = [
        (FileName::Cert, file.cert.value),
        (FileName::Chain, file.chain.value),
        (FileName::Fullchain, file.fullchain.value),
        (FileName::Privkey, file.privkey.value),
    ];
    let [cert, chain, fullchain, privkey] = kinds.map(|(name, kind)| {
        let place = kind.mode.value.map_or(file.mode.place, |_| kind.mode.place);
        let read = common.file(name, &kind, problems);
        if let Some(read) = read.filter(|read| name == FileName::Privkey && read.mode.bits() & 0o004 != 0) {
            let mode = read.mode;
            problems.warn(
                place,
                format!("with mode {mode} everybody on this host can read private keys; 0640 and a `group` are safer"),
            );
        }
        read
    });
    Some(Permissions {
        cert: cert?,
        chain: chain?,
        fullchain: fullchain?,
        privkey: privkey?,
        directory: file.directory_mode.value,
        owner: owner?,
    })
}

/// What holds for every kind that says nothing else.
struct Common {
    mode: Option<Mode>,
    owner: Ownership,
}

impl Common {
    fn file(&self, name: FileName, kind: &KindPermissionsFile, problems: &mut Problems) -> Option<FilePermissions> {
        let own = ownership(&kind.owner, &kind.group, problems)?;
        let usual = Permissions::USUAL.file(name).mode;
        Some(FilePermissions {
            mode: kind.mode.value.or(self.mode).unwrap_or(usual),
            owner: Ownership { user: own.user.or(self.owner.user), group: own.group.or(self.owner.group) },
        })
    }
}

fn ownership(
    owner: &Located<Option<String>>,
    group: &Located<Option<String>>,
    problems: &mut Problems,
) -> Option<Ownership> {
    let user =
        id("owner", owner, problems, |name| nix::unistd::User::from_name(name).ok()?.map(|user| user.uid.as_raw()));
    let group =
        id("group", group, problems, |name| nix::unistd::Group::from_name(name).ok()?.map(|group| group.gid.as_raw()));
    Some(Ownership { user: user?, group: group? })
}

/// `Some(None)`: not given; `None`: wrong, and said so.
#[expect(clippy::option_option, reason = "the outer one is the verdict, the inner one the setting")]
fn id(
    key: &str,
    given: &Located<Option<String>>,
    problems: &mut Problems,
    look_up: impl FnOnce(&str) -> Option<u32>,
) -> Option<Option<u32>> {
    let Some(name) = &given.value else { return Some(None) };
    // The largest id means "as it is" to the system.
    let number = name.parse().ok().filter(|id| *id != u32::MAX);
    let found = number.or_else(|| look_up(name));
    if found.is_none() {
        let (kind, make) = if key == "owner" { ("user", "useradd") } else { ("group", "groupadd") };
        let must = format!("be the name or id of a {kind} of this host (`getent` lists them, `{make}` makes one)");
        problems.error(Complaint::value(given.place, name, key, &must));
    }
    found.map(Some)
}
