//! Exit codes, the same for both programs. Only `main` may turn one into the process's end.

use std::process::ExitCode;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Exit {
    /// 0: all is done, or (for the hook) it is on disk.
    Done,
    /// 1: it could not be done: config, files, or the first failure with `fail_fast`.
    Failed,
    /// 2: the command line or a variable is wrong.
    Usage,
    /// 3: the run ended, but something failed or is still owed.
    Owed,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Owed => 3,
        })
    }
}
