//! What the processes that read peers' bytes give up before the first of these bytes: their capabilities, new
//! privileges, the file system but for one directory ([`files`]), and most of the kernel ([`calls`]). It must not know
//! what these processes do.
//!
//! A protection that this machine does not have is not silently left out: [`Confinement`] says what holds, as it was
//! found afterwards.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub mod calls;
pub mod files;
pub mod start;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use certdeploy_common::daemon::logging::causes;
use rustix::thread::{CapabilitySet, CapabilitySets};
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use seccompiler::BpfProgram;
use serde::{Deserialize, Serialize};

/// Which process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// Talks to peers that are connected, writes below its directory, has threads.
    Receiver,
    /// Reads and writes what is open, and thinks.
    Validator,
}

/// What holds of a process's confinement, and what does not and why.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// Each as a part of a sentence.
    pub holds: Vec<String>,
    /// Each as a part of a sentence.
    pub missing: Vec<String>,
}

impl Confinement {
    fn note(&mut self, protection: &str, outcome: Result<String, String>) {
        match outcome {
            Ok(detail) if detail.is_empty() => self.holds.push(protection.to_owned()),
            Ok(detail) => self.holds.push(format!("{protection} ({detail})")),
            Err(reason) => self.missing.push(format!("{protection}: {reason}")),
        }
    }

    /// Says it in the log, a warning for each protection that is missing.
    pub fn say(&self, process: &str) {
        for missing in &self.missing {
            tracing::warn!("The {process} runs without {missing}");
        }
        if !self.holds.is_empty() {
            tracing::info!("The {process} is confined by: {}", self.holds.join(", "));
        }
    }
}

/// Confines the receiver to `incoming`. It must still have one thread, and all that it will ever open elsewhere (its
/// log, its sockets) must be open.
///
/// # Errors
/// It has more than one thread, which would not be confined; or it still has privileges and cannot drop them.
pub fn receiver(incoming: impl AsFd) -> io::Result<Confinement> {
    confine(Whose::Receiver, Some(incoming.as_fd()))
}

/// Confines the validator: what is open, and nothing else.
///
/// # Errors
/// As [`receiver`].
pub fn validator() -> io::Result<Confinement> {
    confine(Whose::Validator, None)
}

fn confine(whose: Whose, below: Option<BorrowedFd<'_>>) -> io::Result<Confinement> {
    one_thread()?;
    let mut found = Confinement::default();
    drop_capabilities()?;
    let user = rustix::process::geteuid();
    let nobody = if user.is_root() { Err("it is root".to_owned()) } else { Ok(user.to_string()) };
    found.note("unprivileged user", nobody);
    found.note("empty capability sets", capabilities());
    let no_new_privs = match rustix::thread::no_new_privs() {
        Ok(true) => Ok(String::new()),
        Ok(false) => Err("the kernel did not keep it".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    found.note("no_new_privs", no_new_privs);
    found.note("Landlock", files::confine(below).map(|abi| format!("ABI {abi}")));
    found.note("seccomp", filter(whose));
    Ok(found)
}

/// What Landlock confines is the thread that asks for it, and those it starts.
fn one_thread() -> io::Result<()> {
    match std::fs::read_dir("/proc/self/task").map(Iterator::count) {
        Ok(2..) => Err(io::Error::other("it has threads already, which would not be confined")),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Those that the change of the user leaves.
fn drop_capabilities() -> io::Result<()> {
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    // Kernels without ambient capabilities have none to clear.
    let _ = rustix::thread::clear_ambient_capability_set();
    Ok(())
}

fn capabilities() -> Result<String, String> {
    let sets = rustix::thread::capabilities(None).map_err(|error| error.to_string())?;
    let left = sets.effective | sets.permitted | sets.inheritable;
    if !left.is_empty() {
        return Err(format!("{left:?} is left"));
    }
    let bounded =
        start::every_capability().all(|one| !rustix::thread::capability_is_in_bounding_set(one).is_ok_and(|is| is));
    Ok(if bounded { String::new() } else { "but for the bounding set, which no_new_privs makes useless".to_owned() })
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn filter(whose: Whose) -> Result<String, String> {
    let filters = calls::filters(whose).map_err(|error| causes(&error))?;
    let count = filters.len();
    for filter in filters {
        let program = BpfProgram::try_from(filter).map_err(|error| causes(&error))?;
        seccompiler::apply_filter_all_threads(&program).map_err(|error| causes(&error))?;
    }
    Ok(format!("{count} filters"))
}

/// The numbers of the calls, and which there are, are the architecture's own.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn filter(_: Whose) -> Result<String, String> {
    Err("not on this architecture".to_owned())
}
