//! Which generation of a lineage its users were told about, kept beside the generations: a crash between swap and
//! update is found at the next start. Must not decide when updates run.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use certdeploy_common::wire::Update;
use serde::{Deserialize, Serialize};

use crate::dir::Dir;

/// The file in a lineage's directory.
pub const LEDGER: &str = ".updates.json";
/// The largest that is read, in bytes.
const LIMIT: u64 = 1024 * 1024;
/// How much of a reason is written down, in characters.
const REASON: usize = 300;

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
    /// Of an entry that means several things, those that failed; none is all.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parts: BTreeMap<String, BTreeSet<String>>,
    /// The same for other files before: those that have not gone well since, and may lie still.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fallen: BTreeMap<String, BTreeSet<String>>,
    /// How often its users were to be told. The end of an earlier order is no answer to a later one.
    #[serde(default)]
    pub order: u64,
    /// Whether all of its users were told once, and it went well: what fails after that is not the files' fault.
    #[serde(default)]
    pub proven: bool,
}

impl Word {
    /// Nobody has been told of `generation`.
    #[must_use]
    pub fn none(generation: u64) -> Self {
        Self {
            generation,
            update: Update::Pending { due: 0 },
            failed: BTreeSet::new(),
            parts: BTreeMap::new(),
            fallen: BTreeMap::new(),
            order: 0,
            proven: false,
        }
    }

    /// Its users are to be told, again if they were told before, at `due` (Unix seconds).
    #[must_use]
    pub fn owed(self, due: i64) -> Self {
        let (proven, fallen) = (self.is_proven(), self.down());
        Self {
            update: Update::Pending { due },
            order: self.order.saturating_add(1),
            proven,
            fallen,
            ..Self::none(self.generation)
        }
    }

    /// Of entries that mean several things, those that failed, with these files or with others before.
    #[must_use]
    pub fn down(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut down = self.fallen.clone();
        for (entry, parts) in &self.parts {
            down.entry(entry.clone()).or_default().extend(parts.iter().cloned());
        }
        down
    }

    /// See [`proven`](Self::proven); what earlier versions wrote does not say it in so many words.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.proven || self.update == Update::Done
    }
}

/// The word on `generation`: what was written down, or pending and due now. At least once: a word that was lost is an
/// update that runs again. Of a word on another generation only what fell is remembered.
#[must_use]
pub fn read(directory: &Path, generation: u64) -> Word {
    // The directory may belong to somebody who puts anything in its place.
    let word = Dir::open(directory).ok().and_then(|held| held.deployed(LEDGER, LIMIT).ok());
    let word: Option<Word> = word.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    match word {
        Some(word) if word.generation == generation => word,
        Some(word) => Word { fallen: word.down(), ..Word::none(generation) },
        None => Word::none(generation),
    }
}

/// Writes the word down, durably.
///
/// # Errors
/// The disk refuses.
pub fn write(directory: &Path, word: &Word) -> io::Result<()> {
    Dir::open(directory)?.replace(LEDGER, &serde_json::to_vec(word)?)
}

/// A reason, as much of it as is written down: a program may have said anything.
#[must_use]
pub fn cut(reason: &str) -> String {
    match reason.char_indices().nth(REASON) {
        Some((end, _)) => format!("{}...", reason.get(..end).unwrap_or_default()),
        None => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_about_another_generation_or_no_word_means_that_the_update_is_owed() {
        let dir = tempfile::tempdir().unwrap();
        let word = |generation, update, failed: &[&str]| Word {
            update,
            failed: failed.iter().map(|entry| (*entry).to_owned()).collect(),
            ..Word::none(generation)
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

    #[test]
    fn what_is_no_plain_file_is_no_word_and_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (path, outside) = (dir.path().join(LEDGER), dir.path().join("outside"));
        let done = Word { update: Update::Done, ..Word::none(1) };
        std::fs::write(&outside, serde_json::to_vec(&done).unwrap()).unwrap();
        let plants: [&dyn Fn(); 4] = [
            &|| rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap(),
            &|| std::os::unix::fs::symlink("/dev/zero", &path).unwrap(),
            &|| std::os::unix::fs::symlink(&outside, &path).unwrap(),
            &|| std::fs::File::create(&path).unwrap().set_len(LIMIT + 1).unwrap(),
        ];
        for plant in plants {
            plant();
            assert_eq!(read(dir.path(), 1).update, Update::Pending { due: 0 });
            write(dir.path(), &done).unwrap();
            assert_eq!(read(dir.path(), 1), done);
            std::fs::remove_file(&path).unwrap();
        }
        assert_eq!(dir.path().read_dir().unwrap().count(), 1, "nothing is left over");
    }

    #[test]
    fn what_went_well_once_stays_proven_and_each_order_has_its_number() {
        let done = Word { update: Update::Done, ..Word::none(3) };
        let again = done.owed(7);
        assert_eq!((again.order, again.proven, &again.update), (1, true, &Update::Pending { due: 7 }));
        let failed = Word { update: Update::Failed { reason: "no".into() }, ..again };
        assert!(failed.owed(8).is_proven());
        assert_eq!((Word::none(3).owed(1).owed(2).order, Word::none(3).owed(1).proven), (2, false));
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&"\u{e4}".repeat(301)), format!("{}...", "\u{e4}".repeat(300)));
    }
}
