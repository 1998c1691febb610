//! What is remembered of renewals, as one note in the queue's database: enough to make up a missed run after a restart,
//! and to show in `status`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::clock::{self, Millis};
use crate::queue::{Check, Queue, QueueError};

/// The note's name.
const NOTE: &str = "renewal";
/// The most of an error that is remembered, in characters: its end, where programs say what went wrong.
const ERROR_LIMIT: usize = 1_000;

/// What is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When a daemon first had a schedule.
    pub since: Millis,
    /// When the last run began.
    pub started: Option<Millis>,
    /// When it ended; none while it runs.
    pub ended: Option<Millis>,
    /// When one last ended well.
    pub succeeded: Option<Millis>,
    /// Why the last one failed.
    pub error: Option<String>,
    /// How many in a row were cut off, by a power cut or a crash.
    #[serde(default)]
    pub cut_off: u32,
}

impl Record {
    /// Before the first run.
    #[must_use]
    pub const fn new(now: Millis) -> Self {
        Self { since: now, started: None, ended: None, succeeded: None, error: None, cut_off: 0 }
    }

    /// The end of the last run, or its start if no end is known.
    #[must_use]
    pub fn last(&self) -> Option<Millis> {
        self.ended.or(self.started)
    }

    /// Whether a run began and has not ended.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        self.started.is_some() && self.ended.is_none()
    }

    /// A run begins.
    #[must_use]
    pub fn begun(&self, now: Millis) -> Self {
        Self { started: Some(now), ended: None, error: None, ..self.clone() }
    }

    /// The run ended well, or with an error.
    #[must_use]
    pub fn ended(&self, error: Option<String>, now: Millis) -> Self {
        let succeeded = if error.is_none() { Some(now) } else { self.succeeded };
        Self { ended: Some(now), succeeded, error: error.map(|text| end_of(&text)), cut_off: 0, ..self.clone() }
    }

    /// What a daemon makes of it at its start: nothing runs yet, and nothing happened in the future.
    #[must_use]
    pub fn found(self, now: Millis) -> Self {
        let times = [Some(self.since), self.started, self.ended];
        if times.into_iter().flatten().any(|time| time > now) {
            return Self { error: self.error, ..Self::new(now) };
        }
        if !self.is_running() {
            return self;
        }
        let error = "it was cut off: the process that ran it ended".to_owned();
        Self { ended: self.started, error: Some(error), cut_off: self.cut_off.saturating_add(1), ..self }
    }
}

fn end_of(text: &str) -> String {
    let skip = text.chars().count().saturating_sub(ERROR_LIMIT);
    text.chars().skip(skip).collect()
}

/// Reads it.
///
/// # Errors
/// The database.
pub fn read(queue: &mut Queue) -> Result<Option<Record>, QueueError> {
    // One of another version is as good as none.
    Ok(queue.note(NOTE)?.and_then(|text| serde_json::from_str(&text).ok()))
}

/// Reads it from the queue in a directory.
///
/// # Errors
/// The database.
pub fn load(queue_dir: &Path) -> Result<Option<Record>, QueueError> {
    read(&mut Queue::open(queue_dir, Check::Opening, clock::now())?)
}

/// Writes it.
///
/// # Errors
/// The database.
pub fn save(queue_dir: &Path, record: &Record) -> Result<(), QueueError> {
    // Numbers and strings only: there is nothing here that serde_json could refuse.
    let text = serde_json::to_string(record).unwrap_or_default();
    Queue::open(queue_dir, Check::Opening, clock::now())?.write_note(NOTE, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()).unwrap(), None);
        let record =
            Record::new(Millis(1)).begun(Millis(2)).ended(Some(format!("{}\nend", "x".repeat(5_000))), Millis(3));
        save(dir.path(), &record).unwrap();
        assert_eq!(load(dir.path()).unwrap().as_ref(), Some(&record));
        assert!(record.error.unwrap().ends_with("x\nend"));
    }

    #[test]
    fn a_run_is_remembered_from_its_start_to_its_end() {
        let running = Record::new(Millis(1)).begun(Millis(2));
        assert!(running.is_running());
        assert_eq!((running.last(), running.ended(None, Millis(3)).last()), (Some(Millis(2)), Some(Millis(3))));
        let failed = running.ended(None, Millis(3)).begun(Millis(4)).ended(Some("no".into()), Millis(5));
        assert_eq!((failed.succeeded, failed.error.as_deref()), (Some(Millis(3)), Some("no")));
        assert_eq!(failed.clone().found(Millis(6)), failed);
        let cut = running.clone().found(Millis(6));
        assert!(!cut.is_running() && cut.error.is_some() && cut.last() == Some(Millis(2)));
        let again = cut.begun(Millis(7)).found(Millis(8));
        assert_eq!((cut.cut_off, again.cut_off, again.ended(None, Millis(9)).cut_off), (1, 2, 0));
        assert_eq!(running.found(Millis(1)), Record::new(Millis(1)), "it lies in the future: the clock was set back");
    }
}
