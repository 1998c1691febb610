//! `forget`: takes what is owed to a target, or of a lineage, out of the queue.

use certdeploy_common::daemon::exit::Exit;

use crate::Failure;
use crate::config::Settings;

pub(crate) fn forget(settings: &Settings, name: &str) -> Result<Exit, Failure> {
    let _ = (settings, name);
    Err("`forget` is not there yet".into())
}
