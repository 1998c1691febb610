//! A peer that speaks SFTP, and misbehaves in the way that its argument names: what a pusher meets when a target was
//! taken over. sshd runs it in the place of its sftp-server.

use std::io::{self, Read, Write};

use certdeploy_common::cert::Digest;
use certdeploy_common::wire::layout::{EXTENSION, PushId, VERSION};
use certdeploy_common::wire::{Held, Receipt, Update, Verdict};

const INIT: u8 = 1;
const OPEN: u8 = 3;
const READ: u8 = 5;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;

struct Request {
    kind: u8,
    id: u32,
    path: String,
    offset: u64,
}

fn main() {
    let mode = std::env::args().nth(1).unwrap_or_default();
    // The pusher hangs up at some point.
    let _ = serve(&mode);
}

fn serve(mode: &str) -> io::Result<()> {
    let closes_after = mode.strip_prefix("closes-").map(|number| number.parse::<usize>().expect("a number"));
    let mut receipt = Vec::new();
    let mut input = io::stdin().lock();
    for number in 0.. {
        let request = request(&mut input)?;
        if closes_after == Some(number) {
            return Ok(());
        }
        if request.kind == INIT {
            match mode {
                "silent" => continue,
                "garbage" => return forever(&[b'x'; 4096]),
                "huge" => send_raw(&u32::MAX.to_be_bytes())?,
                _ => version()?,
            }
            continue;
        }
        if request.path.ends_with("receipt.json") {
            receipt = told(mode, &request.path);
        }
        answer(mode, &request, &receipt)?;
    }
    Ok(())
}

fn answer(mode: &str, request: &Request, receipt: &[u8]) -> io::Result<()> {
    let ok = || status(request.id, 0, "");
    match (mode, request.kind) {
        ("mute", _) => Ok(()),
        ("wrong-ids", _) => status(request.id.wrapping_add(1000), 0, ""),
        ("wrong-kind", _) => data(request.id, b"?"),
        ("words", _) => {
            let words = "no\nERROR:certdeploy-server: all is lost\u{1b}[2J ".repeat(4000);
            status(request.id, 4, &words)
        }
        ("flood", _) => loop {
            status(u32::MAX, 0, "")?;
        },
        // The rest of it never comes.
        ("half-packet", _) if request.id == 1 => send_raw(&100_u32.to_be_bytes()),
        ("half-packet", _) => Ok(()),
        (_, OPEN) => handle(request.id),
        ("endless", READ) => data(request.id, &[b' '; 30 * 1024]),
        ("drip", READ) => data(request.id, b" "),
        (_, READ) => {
            let from = usize::try_from(request.offset).unwrap_or(usize::MAX).min(receipt.len());
            let rest = &receipt[from..];
            if rest.is_empty() {
                status(request.id, 1, "")
            } else {
                data(request.id, &rest[..rest.len().min(30 * 1024)])
            }
        }
        _ => ok(),
    }
}

/// The receipt of this mode for the push of this path.
fn told(mode: &str, path: &str) -> Vec<u8> {
    let directory = path.split('/').find(|part| part.starts_with(".push-")).unwrap_or_default();
    let own = PushId::of_directory(directory).unwrap_or_else(|| PushId::new([0; 16]));
    let held = Held {
        digest: Digest::of(b"something else"),
        generation: u64::MAX,
        serial: "x".repeat(100_000),
        not_after: i64::MAX,
        update: Update::Pending { due: i64::MAX },
    };
    let mut receipt = Receipt { push: own, lineage: None, verdict: Verdict::Deployed, held: Some(held) };
    match mode {
        "no-json" => return b"{\"push\": [[[[[".to_vec(),
        "deep-json" => return vec![b'['; 100_000],
        "another-push" => receipt.push = PushId::new([0; 16]),
        "nothing-held" => receipt.held = None,
        "refusal" => receipt.verdict = Verdict::Refused { reason: "\u{1b}[2J no\n".repeat(10_000) },
        _ => {}
    }
    serde_json::to_vec(&receipt).expect("JSON")
}

fn request(input: &mut impl Read) -> io::Result<Request> {
    let mut length = [0; 4];
    input.read_exact(&mut length)?;
    let mut packet = vec![0; usize::try_from(u32::from_be_bytes(length)).expect("small")];
    input.read_exact(&mut packet)?;
    let word =
        |from: usize| packet.get(from..from + 4).map_or(0, |bytes| u32::from_be_bytes(bytes.try_into().expect("four")));
    let long = usize::try_from(word(5)).expect("small");
    let path = packet.get(9..9 + long).unwrap_or_default();
    let after = 9 + long;
    let offset = u64::from(word(after)) << 32 | u64::from(word(after + 4));
    Ok(Request { kind: packet[0], id: word(1), path: String::from_utf8_lossy(path).into_owned(), offset })
}

fn version() -> io::Result<()> {
    let mut body = vec![2, 0, 0, 0, 3];
    for text in [EXTENSION, VERSION] {
        put(&mut body, text.as_bytes());
    }
    send(&body)
}

fn status(id: u32, code: u32, words: &str) -> io::Result<()> {
    let mut body = start(STATUS, id);
    body.extend(code.to_be_bytes());
    put(&mut body, words.as_bytes());
    put(&mut body, b"en");
    send(&body)
}

fn handle(id: u32) -> io::Result<()> {
    let mut body = start(HANDLE, id);
    put(&mut body, b"handle");
    send(&body)
}

fn data(id: u32, bytes: &[u8]) -> io::Result<()> {
    let mut body = start(DATA, id);
    put(&mut body, bytes);
    send(&body)
}

fn start(kind: u8, id: u32) -> Vec<u8> {
    let mut body = vec![kind];
    body.extend(id.to_be_bytes());
    body
}

fn put(body: &mut Vec<u8>, bytes: &[u8]) {
    body.extend(u32::try_from(bytes.len()).expect("small").to_be_bytes());
    body.extend(bytes);
}

fn send(body: &[u8]) -> io::Result<()> {
    let mut packet = Vec::new();
    put(&mut packet, body);
    send_raw(&packet)
}

fn send_raw(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// Sends the same until the pusher hangs up.
fn forever(bytes: &[u8]) -> io::Result<()> {
    loop {
        send_raw(bytes)?;
    }
}
