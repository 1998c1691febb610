//! stub

use certdeploy_common::daemon::exit::Exit;

/// Runs the program.
pub fn run() -> Exit {
    Exit::Failed
}
