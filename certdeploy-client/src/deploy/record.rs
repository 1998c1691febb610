//! What is known of a generation, written down inside it: what came, and what it was put in the place of. Reads no disk.

use std::collections::BTreeSet;

use certdeploy_common::cert::{Digest, Domain, FileName};
use serde::{Deserialize, Serialize};

/// What was deployed as one generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The digest of the files that came.
    pub digest: Digest,
    /// The files that came (`cert.pem` may be there without having come).
    pub files: Vec<FileName>,
    /// The leaf's serial number, in hex; empty when no certificate came.
    pub serial: String,
    /// The leaf's notBefore, in Unix seconds.
    pub not_before: i64,
    /// The leaf's notAfter, in Unix seconds.
    pub not_after: i64,
    /// The leaf's names.
    pub names: BTreeSet<Domain>,
    /// The digest of all files of the generation, those that were made or kept included. Older ones do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<Digest>,
    /// The `file_permissions` it was deployed with. Older ones do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permissions: Option<String>,
    /// What it was put back in the place of, when it is a rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instead: Option<Instead>,
}

/// What a rollback took out of use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instead {
    /// The digest of what is not wanted here.
    pub digest: Digest,
    /// The generation whose files were put back.
    pub from: u64,
    /// The certificate in it: with another set of files beside it, it is still the same. Older ones do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaf: Option<Leaf>,
    /// What was taken out of use before that, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<Unwanted>,
}

/// A certificate, as far as a record knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// Its serial number, in hex.
    pub serial: String,
    /// Its notBefore, in Unix seconds.
    pub not_before: i64,
    /// Its notAfter, in Unix seconds.
    pub not_after: i64,
}

/// What an earlier rollback took out of use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unwanted {
    /// The digest of the files that came.
    pub digest: Digest,
    /// The certificate in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaf: Option<Leaf>,
}

/// How many of them are remembered.
const REMEMBERED: usize = 32;

impl Record {
    fn leaf(&self) -> Option<Leaf> {
        // A bare key has none.
        (!self.serial.is_empty()).then(|| Leaf {
            serial: self.serial.clone(),
            not_before: self.not_before,
            not_after: self.not_after,
        })
    }

    /// What its place remembers when it is taken out of use, and generation `from` put there.
    #[must_use]
    pub fn taken_out(&self, from: u64) -> Instead {
        let earlier = self.instead.iter().flat_map(|earlier| {
            let last = Unwanted { digest: earlier.digest.clone(), leaf: earlier.leaf.clone() };
            std::iter::once(last).chain(earlier.before.iter().cloned())
        });
        Instead { digest: self.digest.clone(), from, leaf: self.leaf(), before: earlier.take(REMEMBERED).collect() }
    }
}

impl Instead {
    /// Whether it is about what came.
    #[must_use]
    pub fn is_about(&self, came: &Record) -> bool {
        let leaf = came.leaf();
        let same =
            |digest: &Digest, theirs: &Option<Leaf>| *digest == came.digest || (theirs.is_some() && *theirs == leaf);
        same(&self.digest, &self.leaf) || self.before.iter().any(|one| same(&one.digest, &one.leaf))
    }
}
