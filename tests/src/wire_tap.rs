//! A TCP proxy in front of a target: it records what each side sends and can cut the connection after so many bytes.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// The proxy; it ends with this value.
#[derive(Debug)]
pub struct WireTap {
    /// Where the pusher connects to.
    pub port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    upstream: u16,
    stop: AtomicBool,
    cut_after: AtomicU64,
    connections: Mutex<Vec<Arc<Recording>>>,
}

/// What went over one connection.
#[derive(Debug, Default)]
pub struct Recording {
    sent: Mutex<Vec<u8>>,
    received: Mutex<Vec<u8>>,
}

impl Recording {
    /// The bytes from the pusher.
    #[must_use]
    pub fn sent(&self) -> Vec<u8> {
        self.sent.lock().expect("lock").clone()
    }

    /// The bytes to the pusher.
    #[must_use]
    pub fn received(&self) -> Vec<u8> {
        self.received.lock().expect("lock").clone()
    }
}

impl WireTap {
    /// Listens on loopback and hands every connection on to `upstream`.
    ///
    /// # Panics
    /// No port is free.
    #[must_use]
    pub fn before(upstream: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let shared = Arc::new(Shared {
            upstream,
            stop: AtomicBool::new(false),
            cut_after: AtomicU64::new(u64::MAX),
            connections: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || accept(&listener, &accepting));
        Self { port, shared }
    }

    /// From now on each connection is cut when the pusher has sent this many bytes.
    pub fn cut_after(&self, bytes: u64) {
        self.shared.cut_after.store(bytes, Ordering::SeqCst);
    }

    /// All connections so far.
    ///
    /// # Panics
    /// A thread of the proxy panicked.
    #[must_use]
    pub fn connections(&self) -> Vec<Arc<Recording>> {
        self.shared.connections.lock().expect("lock").clone()
    }

    /// Forgets what was recorded.
    ///
    /// # Panics
    /// A thread of the proxy panicked.
    pub fn forget(&self) {
        self.shared.connections.lock().expect("lock").clear();
    }
}

impl Drop for WireTap {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for pusher in listener.incoming().flatten() {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(target) = TcpStream::connect(("127.0.0.1", shared.upstream)) else { continue };
        let recording = Arc::new(Recording::default());
        shared.connections.lock().expect("lock").push(Arc::clone(&recording));
        for stream in [&pusher, &target] {
            let _ = stream.set_nodelay(true);
        }
        let (Ok(pusher_too), Ok(target_too)) = (pusher.try_clone(), target.try_clone()) else { continue };
        let (up, down) = (Arc::clone(shared), Arc::clone(&recording));
        std::thread::spawn(move || carry(&pusher, &target, |bytes| record_sent(&up, &recording, bytes)));
        std::thread::spawn(move || {
            carry(&target_too, &pusher_too, |bytes| {
                down.received.lock().expect("lock").extend_from_slice(bytes);
                bytes.len()
            });
        });
    }
}

/// Records what may pass and says how much that is.
fn record_sent(shared: &Shared, recording: &Recording, bytes: &[u8]) -> usize {
    let mut sent = recording.sent.lock().expect("lock");
    let left = shared.cut_after.load(Ordering::SeqCst).saturating_sub(sent.len() as u64);
    let pass = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
    sent.extend_from_slice(&bytes[..pass]);
    pass
}

fn carry(mut from: &TcpStream, mut to: &TcpStream, mut pass: impl FnMut(&[u8]) -> usize) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(read) = from.read(&mut buffer) {
        let passed = pass(&buffer[..read]);
        if read == 0 || to.write_all(&buffer[..passed]).is_err() || passed < read {
            if read > 0 && passed < read {
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
                return;
            }
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
