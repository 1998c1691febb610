//! Runs a program that dies before its n-th durable step, by strace's injection, so that a test can cut the power there.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::wait::{PATIENCE, until};

/// The calls that change what a disk holds or promise that it holds it.
const CALLS: &str = "fsync,fdatasync,rename,renameat,renameat2,mkdir,mkdirat,symlink,symlinkat,link,linkat,unlink,\
                     unlinkat,rmdir,ftruncate,pwrite64,fchmod,fchown";

/// One durable step: the `number`-th `call` of one of the program's threads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The system call.
    pub call: String,
    /// Which of them, from 1.
    pub number: u32,
}

/// `command`, looked at; its steps can be had with [`steps`] afterwards.
#[must_use]
pub fn watched(command: &Command, trace: &Path) -> Command {
    strace(command, trace, CALLS, None)
}

/// Every step in the trace of a run.
#[must_use]
pub fn steps(trace: &Path) -> Vec<Step> {
    let text = std::fs::read_to_string(trace).unwrap_or_default();
    let mut counts = BTreeMap::<(&str, &str), u32>::new();
    for line in text.lines() {
        let (thread, rest) = line.split_once(' ').unwrap_or_default();
        let Some((call, _)) = rest.trim_start().split_once('(') else { continue };
        if CALLS.split(',').any(|known| known == call) {
            *counts.entry((thread, call)).or_default() += 1;
        }
    }
    // strace counts the calls of each kind and of each thread on its own.
    let mut most = BTreeMap::<&str, u32>::new();
    for ((_, call), count) in counts {
        let entry = most.entry(call).or_default();
        *entry = count.max(*entry);
    }
    let of = |(call, count): (&str, u32)| (1..=count).map(|number| Step { call: call.to_owned(), number }).collect();
    most.into_iter().flat_map(|entry| -> Vec<Step> { of(entry) }).collect()
}

/// `command`, but killed with all its threads when one of them is about to take this step.
#[must_use]
pub fn dying_at(command: &Command, step: &Step, trace: &Path) -> Command {
    let calls = if CALLS.split(',').any(|call| call == step.call) { CALLS } else { &step.call };
    strace(command, trace, calls, Some(&format!("{}:signal=KILL:when={}", step.call, step.number)))
}

fn strace(command: &Command, trace: &Path, calls: &str, injected: Option<&str>) -> Command {
    let mut strace = Command::new("/usr/bin/strace");
    let _ = std::fs::remove_file(trace);
    // -D: the process we start is the program itself, and strace looks on from the side.
    strace.args(["-D", "-f", "-q", "-o"]).arg(trace);
    strace.arg("-e").arg(format!("trace={calls}"));
    if let Some(injected) = injected {
        strace.arg("-e").arg(format!("inject={injected}"));
    }
    strace.arg(command.get_program()).args(command.get_args());
    strace.env_clear().stdin(std::process::Stdio::null());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            strace.env(name, value);
        }
    }
    strace
}

/// `command`, but its syncs do nothing: what a program without them would leave after a power cut.
#[must_use]
pub fn without_syncs(command: &Command, trace: &Path) -> Command {
    strace(command, trace, "fsync,fdatasync", Some("fsync,fdatasync:retval=0"))
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
