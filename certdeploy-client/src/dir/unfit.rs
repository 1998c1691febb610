//! Why a file is not taken. Opens nothing itself.

use std::io;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// It is not there.
    #[error("is missing")]
    Missing,
    /// It is a symlink, a FIFO, a device, or has a second name.
    #[error("is not a plain file with one name")]
    NotPlain,
    /// It belongs to somebody who has no business there.
    #[error("belongs to user {0}, who is neither the owner of the directory nor us")]
    Owner(u32),
    /// It is larger than anything that belongs there.
    #[error("is larger than {0} bytes")]
    TooLarge(u64),
    /// It is a link that is not followed.
    #[error("leads to `{0}`, where a link of somebody else's directory is not followed")]
    Elsewhere(String),
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(io::Error),
}

impl Unfit {
    /// What it means that a file cannot be opened.
    #[must_use]
    pub fn of(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(code) if code == rustix::io::Errno::LOOP.raw_os_error() => Self::NotPlain,
            _ if error.kind() == io::ErrorKind::NotFound => Self::Missing,
            _ => Self::Io(error),
        }
    }
}
