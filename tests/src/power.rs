//! Runs a program that dies before its n-th durable step, by strace's injection, so that a test can cut the power there.

use std::path::Path;
use std::process::Command;

use crate::wait::{PATIENCE, until};

/// The calls that change what a disk holds or promise that it holds it.
const STEPS: &str = "fsync,fdatasync,rename,renameat,renameat2,mkdir,mkdirat,symlink,symlinkat,link,linkat,unlink,\
                     unlinkat,rmdir,ftruncate,pwrite64,fchmod,fchown";

/// `command`, but killed (with all its threads) when one of its threads is about to take its `number`-th step.
#[must_use]
pub fn dying_at(command: &Command, number: u32, trace: &Path) -> Command {
    let mut strace = Command::new("/usr/bin/strace");
    let _ = std::fs::remove_file(trace);
    // -D: the process we start is the program itself, and strace looks on from the side.
    strace.args(["-D", "-f", "-q", "-o"]).arg(trace);
    strace.arg("-e").arg(format!("trace={STEPS}"));
    strace.arg("-e").arg(format!("inject={STEPS}:signal=KILL:when={number}"));
    strace.arg(command.get_program()).args(command.get_args());
    strace.env_clear().stdin(std::process::Stdio::null());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            strace.env(name, value);
        }
    }
    strace
}

/// Whether the trace shows that one of the program's processes was killed.
#[must_use]
pub fn died(trace: &Path) -> bool {
    std::fs::read_to_string(trace).unwrap_or_default().contains("+++ killed by SIGKILL +++")
}

/// Waits until strace has seen the end of the program (process `id`), and says whether it was killed.
///
/// # Panics
/// strace does not come to an end.
#[must_use]
pub fn died_in_the_end(trace: &Path, id: u32) -> bool {
    until("strace saw the end of the program", PATIENCE, || {
        let text = std::fs::read_to_string(trace).unwrap_or_default();
        let mut lines = text.lines().filter(|line| line.contains("+++ "));
        lines.any(|line| line.split_whitespace().next() == Some(&id.to_string())).then_some(())
    });
    died(trace)
}

/// The step before which it died, for messages.
#[must_use]
pub fn last_step(trace: &Path) -> String {
    let text = std::fs::read_to_string(trace).unwrap_or_default();
    text.lines().rfind(|line| line.contains('(')).unwrap_or("no step").to_owned()
}
