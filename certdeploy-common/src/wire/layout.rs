//! Names on the wire. Pure.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::cert::FileName;

/// The SFTP extension in the VERSION reply of a certdeploy-client; its data is [`VERSION`].
pub const EXTENSION: &str = "push@certdeploy";
/// The version of this contract.
pub const VERSION: &str = "1";
/// The manifest in a push directory; its being there means the upload is complete.
pub const MANIFEST: &str = "manifest.json";
/// The manifest on its way. Temporary names never end in `.pem`.
pub const MANIFEST_PART: &str = "manifest.json.part";
/// The virtual file in a push directory that answers with the receipt.
pub const RECEIPT: &str = "receipt.json";
/// The virtual file in the root that answers with everything held.
pub const HOLDINGS: &str = ".held.json";
/// The largest manifest, in bytes: the leaf of the longest chain that is taken, and all its names.
pub const MANIFEST_LIMIT: u64 = 512 * 1024;
/// The largest receipt or list of holdings that a pusher reads, in bytes.
pub const RECEIPT_LIMIT: u64 = 4 * 1024 * 1024;

const PUSH_PREFIX: &str = ".push-";

/// Names one push: 32 hex digits, random, chosen by the pusher.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PushId(String);

impl PushId {
    /// Makes an id out of 16 random bytes.
    #[must_use]
    pub fn new(random: [u8; 16]) -> Self {
        Self(format!("{:032x}", u128::from_be_bytes(random)))
    }

    /// The push directory's name.
    #[must_use]
    pub fn directory(&self) -> String {
        format!("{PUSH_PREFIX}{}", self.0)
    }

    /// The push whose directory is called `name`.
    #[must_use]
    pub fn of_directory(name: &str) -> Option<Self> {
        name.strip_prefix(PUSH_PREFIX)?.parse().ok()
    }

    /// The hex digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path of one file of the push.
    #[must_use]
    pub fn file(&self, name: FileName) -> String {
        self.path(name.as_str())
    }

    /// The path of a name inside the push directory, absolute on the wire.
    #[must_use]
    pub fn path(&self, name: &str) -> String {
        format!("/{}/{name}", self.directory())
    }
}

impl FromStr for PushId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fine = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if fine { Ok(Self(text.to_owned())) } else { Err("a push id is 32 lower-case hex digits") }
    }
}

impl TryFrom<String> for PushId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<PushId> for String {
    fn from(id: PushId) -> Self {
        id.0
    }
}

impl fmt::Display for PushId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_has_a_directory_of_its_own() {
        let id = PushId::new([0xab; 16]);
        assert_eq!(id.directory(), format!(".push-{}", "ab".repeat(16)));
        assert_eq!(PushId::of_directory(&id.directory()), Some(id));
        for name in [".push-", ".push-../../etc", "push-abababababababababababababababab", ".push-AB"] {
            assert_eq!(PushId::of_directory(name), None, "{name}");
        }
    }
}
