//! A held directory: every name is opened below its descriptor, never through a path, so nothing that a peer plants
//! or swaps can lead out of it. Must not know what the files mean.

mod listing;
mod unfit;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use zeroize::Zeroizing;

pub use unfit::Unfit;

/// An open directory.
#[derive(Debug)]
pub struct Dir(OwnedFd);

/// Which file it was that was read, so that only this one is removed.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    inode: u64,
    modified: (i64, i64),
    changed: i64,
    length: u64,
}

impl Identity {
    fn of(meta: &std::fs::Metadata) -> Self {
        Self {
            inode: meta.ino(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: meta.ctime(),
            length: meta.len(),
        }
    }

    /// Whether it is the same file with the same content. Renaming it is no change.
    fn is(&self, other: &Self) -> bool {
        let of = |file: &Self| (file.inode, file.modified, file.length);
        of(self) == of(other)
    }

    /// When it was changed last by this host's clock, in Unix seconds; a peer sets other times as it likes.
    #[must_use]
    pub fn changed(&self) -> i64 {
        self.changed
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Dir {
    /// Opens a directory of ours by its path.
    ///
    /// # Errors
    /// As `open(2)`.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(rustix::fs::open(path, DIRECTORY, Mode::empty())?))
    }

    /// Takes the directory's lock, which falls with this value.
    ///
    /// # Errors
    /// Somebody else has it for longer than `limit`, or as `flock(2)`.
    pub fn lock(&self, limit: std::time::Duration) -> io::Result<()> {
        const STEP: std::time::Duration = std::time::Duration::from_millis(20);
        let begun = std::time::Instant::now();
        loop {
            match rustix::fs::flock(&self.0, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
                Err(rustix::io::Errno::WOULDBLOCK) if begun.elapsed() < limit => std::thread::sleep(STEP),
                done => return Ok(done?),
            }
        }
    }

    /// A directory whose descriptor came from another process.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Opens a directory inside; a symlink is an error.
    ///
    /// # Errors
    /// As `openat(2)`.
    pub fn child(&self, name: impl rustix::path::Arg) -> io::Result<Self> {
        Ok(Self(rustix::fs::openat(&self.0, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?))
    }

    /// Makes a directory inside, 0700, and opens it.
    ///
    /// # Errors
    /// As `mkdirat(2)` and `openat(2)`.
    pub fn make(&self, name: &str) -> io::Result<Self> {
        rustix::fs::mkdirat(&self.0, name, Mode::RWXU)?;
        self.child(name)
    }

    /// Where a symlink inside leads, if it is one.
    #[must_use]
    pub fn link(&self, name: &str) -> Option<String> {
        rustix::fs::readlinkat(&self.0, name, Vec::new()).ok()?.into_string().ok()
    }

    /// Puts a symlink inside in place of whatever is there, in one rename, durably.
    ///
    /// # Errors
    /// As `symlinkat(2)`, `renameat(2)`, `fsync(2)`.
    pub fn place_link(&self, name: &str, target: &str) -> io::Result<()> {
        let temporary = format!(".{name}.new");
        self.remove_file(&temporary)?;
        rustix::fs::symlinkat(target, &self.0, &temporary)?;
        self.rename(&temporary, self, name)?;
        self.sync()
    }

    /// Makes a new file inside, 0600; one that exists is an error.
    ///
    /// # Errors
    /// As `openat(2)`.
    pub fn create(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?))
    }

    /// Opens a file inside for reading or writing, whatever it is; never waits, never follows a symlink.
    ///
    /// # Errors
    /// As `openat(2)`.
    pub fn existing(&self, name: &str, write: bool) -> io::Result<File> {
        let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(&self.0, name, flags, Mode::empty())?))
    }

    /// Reads a plain file of at most `limit` bytes that belongs to one of `owners` (none named: to anybody). What is checked is the open
    /// file, so it cannot be exchanged in between.
    ///
    /// # Errors
    /// See [`Unfit`].
    pub fn read(&self, name: &str, limit: u64, owners: &[u32]) -> Result<(Zeroizing<Vec<u8>>, Identity), Unfit> {
        let file = self.existing(name, false).map_err(Unfit::of)?;
        let meta = file.metadata().map_err(Unfit::Io)?;
        if !meta.is_file() || meta.nlink() != 1 {
            return Err(Unfit::NotPlain);
        }
        if !owners.is_empty() && !owners.contains(&meta.uid()) {
            return Err(Unfit::Owner(meta.uid()));
        }
        Ok((bytes(file, &meta, limit)?, Identity::of(&meta)))
    }

    /// Reads a plain file of at most `limit` bytes that is deployed here. It may have more names, as in a backup that is
    /// made of hard links; but not where the owner of the directory could have given it one to have us copy what he may
    /// not read.
    ///
    /// # Errors
    /// See [`Unfit`].
    pub fn deployed(&self, name: &str, limit: u64) -> Result<Zeroizing<Vec<u8>>, Unfit> {
        let file = self.existing(name, false).map_err(Unfit::of)?;
        let meta = file.metadata().map_err(Unfit::Io)?;
        let owner = self.owner().map_err(Unfit::Io)?;
        let planted = meta.nlink() != 1 && owner != rustix::process::geteuid().as_raw() && owner != meta.uid();
        if !meta.is_file() || planted { Err(Unfit::NotPlain) } else { bytes(file, &meta, limit) }
    }

    /// Puts a file of ours, 0600, in place of whatever is there, in one rename, durably.
    ///
    /// # Errors
    /// As `openat(2)`, `write(2)`, `renameat(2)`, `fsync(2)`; what was there still is.
    pub fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let temporary = format!(".{name}.{}.tmp", std::process::id());
        self.remove_file(&temporary)?;
        let mut file = self.create(&temporary)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        let placed = written.and_then(|()| self.rename(&temporary, self, name));
        if placed.is_err() {
            let _ = self.remove_file(&temporary);
        }
        placed.and_then(|()| self.sync())
    }

    /// Removes the very file that was read; a newer one that has taken its name stays.
    ///
    /// # Errors
    /// As `renameat2(2)` and `unlinkat(2)`.
    pub fn remove_read(&self, name: &str, read: Identity) -> io::Result<()> {
        let aside = format!(".{name}.read");
        self.remove_file(&aside)?;
        match rustix::fs::renameat(&self.0, name, &self.0, &aside) {
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            moved => moved?,
        }
        if self.existing(&aside, false)?.metadata().is_ok_and(|meta| read.is(&Identity::of(&meta))) {
            return self.remove_file(&aside);
        }
        match rustix::fs::renameat_with(&self.0, &aside, &self.0, name, rustix::fs::RenameFlags::NOREPLACE) {
            // An even newer one has come: it is the one that counts.
            Err(rustix::io::Errno::EXIST) => self.remove_file(&aside),
            back => Ok(back?),
        }
    }

    /// Whether there is anything called `name`.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Size and modification time (Unix seconds) of a plain file inside.
    #[must_use]
    pub fn stat(&self, name: &str) -> Option<(u64, i64)> {
        let meta = self.existing(name, false).ok()?.metadata().ok().filter(std::fs::Metadata::is_file)?;
        Some((meta.len(), meta.mtime()))
    }

    /// The owner of the directory itself.
    ///
    /// # Errors
    /// As `fstat(2)`.
    pub fn owner(&self) -> io::Result<u32> {
        Ok(rustix::fs::fstat(&self.0)?.st_uid)
    }

    /// Renames inside this directory or to another one of the same file system; replaces a file, not a directory
    /// with something in it.
    ///
    /// # Errors
    /// As `renameat(2)`.
    pub fn rename(&self, from: &str, into: &Self, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.0, from, &into.0, to)?)
    }

    /// Removes a file or symlink; one that is not there is fine.
    ///
    /// # Errors
    /// As `unlinkat(2)`.
    pub fn remove_file(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.0, name, AtFlags::empty()) {
            Err(rustix::io::Errno::NOENT) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Removes a directory of ours with all that is in it, two levels deep and no deeper: staging has no more.
    ///
    /// # Errors
    /// As `unlinkat(2)`; something deeper was planted there.
    pub fn remove_tree(&self, name: &str) -> io::Result<()> {
        let Ok(inside) = self.child(name) else { return self.remove_file(name) };
        for (entry, kind) in inside.entries()? {
            if kind == FileType::Directory {
                let below = inside.child(&entry)?;
                for (file, _) in below.entries()? {
                    below.remove_file(&file)?;
                }
                rustix::fs::unlinkat(&inside.0, &entry, AtFlags::REMOVEDIR)?;
            } else {
                inside.remove_file(&entry)?;
            }
        }
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR)?)
    }

    /// Makes the names in it durable.
    ///
    /// # Errors
    /// As `fsync(2)`.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.0)?)
    }
}

fn bytes(file: File, meta: &std::fs::Metadata, limit: u64) -> Result<Zeroizing<Vec<u8>>, Unfit> {
    if meta.len() > limit {
        return Err(Unfit::TooLarge(limit));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(meta.len()).unwrap_or_default() + 1));
    file.take(limit + 1).read_to_end(&mut bytes).map_err(Unfit::Io)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > limit) {
        return Err(Unfit::TooLarge(limit));
    }
    Ok(bytes)
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_plain_files_of_the_right_owner_and_size_are_read() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let me = rustix::process::getuid().as_raw();
        std::fs::write(temp.path().join("fine"), "12345").unwrap();
        std::fs::write(temp.path().join("two"), "x").unwrap();
        std::fs::hard_link(temp.path().join("two"), temp.path().join("names")).unwrap();
        symlink("fine", temp.path().join("link")).unwrap();
        rustix::fs::mkfifoat(&dir, "fifo", Mode::RWXU).unwrap();
        assert_eq!(dir.read("fine", 5, &[me]).unwrap().0.as_slice(), b"12345");
        assert!(matches!(dir.read("fine", 4, &[me]), Err(Unfit::TooLarge(4))));
        assert!(matches!(dir.read("fine", 5, &[me + 1]), Err(Unfit::Owner(owner)) if owner == me));
        for name in ["link", "fifo", "two", "names"] {
            assert!(matches!(dir.read(name, 5, &[me]), Err(Unfit::NotPlain)), "{name}");
        }
        assert!(matches!(dir.read("nothing", 5, &[me]), Err(Unfit::Missing)));
    }

    #[test]
    fn only_the_file_that_was_read_is_removed() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let me = rustix::process::getuid().as_raw();
        std::fs::write(temp.path().join("file"), "old").unwrap();
        let (_, old) = dir.read("file", 9, &[me]).unwrap();
        std::fs::write(temp.path().join("other"), "newer").unwrap();
        dir.rename("other", &dir, "file").unwrap();
        dir.remove_read("file", old).unwrap();
        let (bytes, newer) = dir.read("file", 9, &[me]).unwrap();
        assert_eq!(bytes.as_slice(), b"newer");
        dir.remove_read("file", newer).unwrap();
        assert_eq!(dir.entries().unwrap(), []);
    }

    #[test]
    fn a_planted_symlink_is_never_followed_when_removing() {
        let temp = tempfile::tempdir().unwrap();
        let outside = temp.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("keep"), "").unwrap();
        let staging = temp.path().join("staging");
        std::fs::create_dir_all(staging.join("push/inner")).unwrap();
        symlink(&outside, staging.join("push/inner/link")).unwrap();
        symlink(&outside, staging.join("planted")).unwrap();
        let dir = Dir::open(&staging).unwrap();
        dir.remove_tree("push").unwrap();
        dir.remove_tree("planted").unwrap();
        assert_eq!(dir.entries().unwrap(), []);
        assert!(outside.join("keep").exists());
    }
}
