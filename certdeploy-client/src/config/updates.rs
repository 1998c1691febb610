//! Entries of `update_services` -> [`Entry`]: what each kind of update needs, and nothing else. It looks at the
//! executables that are named; it must not run anything.

mod docker;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use certdeploy_common::cert::{Domain, Lineage};
use certdeploy_common::setting::{Complaint, Located, Place, Problems};

use super::file::{ClientFile, UpdateFile};
use super::kinds::UpdateType;
use super::settings::Demand;
use crate::account::Account;
use crate::update::docker::Engine;
use crate::update::{Entry, Only, Updater, rc, script, systemd};

/// What the entries have in common.
#[derive(Debug)]
pub(super) struct Common {
    systemd_exec: Option<PathBuf>,
    rc_service_exec: Located<Option<PathBuf>>,
    init_timeout: Option<Duration>,
    script_timeout: Option<Duration>,
    docker_timeout: Option<Duration>,
    docker_service_timeout: Option<Duration>,
    engine: Engine,
    demand: Demand,
}

impl Common {
    pub(super) fn of(file: &ClientFile, demand: Demand, problems: &mut Problems) -> Option<Self> {
        let engine = docker::engine(file, problems)?;
        Some(Self {
            systemd_exec: file.systemd_exec.value.clone(),
            rc_service_exec: file.rc_service_exec.clone(),
            init_timeout: file.init_timeout.value,
            script_timeout: file.script_timeout.value,
            docker_timeout: file.docker_timeout.value,
            docker_service_timeout: file.docker_service_timeout.value,
            engine,
            demand,
        })
    }

    /// What makes an update fail by itself, and may be mended until then: one update is no reason to run nothing at all.
    fn later(&self, complaint: Complaint, problems: &mut Problems) {
        if self.demand == Demand::All {
            problems.error(complaint);
        } else {
            problems.warn(complaint.place, format!("{} Until then this update fails.", complaint.message));
        }
    }
}

/// Reads one entry; what is wrong goes to `problems`.
pub(super) fn entry(file: Located<UpdateFile>, common: &Common, problems: &mut Problems) -> Option<Entry> {
    let Located { value: file, place } = file;
    unused(&file, problems);
    let only = only(&file, problems);
    let updater = match file.r#type.value {
        UpdateType::Systemd => unit(&file, place, common, problems).map(Updater::Unit),
        UpdateType::Rc => rc_service(&file, place, common, problems).map(Updater::Rc),
        UpdateType::Script => script(&file, place, common, problems).map(Updater::Script),
        UpdateType::DockerContainer => docker::container(&file, place, common, problems).map(Updater::Container),
        UpdateType::DockerService => docker::service(&file, place, common, problems).map(Updater::Service),
        UpdateType::DockerSecret => docker::secret(&file, place, common, problems).map(Updater::Secret),
    };
    let check = check(&file, common, problems);
    Some(Entry { updater: updater?, only: only?, check: check?, on_failure: file.on_failure.value })
}

/// `Some(None)`: not given; `None`: wrong, and said so.
#[expect(clippy::option_option, reason = "the outer one is the verdict, the inner one the setting")]
fn check(file: &UpdateFile, common: &Common, problems: &mut Problems) -> Option<Option<script::Script>> {
    let written: Vec<&str> = file.check.value.iter().map(|word| word.value.as_str()).collect();
    let words: Vec<String> = match written.as_slice() {
        // One text is a command line; nobody has an executable with blanks in its name.
        [line] => line.split_whitespace().map(str::to_owned).collect(),
        words => words.iter().map(|word| (*word).to_owned()).collect(),
    };
    let Some((program, args)) = words.split_first() else { return Some(None) };
    let Some(path) = executable(Path::new(program)) else {
        problems.error(Complaint::value(file.check.place, program, "check", EXECUTABLE));
        return None;
    };
    let args = args.to_vec();
    Some(Some(script::Script { path, args, env: Vec::new(), cwd: None, user: None, timeout: common.script_timeout }))
}

/// A key that means nothing for this kind of update is said, as one that is misspelt would be.
fn unused(file: &UpdateFile, problems: &mut Problems) {
    use UpdateType::{DockerContainer, DockerSecret, DockerService, Rc, Script, Systemd};
    let kind = file.r#type.value;
    let given: [(&str, Place, bool, &[UpdateType]); 10] = [
        ("user", file.user.place, file.user.value.is_some(), &[Script]),
        ("action", file.action.place, file.action.value.is_some(), &[Systemd, Rc, DockerContainer]),
        ("args", file.args.place, !file.args.value.is_empty(), &[Script]),
        ("env", file.env.place, file.env.value.is_some(), &[Script]),
        ("cwd", file.cwd.place, file.cwd.value.is_some(), &[Script]),
        ("filters", file.filters.place, file.filters.value.is_some(), &[DockerContainer, DockerService]),
        ("signal", file.signal.place, file.signal.value.is_some(), &[DockerContainer]),
        ("exec", file.exec.place, !file.exec.value.is_empty(), &[DockerContainer]),
        ("file", file.file.place, !file.file.value.is_empty(), &[DockerSecret]),
        ("keep", file.keep.place, file.keep.value != 1, &[DockerSecret]),
    ];
    for (key, place, given, kinds) in given {
        if given && !kinds.contains(&kind) {
            problems.warn(place, format!("`{key}` means nothing for `type: {}`", kind.as_str()));
        }
    }
}

fn only(file: &UpdateFile, problems: &mut Problems) -> Option<Only> {
    let before = problems.errors.len();
    let mut only = Only::default();
    for name in &file.lineages.value {
        match name.value.parse::<Lineage>() {
            Ok(lineage) => _ = only.lineages.insert(lineage),
            Err(error) => {
                let message = format!("Invalid value \"{}\" for `lineages`. {error}", name.value);
                problems.error(Complaint::new(name.place, message));
            }
        }
    }
    for name in &file.domains.value {
        match name.value.parse::<Domain>() {
            Ok(domain) => _ = only.domains.insert(domain),
            Err(_) => problems.error(Complaint::value(name.place, &name.value, "domains", "hold domain names only")),
        }
    }
    (problems.errors.len() == before).then_some(only)
}

fn name(file: &UpdateFile, place: Place, problems: &mut Problems) -> Option<String> {
    let name = file.name.value.clone().filter(|name| !name.is_empty());
    if name.is_none() {
        let kind = file.r#type.value.as_str();
        problems.error(Complaint::new(place, format!("Invalid update_services option: `type: {kind}` needs a `name`")));
    }
    name
}

fn action<T>(file: &UpdateFile, problems: &mut Problems, must: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
    // As the Python program: neither case nor blanks matter.
    let written = file.action.value.as_deref().map(str::trim).filter(|text| !text.is_empty());
    let text = written.unwrap_or("restart").to_ascii_lowercase();
    let parsed = parse(&text);
    if parsed.is_none() {
        problems.error(Complaint::value(file.action.place, &text, "action", must));
    }
    parsed
}

fn unit(file: &UpdateFile, place: Place, common: &Common, problems: &mut Problems) -> Option<systemd::Unit> {
    let must = "be restart, reload, reload-or-restart, try-restart, start or stop";
    let name = name(file, place, problems);
    let action = action(file, problems, must, systemd::Action::parse);
    let name = name?;
    if !systemd::is_unit_name(&name) {
        let must = "be a unit's full name, like nginx.service";
        problems.error(Complaint::value(file.name.place, &name, "name", must));
        return None;
    }
    let timeout = file.timeout.value.unwrap_or(common.init_timeout);
    Some(systemd::Unit { name, action: action?, executable: common.systemd_exec.clone(), timeout })
}

fn rc_service(file: &UpdateFile, place: Place, common: &Common, problems: &mut Problems) -> Option<rc::Service> {
    let name = name(file, place, problems);
    let action = action(file, problems, "be restart or reload", rc::Action::parse);
    let given = &common.rc_service_exec;
    let wanted = given.value.as_deref().unwrap_or(Path::new("service"));
    let executable = executable(wanted).unwrap_or_else(|| {
        let complaint = match given.value {
            Some(_) => Complaint::value(given.place, &wanted.display().to_string(), "rc_service_exec", EXECUTABLE),
            None => Complaint::new(
                file.r#type.place,
                "Invalid update_services option: there is no `service` in PATH for `type: rc`; set `rc_service_exec`.",
            ),
        };
        common.later(complaint, problems);
        wanted.to_owned()
    });
    let timeout = file.timeout.value.unwrap_or(common.init_timeout);
    Some(rc::Service { name: name?, action: action?, executable, timeout })
}

const EXECUTABLE: &str =
    "be an executable: an absolute path, a name in PATH, or a path relative to the working directory";

fn script(file: &UpdateFile, place: Place, common: &Common, problems: &mut Problems) -> Option<script::Script> {
    let name = name(file, place, problems)?;
    let mut unfit = |path: PathBuf| {
        let must = format!("be executable; mend it with: chmod +x {}", path.display());
        common.later(Complaint::value(file.name.place, &name, "name", &must), problems);
        path
    };
    let path = executable(Path::new(&name)).or_else(|| present(Path::new(&name)).map(&mut unfit));
    let Some(path) = path else {
        problems.error(Complaint::value(file.name.place, &name, "name", EXECUTABLE));
        return None;
    };
    let user = match file.user.value.as_deref() {
        None => None,
        Some(name) => {
            let account = Account::named(name);
            if account.is_none() {
                problems.error(Complaint::value(file.user.place, name, "user", "be the name of a user that exists"));
                return None;
            }
            // Only root can become somebody else; that we are this very user already needs nothing.
            account.filter(|account| account.uid != rustix::process::geteuid().as_raw())
        }
    };
    if let Some(arg) = file.args.value.iter().find(|arg| arg.value.contains('\0')) {
        problems.error(Complaint::value(arg.place, &arg.value, "args", "hold no NUL"));
        return None;
    }
    if let Some(cwd) = file.cwd.value.as_ref().filter(|cwd| !cwd.is_dir()) {
        let must = "be a directory that exists";
        common.later(Complaint::value(file.cwd.place, &cwd.display().to_string(), "cwd", must), problems);
    }
    Some(script::Script {
        path,
        args: file.args.value.iter().map(|arg| arg.value.clone()).collect(),
        env: variables(file, problems)?,
        cwd: file.cwd.value.clone(),
        user,
        timeout: file.timeout.value.unwrap_or(common.script_timeout),
    })
}

/// The variables that a script gets; a name that no environment can have is wrong (environ(7)).
fn variables(file: &UpdateFile, problems: &mut Problems) -> Option<Vec<(String, String)>> {
    let given = file.env.value.iter().flatten();
    let variables: Vec<(String, String)> = given.map(|(name, values)| (name.clone(), values.join(" "))).collect();
    let unfit =
        |(name, value): &&(String, String)| name.is_empty() || name.contains(['=', '\0']) || value.contains('\0');
    let Some((name, _)) = variables.iter().find(unfit) else { return Some(variables) };
    let must = "have names that are not empty and hold no `=`, and no NUL anywhere";
    problems.error(Complaint::value(file.env.place, name, "env", must));
    None
}

/// The file of this name, whether it can be executed or not.
pub(super) fn present(path: &Path) -> Option<PathBuf> {
    std::path::absolute(path).ok().filter(|path| path.is_file())
}

/// Absolute, else looked up in `PATH`, else relative to the working directory.
pub(super) fn executable(path: &Path) -> Option<PathBuf> {
    let runs = |path: &Path| path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    if path.is_absolute() {
        return runs(path).then(|| path.to_owned());
    }
    let search = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&search).map(|dir| dir.join(path)).find(|path| runs(path));
    found.or_else(|| std::path::absolute(path).ok().filter(|path| runs(path)))
}
