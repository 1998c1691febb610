//! `harden`: from the config at hand to the systemd drop-in, or the polkit rule, that leaves the client just what this
//! config needs. What it needs is decided by pure functions; only [`print()`] and [`drop_in`] look at files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use certdeploy_common::cert::FileName;
use certdeploy_common::daemon::unit::{self, Needs, places};
use certdeploy_common::setting::mode::Mode;
use certdeploy_common::setting::yaml;

use crate::config::listen::Listen;
use crate::config::{self, Demand, Settings};
use crate::update::Updater;

/// What is not in the settings, but where the client runs.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The config file.
    pub config: PathBuf,
    /// What the config names beside its directories: keys, sockets.
    pub named: BTreeSet<PathBuf>,
    /// This program and the directories of its libraries.
    pub ourselves: BTreeSet<PathBuf>,
    /// The directories of its log files.
    pub logs: BTreeSet<PathBuf>,
}

/// The drop-in for the config in this file; or the rule, for a client that runs as this user.
///
/// # Errors
/// The config cannot be read or is wrong; all lines of it.
pub fn print(file: &Path, polkit_user: Option<&str>) -> Result<String, String> {
    let (settings, _) = config::load(file, Demand::Daemon).map_err(|error| error.to_string())?;
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    if let Some(user) = polkit_user {
        return Ok(polkit(&settings, &file, user));
    }
    let text = config::text(&file).map_err(|error| error.to_string())?;
    let named = yaml::parse(&text).map(|node| unit::named(&node)).unwrap_or_default();
    let own = std::env::current_exe().map_err(|error| format!("cannot tell where this program is: {error}"))?;
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let ourselves = unit::libraries(&maps).into_iter().chain([own]).collect();
    let (written, _) = config::parse(&text, &file).map_err(|error| error.to_string())?;
    let logs = || settings.log.file.iter().chain(&settings.log.library_file);
    let directories = [("`destination`", &written.destination.value), ("`source`", &written.source.value)].into_iter();
    if let Some((what, path)) =
        directories.chain(logs().map(|path| ("the log file", path))).find(|(_, path)| path.is_relative())
    {
        return Err(format!(
            "{what} `{}` is looked for where the client is started, and a unit starts it in `/`: write the whole path",
            path.display()
        ));
    }
    let logs = places::of_files(logs());
    Ok(drop_in(&settings, &Surroundings { config: file, named, ourselves, logs }))
}

/// The drop-in for `certdeploy-client.service` and `certdeploy-client-once.service`.
#[must_use]
pub fn drop_in(settings: &Settings, surroundings: &Surroundings) -> String {
    let unknown = unknown_programs(settings);
    let search = std::env::var_os("PATH").unwrap_or_default();
    let needs = places::resolved(needs(settings, surroundings, unknown.is_empty()), &search);
    let mut text = format!(
        "# What `certdeploy-client harden` leaves the client with {}. Make it anew when that changes.\n",
        one_line(&surroundings.config.display().to_string())
    );
    if !unknown.is_empty() {
        let names: Vec<String> = unknown.iter().map(|name| one_line(&name.display().to_string())).collect();
        text.push_str(&unit::loose_comment(&names.join(", ")));
    }
    text + &unit::service(&needs)
}

/// Programs of the config of which we know nothing: scripts, checks, `service`, and a `systemd_exec` that is no systemctl.
fn unknown_programs(settings: &Settings) -> BTreeSet<&Path> {
    let mut programs = BTreeSet::new();
    for entry in &settings.updates {
        programs.extend(entry.check.iter().map(|check| check.path.as_path()));
        match &entry.updater {
            Updater::Script(script) => _ = programs.insert(&script.path),
            Updater::Rc(service) => _ = programs.insert(&service.executable),
            Updater::Unit(unit) => programs.extend(unit.executable.as_deref().filter(|path| !is_systemctl(path))),
            Updater::Container(_) | Updater::Service(_) | Updater::Secret(_) => {}
        }
    }
    programs
}

fn is_systemctl(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "systemctl")
}

fn needs(settings: &Settings, surroundings: &Surroundings, alone: bool) -> Needs {
    let mut writes: BTreeSet<PathBuf> = [settings.destination.clone(), settings.source.clone()].into();
    writes.extend(surroundings.logs.iter().cloned());
    let systemctl = settings.updates.iter().filter_map(|entry| match &entry.updater {
        Updater::Unit(unit) => unit.executable.clone(),
        Updater::Rc(_) | Updater::Script(_) | Updater::Container(_) | Updater::Service(_) | Updater::Secret(_) => None,
    });
    let executes = alone.then(|| surroundings.ourselves.iter().cloned().chain(systemctl).collect());
    let reads = surroundings.named.iter().cloned().chain([surroundings.config.clone()]).collect();
    let permissions = &settings.permissions;
    let files = FileName::ALL.map(|name| permissions.file(name).mode);
    let set_id = |mode: Mode| mode.bits() & 0o6000 != 0;
    let set_id_bits = files.into_iter().chain(permissions.directory).any(set_id);
    let other_users = |updater: &Updater| matches!(updater, Updater::Script(script) if script.user.is_some());
    let drain = settings.sftpd.as_ref().map_or(0, |sftpd| sftpd.limits.drain_timeout.as_secs());
    Needs {
        writes,
        makes: BTreeSet::new(),
        modes: BTreeMap::new(),
        reads,
        strict: alone,
        executes,
        capabilities: capabilities(settings, alone),
        set_id_bits: !alone || set_id_bits,
        new_privileges: settings.updates.iter().any(|entry| other_users(&entry.updater)),
        stop: drain.saturating_add(60),
    }
}

fn capabilities(settings: &Settings, alone: bool) -> BTreeSet<&'static str> {
    // Its other processes become somebody else, lose what they had, and are ended; files have another owner than root.
    let mut all: BTreeSet<_> =
        ["CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_KILL", "CAP_CHOWN", "CAP_FOWNER", "CAP_DAC_OVERRIDE"].into();
    let port = |listen: &Listen| match listen {
        Listen::All(port) => *port,
        Listen::One { address, .. } => address.port(),
    };
    if settings.sftpd.iter().flat_map(|sftpd| &sftpd.listen).any(|listen| port(listen) < 1024) {
        all.insert("CAP_NET_BIND_SERVICE");
    }
    if !alone {
        all.extend(["CAP_DAC_READ_SEARCH", "CAP_FSETID", "CAP_NET_BIND_SERVICE", "CAP_AUDIT_WRITE", "CAP_SYS_NICE"]);
    }
    all
}

/// A rule that lets `user`, as whom the client runs, do with the units of the config what the config says, and no more.
#[must_use]
pub fn polkit(settings: &Settings, config: &Path, user: &str) -> String {
    let mut units: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for entry in &settings.updates {
        if let Updater::Unit(unit) = &entry.updater {
            // `ref` keeps the unit's result until it has been read.
            units.entry(&unit.name).or_default().extend(["ref", unit.action.as_str()]);
        }
    }
    let table = serde_json::to_string_pretty(&units).unwrap_or_default().replace('\n', "\n    ");
    let user = serde_json::to_string(user).unwrap_or_default();
    format!(
        "// /etc/polkit-1/rules.d/50-certdeploy.rules: what `certdeploy-client harden --polkit` allows the client's user with\n\
         // {}. Make it anew when that changes.\n\
         polkit.addRule(function(action, subject) {{\n    var units = {table};\n    \
         if (action.id === \"org.freedesktop.systemd1.manage-units\" && subject.user === {user}) {{\n        \
         var verbs = units[action.lookup(\"unit\")];\n        \
         if (verbs && verbs.indexOf(action.lookup(\"verb\")) >= 0) {{\n            return polkit.Result.YES;\n        \
         }}\n    }}\n}});\n",
        one_line(&config.display().to_string())
    )
}

fn one_line(text: &str) -> String {
    text.escape_debug().to_string()
}
