//! Looks for private keys where they must not be: in files that others can read, in a log, in what the system shows of a
//! process.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::ca::Issued;
use crate::process::{children, command};

/// Looks at every file below some folders, again and again, until it is ended.
#[derive(Debug)]
pub struct KeyWatch {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    private: AtomicU64,
    readable: Mutex<Vec<String>>,
}

impl KeyWatch {
    /// Begins.
    #[must_use]
    pub fn start(folders: Vec<PathBuf>) -> Self {
        let shared = Arc::<Shared>::default();
        let own = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            while !own.stop.load(Ordering::Relaxed) {
                folders.iter().for_each(|folder| look(folder, &own));
                // The programs under test need the processor, too.
                std::thread::sleep(std::time::Duration::from_micros(50));
            }
        });
        Self { shared, thread }
    }

    /// Ends: how many times a file that is private was seen, and the keys that others could read.
    ///
    /// # Panics
    /// The thread has.
    #[must_use]
    pub fn end(self) -> (u64, Vec<String>) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the thread");
        let readable = std::mem::take(&mut *self.shared.readable.lock().expect("lock"));
        (self.shared.private.load(Ordering::Relaxed), readable)
    }
}

fn look(folder: &Path, shared: &Shared) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(meta) = path.symlink_metadata() else { continue };
        if meta.is_dir() {
            look(&path, shared);
        } else if meta.is_file() && meta.mode() & 0o077 == 0 {
            shared.private.fetch_add(1, Ordering::Relaxed);
        } else if meta.is_file() && std::fs::read_to_string(&path).is_ok_and(|text| text.contains("PRIVATE KEY")) {
            let mut readable = shared.readable.lock().expect("lock");
            readable.push(format!("{} {:04o}", path.display(), meta.mode() & 0o7777));
        }
    }
}

/// A line from the middle of a key: nothing that all keys share.
///
/// # Panics
/// It is no key.
#[must_use]
pub fn canary(issued: &Issued) -> String {
    issued.privkey.lines().nth(2).expect("a third line").to_owned()
}

/// What the system shows everybody, or at least its owner, of a process and its children.
#[must_use]
pub fn shown(id: u32) -> String {
    let files =
        |id: u32| ["cmdline", "environ"].map(|file| std::fs::read(format!("/proc/{id}/{file}")).unwrap_or_default());
    let all = std::iter::once(id).chain(children(id)).flat_map(files);
    all.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect()
}

/// The command, started by somebody whose umask forbids nothing.
#[must_use]
pub fn without_umask(program: &Command) -> Command {
    let mut shell = command("/bin/sh");
    shell.args(["-c", "umask 0; exec \"$@\"", "sh"]).arg(program.get_program()).args(program.get_args());
    shell
}
