//! `harden`: from the config at hand, and from what certbot's own configs name, to the systemd drop-in that leaves the
//! server just what these need. What it needs is decided by pure functions; only [`print()`], [`drop_in`] and `Certbot::look` look at files.

mod certbot;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use certdeploy_common::daemon::unit::{self, Needs, places};
use certdeploy_common::setting::yaml;

use crate::config::pins::Demand;
use crate::config::{self, Settings};
use crate::renew::place::{self, argument};

pub use certbot::Certbot;

/// What is not in the settings, but where the server runs.
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
    /// What certbot will do.
    pub certbot: Certbot,
}

/// The drop-in for the config in this file.
///
/// # Errors
/// The config cannot be read or is wrong; all lines of it.
pub fn print(file: &Path) -> Result<String, String> {
    let (settings, _) = config::load_with(file, Demand::NotNow).map_err(|error| error.to_string())?;
    if let Some(program) = snap(&settings) {
        return Err(format!(
            "`{}` is a program of snap's, which confines it itself and cannot do so inside a tighter unit: leave the shipped \
             unit as it is; or let snap's own timer renew, set `renew_exec: /bin/true`, and print this again",
            program.display()
        ));
    }
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let text = config::text(&file).map_err(|error| error.to_string())?;
    let named = yaml::parse(&text).map(|node| unit::named(&node)).unwrap_or_default();
    let own = std::env::current_exe().map_err(|error| format!("cannot tell where this program is: {error}"))?;
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let ourselves = unit::libraries(&maps).into_iter().chain([own]).collect();
    let more =
        ["--config", "-c"].iter().filter_map(|option| argument(&settings.renew.arguments, option)).map(PathBuf::from);
    let certbot = Certbot::look(&certbot_directory(&settings), more);
    let logs = places::of_files(settings.log.file.value.iter().chain(&settings.log.library_file.value));
    Ok(drop_in(&settings, &Surroundings { config: file, named, ourselves, logs, certbot }))
}

/// certbot's own directory.
fn certbot_directory(settings: &Settings) -> PathBuf {
    place::directory(&settings.live_directory, &settings.renew.arguments)
}

/// snap's programs confine themselves: they need privileges, namespaces and calls that no drop-in of ours leaves.
fn from_snap(program: &Path) -> bool {
    program.starts_with("/snap") || program.file_name().is_some_and(|name| name == "snap")
}

/// The program that renews, as it will be started, if that is snap's.
fn snap(settings: &Settings) -> Option<PathBuf> {
    let search = std::env::var_os("PATH").unwrap_or_default();
    let name = settings.renew.program.as_deref().unwrap_or(Path::new("certbot"));
    let program = places::program(name, &search)?;
    (from_snap(&program) || from_snap(&places::end(&program))).then_some(program)
}

/// What the server will start.
enum Renewal {
    /// A program that does nothing, because somebody else renews.
    Nothing(PathBuf),
    /// certbot.
    Certbot,
}

/// `None` when nothing is known of the program.
fn renewal(settings: &Settings) -> Option<Renewal> {
    let Some(program) = &settings.renew.program else { return Some(Renewal::Certbot) };
    match program.file_name().and_then(|name| name.to_str()) {
        Some("true") => Some(Renewal::Nothing(program.clone())),
        Some("certbot") => Some(Renewal::Certbot),
        _ => None,
    }
}

/// The drop-in for `certdeploy-server.service` and `certdeploy-renew.service`.
#[must_use]
pub fn drop_in(settings: &Settings, surroundings: &Surroundings) -> String {
    let renewal = renewal(settings);
    let mut unknown = match renewal {
        Some(Renewal::Nothing(_)) => BTreeSet::new(),
        Some(Renewal::Certbot) | None => surroundings.certbot.unknown.clone(),
    };
    if let (None, Some(program)) = (&renewal, &settings.renew.program) {
        unknown.insert(program.display().to_string());
    }
    let hooks = settings.renew.arguments.iter().filter(|word| word.contains("-hook"));
    unknown.extend(hooks.map(|word| format!("`{word}`")));
    let mut text = format!(
        "# What `certdeploy-server harden` leaves the server with {} and certbot's configs. Make it anew when they change.\n",
        one_line(&surroundings.config.display().to_string())
    );
    let renewal = renewal.filter(|_| unknown.is_empty());
    if renewal.is_none() {
        let names: Vec<String> = unknown.iter().map(|name| one_line(name)).collect();
        text.push_str(&unit::loose_comment(&names.join(", ")));
    }
    let search = std::env::var_os("PATH").unwrap_or_default();
    text + &unit::service(&places::resolved(needs(settings, surroundings, renewal.as_ref()), &search))
}

fn needs(settings: &Settings, surroundings: &Surroundings, renewal: Option<&Renewal>) -> Needs {
    let mut writes: BTreeSet<PathBuf> = [settings.queue_dir.clone()].into();
    let mut makes = writes.clone();
    writes.extend(surroundings.logs.iter().cloned());
    // Challenges and certificates may have another owner; so may a queue that is taken over.
    let mut capabilities = BTreeSet::from(["CAP_CHOWN", "CAP_FOWNER", "CAP_DAC_OVERRIDE"]);
    let mut executes = None;
    match renewal {
        Some(Renewal::Nothing(program)) => {
            executes = Some(surroundings.ourselves.iter().cloned().chain([program.clone()]).collect());
        }
        Some(Renewal::Certbot) => {
            let certbot = &surroundings.certbot;
            for (option, configured, usual) in [
                ("--work-dir", &certbot.work, "/var/lib/letsencrypt"),
                ("--logs-dir", &certbot.logs, "/var/log/letsencrypt"),
            ] {
                let said = argument(&settings.renew.arguments, option).map(PathBuf::from);
                let mut own: BTreeSet<PathBuf> = said.into_iter().chain(configured.iter().cloned()).collect();
                if own.is_empty() {
                    own.insert(PathBuf::from(usual));
                }
                makes.extend(own.iter().cloned());
                writes.extend(own);
            }
            writes.extend(certbot.configs.iter().cloned());
            writes.insert(certbot_directory(settings));
            writes.extend(certbot.webroots.iter().cloned());
        }
        None => capabilities.extend([
            "CAP_SETUID",
            "CAP_SETGID",
            "CAP_KILL",
            "CAP_DAC_READ_SEARCH",
            "CAP_FSETID",
            "CAP_AUDIT_WRITE",
            "CAP_SYS_NICE",
        ]),
    }
    if renewal.is_none() || surroundings.certbot.listens {
        capabilities.insert("CAP_NET_BIND_SERVICE");
    }
    let reads = surroundings.named.iter().chain([&surroundings.config]).cloned();
    let reads: BTreeSet<PathBuf> = match renewal {
        Some(Renewal::Nothing(_)) => reads.collect(),
        Some(Renewal::Certbot) | None => reads.chain(surroundings.certbot.reads.iter().cloned()).collect(),
    };
    Needs {
        writes,
        makes,
        modes: BTreeMap::new(),
        reads,
        strict: renewal.is_some(),
        executes,
        capabilities,
        set_id_bits: renewal.is_none(),
        new_privileges: false,
        stop: settings.push.stop.as_secs().saturating_add(60),
    }
}

fn one_line(text: &str) -> String {
    text.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snap_s_programs_are_known() {
        assert!(from_snap(Path::new("/snap/bin/certbot")) && from_snap(Path::new("/usr/bin/snap")));
        assert!(!from_snap(Path::new("/usr/bin/certbot")) && !from_snap(Path::new("/snapshots/certbot")));
    }
}
