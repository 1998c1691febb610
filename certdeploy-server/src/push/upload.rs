//! The upload to a certdeploy-client: files into a push directory of their own, the manifest's rename as commit, the
//! receipt read back. All requests of one step go out at once; the peer handles them in order.

use certdeploy_common::ssh::key;
use certdeploy_common::wire::layout::{HOLDINGS, MANIFEST, MANIFEST_PART, PushId, RECEIPT, RECEIPT_LIMIT};
use certdeploy_common::wire::manifest::Claims;
use certdeploy_common::wire::{Held, Holdings, Manifest, Receipt, Update, Verdict};
use futures::future::join_all;
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::protocol::{FileAttributes, OpenFlags, StatusCode};
use serde::de::DeserializeOwned;

use super::connect::Session;
use super::error::said;
use super::{Error, Parcel};

/// The most bytes of one WRITE: with its header it stays under the 32 KiB that every peer takes.
const CHUNK: usize = 30 * 1024;
/// The most bytes of a receipt: it is about one lineage.
const RECEIPT_BYTES: u64 = 256 * 1024;
/// What is asked for by one READ.
const READ: u32 = 30 * 1024;

/// Attributes that say nothing but the mode.
pub(super) fn mode(bits: u32) -> FileAttributes {
    FileAttributes { permissions: Some(bits), ..FileAttributes::empty() }
}

/// Pushes one lineage and waits for the word on it.
pub(super) async fn push(session: &Session, parcel: &Parcel) -> Result<Receipt, Error> {
    let id = new_id()?;
    let manifest = manifest(&id, parcel).encode();
    let directory = format!("/{}", id.directory());
    let made = session.operation(&directory, session.sftp.mkdir(&directory, mode(0o700)));
    let files: Vec<(String, &[u8])> = parcel.bundle.files().map(|(name, bytes)| (id.file(name), bytes)).collect();
    let part = id.path(MANIFEST_PART);
    let all = files.iter().map(|(path, bytes)| (path.as_str(), *bytes)).chain([(part.as_str(), manifest.as_slice())]);
    let flags = OpenFlags::CREATE | OpenFlags::EXCLUDE | OpenFlags::WRITE;
    let written = join_all(all.map(|(path, bytes)| write(session, path, bytes, flags, Sync::Not)));
    let (made, written) = futures::join!(made, written);
    made?;
    written.into_iter().collect::<Result<Vec<()>, Error>>()?;
    let commit = id.path(MANIFEST);
    session.operation(&commit, session.sftp.rename(&part, &commit)).await?;
    let receipt: Receipt = read(session, &id.path(RECEIPT), Wait::Verdict).await?;
    if receipt.push != id || receipt.lineage.as_ref().is_some_and(|lineage| *lineage != parcel.lineage) {
        return Err(Error::Protocol("the receipt is about another push".to_owned()));
    }
    Ok(tame(receipt))
}

/// What the client says in words of its own goes to log, queue and `status`.
fn tame(mut receipt: Receipt) -> Receipt {
    match &mut receipt.verdict {
        Verdict::Refused { reason } | Verdict::Failed { reason } => *reason = said(reason),
        Verdict::Staged | Verdict::Deployed | Verdict::Unchanged => {}
    }
    receipt.held = receipt.held.map(tame_held);
    receipt
}

fn tame_held(mut held: Held) -> Held {
    held.serial = said(&held.serial);
    if let Update::Failed { reason } = &mut held.update {
        *reason = said(reason);
    }
    held
}

/// Asks what the client holds.
pub(super) async fn holdings(session: &Session) -> Result<Holdings, Error> {
    let told: Holdings = read(session, &format!("/{HOLDINGS}"), Wait::Operation).await?;
    Ok(Holdings { lineages: told.lineages.into_iter().map(|(lineage, held)| (lineage, tame_held(held))).collect() })
}

/// A new push's id.
pub(super) fn new_id() -> Result<PushId, Error> {
    key::random().map(PushId::new).map_err(|error| Error::Protocol(error.to_string()))
}

/// What is said of a parcel beside its bytes.
pub(super) fn manifest(id: &PushId, parcel: &Parcel) -> Manifest {
    let claims =
        Claims { domains: parcel.domains.clone(), leaf: parcel.leaf.clone(), time: parcel.time, force: parcel.force };
    Manifest::of(id.clone(), parcel.lineage.clone(), &parcel.bundle, claims)
}

/// Whether the peer is asked to bring a file to its disk before it is closed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sync {
    /// By `fsync@openssh.com`.
    Asked,
    /// Not: it does so by itself, or cannot.
    Not,
}

/// Opens, writes and closes one file.
pub(super) async fn write(
    session: &Session,
    path: &str,
    bytes: &[u8],
    flags: OpenFlags,
    sync: Sync,
) -> Result<(), Error> {
    let handle = session.operation(path, session.sftp.open(path, flags, mode(0o600))).await?.handle;
    let chunks = bytes.chunks(CHUNK).enumerate().map(|(number, chunk)| {
        let offset = u64::try_from(number * CHUNK).unwrap_or(u64::MAX);
        session.operation(path, session.sftp.write(handle.clone(), offset, chunk.to_vec()))
    });
    let synced = async {
        match sync {
            Sync::Asked => session.operation(path, session.sftp.fsync(handle.clone())).await.map(drop),
            Sync::Not => Ok(()),
        }
    };
    let closed = session.operation(path, session.sftp.close(handle.clone()));
    // In this order on the wire, without waiting in between. What waits in memory is bounded by the sizes that a bundle
    // may have.
    let (writes, synced, closed) = futures::join!(join_all(chunks), synced, closed);
    writes.into_iter().try_for_each(|write| write.map(drop).map_err(full))?;
    synced.and(closed.map(drop))
}

/// The protocol has no word for a full disk.
fn full(mut error: Error) -> Error {
    if let Error::Sftp { code: StatusCode::Failure, message, .. } = &mut error {
        message.push_str(" (while writing: is its disk full, or a quota used up?)");
    }
    error
}

/// What limits a read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// The limit of an operation.
    Operation,
    /// Only that of the push: the verdict takes the client as long as it takes.
    Verdict,
}

impl Wait {
    /// The most bytes that are read.
    const fn bytes(self) -> u64 {
        match self {
            Self::Operation => RECEIPT_LIMIT,
            Self::Verdict => RECEIPT_BYTES,
        }
    }
}

async fn read<T: DeserializeOwned>(session: &Session, path: &str, wait: Wait) -> Result<T, Error> {
    let handle =
        session.operation(path, session.sftp.open(path, OpenFlags::READ, FileAttributes::empty())).await?.handle;
    let mut bytes = Vec::new();
    loop {
        let offset = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let limit = wait.bytes();
        if offset > limit {
            return Err(Error::Protocol(format!("`{path}` is longer than {limit} bytes")));
        }
        let next = session.sftp.read(handle.clone(), offset, READ);
        let data = match wait {
            Wait::Operation => session.operation(path, next).await,
            Wait::Verdict => next.await.map_err(|error: SftpError| Error::sftp(path, error)),
        };
        match data {
            Ok(data) if data.data.is_empty() => break,
            Ok(data) => bytes.extend_from_slice(&data.data),
            Err(Error::Sftp { code: StatusCode::Eof, .. }) => break,
            Err(error) => return Err(error),
        }
    }
    session.operation(path, session.sftp.close(handle)).await?;
    serde_json::from_slice(&bytes).map_err(|error| Error::Protocol(format!("`{path}` cannot be read: {error}")))
}
