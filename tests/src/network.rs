//! A network of its own: a namespace in which an engine may have bridges and a packet filter without meeting the
//! machine's. Two can be joined by a cable.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::process::{command, run};

/// One; it goes with this value.
#[derive(Debug)]
pub struct Network {
    name: String,
}

impl Network {
    /// Makes an empty one that has loopback.
    ///
    /// # Panics
    /// The kernel refuses.
    #[must_use]
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("certdeploy-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        ip(&["netns", "add", &name]);
        let network = Self { name };
        network.ip(&["link", "set", "lo", "up"]);
        network
    }

    /// Lays a cable to another one; the addresses are of one /24.
    pub fn join(&self, address: &str, other: &Self, other_address: &str) {
        ip(&["link", "add", "cable0", "netns", &self.name, "type", "veth", "peer", "cable0", "netns", &other.name]);
        for (network, address) in [(self, address), (other, other_address)] {
            network.ip(&["address", "add", &format!("{address}/24"), "dev", "cable0"]);
            network.ip(&["link", "set", "cable0", "up"]);
        }
    }

    fn ip(&self, words: &[&str]) {
        let mut all = vec!["-n", &self.name];
        all.extend(words);
        ip(&all);
    }

    /// Where the kernel shows it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// A command that runs in it.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        // Not `ip netns exec`: it hides the machine's mounts.
        let mut nsenter = command("/usr/bin/nsenter");
        nsenter.arg(format!("--net={}", self.path().display())).arg(program);
        nsenter
    }
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let mut remove = command("/usr/sbin/ip");
        remove.args(["netns", "delete", &self.name]);
        let _ = run(remove);
    }
}

#[track_caller]
fn ip(words: &[&str]) {
    let mut ip = command("/usr/sbin/ip");
    ip.args(words);
    let _ = run(ip).ended(0);
}
