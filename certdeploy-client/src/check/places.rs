//! The directories and files that the config names: whether they can be used, found out without using them.

use std::os::unix::fs::MetadataExt;

use certdeploy_common::daemon::findings::Findings;
use certdeploy_common::daemon::logging;
use certdeploy_common::fs::append;
use rustix::fs::Access;

use crate::account::Account;
use crate::config::Settings;
use crate::config::settings::LogPolicy;
use crate::intake;

pub(super) fn directories(settings: &Settings, findings: &mut Findings) {
    for (key, path) in [("destination", &settings.destination), ("source", &settings.source)] {
        let shown = path.display();
        if let Err(error) = rustix::fs::access(path, Access::WRITE_OK | Access::READ_OK | Access::EXEC_OK) {
            let us = rustix::process::geteuid().as_raw();
            findings.error(format!("`{key}` `{shown}` cannot be written by user {us}, who runs this: {error}"));
        }
        if key == "source" {
            let below = intake::below(path).unwrap_or_default();
            let ignored = below.ignored().map(|(name, why)| (name.to_owned(), why.to_owned()));
            for (name, reason) in below.strange.iter().cloned().chain(ignored) {
                findings.warn(format!("`{}` is not looked at: {reason}", path.join(name).display()));
            }
        }
        let Ok(meta) = path.metadata() else { continue };
        let mode = meta.mode() & 0o7777;
        if mode & 0o002 != 0 {
            findings.warn(format!(
                "`{key}` `{shown}` can be written by everybody (mode {mode:04o}); mend it with: chmod o-w {shown}"
            ));
        }
        if key == "source" && mode & 0o004 != 0 {
            findings.warn(format!(
                "`source` `{shown}` can be read by everybody (mode {mode:04o}), and keys arrive there; mend it with: chmod \
                 o-rwx {shown}"
            ));
        }
    }
}

pub(super) fn logs(log: &LogPolicy, findings: &mut Findings) {
    for path in [&log.file, &log.library_file].into_iter().flatten() {
        if !logging::is_stream(path)
            && let Err(cause) = append::appendable(path)
        {
            findings.error(format!("the log file {} cannot be written: {cause}", path.display()));
        }
    }
}

/// Who the part runs as that talks to peers.
pub(super) fn account(settings: &Settings, findings: &mut Findings) {
    let Some(sftpd) = &settings.sftpd else { return };
    if !rustix::process::geteuid().is_root() {
        findings.note("not run by root: one process, without privileges to separate");
        return;
    }
    let (wanted, found) = (&sftpd.user, Account::find(&sftpd.user));
    if found.name == *wanted {
        findings.note(format!("peers are talked to as user `{wanted}`"));
    } else {
        findings.warn(format!(
            "there is no user `{wanted}`; peers are talked to as `{}` instead. Make one with: useradd --system --shell \
             /usr/sbin/nologin {wanted}",
            found.name
        ));
    }
}
