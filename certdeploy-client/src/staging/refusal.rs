//! Why staging says no to a verb. Does not know SFTP's numbers.

use std::io;

/// Why a verb is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// There is no such file.
    #[error("no such file")]
    Missing,
    /// It is there already.
    #[error("it exists already")]
    Exists,
    /// Not allowed here.
    #[error("{0}")]
    Denied(String),
    /// No such open file.
    #[error("no such handle")]
    Handle,
    /// Larger than anything that belongs there.
    #[error("larger than {0} bytes")]
    TooLarge(u64),
    /// More than anybody needs.
    #[error("too many {0}")]
    TooMany(&'static str),
    /// Not a verb for this path.
    #[error("not supported")]
    Unsupported,
    /// The disk refuses.
    #[error("{0}")]
    Io(io::Error),
}

/// What an error of the file system means to a peer.
pub(super) fn refusal(error: io::Error) -> Refusal {
    let is = |kind| error.kind() == kind;
    if is(io::ErrorKind::NotFound) {
        return Refusal::Missing;
    }
    if is(io::ErrorKind::AlreadyExists) { Refusal::Exists } else { Refusal::Io(error) }
}
