//! Starting the receiver: ourselves again, as another user, with one socket and nothing else.
#![expect(clippy::disallowed_methods, reason = "one of the three places that spawn: the receiver is ourselves")]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use crate::account::{Account, OURSELVES};

/// The hidden command that is the receiver's life.
pub const COMMAND: &str = "internal-receiver";

/// Starts the receiver as `account`; its end of the line is its standard input.
///
/// # Errors
/// As `fork(2)`, `setuid(2)`, `execve(2)`.
pub fn receiver(account: &Account, line: UnixStream) -> io::Result<tokio::process::Child> {
    let mut command = std::process::Command::new(OURSELVES);
    // What `ps` shows; the program itself looks at the command only.
    command
        .arg0("certdeploy-client: receiver")
        .arg(COMMAND)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(line)))
        .process_group(0);
    crate::sandbox::start::start(account, command)
}

/// The receiver's end of the line: its standard input.
///
/// # Errors
/// It has none.
pub fn line() -> io::Result<UnixStream> {
    Ok(UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?))
}
