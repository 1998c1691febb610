//! Many logins at once that do nothing: what a client must bear of its own pushers.

use std::path::Path;
use std::process::{Child, Stdio};

use crate::ssh;

/// So many of them. They leave with this value.
#[derive(Debug)]
pub struct Idle(Vec<Child>);

impl Idle {
    /// Logs in `count` times, a few at a time; `inside` says how many are.
    ///
    /// # Panics
    /// They do not get in.
    #[must_use]
    pub fn log_in(port: u16, key: &Path, count: usize, inside: impl Fn() -> usize) -> Self {
        let before = inside();
        let mut all = Self(Vec::with_capacity(count));
        for n in 0..count {
            let mut ssh = ssh::client("certdeploy", port, &[key]);
            ssh.args(["-N", "127.0.0.1"]).stdout(Stdio::null()).stderr(Stdio::null());
            all.0.push(ssh.spawn().expect("ssh"));
            crate::until("they get in", crate::wait::PATIENCE, || (inside() + 20 >= before + n).then_some(()));
        }
        crate::until("all are in", crate::wait::PATIENCE, || (inside() >= before + count).then_some(()));
        all
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
        }
        for child in &mut self.0 {
            let _ = child.wait();
        }
    }
}
