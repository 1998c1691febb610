//! The doorway of `certdeploy-client`: argv and environment in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    certdeploy_client::run().into()
}
