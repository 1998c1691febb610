//! `forget`: takes what is owed to a target, or of a lineage, out of the queue, together with what it acknowledged. It
//! says what that was, and what would bring it back. It pushes nothing.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use certdeploy_common::cert::Lineage;
use certdeploy_common::daemon::exit::Exit;

use crate::config::{Settings, Target, TargetId};
use crate::queue::Queue;
use crate::queue::strike::{Forgotten, Struck};
use crate::{Failure, clock, dispatch, lineage, plan};

/// How many names are offered to somebody who mistyped one.
const OFFERED: usize = 3;

pub(crate) fn forget(settings: &Settings, name: &str) -> Result<Exit, Failure> {
    let Some(mut queue) = Queue::look(&settings.queue_dir)? else {
        return Err(format!(
            "there is no queue in `{}` yet, so there is nothing to forget",
            settings.queue_dir.display()
        )
        .into());
    };
    let mut found = Vec::new();
    for what in meanings(settings, name) {
        if !queue.about(&what)?.is_nothing() {
            found.push(what);
        }
    }
    let what = match found.as_slice() {
        [what] => what,
        [] => return Err(unknown(settings, &mut queue, name)?.into()),
        _ => {
            let choice = "say `target:NAME` or `lineage:NAME`";
            return Err(format!("both a target and a lineage are called \"{name}\"; {choice}").into());
        }
    };
    let forgotten = queue.strike(what)?;
    let text = told(settings, what, &forgotten);
    // A daemon learns now that there is less to do.
    dispatch::wake::ring(&settings.queue_dir);
    Ok(crate::print(&text))
}

/// What `name` may mean: a target by its name or address as `status` shows them, a lineage by its name or directory.
fn meanings(settings: &Settings, name: &str) -> Vec<Struck> {
    let (as_target, as_lineage) = match (name.strip_prefix("target:"), name.strip_prefix("lineage:")) {
        (Some(target), _) => (Some(target), None),
        (None, Some(lineage)) => (None, Some(lineage)),
        (None, None) => (Some(name), Some(name)),
    };
    let target = as_target.map(|name| {
        let placed = settings.targets.iter().find(|target| target.place() == name);
        Struck::Target(placed.map_or_else(|| TargetId::stored(name.to_owned()), |target| target.id.clone()))
    });
    let lineage = as_lineage.and_then(|name| Lineage::of_path(Path::new(name)).ok()).map(Struck::Lineage);
    target.into_iter().chain(lineage).collect()
}

fn unknown(settings: &Settings, queue: &mut Queue, name: &str) -> Result<String, Failure> {
    let bare = name.trim_start_matches("target:").trim_start_matches("lineage:");
    let mut known: BTreeSet<String> = queue.names()?.into_iter().collect();
    let configured = settings.targets.iter().find(|target| target.id.as_str() == bare || target.place() == bare);
    if let Some(target) = configured {
        return Ok(format!("the queue holds nothing of the target \"{}\"; there is nothing to forget", target.id));
    }
    known.extend(settings.targets.iter().map(|target| target.id.to_string()));
    let mut near: Vec<(usize, String)> = known
        .into_iter()
        .map(|name| (strsim::osa_distance(&name.to_lowercase(), &bare.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= 1 + name.len().max(bare.len()) / 3 || name.contains(bare))
        .collect();
    near.sort();
    let offered: Vec<String> = near.into_iter().take(OFFERED).map(|(_, name)| format!("\"{name}\"")).collect();
    let hint = match offered.as_slice() {
        [] => "; `certdeploy-server status` shows what there is".to_owned(),
        offered => format!(" (did you mean {}?)", offered.join(" or ")),
    };
    Ok(format!("the queue knows no target and no lineage called \"{name}\"{hint}"))
}

fn told(settings: &Settings, what: &Struck, forgotten: &Forgotten) -> String {
    let mut text = String::new();
    for owed in &forgotten.deliveries {
        let state = owed.state.as_str();
        let _ = writeln!(text, "Forgot that {} is {state} to {}", owed.lineage, owed.target);
    }
    for held in &forgotten.holdings {
        let _ = writeln!(text, "Forgot that {} holds {} with serial {}", held.target, held.lineage, held.serial);
    }
    match forgotten.renewals {
        0 => {}
        1 => text.push_str("Forgot 1 renewal that was waiting\n"),
        more => _ = writeln!(text, "Forgot {more} renewals that were waiting"),
    }
    for (target, lineage) in returning(settings, forgotten) {
        let _ = writeln!(
            text,
            "{lineage} comes back for {target} with the next comparison: both are still there. Take {} out of the config first",
            match what {
                Struck::Target(_) => "the target".to_owned(),
                Struck::Lineage(_) => format!("its names or `lineages: [{lineage}]`"),
            }
        );
    }
    text
}

/// What the next comparison would only bring back: the target is still configured for what lies in `live/`.
fn returning<'a>(settings: &'a Settings, forgotten: &Forgotten) -> BTreeSet<(&'a TargetId, Lineage)> {
    let owed = forgotten.deliveries.iter().map(|owed| (&owed.target, &owed.lineage));
    let held = forgotten.holdings.iter().map(|held| (&held.target, &held.lineage));
    let both: BTreeSet<(&TargetId, &Lineage)> = owed.chain(held).collect();
    let still = |(target, lineage): (&TargetId, &Lineage)| {
        let target: &Target = settings.targets.iter().find(|known| known.id == *target)?;
        let path = settings.live_directory.join(lineage.as_str());
        let readable = lineage::read(&path, &settings.live_directory, true, clock::now().seconds()).ok()?;
        plan::gets(target, lineage, &readable.facts.names).then(|| (&target.id, lineage.clone()))
    };
    both.into_iter().filter_map(still).collect()
}
