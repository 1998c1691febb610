//! Which generation of a lineage its users were told about, kept beside the generations: a crash between swap and
//! update is found at the next start. Must not decide when updates run.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use certdeploy_common::fs::atomic;
use certdeploy_common::wire::Update;
use serde::{Deserialize, Serialize};

/// The file in a lineage's directory.
pub const LEDGER: &str = ".updates.json";

/// The last word on a lineage's updates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// The generation it is about.
    pub generation: u64,
    /// What is so.
    #[serde(flatten)]
    pub update: Update,
    /// The entries that failed; none is all.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub failed: BTreeSet<String>,
}

/// The word on `generation`: what was written down, or pending and due now. At least once: a word that was lost is an
/// update that runs again.
#[must_use]
pub fn read(directory: &Path, generation: u64) -> Word {
    let word = std::fs::read(directory.join(LEDGER)).ok();
    let word: Option<Word> = word.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    word.filter(|word| word.generation == generation).unwrap_or(Word {
        generation,
        update: Update::Pending { due: 0 },
        failed: BTreeSet::new(),
    })
}

/// Writes the word down, durably.
///
/// # Errors
/// The disk refuses.
pub fn write(directory: &Path, word: &Word) -> io::Result<()> {
    atomic::write(&directory.join(LEDGER), &serde_json::to_vec(word)?, 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_about_another_generation_or_no_word_means_that_the_update_is_owed() {
        let dir = tempfile::tempdir().unwrap();
        let word = |generation, update, failed: &[&str]| Word {
            generation,
            update,
            failed: failed.iter().map(|entry| (*entry).to_owned()).collect(),
        };
        let owed = |generation| word(generation, Update::Pending { due: 0 }, &[]);
        assert_eq!(read(dir.path(), 1), owed(1));
        for written in [
            word(1, Update::Done, &[]),
            word(1, Update::Failed { reason: "no".into() }, &["script /x", "systemd a.service restart"]),
        ] {
            write(dir.path(), &written).unwrap();
            assert_eq!(read(dir.path(), 1), written);
        }
        assert_eq!(read(dir.path(), 2), owed(2));
        std::fs::write(dir.path().join(LEDGER), r#"{"generation":1,"update":"done"}"#).unwrap();
        assert_eq!(read(dir.path(), 1), word(1, Update::Done, &[]), "as earlier versions wrote it");
        std::fs::write(dir.path().join(LEDGER), "{").unwrap();
        assert_eq!(read(dir.path(), 1), owed(1));
    }
}
