//! Starting one of our own processes with as little as possible: as another user, without the capabilities' bounding
//! set and new privileges. It must not know which process.

use std::io;
use std::process::Command;

use rustix::thread::CapabilitySet;

use crate::account::Account;

/// Starts `command` as `account`. It ends when the returned value is dropped.
///
/// # Errors
/// As `clone(2)`, `fork(2)`, `setuid(2)`, `execve(2)`; or not inside a runtime.
pub fn start(account: &Account, mut command: Command) -> io::Result<tokio::process::Child> {
    account.apply(&mut command);
    let runtime = tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
    // What falls here falls for this thread and what it starts, not for us.
    let body = || {
        let _inside = runtime.enter();
        for capability in every_capability() {
            // Only with CAP_SETPCAP. What stays is useless without new privileges.
            let _ = rustix::thread::remove_capability_from_bounding_set(capability);
        }
        rustix::thread::set_no_new_privs(true)?;
        tokio::process::Command::from(command).kill_on_drop(true).spawn()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, body)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that starts it failed")))
    })
}

/// All that this kernel has.
pub(super) fn every_capability() -> impl Iterator<Item = CapabilitySet> {
    let one = |number| CapabilitySet::from_bits_retain(1_u64 << number);
    (0..64).map(one).take_while(|one| rustix::thread::capability_is_in_bounding_set(*one).is_ok())
}
