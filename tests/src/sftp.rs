//! Stock OpenSSH `sftp -b` against a target, as people script it.

use std::path::Path;

use crate::World;
use crate::process::{Ran, command, run};

/// Runs `sftp -b` with these commands, as the pusher of `world`; `pinned` is the host key to expect.
#[must_use]
pub fn batch(world: &World, port: u16, pinned: &str, commands: &str) -> Ran {
    batch_as(world, "certdeploy", port, pinned, commands)
}

/// As [`batch`], under another name.
#[must_use]
pub fn batch_as(world: &World, user: &str, port: u16, pinned: &str, commands: &str) -> Ran {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("write");
        path
    };
    let known = file("known_hosts", &format!("[127.0.0.1]:{port} {pinned}\n"));
    let batch = file("batch", commands);
    let mut sftp = command("/usr/bin/sftp");
    let option = |name: &str, value: &Path| format!("{name}={}", value.display());
    sftp.args(["-F", "none", "-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]);
    sftp.arg("-o").arg(option("UserKnownHostsFile", &known)).arg("-o").arg(option("IdentityFile", &world.server_key()));
    sftp.arg("-P").arg(port.to_string()).arg("-b").arg(batch).arg(format!("{user}@127.0.0.1"));
    run(sftp)
}
