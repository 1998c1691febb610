//! The lock that says who has the queue open. It must not know the database.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::error::QueueError;
use super::patience;

/// Held shared by everyone who has the database open; exclusively by the one who sets it aside.
const LOCK: &str = "queue.lock";

/// Who sets a damaged database aside holds the lock alone, for a moment; one that was stopped meanwhile, for ever.
pub(super) fn shared_lock(directory: &Path, limit: Duration) -> Result<File, QueueError> {
    let failed = |source| QueueError::Directory { path: directory.to_owned(), source };
    let file = lock_file(directory).map_err(failed)?;
    let begun = Instant::now();
    loop {
        match file.try_lock_shared() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if begun.elapsed() < limit => std::thread::sleep(patience::STEP),
            Err(TryLockError::WouldBlock) => return Err(QueueError::Held(directory.join(LOCK))),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
}

/// The file of the lock, not locked yet.
pub(super) fn lock_file(directory: &Path) -> io::Result<File> {
    new_file(&directory.join(LOCK))
}

/// Opens or makes a file of ours, and no other by way of a link.
pub(super) fn new_file(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default();
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_never_let_go_is_not_waited_for_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let stuck = lock_file(dir.path()).unwrap();
        stuck.lock().unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let path = dir.path().to_owned();
        std::thread::spawn(move || sender.send(shared_lock(&path, Duration::from_millis(20)).map(drop)));
        let error = receiver.recv_timeout(patience::LIMIT).expect("it waits for ever").unwrap_err();
        assert!(matches!(&error, QueueError::Held(path) if path.ends_with(LOCK)) && error.is_passing(), "{error}");
        stuck.unlock().unwrap();
        assert!(shared_lock(dir.path(), Duration::ZERO).is_ok());
    }
}
