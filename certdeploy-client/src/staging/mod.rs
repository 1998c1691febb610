//! Where uploads arrive: names made safe, files written below a held directory, a commit that is one rename.
//! Whether an upload is any good is not known here.
//!
//! ```text
//! source/.incoming/.push-<id>/             a push of one of ours; complete once manifest.json is in it
//! source/.incoming/.session-<id>/<lineage>/ what a plain peer is putting; complete when its channel ends cleanly
//! source/.incoming/.plain-<id>-<lineage>/   such an upload, complete
//! ```

pub mod files;
pub mod path;
pub mod refusal;
pub mod scope;
pub mod session;
pub mod sweep;

use certdeploy_common::cert::Lineage;
use certdeploy_common::wire::PushId;

/// The directory below `source` that belongs to the receiver.
pub const INCOMING: &str = ".incoming";

/// A name below the incoming directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Staged {
    /// A push of one of ours.
    Push(PushId),
    /// A plain peer that has not ended.
    Session,
    /// A complete upload of a plain peer. Ids of these rise with time.
    Plain(PushId, Lineage),
}

impl Staged {
    /// Reads a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        if let Some(push) = PushId::of_directory(name) {
            return Some(Self::Push(push));
        }
        if name.strip_prefix(".session-").is_some_and(|id| id.parse::<PushId>().is_ok()) {
            return Some(Self::Session);
        }
        let (id, lineage) = name.strip_prefix(".plain-")?.split_once('-')?;
        Some(Self::Plain(id.parse().ok()?, lineage.parse().ok()?))
    }

    /// The name of a session's directory.
    #[must_use]
    pub fn session(id: &PushId) -> String {
        format!(".session-{id}")
    }

    /// The name of a complete upload of a plain peer.
    #[must_use]
    pub fn plain(id: &PushId, lineage: &Lineage) -> String {
        format!(".plain-{id}-{lineage}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_below_incoming_are_read_back_and_others_are_not_ours() {
        let id = PushId::new([9; 16]);
        let lineage: Lineage = "a-b.example".parse().unwrap();
        assert_eq!(Staged::parse(&id.directory()), Some(Staged::Push(id.clone())));
        assert_eq!(Staged::parse(&Staged::session(&id)), Some(Staged::Session));
        assert_eq!(Staged::parse(&Staged::plain(&id, &lineage)), Some(Staged::Plain(id, lineage)));
        for name in
            ["", ".plain-x-y", ".push-1", "example.com", ".plain-09090909090909090909090909090909-..", ".session-"]
        {
            assert_eq!(Staged::parse(name), None, "{name}");
        }
    }
}
