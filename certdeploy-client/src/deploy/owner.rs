//! Files and directories with their final owner and mode before the first byte is in them: nothing with key bytes is
//! readable wider than configured, not for one system call.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use certdeploy_common::cert::FileName;
use certdeploy_common::setting::mode::Mode;
use rustix::fs::{Gid, OFlags, Uid};

use crate::config::Permissions;

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

    /// Writes a new file, synced.
    ///
    /// # Errors
    /// It exists, or any step fails.
    pub fn write(&self, path: &Path, mode: Mode, bytes: &[u8]) -> io::Result<()> {
        let flags = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(flags).open(path)?;
        self.own(&file, mode)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    /// Makes a directory, or gives one that is there its configured mode and owner.
    ///
    /// # Errors
    /// As `mkdir(2)`, `fchown(2)`, `fchmod(2)`.
    pub fn make_directory(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(path)?;
        self.own(&File::open(path)?, self.directory.unwrap_or(DIRECTORY))
    }

    /// Gives a directory that is there its configured mode and owner, as far as any is configured.
    ///
    /// # Errors
    /// As `fchown(2)`, `fchmod(2)`.
    pub fn adopt_directory(&self, path: &Path) -> io::Result<()> {
        let directory = File::open(path)?;
        match self.directory {
            Some(mode) => self.own(&directory, mode),
            None => self.give(&directory),
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
