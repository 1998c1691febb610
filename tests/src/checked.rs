//! A target's config, changed and looked at by `certdeploy-client check`, for the tests of what that says.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::process::run;
use crate::{Ran, Target};

/// `check` of this target's config.
pub fn check(target: &Target, more: &[&str]) -> Ran {
    let mut command = target.command();
    command.arg("check").args(more);
    run(command)
}

/// Asserts that all of this was said.
///
/// # Panics
/// It was not.
#[track_caller]
pub fn says(ran: &Ran, needles: &[&str]) {
    for needle in needles {
        assert!(ran.said().contains(needle), "{needle:?} is not in:\n{}", ran.said());
    }
}

/// Gives a file this mode.
///
/// # Panics
/// It is not there, or not ours.
pub fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
}

/// Writes the config without the usual updates and with these lines.
///
/// # Panics
/// The disk is full.
pub fn with(target: &mut Target, extra: &str) {
    target.updates = false;
    target.extra = extra.to_owned();
    target.write_config();
}
