//! A crowd at a client's door: connections from many addresses of loopback that say little or nothing, and new ones all
//! the time in the place of those that were closed.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What each of them says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// Nothing.
    Nothing,
    /// Its banner, and then nothing.
    Banner,
}

/// A connection to `port` from an address of its own.
///
/// # Errors
/// As `connect(2)`.
pub fn connect(from: Ipv4Addr, port: u16, says: Says) -> io::Result<OwnedFd> {
    // Or the programs that other tests start would inherit a crowd.
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(from, 0))?;
    rustix::net::connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    if says == Says::Banner {
        let _ = rustix::net::send(&socket, b"SSH-2.0-OpenSSH_9.2\r\n", SendFlags::NOSIGNAL);
    }
    Ok(socket)
}

/// The `n`th stranger's address.
#[must_use]
pub fn address(n: usize) -> Ipv4Addr {
    let [.., high, low] = u32::try_from(n % 60_000).unwrap_or_default().to_be_bytes();
    Ipv4Addr::new(127, 9, high, low)
}

/// Lets this process have as many descriptors as the system allows; how many that is.
#[must_use]
pub fn many_descriptors() -> usize {
    let most = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most });
    most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX)
}

/// See the module. It leaves with this value.
#[derive(Debug)]
pub struct Crowd {
    stop: Arc<AtomicBool>,
    come: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Crowd {
    /// `count` of them at any time; every second one says what `says` tells.
    ///
    /// # Panics
    /// They cannot all connect.
    #[must_use]
    pub fn gather(port: u16, count: usize, says: Says) -> Self {
        let each = move |n: usize| if n.is_multiple_of(2) { says } else { Says::Nothing };
        let mut held: Vec<OwnedFd> = (0..count).map(|n| connect(address(n), port, each(n)).expect("connect")).collect();
        let (stop, come) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(count)));
        let (stopped, coming) = (Arc::clone(&stop), Arc::clone(&come));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let n = coming.fetch_add(1, Ordering::Relaxed);
                if let Ok(stranger) = connect(address(n), port, each(n)) {
                    let at = n % held.len();
                    held[at] = stranger;
                }
            }
        });
        Self { stop, come, thread: Some(thread) }
    }

    /// How many have come so far.
    #[must_use]
    pub fn come(&self) -> usize {
        self.come.load(Ordering::Relaxed)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
