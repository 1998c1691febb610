//! Background readers of a deployed lineage: one that resolves `..data` once and opens the pair, one that goes by path.
//! They know every byte string that was ever issued, so that a mixed, cut or unknown file is seen at once.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::ca::Issued;

const PAUSE: Duration = Duration::from_micros(50);

/// Readers at work; they stop with this value.
#[derive(Debug)]
pub struct Readers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    known: Mutex<HashMap<String, usize>>,
    faults: Mutex<Vec<String>>,
    pairs: AtomicU64,
    files: AtomicU64,
}

/// What the readers saw.
#[derive(Debug)]
pub struct Seen {
    /// Pairs read through one resolved `..data`.
    pub pairs: u64,
    /// Files read by path.
    pub files: u64,
    /// What no reader may ever see.
    pub faults: Vec<String>,
}

impl Readers {
    /// Starts reading `lineage`, a deployed lineage's directory that holds `issued` by now.
    #[must_use]
    pub fn start(lineage: &Path, issued: &Issued) -> Self {
        let shared = Arc::new(Shared::default());
        know(&shared, issued);
        let work: [fn(&Shared, &Path); 2] = [read_pair, read_by_path];
        let threads = work.map(|read| {
            let (shared, lineage) = (Arc::clone(&shared), lineage.to_owned());
            std::thread::spawn(move || {
                while !shared.stop.load(Ordering::Relaxed) {
                    read(&shared, &lineage);
                    // The programs under test need the processor, too.
                    std::thread::sleep(PAUSE);
                }
            })
        });
        Self { shared, threads: threads.into() }
    }

    /// Makes an issue known; to be called before it can be deployed.
    pub fn expect(&self, issued: &Issued) {
        know(&self.shared, issued);
    }

    /// Stops them; what they saw.
    #[must_use]
    pub fn stop(mut self) -> Seen {
        self.end();
        Seen {
            pairs: self.shared.pairs.load(Ordering::SeqCst),
            files: self.shared.files.load(Ordering::SeqCst),
            faults: std::mem::take(&mut self.shared.faults.lock().expect("lock")),
        }
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.end();
    }
}

fn know(shared: &Shared, issued: &Issued) {
    let mut known = shared.known.lock().expect("lock");
    let number = known.values().filter(|number| **number != usize::MAX).max().map_or(0, |last| last + 1);
    for text in [&issued.fullchain, &issued.privkey, &issued.cert] {
        known.insert(text.clone(), number);
    }
    // The chain is the same in each issue: it belongs to none in particular.
    known.insert(issued.chain.clone(), usize::MAX);
}

/// Which issue the text is of, or a fault.
fn number(shared: &Shared, path: &Path) -> Option<usize> {
    let fault = |what: String| {
        let mut faults = shared.faults.lock().expect("lock");
        if faults.len() < 20 {
            faults.push(format!("{}: {what}", path.display()));
        }
        None
    };
    match std::fs::read_to_string(path) {
        Err(error) => fault(error.to_string()),
        Ok(text) => {
            let known = shared.known.lock().expect("lock").get(&text).copied();
            known.or_else(|| fault(format!("{} bytes that were never issued as a whole", text.len())))
        }
    }
}

fn read_pair(shared: &Shared, lineage: &Path) {
    let Ok(data) = std::fs::read_link(lineage.join("..data")) else {
        shared.faults.lock().expect("lock").push("..data is missing".to_owned());
        return;
    };
    let generation: PathBuf = lineage.join(&data);
    let pair = (number(shared, &generation.join("fullchain.pem")), number(shared, &generation.join("privkey.pem")));
    if let (Some(chain), Some(key)) = pair
        && chain != key
    {
        let mut faults = shared.faults.lock().expect("lock");
        faults.push(format!("{}: fullchain of issue {chain}, key of issue {key}", data.display()));
    }
    shared.pairs.fetch_add(1, Ordering::Relaxed);
}

fn read_by_path(shared: &Shared, lineage: &Path) {
    for name in ["fullchain.pem", "privkey.pem", "cert.pem"] {
        let _ = number(shared, &lineage.join(name));
        shared.files.fetch_add(1, Ordering::Relaxed);
    }
}
