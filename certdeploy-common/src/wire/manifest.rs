//! What an upload is: its files with lengths and hashes, and what the pusher says of them. Pure.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::layout::{MANIFEST_LIMIT, PushId};
use crate::cert::{Bundle, Digest, Domain, FileName, Lineage};

/// The last file of an upload. Unknown fields are ignored, so that a later version can say more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of the contract, 1.
    pub version: u32,
    /// The push.
    pub push: PushId,
    /// The lineage.
    pub lineage: Lineage,
    /// The digest of the whole upload.
    pub digest: Digest,
    /// The names that the target needs this lineage for; the leaf must cover them.
    pub domains: BTreeSet<Domain>,
    /// The pusher's clock, in Unix seconds: an expired leaf is refused only if both clocks agree.
    pub time: i64,
    /// Whether an older or expired certificate is to be installed all the same and updates are to run again.
    #[serde(default)]
    pub force: bool,
    /// The leaf as PEM, so that a key can be checked though no certificate file is wanted.
    pub leaf: String,
    /// The files.
    pub files: Vec<Entry>,
}

/// What a pusher says of an upload beside its bytes.
#[derive(Debug, Clone)]
pub struct Claims {
    /// See [`Manifest::domains`].
    pub domains: BTreeSet<Domain>,
    /// See [`Manifest::leaf`].
    pub leaf: String,
    /// See [`Manifest::time`].
    pub time: i64,
    /// See [`Manifest::force`].
    pub force: bool,
}

/// One file of an upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub name: FileName,
    /// Its length in bytes.
    pub length: u64,
    /// SHA-256 of its bytes.
    pub sha256: Digest,
}

/// Why an upload is not what its manifest says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestFault {
    /// Not JSON, or not of this shape.
    #[error("the manifest cannot be read: {0}")]
    Unreadable(String),
    /// From a later version of the contract.
    #[error("the manifest is of version {0}; this client knows version 1")]
    Version(u32),
    /// The files are not the ones it lists.
    #[error("{0} is not what the manifest says")]
    File(FileName),
    /// The manifest belongs to another push.
    #[error("the manifest is of another push")]
    OtherPush,
}

impl Manifest {
    /// The manifest of `bundle`.
    #[must_use]
    pub fn of(push: PushId, lineage: Lineage, bundle: &Bundle, claims: Claims) -> Self {
        let entry = |(name, bytes): (FileName, &[u8])| Entry {
            name,
            length: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            sha256: Digest::of(bytes),
        };
        let files = bundle.files().map(entry).collect();
        let Claims { domains, leaf, time, force } = claims;
        Self { version: 1, push, lineage, digest: bundle.digest(), domains, time, force, leaf, files }
    }

    /// As it goes over the wire.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Strings and numbers only: there is nothing here that serde_json could refuse.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads what a peer sent.
    ///
    /// # Errors
    /// Not JSON, not a manifest, another version, too long.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestFault> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        if u64::try_from(bytes.len()).is_ok_and(|length| length > MANIFEST_LIMIT) {
            return Err(ManifestFault::Unreadable(format!("it is longer than {MANIFEST_LIMIT} bytes")));
        }
        let unreadable = |error: serde_json::Error| ManifestFault::Unreadable(error.to_string());
        let Version { version } = serde_json::from_slice(bytes).map_err(unreadable)?;
        if version != 1 {
            return Err(ManifestFault::Version(version));
        }
        serde_json::from_slice(bytes).map_err(unreadable)
    }

    /// Whether `bundle` is exactly what this manifest lists.
    ///
    /// # Errors
    /// Names the first file that is missing, too many or different.
    pub fn matches(&self, bundle: &Bundle) -> Result<(), ManifestFault> {
        for entry in &self.files {
            match bundle.file(entry.name) {
                Some(bytes) if Digest::of(bytes) == entry.sha256 => {}
                Some(_) | None => return Err(ManifestFault::File(entry.name)),
            }
        }
        let listed = |name: &FileName| self.files.iter().any(|entry| entry.name == *name);
        match bundle.names().into_iter().find(|name| !listed(name)) {
            Some(unlisted) => Err(ManifestFault::File(unlisted)),
            None if bundle.digest() != self.digest => Err(ManifestFault::Unreadable("its digest is wrong".to_owned())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeroize::Zeroizing;

    #[test]
    fn a_manifest_survives_the_wire_and_finds_every_difference() {
        let mut bundle = Bundle::default();
        bundle.insert(FileName::Fullchain, Zeroizing::new(b"chain".to_vec()));
        bundle.insert(FileName::Privkey, Zeroizing::new(b"key".to_vec()));
        let domains = BTreeSet::from(["example.com".parse().unwrap()]);
        let claims = Claims { domains, leaf: String::new(), time: 1_700_000_000, force: false };
        let manifest = Manifest::of(PushId::new([1; 16]), "example.com".parse().unwrap(), &bundle, claims);
        let read = Manifest::decode(&manifest.encode()).unwrap();
        assert_eq!(read, manifest);
        assert_eq!(read.matches(&bundle), Ok(()));
        assert_eq!(read.matches(&bundle.only(&[FileName::Privkey])), Err(ManifestFault::File(FileName::Fullchain)));
        let mut other = bundle.clone();
        other.insert(FileName::Privkey, Zeroizing::new(b"kez".to_vec()));
        assert_eq!(read.matches(&other), Err(ManifestFault::File(FileName::Privkey)));
        let mut more = bundle;
        more.insert(FileName::Cert, Zeroizing::new(b"cert".to_vec()));
        assert_eq!(read.matches(&more), Err(ManifestFault::File(FileName::Cert)));
    }

    #[test]
    fn what_is_no_manifest_is_refused_with_the_reason() {
        let refused = |text: &str| Manifest::decode(text.as_bytes()).unwrap_err().to_string();
        assert!(refused("{").starts_with("the manifest cannot be read"));
        assert_eq!(refused("{\"version\": 7}"), "the manifest is of version 7; this client knows version 1");
        assert!(refused(&"x".repeat(600_000)).contains("longer than 524288 bytes"));
    }
}
