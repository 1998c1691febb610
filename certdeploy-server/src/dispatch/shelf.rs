//! Lineages that were read a moment ago, so that a thousand targets do not read and check the same files a thousand
//! times. What is on the shelf is compared with the files at each use, and is gone (its keys overwritten) when nobody
//! is being visited. It must not decide what is pushed.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use certdeploy_common::cert::Bundle;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::clock::Millis;
use crate::lineage::{self, LineageError, Readable, Versions};

/// What came of reading.
pub(super) type Read = Result<Readable, (LineageError, Option<Bundle>)>;

/// How long a lineage that could not be read is not looked at again.
const BAD: Duration = Duration::from_secs(1);
/// How many are kept at most.
const MOST: usize = 64;
/// How long reading may take: files can be on a server that does not answer.
const LIMIT: Duration = Duration::from_secs(30);
/// The most readings that hang; each has a thread that nobody can end. With more of them nothing is read.
const MOST_HANG: usize = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Shelf {
    live: PathBuf,
    books: Mutex<HashMap<Key, Arc<Book>>>,
    limit: Duration,
    hanging: Mutex<HashMap<Key, JoinHandle<Copied>>>,
}

/// Where a lineage is, and whether it is judged as one that is forced.
type Key = (PathBuf, bool);

type Book = tokio::sync::Mutex<Option<Copied>>;

#[derive(Debug, Clone)]
struct Copied {
    of: Option<Arc<Versions>>,
    at: Instant,
    read: Arc<Read>,
}

impl Shelf {
    /// An empty one.
    pub(super) fn new(live: PathBuf) -> Self {
        Self { live, books: Mutex::default(), limit: LIMIT, hanging: Mutex::default() }
    }

    /// Reads a lineage, or finds it as it still is.
    pub(super) async fn read(&self, path: &Path, force: bool, now: Millis) -> Arc<Read> {
        let (key, shown) = ((path.to_owned(), force), path);
        let book = {
            let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
            if books.len() >= MOST && !books.contains_key(&key) {
                books.clear();
            }
            Arc::clone(books.entry(key.clone()).or_default())
        };
        // Whoever comes while it is being read waits for that.
        let mut book = book.lock().await;
        let (path, live, before) = (path.to_owned(), self.live.clone(), book.clone());
        match self.bounded(key, move || copy(&path, &live, force, now, before)).await {
            Ok(copied) => {
                let read = Arc::clone(&copied.read);
                *book = Some(copied);
                read
            }
            Err(source) => {
                // It may hold what is no longer so.
                *book = None;
                let error = LineageError::Unreadable { path: shown.to_owned(), file: None, source };
                Arc::new(Err((error, None)))
            }
        }
    }

    /// Does `work` on a thread of its own, within the limit; not while the same, or too much else, still hangs.
    async fn bounded(&self, key: Key, work: impl FnOnce() -> Copied + Send + 'static) -> io::Result<Copied> {
        let hangs = || io::Error::new(io::ErrorKind::TimedOut, "reading it does not come to an end; is a mount stuck?");
        {
            let mut hanging = self.hanging.lock().unwrap_or_else(PoisonError::into_inner);
            hanging.retain(|_, thread| !thread.is_finished());
            if hanging.contains_key(&key) || hanging.len() >= MOST_HANG {
                return Err(hangs());
            }
        }
        let mut thread = tokio::task::spawn_blocking(work);
        match tokio::time::timeout(self.limit, &mut thread).await {
            Ok(done) => done.map_err(io::Error::other),
            Err(_) => {
                self.hanging.lock().unwrap_or_else(PoisonError::into_inner).insert(key, thread);
                Err(hangs())
            }
        }
    }

    /// Keeps nothing: nobody needs a key in memory now.
    pub(super) fn clear(&self) {
        self.books.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn copy(path: &Path, live: &Path, force: bool, now: Millis, before: Option<Copied>) -> Copied {
    let is = Versions::of(path).ok();
    if let Some(before) = before {
        let fresh = match &*before.read {
            // What has expired since is read again, and refused.
            Ok(readable) => force || readable.facts.not_after > now.seconds(),
            Err(_) => before.at.elapsed() < BAD,
        };
        if fresh && is.is_some() && before.of.as_deref() == is.as_ref() {
            return before;
        }
    }
    let read = lineage::read(path, live, force, now.seconds());
    // What changed while it was read is read again the next time.
    let of = is.filter(|is| Versions::of(path).ok().as_ref() == Some(is)).map(Arc::new);
    Copied { of, at: Instant::now(), read: Arc::new(read) }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn none() -> Copied {
        copy(Path::new("/nowhere/x"), Path::new("/nowhere"), false, Millis(0), None)
    }

    #[tokio::test]
    async fn what_hangs_is_not_waited_for_and_not_begun_again_until_it_ends() {
        let limit = Duration::from_millis(20);
        let shelf = Shelf { limit, ..Shelf::new("/nowhere".into()) };
        let key = |name: &str| (PathBuf::from(name), false);
        let (end, ended) = mpsc::channel::<()>();
        let stuck = move || {
            let _ = ended.recv();
            none()
        };
        let error = shelf.bounded(key("a"), stuck).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(shelf.bounded(key("a"), || unreachable!("it is begun again")).await.is_err());
        assert!(shelf.bounded(key("b"), none).await.is_ok(), "others are read");
        let mut stuck = Vec::new();
        for number in 1..MOST_HANG {
            let (end, ended) = mpsc::channel::<()>();
            let wait = move || {
                let _ = ended.recv();
                none()
            };
            assert!(shelf.bounded(key(&number.to_string()), wait).await.is_err());
            stuck.push(end);
        }
        assert!(shelf.bounded(key("c"), || unreachable!("too many threads")).await.is_err());
        drop((end, stuck));
        let again = async {
            while shelf.bounded(key("a"), none).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), again).await.unwrap();
    }
}
