//! What is in place: whether readers find what was deployed, until when it is good, and what is owed to its users. Mends
//! nothing.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use certdeploy_common::cert::Lineage;
use certdeploy_common::cert::check::show_time;
use certdeploy_common::daemon::findings::Findings;
use certdeploy_common::setting::mode::Mode;
use certdeploy_common::wire::Update;

use crate::config::Settings;
use crate::config::permissions::{FilePermissions, Ownership};
use crate::deploy::state::{Current, Damage, is_blocked, lineage_directory};
use crate::deploy::{State, seen};
use crate::pipeline::{Pipeline, listed};
use crate::place::{NO_LINK, NONE_LEFT};
use crate::update::ledger;
use crate::{clock, daemon, mend, turn};

pub(super) async fn look(settings: &Arc<Settings>, findings: &mut Findings) {
    let destination = settings.destination.display();
    let lineages = match State::lineages(&settings.destination) {
        Ok(lineages) => lineages,
        Err(error) => return findings.error(format!("`destination` `{destination}` cannot be read: {error}")),
    };
    if lineages.is_empty() {
        findings.note(format!("no lineage is deployed in {destination} yet"));
    }
    let pipeline = Pipeline::new(Arc::clone(settings), daemon::validator(settings));
    for lineage in lineages {
        let directory = lineage_directory(&settings.destination, &lineage);
        match State::read(&directory) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !rustix::process::geteuid().is_root() => {
                // Records are for the client's own user alone.
                findings.note(format!("lineage {lineage} can be looked at only by whoever runs the client"));
            }
            Ok(state) => {
                damage(&pipeline, &lineage, &directory, &state, findings).await;
                access(settings, &lineage, &directory, state.current.as_ref(), findings);
                served(settings, &lineage, &directory, state.current, findings);
            }
            Err(error) => findings.error(format!("lineage {lineage} cannot be read: {error}")),
        }
    }
    if settings.updates.is_empty() {
        findings.note("`update_services` is empty: nobody is told of new certificates");
    }
}

/// What the next start or pass mends by itself is a warning.
async fn damage(pipeline: &Pipeline, lineage: &Lineage, directory: &Path, state: &State, findings: &mut Findings) {
    let mends = "the next pass or start of the daemon";
    match state.damage() {
        None => {}
        Some(Damage::Lost) if is_blocked(directory) => findings.error(format!("lineage {lineage}: {NO_LINK}")),
        Some(Damage::Lost | Damage::Changed) if state.foreign.is_empty() && state.twin(directory).is_some() => {
            findings.warn(format!(
                "lineage {lineage}: its files are damaged; {mends} takes them from another generation"
            ));
        }
        Some(Damage::Lost) => match state.next_best(directory, clock::now()) {
            Some(Current { number, .. }) if state.last(directory) == Some(number) => findings.warn(format!(
                "lineage {lineage}: `..data` leads to no generation, so nothing can be read; {mends} lets it lead to \
                 generation {number}"
            )),
            Some(Current { number, .. }) => findings.error(format!(
                "lineage {lineage}: `..data` leads to no generation, and what was deployed last is lost; {mends} lets it \
                 lead to generation {number}, which is older; push it anew"
            )),
            None => findings.error(format!("lineage {lineage}: {NONE_LEFT}")),
        },
        Some(Damage::Names { missing, .. }) if missing.is_empty() => {}
        Some(Damage::Names { missing, .. }) => {
            findings.warn(format!("lineage {lineage}: {} is not there; {mends} brings it back", listed(&missing)));
        }
        Some(Damage::Changed) => {
            let there = |names: &[_]| seen::files(directory, names).map_err(|unkept| unkept.to_string());
            match mend::set(pipeline, lineage, &state.names(), there).await {
                Ok(_) => findings.warn(format!(
                    "lineage {lineage}: somebody else has changed its files; {mends} makes a generation of them"
                )),
                Err(reason) => findings.error(format!("lineage {lineage}: {reason}")),
            }
        }
    }
}

/// Modes and owners that somebody has changed: what was written with the right ones is never changed again.
fn access(
    settings: &Settings,
    lineage: &Lineage,
    directory: &Path,
    current: Option<&Current>,
    findings: &mut Findings,
) {
    let Some((current, record)) = current.and_then(|current| Some((current, current.record.as_ref()?))) else { return };
    // Others are about to be given, all files anew.
    if record.permissions.as_ref().is_some_and(|had| *had != settings.permissions.to_string()) {
        return;
    }
    for name in &current.files {
        let path = directory.join(name.as_str());
        let Ok(meta) = path.metadata() else { continue };
        let FilePermissions { mode, owner } = settings.permissions.file(*name);
        let is = Mode::new(meta.mode() & 0o7777);
        let (uid, gid) = (Some(meta.uid()), Some(meta.gid()));
        let owned = Ownership { user: uid, group: gid };
        let to_own = Ownership { user: owner.user.or(uid), group: owner.group.or(gid) };
        let mut wrong = Vec::new();
        if is != mode {
            wrong.push(format!("has mode {is}, not {mode}"));
        }
        if owned != to_own {
            wrong.push(format!("belongs to {owned}, not {to_own}"));
        }
        if !wrong.is_empty() {
            findings.warn(format!(
                "lineage {lineage}: `{}` {}; have it delivered anew, with --force",
                path.display(),
                wrong.join(" and ")
            ));
        }
    }
}

fn served(settings: &Settings, lineage: &Lineage, directory: &Path, current: Option<Current>, findings: &mut Findings) {
    let Some((number, record)) = current.and_then(|current| Some((current.number, current.record?))) else { return };
    let until = show_time(record.not_after);
    if record.serial.is_empty() {
        findings.note(format!("lineage {lineage}: generation {number}, a key without its certificate"));
    } else {
        findings.note(format!("lineage {lineage}: generation {number}, serial {}, valid until {until}", record.serial));
    }
    if !record.serial.is_empty() && record.not_after <= clock::now() {
        findings.warn(format!("lineage {lineage}: its certificate has expired, and no newer one has come"));
    }
    match turn::owed(settings, ledger::read(directory, number).update) {
        Update::Done => {}
        Update::Pending { due } if due > clock::now() => {
            findings.note(format!("lineage {lineage}: its update is due at {}", show_time(due)));
        }
        Update::Pending { .. } => findings.warn(format!("lineage {lineage}: its users have not been told of it yet")),
        Update::Failed { reason } => findings.warn(format!("lineage {lineage}: its update failed: {reason}")),
    }
}
