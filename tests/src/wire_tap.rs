//! A TCP proxy in front of a target: it records what each side sends, and can break a connection in many ways after so
//! many bytes.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

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
    fault: Mutex<Option<Fault>>,
    connections: Mutex<Vec<Arc<Recording>>>,
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the pusher to the target.
    Up,
    /// From the target to the pusher.
    Down,
}

/// How a connection breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Both ends get a RST.
    Reset,
    /// Both ends get a FIN.
    End,
    /// No more bytes go this way, and their receiver gets a FIN; the other way goes on.
    HalfClose,
    /// The connection stays, and whatever is sent either way disappears.
    BlackHole,
    /// The connection stays, and nobody reads any more: the senders' windows close.
    ZeroWindow,
    /// From here on one byte goes this way at a time, and then so long none.
    Slow(Duration),
}

/// What happens to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Whose bytes count.
    pub way: Way,
    /// How many of them pass.
    pub after: u64,
    /// What happens then.
    pub kind: Kind,
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

    fn of(&self, way: Way) -> &Mutex<Vec<u8>> {
        match way {
            Way::Up => &self.sent,
            Way::Down => &self.received,
        }
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
            fault: Mutex::default(),
            connections: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || accept(&listener, &accepting));
        Self { port, shared }
    }

    /// From now on each new connection breaks like this, or not at all.
    ///
    /// # Panics
    /// A thread of the proxy panicked.
    pub fn breaks(&self, fault: Option<Fault>) {
        *self.shared.fault.lock().expect("lock") = fault;
    }

    /// From now on each new connection is cut when the pusher has sent this many bytes.
    pub fn cut_after(&self, bytes: u64) {
        self.breaks(Some(Fault { way: Way::Up, after: bytes, kind: Kind::End }));
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
        let link = Arc::new(Link {
            pusher,
            target,
            recording,
            fault: *shared.fault.lock().expect("lock"),
            dead: AtomicBool::new(false),
        });
        for way in [Way::Up, Way::Down] {
            let link = Arc::clone(&link);
            std::thread::spawn(move || link.carry(way));
        }
    }
}

struct Link {
    pusher: TcpStream,
    target: TcpStream,
    recording: Arc<Recording>,
    fault: Option<Fault>,
    /// Nothing passes either way any more, though the connection stays.
    dead: AtomicBool,
}

impl Link {
    fn ends(&self, way: Way) -> (&TcpStream, &TcpStream) {
        match way {
            Way::Up => (&self.pusher, &self.target),
            Way::Down => (&self.target, &self.pusher),
        }
    }

    fn carry(&self, way: Way) {
        let (mut from, mut to) = self.ends(way);
        let fault = self.fault.filter(|fault| fault.way == way);
        let mut buffer = [0; 16 * 1024];
        let mut passed: u64 = 0;
        if fault.is_some_and(|fault| fault.after == 0) {
            return self.break_it(way, &[], fault);
        }
        while let Ok(read) = from.read(&mut buffer) {
            if read == 0 {
                break;
            }
            let left = fault.map_or(u64::MAX, |fault| fault.after - passed);
            let pass = read.min(usize::try_from(left).unwrap_or(usize::MAX));
            let bytes = &buffer[..pass];
            self.recording.of(way).lock().expect("lock").extend_from_slice(bytes);
            passed += pass as u64;
            if !self.dead.load(Ordering::SeqCst) && to.write_all(bytes).is_err() {
                break;
            }
            if fault.is_some_and(|fault| fault.after == passed) {
                return self.break_it(way, &buffer[pass..read], fault);
            }
        }
        if self.dead.load(Ordering::SeqCst) {
            self.both_end();
        } else {
            let _ = to.shutdown(Shutdown::Write);
        }
    }

    /// Breaks the connection; `rest` was read and has not been passed on.
    fn break_it(&self, way: Way, rest: &[u8], fault: Option<Fault>) {
        let (from, to) = self.ends(way);
        match fault.map(|fault| fault.kind) {
            None => {}
            Some(Kind::Reset) => {
                for stream in [from, to] {
                    // Linux sends a RST and forgets the connection.
                    let _ = rustix::net::connect_unspec(stream);
                }
            }
            Some(Kind::End) => {
                for stream in [from, to] {
                    let _ = stream.shutdown(Shutdown::Both);
                }
            }
            Some(Kind::HalfClose) => {
                let _ = to.shutdown(Shutdown::Write);
                swallow(from);
            }
            Some(Kind::BlackHole) => {
                self.dead.store(true, Ordering::SeqCst);
                swallow(from);
                self.both_end();
            }
            Some(Kind::ZeroWindow) => {
                self.dead.store(true, Ordering::SeqCst);
                until_gone(from);
                self.both_end();
            }
            Some(Kind::Slow(pause)) => trickle(from, to, rest, pause),
        }
    }

    fn both_end(&self) {
        for stream in [&self.pusher, &self.target] {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn swallow(mut from: &TcpStream) {
    let mut buffer = [0; 16 * 1024];
    while matches!(from.read(&mut buffer), Ok(read) if read > 0) {}
}

/// Waits until the other side is gone, without reading what it sent.
fn until_gone(stream: &TcpStream) {
    let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    let limit = Timespec { tv_sec: 60, tv_nsec: 0 };
    let _ = poll(&mut [PollFd::new(stream, gone)], Some(&limit));
}

fn trickle(mut from: &TcpStream, mut to: &TcpStream, rest: &[u8], pause: Duration) {
    let mut buffer = rest.to_vec();
    loop {
        for byte in &buffer {
            if to.write_all(std::slice::from_ref(byte)).is_err() {
                return;
            }
            std::thread::sleep(pause);
        }
        buffer.resize(16 * 1024, 0);
        match from.read(&mut buffer) {
            Ok(read) if read > 0 => buffer.truncate(read),
            _ => break,
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
