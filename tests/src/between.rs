//! An engine's socket with somebody in between: sees the first line of every request, may act on it, and may answer in
//! the engine's place.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

/// What becomes of a request.
#[derive(Debug)]
pub enum Meddle {
    /// The engine gets it.
    Pass,
    /// These bytes are the answer.
    Answer(Vec<u8>),
    /// These bytes are the beginning of the answer; nothing more comes, and the connection stays open.
    Hold(Vec<u8>),
}

impl Meddle {
    /// An answer of the engine's kind.
    #[must_use]
    pub fn refusal(status: u16, message: &str) -> Self {
        let body = serde_json::json!({ "message": message }).to_string();
        let head =
            format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
        Self::Answer((head + &body).into_bytes())
    }
}

/// Listens at `socket`, in front of the engine at `engine`, until the test ends. `meddle` gets the first line of each
/// request, like `POST /v1.41/services/x/update?version=7 HTTP/1.1`. Returns `docker_url`.
///
/// # Panics
/// The socket cannot be made.
#[must_use]
pub fn between(socket: &Path, engine: &Path, meddle: impl Fn(&str) -> Meddle + Send + Sync + 'static) -> String {
    let listener = UnixListener::bind(socket).expect("a socket");
    let (engine, meddle) = (engine.to_owned(), Arc::new(meddle));
    thread::spawn(move || {
        for peer in listener.incoming().flatten() {
            let (engine, meddle) = (engine.clone(), Arc::clone(&meddle));
            // A peer that goes away in the middle ends only its own thread.
            thread::spawn(move || serve(peer, engine, &*meddle));
        }
    });
    format!("unix://{}", socket.display())
}

fn serve(mut peer: UnixStream, engine: PathBuf, meddle: &dyn Fn(&str) -> Meddle) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        let mut byte = [0];
        if peer.read(&mut byte)? == 0 {
            return Ok(());
        }
        head.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    match meddle(text.lines().next().unwrap_or_default()) {
        Meddle::Answer(bytes) => peer.write_all(&bytes),
        Meddle::Hold(bytes) => {
            peer.write_all(&bytes)?;
            std::io::copy(&mut peer, &mut std::io::sink()).map(|_| ())
        }
        Meddle::Pass => {
            let mut engine = UnixStream::connect(engine)?;
            engine.write_all(&head)?;
            let (mut from, mut to) = (engine.try_clone()?, peer.try_clone()?);
            let back = thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
            });
            let _ = std::io::copy(&mut peer, &mut engine);
            let _ = engine.shutdown(Shutdown::Write);
            let _ = back.join();
            Ok(())
        }
    }
}
