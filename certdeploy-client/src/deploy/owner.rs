//! Files and directories with their final owner and mode before the first byte is in them: nothing with key bytes is
//! readable wider than configured, not for one system call.

use std::io::{self, Write};
use std::os::fd::AsFd;

use certdeploy_common::cert::FileName;
use certdeploy_common::setting::mode::Mode;
use rustix::fs::{Gid, Uid};

use crate::config::Permissions;
use crate::dir::Dir;

/// Made directories when the config says nothing.
const DIRECTORY: Mode = Mode::new(0o755);

impl Permissions {
    /// The mode of a deployed file.
    #[must_use]
    pub fn mode(&self, name: FileName) -> Mode {
        match name {
            FileName::Privkey => self.key,
            FileName::Cert | FileName::Chain | FileName::Fullchain => self.certificate,
        }
    }

    /// Writes a new file in a held directory, synced.
    ///
    /// # Errors
    /// It exists, or any step fails.
    pub fn write(&self, directory: &Dir, name: &str, mode: Mode, bytes: &[u8]) -> io::Result<()> {
        let mut file = directory.create(name)?;
        self.own(&file, mode)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    /// Gives a directory that we made its mode and owner; until then it is ours alone, so nobody is in its way.
    ///
    /// # Errors
    /// As `fchown(2)`, `fchmod(2)`.
    pub fn release(&self, directory: &Dir) -> io::Result<()> {
        self.own(directory, self.directory.unwrap_or(DIRECTORY))
    }

    /// Gives a directory that is there its configured mode and owner, as far as any is configured.
    ///
    /// # Errors
    /// As `fchown(2)`, `fchmod(2)`.
    pub fn adopt(&self, directory: &Dir) -> io::Result<()> {
        match self.directory {
            Some(mode) => self.own(directory, mode),
            None => self.give(directory),
        }
    }

    fn own(&self, file: &impl AsFd, mode: Mode) -> io::Result<()> {
        self.give(file)?;
        Ok(rustix::fs::fchmod(file, rustix::fs::Mode::from_raw_mode(mode.bits()))?)
    }

    fn give(&self, file: &impl AsFd) -> io::Result<()> {
        if self.owner.is_none() && self.group.is_none() {
            return Ok(());
        }
        Ok(rustix::fs::fchown(file, self.owner.map(Uid::from_raw), self.group.map(Gid::from_raw))?)
    }
}
