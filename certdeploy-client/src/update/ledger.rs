//! Which generation of a lineage its users were told about, kept beside the generations: a crash between swap and
//! update is found at the next start. Must not decide when updates run.

use std::io;
use std::path::Path;

use certdeploy_common::fs::atomic;
use certdeploy_common::wire::Update;
use serde::{Deserialize, Serialize};

/// The file in a lineage's directory.
pub const LEDGER: &str = ".updates.json";

/// The last word on a lineage's updates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The generation it is about.
    pub generation: u64,
    /// What is so.
    #[serde(flatten)]
    pub update: Update,
}

/// The state of the updates for `generation`: what was written down, or pending and due now. At least once: a word
/// that was lost is an update that runs again.
#[must_use]
pub fn read(directory: &Path, generation: u64) -> Update {
    let entry = std::fs::read(directory.join(LEDGER)).ok();
    let entry: Option<Entry> = entry.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    match entry {
        Some(entry) if entry.generation == generation => entry.update,
        Some(_) | None => Update::Pending { due: 0 },
    }
}

/// Writes the state down, durably.
///
/// # Errors
/// The disk refuses.
pub fn write(directory: &Path, generation: u64, update: &Update) -> io::Result<()> {
    let bytes = serde_json::to_vec(&Entry { generation, update: update.clone() })?;
    atomic::write(&directory.join(LEDGER), &bytes, 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_about_another_generation_or_no_word_means_that_the_update_is_owed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path(), 1), Update::Pending { due: 0 });
        write(dir.path(), 1, &Update::Done).unwrap();
        assert_eq!(read(dir.path(), 1), Update::Done);
        assert_eq!(read(dir.path(), 2), Update::Pending { due: 0 });
        std::fs::write(dir.path().join(LEDGER), "{").unwrap();
        assert_eq!(read(dir.path(), 1), Update::Pending { due: 0 });
    }
}
