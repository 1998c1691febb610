//! A small ext4 file system in a file. A copy of the file is the disk after a power cut: it holds what reached the
//! block device and nothing that was only in the page cache; the journal is replayed when the copy is mounted.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::process::{command, run};
use crate::wait::{PATIENCE, until};

const SIZE: u64 = 8 * 1024 * 1024;
/// A file system in memory: what the image costs there is no waiting for a real disk.
const MEMORY: &str = "/dev/shm";

/// The image and where it is mounted.
#[derive(Debug)]
pub struct LoopImage {
    file: PathBuf,
    /// Where it is mounted.
    pub mount: PathBuf,
    mounted: bool,
    _folder: TempDir,
}

impl LoopImage {
    /// Makes an empty file system and mounts it.
    ///
    /// # Panics
    /// Not root, or `mkfs.ext4` or `mount` is missing.
    #[must_use]
    pub fn new() -> Self {
        let roomy = rustix::fs::statvfs(MEMORY).is_ok_and(|memory| memory.f_bavail * memory.f_frsize > 32 * SIZE);
        let parent = if roomy { PathBuf::from(MEMORY) } else { std::env::temp_dir() };
        let folder = tempfile::Builder::new().prefix("certdeploy-disk-").tempdir_in(parent).expect("a folder");
        // The receiver runs as another user and must be able to walk through.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("chmod");
        let mount = folder.path().join("mount");
        std::fs::create_dir(&mount).expect("a folder");
        let mut image = Self { file: folder.path().join("disk.img"), mount, mounted: false, _folder: folder };
        let file = std::fs::File::create(&image.file).and_then(|file| file.set_len(SIZE));
        file.expect("make the image");
        let mut make = command("/usr/sbin/mkfs.ext4");
        make.args(["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"]).arg(&image.file);
        let _ = run(make).ended(0);
        image.attach();
        image
    }

    /// Puts everything on the disk and keeps a copy of it as `baseline`.
    pub fn keep(&mut self) {
        self.detach();
        std::fs::copy(&self.file, self.file.with_extension("baseline")).expect("copy the image");
        self.attach();
    }

    /// Back to the baseline.
    pub fn restore(&mut self) {
        let copy = self.file.with_extension("copy");
        std::fs::copy(self.file.with_extension("baseline"), &copy).expect("copy the image");
        self.detach();
        self.become_file(&copy);
        self.attach();
    }

    /// The power fails now and comes back: what was not on the disk is gone.
    pub fn cut_power(&mut self) {
        let after = self.file.with_extension("after");
        std::fs::write(&after, self.instant()).expect("copy the image");
        self.detach();
        self.become_file(&after);
        self.attach();
    }

    /// Another file in the place of the image, never other bytes in the same file: whoever asks for the devices of this
    /// machine at the wrong moment keeps the old one alive, and `mount` would use it again, with what it has in memory.
    fn become_file(&self, other: &Path) {
        std::fs::rename(other, &self.file).expect("put the copy in its place");
    }

    /// What the device holds at one instant. Anybody on this machine may have everything written out at any time
    /// (`sync(2)`), and a copy that is made meanwhile has blocks from before and after, which no disk ever had. Two copies
    /// that are the same are what there was between them.
    fn instant(&self) -> Vec<u8> {
        let read = || std::fs::read(&self.file).expect("read the image");
        let mut last = read();
        until("the image rests", PATIENCE, || {
            let before = std::mem::replace(&mut last, read());
            (before == last).then_some(())
        });
        last
    }

    fn attach(&mut self) {
        let mut mount = command("/usr/bin/mount");
        // The journal must not be written by the clock: only what a program synced counts.
        mount.args(["-o", "loop,noatime,commit=600"]).arg(&self.file).arg(&self.mount);
        let _ = run(mount).ended(0);
        self.mounted = true;
    }

    fn detach(&mut self) {
        // A process that was killed a moment ago may still be on its way out, with files open.
        until("nobody uses the image any more", PATIENCE, || {
            let mut umount = command("/usr/bin/umount");
            umount.arg(&self.mount);
            (run(umount).code == Some(0)).then_some(())
        });
        self.mounted = false;
    }
}

impl Default for LoopImage {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for LoopImage {
    fn drop(&mut self) {
        if self.mounted {
            let mut umount = command("/usr/bin/umount");
            // Lazily: a program that a failed test left behind must not keep the mount for ever.
            umount.arg("-l").arg(&self.mount);
            let _ = run(umount);
        }
    }
}
