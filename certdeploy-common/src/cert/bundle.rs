//! The PEM files of one lineage at one moment, and the digest that says what "the same" means.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::pem;

/// The four files of a lineage; the only file names that either end accepts.
///
/// In the order of upload: certificates first, the key last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FileName {
    /// The leaf certificate.
    #[serde(rename = "cert.pem")]
    Cert,
    /// The intermediates.
    #[serde(rename = "chain.pem")]
    Chain,
    /// Leaf and intermediates.
    #[serde(rename = "fullchain.pem")]
    Fullchain,
    /// The private key.
    #[serde(rename = "privkey.pem")]
    Privkey,
}

impl FileName {
    /// All four, in the order of upload.
    pub const ALL: [Self; 4] = [Self::Cert, Self::Chain, Self::Fullchain, Self::Privkey];

    /// The name on disk and on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cert => "cert.pem",
            Self::Chain => "chain.pem",
            Self::Fullchain => "fullchain.pem",
            Self::Privkey => "privkey.pem",
        }
    }

    /// The largest file of this name, in bytes.
    #[must_use]
    pub const fn limit(self) -> u64 {
        match self {
            Self::Cert | Self::Chain | Self::Fullchain => pem::CHAIN_LIMIT,
            Self::Privkey => pem::KEY_LIMIT,
        }
    }
}

impl FromStr for FileName {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|file| file.as_str() == name).ok_or(())
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The files of one lineage; their bytes are wiped when dropped and never printed.
#[derive(Clone, Default)]
pub struct Bundle {
    files: BTreeMap<FileName, Zeroizing<Vec<u8>>>,
}

impl Bundle {
    /// Adds or replaces a file.
    pub fn insert(&mut self, name: FileName, bytes: Zeroizing<Vec<u8>>) {
        self.files.insert(name, bytes);
    }

    /// One file's bytes.
    #[must_use]
    pub fn file(&self, name: FileName) -> Option<&[u8]> {
        self.files.get(&name).map(|bytes| bytes.as_slice())
    }

    /// All files, in the order of upload.
    pub fn files(&self) -> impl Iterator<Item = (FileName, &[u8])> {
        self.files.iter().map(|(name, bytes)| (*name, bytes.as_slice()))
    }

    /// The names, in the order of upload.
    #[must_use]
    pub fn names(&self) -> Vec<FileName> {
        self.files.keys().copied().collect()
    }

    /// Keeps only the files of `wanted`.
    #[must_use]
    pub fn only(&self, wanted: &[FileName]) -> Self {
        let kept = self.files.iter().filter(|(name, _)| wanted.contains(name));
        Self { files: kept.map(|(name, bytes)| (*name, bytes.clone())).collect() }
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// SHA-256 over name, NUL, length (8 bytes, big endian) and bytes of each file in the order of upload.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut hash = Sha256::new();
        for (name, bytes) in self.files() {
            hash.update(name.as_str());
            hash.update([0]);
            hash.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(bytes);
        }
        Digest(hex(&hash.finalize()))
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bundle").field(&self.names()).finish()
    }
}

/// What makes two bundles the same, as 64 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// SHA-256 of one file's bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(hex(&Sha256::digest(bytes)))
    }

    /// The hex digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Digest {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let fine = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if fine { Ok(Self(text)) } else { Err("a digest is 64 lower-case hex digits") }
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_depends_on_names_and_bytes_and_not_on_the_order_of_insertion() {
        let bundle = |files: &[(FileName, &str)]| {
            let mut bundle = Bundle::default();
            for (name, text) in files {
                bundle.insert(*name, Zeroizing::new(text.as_bytes().to_vec()));
            }
            bundle
        };
        let a = bundle(&[(FileName::Cert, "x"), (FileName::Privkey, "y")]);
        let b = bundle(&[(FileName::Privkey, "y"), (FileName::Cert, "x")]);
        assert_eq!(a.digest(), b.digest());
        assert_ne!(a.digest(), bundle(&[(FileName::Chain, "x"), (FileName::Privkey, "y")]).digest());
        assert_ne!(a.digest(), a.only(&[FileName::Cert]).digest());
        assert!(!format!("{a:?}").contains('y') || !format!("{a:?}").contains("\"y\""));
    }
}
