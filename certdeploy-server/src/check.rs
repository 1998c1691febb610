//! `check`: config, keys, reachable files and lineages are looked at; nothing is changed.

use certdeploy_common::daemon::exit::Exit;

use crate::Failure;
use crate::cli::Invocation;

pub(crate) fn check(invocation: &Invocation, effective: bool) -> Result<Exit, Failure> {
    let _ = (invocation, effective);
    Err("`check` is not there yet".into())
}
