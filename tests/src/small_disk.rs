//! A small file system in memory: one that can be filled, and made read-only, under a program that runs.

use std::path::PathBuf;

use crate::process::{command, run};
use crate::wait::{PATIENCE, until};

/// A mounted one; it is unmounted with this value.
#[derive(Debug)]
pub struct SmallDisk {
    /// Where it is mounted.
    pub at: PathBuf,
}

impl SmallDisk {
    /// Makes the folder `at` and mounts one there, with these options (`size=1m`).
    ///
    /// # Panics
    /// Not root.
    #[must_use]
    pub fn mount(at: PathBuf, options: &str) -> Self {
        std::fs::create_dir_all(&at).expect("a folder");
        let mut mount = command("/usr/bin/mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&at);
        let _ = run(mount).ended(0);
        Self { at }
    }

    /// Changes its options, once nobody has a file open there that is being written or was removed.
    ///
    /// # Panics
    /// They are none, or somebody goes on writing to what is to become read-only.
    pub fn remount(&self, options: &str) {
        until("it can be mounted in another way", PATIENCE, || {
            let mut mount = command("/usr/bin/mount");
            mount.args(["-o", &format!("remount,{options}")]).arg(&self.at);
            (run(mount).code == Some(0)).then_some(())
        });
    }

    /// Fills what is left, to the last byte. To be removed again: the file that is returned.
    ///
    /// # Panics
    /// It is read-only.
    #[must_use]
    pub fn fill(&self) -> PathBuf {
        let ballast = self.at.join("ballast");
        let mut file = std::fs::File::create(&ballast).expect("a file");
        for size in [4096, 512, 1] {
            while std::io::Write::write(&mut file, &vec![b'x'; size]).is_ok_and(|written| written > 0) {}
        }
        ballast
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let mut umount = command("/usr/bin/umount");
        // Lazily: a program that a failed test left behind must not keep the mount for ever.
        umount.arg("-l").arg(&self.at);
        let _ = run(umount);
    }
}
