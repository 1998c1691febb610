//! What a client reports back: the verdict on one push, and what it holds of each lineage. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::layout::PushId;
use crate::cert::{Digest, Lineage};

/// The client's word on one push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The push it is about.
    pub push: PushId,
    /// The lineage; `None` when the manifest could not be read.
    pub lineage: Option<Lineage>,
    /// What became of it.
    pub verdict: Verdict,
    /// What the client holds of this lineage now, if anything.
    pub held: Option<Held>,
}

/// What became of a push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// Complete on disk; not looked at yet.
    Staged,
    /// Swapped in as a new generation.
    Deployed,
    /// The same files were already there; nothing was touched.
    Unchanged,
    /// Not taken, for good: the same files will be refused again.
    Refused {
        /// Why, as a sentence.
        reason: String,
    },
    /// Not taken now, for a reason on the client's side (disk full, ...): worth another try.
    Failed {
        /// Why, as a sentence.
        reason: String,
    },
}

/// One lineage as a client holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The digest of the files that were pushed.
    pub digest: Digest,
    /// The generation's number.
    pub generation: u64,
    /// The leaf's serial number, in hex.
    pub serial: String,
    /// Not valid after this time, in Unix seconds.
    pub not_after: i64,
    /// Whether what uses the files has been told.
    pub update: Update,
}

/// The state of the updates of one generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "update", rename_all = "snake_case")]
pub enum Update {
    /// Not run yet.
    Pending {
        /// When they will run, in Unix seconds.
        due: i64,
    },
    /// All ran and succeeded (or there are none).
    Done,
    /// At least one failed.
    Failed {
        /// Which, and why.
        reason: String,
    },
}

/// Everything a client holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holdings {
    /// By lineage.
    pub lineages: BTreeMap<Lineage, Held>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_the_contract() {
        let receipt = Receipt {
            push: PushId::new([0; 16]),
            lineage: Some("a.example".parse().unwrap()),
            verdict: Verdict::Refused { reason: "no".into() },
            held: Some(Held {
                digest: Digest::of(b""),
                generation: 3,
                serial: "0a".into(),
                not_after: 5,
                update: Update::Pending { due: 7 },
            }),
        };
        let json = serde_json::to_string(&receipt).unwrap();
        assert_eq!(
            json,
            concat!(
                r#"{"push":"00000000000000000000000000000000","lineage":"a.example","#,
                r#""verdict":{"verdict":"refused","reason":"no"},"held":{"#,
                r#""digest":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","generation":3,"#,
                r#""serial":"0a","not_after":5,"update":{"update":"pending","due":7}}}"#
            )
        );
        assert_eq!(serde_json::from_str::<Receipt>(&json).unwrap(), receipt);
    }
}
