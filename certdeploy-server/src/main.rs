//! The doorway of `certdeploy-server`: argv and environment in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    certdeploy_server::run().into()
}
