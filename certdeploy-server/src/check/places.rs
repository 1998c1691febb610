//! The files and directories that the config names: whether they can be used, found out without using them.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use certdeploy_common::fs::append;
use certdeploy_common::ssh::key::fingerprint;
use rustix::fs::Access;

use super::Findings;
use crate::cli::LogOptions;
use crate::config::identity::Signer;
use crate::config::{Places, Settings};
use crate::push::login::agent_holds;
use crate::queue::Queue;
use crate::renew::certbot::program;
use crate::renew::civil::Zone;
use crate::renew::place;

pub(super) fn key(settings: &Settings, findings: &mut Findings) {
    if let Some(name) = settings.key.missing_credential() {
        match settings.key.look_without_passphrase() {
            Err(error) => findings.errors.extend(error.lines()),
            Ok(()) => findings.note(format!(
                "the passphrase is the credential \"{name}\", which only the service is given: whether it opens the key is \
                 not tried here"
            )),
        }
        return;
    }
    match settings.key.load() {
        Err(error) => findings.errors.extend(error.lines()),
        Ok(identity) => {
            let Signer::Agent(socket) = &identity.signer else { return };
            let shown = socket.display();
            match crate::block_on(async { Ok(agent_holds(socket, &identity.public).await?) }) {
                Err(error) => findings.error(format!("`ssh_agent` `{shown}` does not answer: {error}")),
                Ok(true) => {}
                Ok(false) => findings.warn(format!(
                    "`ssh_agent` `{shown}` does not hold the key {} of `privkey_filename`: nothing can be pushed until it \
                     is added with `ssh-add`",
                    fingerprint(&identity.public)
                )),
            }
        }
    }
}

pub(super) fn queue(settings: &Settings, at: &Places, findings: &mut Findings) {
    let path = &settings.queue_dir;
    let shown = path.display();
    let wrong = |cause: String| format!("{}Invalid value \"{shown}\" for `queue_dir`. {cause}", at.key("queue_dir"));
    match path.metadata() {
        Ok(meta) if !meta.is_dir() => return findings.error(wrong("`queue_dir` must be a directory.".to_owned())),
        Ok(meta) => {
            let us = rustix::process::geteuid().as_raw();
            if meta.uid() != us {
                let cause = format!(
                    "It belongs to user {}, and we are user {us}: the hook and the daemon must be one user.",
                    meta.uid()
                );
                return findings.error(wrong(cause));
            }
            if meta.mode() & 0o077 != 0 {
                let follows = match meta.mode() & 0o1000 {
                    0 => "it will be made 0700, unless it holds other things than the queue",
                    _ => "it stays so, for others put things into it; give the queue a directory of its own",
                };
                let mode = meta.mode() & 0o7777;
                findings.warn(format!("`queue_dir` {shown} is open to others (mode {mode:04o}); {follows}"));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => match nearest(path) {
            Some(parent) if writable(&parent) => {
                findings.note(format!("`queue_dir` {shown} does not exist yet; it will be made"))
            }
            Some(parent) => {
                return findings
                    .error(wrong(format!("It does not exist, and nothing can be made in {}.", parent.display())));
            }
            None => return findings.error(wrong("It does not exist.".to_owned())),
        },
        Err(error) => return findings.error(wrong(format!("{error}."))),
    }
    if nearest(path).is_some_and(|path| is_memory(&path)) {
        findings.warn(format!(
            "`queue_dir` {shown} is in memory (tmpfs): what is owed is forgotten when the host restarts"
        ));
    }
    match Queue::look(path).and_then(|queue| queue.map(|mut queue| queue.deliveries()).transpose()) {
        Ok(None) => {}
        Ok(Some(owed)) if owed.is_empty() => {}
        Ok(Some(owed)) => {
            let owed = owed.len();
            let are = if owed == 1 { "delivery is" } else { "deliveries are" };
            findings.note(format!("{owed} {are} owed; `certdeploy-server status` shows them"))
        }
        Err(error) => findings.error(wrong(error.to_string())),
    }
}

/// The path itself, or what exists of it.
fn nearest(path: &Path) -> Option<PathBuf> {
    path.ancestors().find(|path| path.exists()).map(Path::to_owned)
}

fn writable(directory: &Path) -> bool {
    directory.is_dir() && rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

fn is_memory(path: &Path) -> bool {
    // TMPFS_MAGIC and RAMFS_MAGIC of statfs(2).
    rustix::fs::statfs(path).is_ok_and(|found| matches!(found.f_type as u64, 0x0102_1994 | 0x8584_58f6))
}

/// The files that would be written to: those of the command line, else those of the config.
pub(super) fn logs(settings: &Settings, given: &LogOptions, at: &Places, findings: &mut Findings) {
    let files = [
        ("log_filename", &given.file, &settings.log.file),
        ("sftp_log_filename", &given.library_file, &settings.log.library_file),
    ];
    for (key, given, written) in files {
        let Some(path) = given.as_ref().or(written.value.as_ref()) else { continue };
        if matches!(path.to_str(), Some("stdout" | "stderr" | "/dev/stdout" | "/dev/stderr")) {
            continue;
        }
        let Err(cause) = append::appendable(path) else { continue };
        let shown = path.display();
        findings.error(match given {
            Some(_) => format!("the log file {shown} cannot be written: {cause}"),
            None => format!(
                "{}Invalid value \"{shown}\" for `{key}`. `{key}` must be a file that can be written: {cause}",
                at.key(key)
            ),
        });
    }
}

pub(super) fn certbot(settings: &Settings, at: &Places, findings: &mut Findings) {
    let Some(path) = program(&settings.renew) else {
        findings.warn("there is no `certbot` in PATH: the daemon cannot renew; set `renew_exec`, or renew otherwise");
        return;
    };
    let found = if path.components().count() == 1 {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&paths).map(|directory| directory.join(&path)).any(|path| runs(&path))
    } else {
        runs(&path)
    };
    if !found {
        let shown = path.display();
        findings.error(format!(
            "{}Invalid value \"{shown}\" for `renew_exec`. `renew_exec` must be an executable file.",
            at.key("renew_exec")
        ));
    }
}

/// The times of renewals are local ones.
pub(super) fn zone(findings: &mut Findings) {
    if let Some(unknown) = Zone::unknown() {
        findings.warn(format!("`renew_at`: {unknown}"));
    }
}

/// certbot's deploy hook is a link to this program in `renewal-hooks/deploy` of its directory.
pub(super) fn hook(settings: &Settings, findings: &mut Findings) {
    let root = place::directory(&settings.live_directory, &settings.renew.arguments);
    let directory = root.join("renewal-hooks/deploy");
    let entries = directory.read_dir().into_iter().flatten().flatten();
    let mut found = false;
    for path in entries.map(|entry| entry.path()).filter(|path| leads_to_us(path)) {
        found = true;
        if !path.exists() {
            findings.warn(format!("the hook {} leads nowhere: certbot cannot run it", path.display()));
        } else if !runs(&path) {
            let path = path.display();
            findings.warn(format!("the hook {path} is no executable file: certbot does not run it; chmod 755 {path}"));
        }
    }
    if !found {
        let us = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("certdeploy-server"));
        findings.note(format!(
            "there is no hook in {0}: renewals are seen at the next comparison only; make one with: ln -s {1} {0}/certdeploy-hook",
            directory.display(),
            us.display()
        ));
    }
}

fn runs(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok()
}

fn leads_to_us(path: &Path) -> bool {
    let is_socket = path.symlink_metadata().is_ok_and(|meta| meta.file_type().is_socket());
    let end = path.canonicalize().or_else(|_| path.read_link()).unwrap_or_else(|_| path.to_owned());
    !is_socket && end.file_name().is_some_and(|name| name == "certdeploy-server")
}
