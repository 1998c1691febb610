//! Lineages that were read a moment ago, so that a thousand targets do not read and check the same files a thousand
//! times. What is on the shelf is compared with the files at each use, and is gone (its keys overwritten) when nobody
//! is being visited. It must not decide what is pushed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use certdeploy_common::cert::Bundle;
use tokio::time::Instant;

use crate::clock::Millis;
use crate::lineage::{self, LineageError, Readable, Versions};

/// What came of reading.
pub(super) type Read = Result<Readable, (LineageError, Option<Bundle>)>;

/// How long a lineage that could not be read is not looked at again.
const BAD: Duration = Duration::from_secs(1);
/// How many are kept at most.
const MOST: usize = 64;

/// See the module.
#[derive(Debug)]
pub(super) struct Shelf {
    live: PathBuf,
    books: Mutex<HashMap<(PathBuf, bool), Arc<Book>>>,
}

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
        Self { live, books: Mutex::default() }
    }

    /// Reads a lineage, or finds it as it still is.
    pub(super) async fn read(&self, path: &Path, force: bool, now: Millis) -> Arc<Read> {
        let book = {
            let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
            let key = (path.to_owned(), force);
            if books.len() >= MOST && !books.contains_key(&key) {
                books.clear();
            }
            Arc::clone(books.entry(key).or_default())
        };
        // Whoever comes while it is being read waits for that.
        let mut book = book.lock().await;
        let (path, live, before) = (path.to_owned(), self.live.clone(), book.clone());
        let read = tokio::task::spawn_blocking(move || copy(&path, &live, force, now, before)).await;
        match read {
            Ok(copied) => {
                let read = Arc::clone(&copied.read);
                *book = Some(copied);
                read
            }
            Err(broke) => {
                let source = std::io::Error::other(broke);
                let error = LineageError::Unreadable { path: self.live.clone(), file: None, source };
                Arc::new(Err((error, None)))
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
