//! Making system calls in another process: a tracer, which only root may be here, lets the process itself make them
//! between two of its own. What comes back is what the kernel tells that very process. Only for x86-64.

use std::fs::File;
use std::os::unix::fs::FileExt;

use nix::sys::ptrace;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::wait::{PATIENCE, until};

/// An argument of a system call.
#[derive(Debug, Clone)]
pub enum Argument {
    /// A number, a flag, a descriptor; nothing as a pointer is 0.
    Number(i64),
    /// The address of this text and a 0.
    Text(String),
}

impl From<i64> for Argument {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<&str> for Argument {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It gave this.
    Gave(i64),
    /// It failed with this `errno`.
    Failed(i64),
    /// The process was killed by this signal instead.
    Killed(i32),
}

/// The length of the instruction that makes a system call.
const INSTRUCTION: u64 = 2;
/// How far below the stack the texts are put: below what the process may have there already.
const BELOW: u64 = 2048;

/// A process that is held.
#[derive(Debug)]
pub struct Inside {
    process: Pid,
    memory: File,
    /// Its registers when it was caught, waiting in a system call.
    own: nix::libc::user_regs_struct,
    lives: bool,
}

impl Inside {
    /// Holds the process `id` as soon as it waits in a system call, as an idle one does.
    ///
    /// # Panics
    /// It may not be traced, or does not wait.
    #[must_use]
    pub fn of(id: u32) -> Self {
        until("the process waits", PATIENCE, || Self::waiting(id))
    }

    fn waiting(id: u32) -> Option<Self> {
        let process = Pid::from_raw(i32::try_from(id).expect("an id"));
        ptrace::attach(process).expect("trace it");
        let _ = waitpid(process, None).expect("it stops");
        let memory = File::options().read(true).write(true).open(format!("/proc/{id}/mem")).expect("its memory");
        let own = ptrace::getregs(process).expect("its registers");
        let mut instruction = [0; 2];
        memory.read_exact_at(&mut instruction, own.rip - INSTRUCTION).expect("its code");
        let held = Self { process, memory, own, lives: true };
        (instruction == [0x0f, 0x05]).then_some(held)
    }

    /// Lets it make one system call.
    ///
    /// # Panics
    /// It was killed before.
    pub fn call(&mut self, number: i64, arguments: &[Argument]) -> Ended {
        assert!(self.lives, "it is dead");
        let mut free = self.own.rsp - BELOW;
        let mut values = [0; 6];
        for (value, argument) in values.iter_mut().zip(arguments) {
            *value = match argument {
                Argument::Number(number) => number.cast_unsigned(),
                Argument::Text(text) => {
                    let at = free;
                    self.memory.write_all_at(format!("{text}\0").as_bytes(), at).expect("write to its memory");
                    free += text.len() as u64 + 1;
                    at
                }
            };
        }
        let [rdi, rsi, rdx, r10, r8, r9] = values;
        let rip = self.own.rip - INSTRUCTION;
        let rax = number.cast_unsigned();
        // No call is under way, so none is to be begun again.
        let orig_rax = u64::MAX;
        let registers = nix::libc::user_regs_struct { rip, rax, orig_rax, rdi, rsi, rdx, r10, r8, r9, ..self.own };
        ptrace::setregs(self.process, registers).expect("set its registers");
        ptrace::step(self.process, None).expect("let it make one step");
        match waitpid(self.process, None).expect("it stops again") {
            WaitStatus::Signaled(_, signal, _) => {
                self.lives = false;
                Ended::Killed(signal as i32)
            }
            _ => match ptrace::getregs(self.process).expect("its registers").rax.cast_signed() {
                error @ -4095..=-1 => Ended::Failed(-error),
                result => Ended::Gave(result),
            },
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if self.lives {
            // It goes on where it was.
            let _ = ptrace::setregs(self.process, self.own);
            let _ = ptrace::detach(self.process, None);
        }
    }
}
