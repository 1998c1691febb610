//! Files and directories with their final owner and mode before the first byte is in them: nothing with key bytes is
//! readable wider than configured, not for one system call.

use std::io::{self, Write};
use std::os::fd::AsFd;

use certdeploy_common::cert::FileName;
use certdeploy_common::setting::mode::Mode;
use rustix::fs::{Gid, Uid};

use crate::config::permissions::{FilePermissions, Ownership, Permissions};
use crate::dir::Dir;

/// Made directories when the config says nothing.
const DIRECTORY: Mode = Mode::new(0o755);

impl Permissions {
    /// Writes a new file of a lineage in a held directory, synced.
    ///
    /// # Errors
    /// It exists, or any step fails.
    pub fn write(&self, directory: &Dir, name: FileName, bytes: &[u8]) -> io::Result<()> {
        let FilePermissions { mode, owner } = self.file(name);
        write(directory, name.as_str(), mode, owner, bytes)
    }

    /// Writes a new file of our own beside them, for us alone, synced.
    ///
    /// # Errors
    /// It exists, or any step fails.
    pub fn note(&self, directory: &Dir, name: &str, bytes: &[u8]) -> io::Result<()> {
        write(directory, name, Mode::new(0o600), Ownership::default(), bytes)
    }

    /// Gives a directory that we made its mode and owner; until then it is ours alone, so nobody is in its way.
    ///
    /// # Errors
    /// As `fchown(2)`, `fchmod(2)`.
    pub fn release(&self, directory: &Dir) -> io::Result<()> {
        own(directory, self.directory.unwrap_or(DIRECTORY), self.owner)
    }

    /// Gives a directory that is there its configured mode and owner, as far as any is configured.
    ///
    /// # Errors
    /// As `fchown(2)`, `fchmod(2)`.
    pub fn adopt(&self, directory: &Dir) -> io::Result<()> {
        match self.directory {
            Some(mode) => own(directory, mode, self.owner),
            None => give(directory, self.owner),
        }
    }
}

fn write(directory: &Dir, name: &str, mode: Mode, owner: Ownership, bytes: &[u8]) -> io::Result<()> {
    let mut file = directory.create(name)?;
    own(&file, mode, owner)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn own(file: &impl AsFd, mode: Mode, owner: Ownership) -> io::Result<()> {
    // The owner first: until then it is ours alone, and changing it later could take bits of the mode away.
    give(file, owner)?;
    Ok(rustix::fs::fchmod(file, rustix::fs::Mode::from_raw_mode(mode.bits()))?)
}

fn give(file: &impl AsFd, owner: Ownership) -> io::Result<()> {
    if owner == Ownership::default() {
        return Ok(());
    }
    Ok(rustix::fs::fchown(file, owner.user.map(Uid::from_raw), owner.group.map(Gid::from_raw))?)
}
