//! Who the processes without privileges run as, and how the last privileges fall. Must not spawn anything itself.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

/// The running program, whatever has become of its path.
pub const OURSELVES: &str = "/proc/self/exe";

/// A user without privileges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its user id.
    pub uid: u32,
    /// Its group id.
    pub gid: u32,
    /// Its home directory.
    pub home: PathBuf,
}

impl Account {
    /// The account called `name`; `nobody` when there is none, which the caller should say.
    #[must_use]
    pub fn find(name: &str) -> Self {
        let of = |name: &str| nix::unistd::User::from_name(name).ok().flatten();
        let found = of(name).filter(|user| !user.uid.is_root()).or_else(|| of("nobody"));
        found.map_or_else(
            || Self { name: "nobody".to_owned(), uid: 65534, gid: 65534, home: "/nonexistent".into() },
            Self::of,
        )
    }

    /// The account called `name`, root included; `None` when there is none.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        nix::unistd::User::from_name(name).ok().flatten().map(Self::of)
    }

    fn of(user: nix::unistd::User) -> Self {
        Self { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw(), home: user.dir }
    }

    /// Makes `command` run as this account, without any other group.
    pub fn apply(&self, command: &mut Command) {
        // Setting the user id as root clears the supplementary groups (std does it before setuid).
        command.uid(self.uid).gid(self.gid);
    }
}

/// In a process that has just become unprivileged: no new privileges, no core dumps, nobody of the same account may
/// look into its memory.
///
/// # Errors
/// The kernel refuses.
pub fn give_up_the_rest() -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    forbid_dumps()
}

/// The most descriptors that the receiver asks for.
const DESCRIPTORS: u64 = 65_536;

/// As many descriptors as this process may have: those that start it keep to fewer for programs that count on that.
pub fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(DESCRIPTORS).min(DESCRIPTORS);
    if current.is_some_and(|current| current < wanted)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
    {
        tracing::debug!("No more descriptors: {error}");
    }
}

/// No core dumps, no ptrace by others of the same user: keys are in memory.
///
/// # Errors
/// The kernel refuses.
pub fn forbid_dumps() -> io::Result<()> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}
