//! The lineages in `live/`: whether each can be delivered, and who gets it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;

use certdeploy_common::cert::{Lineage, check};

use super::Findings;
use crate::config::{Places, Settings, Target};
use crate::lineage::{self, Readable};
use crate::{clock, plan};

/// The most receivers of one lineage that are named.
const NAMED: usize = 10;

pub(super) fn look(settings: &Settings, at: &Places, findings: &mut Findings) {
    let live = &settings.live_directory;
    let paths = match lineage::all(live) {
        Ok(paths) => paths,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            findings.warn(format!(
                "{}`live_directory` {} does not exist: nothing is delivered until certbot has made it",
                at.key("live_directory"),
                live.display()
            ));
            return;
        }
        Err(error) => {
            let shown = live.display();
            findings
                .error(format!("{}Invalid value \"{shown}\" for `live_directory`. {error}", at.key("live_directory")));
            return;
        }
    };
    for path in lineage::strange(live) {
        if let Err(error) = Lineage::of_path(&path) {
            findings.warn(format!("a directory in {} is delivered to nobody: {error}", live.display()));
        }
    }
    if paths.is_empty() {
        findings.note(format!("there is no lineage in {} yet", live.display()));
        return;
    }
    let mut there = BTreeSet::new();
    let mut served = BTreeSet::new();
    let mut unread = false;
    for path in paths {
        there.extend(Lineage::of_path(&path));
        match lineage::read(&path, live, false, clock::now().seconds()) {
            Ok(readable) => {
                for warning in &readable.facts.warnings {
                    findings.warn(format!("{}: {warning}", path.display()));
                }
                receivers(settings, &readable, &mut served, findings);
            }
            Err((error, _)) => {
                unread = true;
                findings.warn(error.to_string());
            }
        }
    }
    without(&settings.targets, &there, &served, unread, findings);
}

fn receivers<'s>(settings: &'s Settings, readable: &Readable, served: &mut BTreeSet<&'s str>, findings: &mut Findings) {
    let Readable { lineage, path, facts, bundle, spoiled } = readable;
    let gets = |target: &&Target| plan::gets(target, lineage, &facts.names);
    let receivers: Vec<&Target> = settings.targets.iter().filter(gets).collect();
    let mut missing: BTreeMap<&str, usize> = BTreeMap::new();
    for target in &receivers {
        served.insert(target.id.as_str());
        for file in target.wanted.iter().filter(|file| bundle.file(**file).is_none()) {
            *missing.entry(file.as_str()).or_default() += 1;
        }
    }
    for (file, fault) in spoiled {
        let targets = missing.remove(file.as_str()).unwrap_or_default();
        findings.warn(format!("{}: {fault}; it is left out, and {targets} of its targets want it", path.display()));
    }
    for (file, targets) in missing {
        findings.warn(format!("lineage {lineage} has no {file}, which {targets} of its targets want"));
    }
    let mut names: Vec<&str> = receivers.iter().take(NAMED).map(|target| target.id.as_str()).collect();
    let more = format!("{} more", receivers.len().saturating_sub(NAMED));
    if receivers.len() > NAMED {
        names.push(&more);
    }
    let until = check::show_time(facts.not_after);
    if names.is_empty() {
        findings.note(format!("lineage {lineage} (valid until {until}) goes to nobody"));
    } else {
        findings.note(format!("lineage {lineage} (valid until {until}) goes to {}", names.join(", ")));
    }
}

fn without(
    targets: &[Target],
    there: &BTreeSet<Lineage>,
    served: &BTreeSet<&str>,
    unread: bool,
    findings: &mut Findings,
) {
    for target in targets {
        for lineage in target.lineages.difference(there) {
            findings.warn(format!("target {} wants lineage {lineage}, which does not exist", target.id));
        }
        if !served.contains(target.id.as_str()) && !target.domains.is_empty() {
            let but = if unread { " that could be read" } else { "" };
            let names: Vec<&str> = target.domains.iter().take(NAMED).map(|name| name.as_str()).collect();
            findings.warn(format!("target {} gets nothing: no lineage{but} carries {}", target.id, names.join(" or ")));
        }
    }
}
