//! A service manager's end of sd_notify(3): a datagram socket that keeps what it is told.

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::wait::{PATIENCE, until};

/// The socket, and all that came.
#[derive(Debug)]
pub struct Manager {
    /// What `NOTIFY_SOCKET` is to be.
    pub name: OsString,
    told: Arc<Mutex<Vec<String>>>,
}

impl Manager {
    /// Listens at a path.
    ///
    /// # Panics
    /// It cannot.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self::on(UnixDatagram::bind(path).expect("a socket"), path.as_os_str().to_owned())
    }

    /// Listens at an abstract name.
    ///
    /// # Panics
    /// It cannot.
    #[must_use]
    pub fn abstractly(name: &str) -> Self {
        let address = SocketAddr::from_abstract_name(name).expect("a name");
        Self::on(UnixDatagram::bind_addr(&address).expect("a socket"), format!("@{name}").into())
    }

    fn on(socket: UnixDatagram, name: OsString) -> Self {
        let told = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&told);
        // Ends with the test's process.
        std::thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            while let Ok(length) = socket.recv(&mut buffer) {
                kept.lock().expect("lock").push(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
        });
        Self { name, told }
    }

    /// All messages so far, without the watchdog's beats.
    ///
    /// # Panics
    /// A thread panicked.
    #[must_use]
    pub fn told(&self) -> Vec<String> {
        let told = self.told.lock().expect("lock");
        told.iter().filter(|message| *message != BEAT).cloned().collect()
    }

    /// How often the watchdog's beat came.
    ///
    /// # Panics
    /// A thread panicked.
    #[must_use]
    pub fn beats(&self) -> usize {
        self.told.lock().expect("lock").iter().filter(|message| *message == BEAT).count()
    }

    /// Waits until `count` messages begin with `start`.
    ///
    /// # Panics
    /// They do not come.
    pub fn is_told(&self, start: &str, count: usize) {
        until(&format!("{start:?} is told {count} times: {:?}", self.told()), PATIENCE, || {
            (self.told().iter().filter(|message| message.starts_with(start)).count() >= count).then_some(())
        });
    }
}

const BEAT: &str = "WATCHDOG=1\n";
