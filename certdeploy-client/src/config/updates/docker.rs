//! The Docker engine of the config, and the entries that are asked of it.

use std::path::PathBuf;

use certdeploy_common::cert::FileName;
use certdeploy_common::setting::{Complaint, Place, Problems};

use super::super::kinds::UpdateType;
use super::{ClientFile, Common, UpdateFile, name};
use crate::update::docker::address::{Address, Scheme, TlsFiles};
use crate::update::docker::signal::Signal;
use crate::update::docker::{Engine, Selection, container, secret, service, signal};

/// The certificates of the system's list, which are meant when a URL says `https` and nothing else is said.
const SYSTEM: &str = "/etc/ssl/certs/ca-certificates.crt";

pub(super) fn engine(file: &ClientFile, problems: &mut Problems) -> Option<Engine> {
    let url = &file.docker_url;
    let written = url.value.as_deref().unwrap_or_default();
    let at = Address::parse(written)
        .map_err(|must| problems.error(Complaint::value(url.place, written, "docker_url", must)))
        .ok()?;
    let tls = tls(file, &at, problems)?;
    Some(Engine { at, tls, request: file.docker_request_timeout.value })
}

/// `None`: wrong, and said so; `Some(None)`: plain.
#[expect(clippy::option_option, reason = "the outer one is the verdict, the inner one the setting")]
fn tls(file: &ClientFile, at: &Address, problems: &mut Problems) -> Option<Option<TlsFiles>> {
    let files = [
        ("docker_tls_ca", &file.docker_tls_ca),
        ("docker_tls_cert", &file.docker_tls_cert),
        ("docker_tls_key", &file.docker_tls_key),
    ];
    let mut fine = true;
    let mut complain = |complaint| {
        problems.error(complaint);
        fine = false;
    };
    for (key, path) in files {
        if let Some(given) = path.value.as_ref().filter(|given| !given.is_file()) {
            complain(Complaint::value(path.place, &given.display().to_string(), key, "be a file that exists"));
        }
    }
    let [ca, cert, key] = files.map(|(_, path)| path.value.clone());
    let given = files.iter().find(|(_, path)| path.value.is_some());
    match (at, given) {
        (Address::Unix(_), Some((key, path))) => {
            problems.warn(path.place, format!("`{key}` means nothing for a `docker_url` that is a socket"));
            return Some(None);
        }
        (Address::Tcp { scheme: Scheme::Http, .. }, Some((key, path))) => {
            let message = format!("Invalid config option: `{key}` is given, but `docker_url` says http; write https");
            complain(Complaint::new(path.place, message));
        }
        _ => {}
    }
    let identity = match (cert, key) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (cert, _) => {
            let (has, lacks) =
                if cert.is_some() { (&files[1], "docker_tls_key") } else { (&files[2], "docker_tls_cert") };
            complain(Complaint::new(has.1.place, format!("Invalid config option: `{}` needs `{lacks}` too", has.0)));
            None
        }
    };
    let wanted = match at {
        Address::Unix(_) => false,
        Address::Tcp { scheme, .. } => *scheme == Scheme::Https || given.is_some(),
    };
    let ca = ca.unwrap_or_else(|| PathBuf::from(SYSTEM));
    fine.then(|| wanted.then_some(TlsFiles { ca, identity }))
}

fn selection(file: &UpdateFile, place: Place, problems: &mut Problems) -> Option<Selection> {
    let name = file.name.value.as_deref().filter(|name| !name.is_empty());
    let mut filters = file.filters.value.as_deref();
    // As the Python program has it: a container's name is only a label beside filters, a service's name wins.
    if file.r#type.value == UpdateType::DockerService && name.is_some() && filters.is_some() {
        filters = None;
        let message = "`filters` are not heeded for a `docker_service` with a `name`; remove one of the two";
        problems.warn(file.filters.place, message);
    }
    let selection = Selection::new(name, filters);
    if selection.is_none() {
        let kind = file.r#type.value.as_str();
        let message = format!("Invalid update_services option: `type: {kind}` needs a `name` or `filters`");
        problems.error(Complaint::new(place, message));
    }
    if let Some(name) = file.name.value.as_deref().filter(|name| name.ends_with(".service")) {
        problems.warn(file.name.place, format!("\"{name}\" looks like a unit of systemd: that is `type: systemd`"));
    }
    selection
}

pub(super) fn container(
    file: &UpdateFile,
    place: Place,
    common: &Common,
    problems: &mut Problems,
) -> Option<container::Container> {
    let must = "be restart, start, stop, signal or exec";
    let selection = selection(file, place, problems);
    let exec: Vec<String> = file.exec.value.iter().map(|word| word.value.clone()).collect();
    let signal = match file.signal.value.as_deref().map(|written| (written, Signal::parse(written))) {
        None => None,
        Some((_, Some(signal))) => Some(signal),
        Some((written, None)) => {
            problems.error(Complaint::value(file.signal.place, written, "signal", signal::MUST));
            return None;
        }
    };
    let written = file.action.value.as_deref().map(|text| text.trim().to_ascii_lowercase());
    let action = match (written.as_deref().filter(|text| !text.is_empty()), signal, exec.is_empty()) {
        (None | Some("signal"), Some(signal), true) => Some(container::Action::Signal(signal)),
        (None | Some("exec"), None, false) => Some(container::Action::Exec(exec)),
        (None | Some("restart"), None, true) => Some(container::Action::Restart),
        (Some("reload"), None, true) => {
            // The Python program did not read this key here.
            let message = "a container cannot be reloaded: `action: reload` is taken as `restart`; to send it a signal, like \
                           HUP, write `signal: HUP`";
            problems.warn(file.action.place, message);
            Some(container::Action::Restart)
        }
        (Some("start"), None, true) => Some(container::Action::Start),
        (Some("stop"), None, true) => Some(container::Action::Stop),
        (Some("signal"), None, _) => missing("signal", file, problems),
        (Some("exec"), _, true) => missing("exec", file, problems),
        (Some("restart" | "reload" | "start" | "stop" | "signal" | "exec") | None, _, _) => {
            let message = "Invalid update_services option: `signal` and `exec` go with their own `action` only";
            problems.error(Complaint::new(place, message));
            None
        }
        (Some(other), _, _) => {
            problems.error(Complaint::value(file.action.place, other, "action", must));
            None
        }
    };
    let engine = common.engine.clone();
    let grace = file.timeout.value.unwrap_or(common.docker_timeout);
    let command = file.timeout.value.unwrap_or_else(|| common.docker_timeout.map(|timeout| timeout + engine.request));
    Some(container::Container { selection: selection?, action: action?, engine, grace, command })
}

fn missing<T>(key: &str, file: &UpdateFile, problems: &mut Problems) -> Option<T> {
    let message = format!("Invalid update_services option: `action: {key}` needs `{key}`");
    problems.error(Complaint::new(file.action.place, message));
    None
}

pub(super) fn service(
    file: &UpdateFile,
    place: Place,
    common: &Common,
    problems: &mut Problems,
) -> Option<service::Service> {
    let timeout = file.timeout.value.unwrap_or(common.docker_service_timeout);
    Some(service::Service { selection: selection(file, place, problems)?, engine: common.engine.clone(), timeout })
}

pub(super) fn secret(
    file: &UpdateFile,
    place: Place,
    common: &Common,
    problems: &mut Problems,
) -> Option<secret::Secret> {
    let before = problems.errors.len();
    let written = name(file, place, problems);
    let name = written.as_deref().and_then(secret::Name::parse);
    if let (Some(written), None) = (&written, &name) {
        problems.error(Complaint::value(file.name.place, written, "name", secret::NAME_MUST));
    }
    let files: Vec<_> = file.file.value.iter().map(|file| file.value).collect();
    if files.is_empty() {
        let message = "Invalid update_services option: `type: docker_secret` needs a `file`, like fullchain or \
                       [fullchain, privkey]";
        problems.error(Complaint::new(place, message));
    }
    let alone = file.lineages.value.len() == 1 && file.domains.value.is_empty();
    if name.as_ref().is_some_and(|name| !name.is_for_each()) && !alone {
        let message = "Invalid update_services option: a secret holds one lineage: name it by `lineages`, or put \
                       {lineage} into `name`, so that each has a secret of its own";
        problems.error(Complaint::new(file.name.place, message));
    }
    if files.contains(&FileName::Privkey) && common.engine.tls.is_none() && common.engine.at.is_remote() {
        let message =
            "the private key crosses the network as plain text to this `docker_url`: use TLS (`docker_tls_ca`)";
        problems.warn(file.file.place, message);
    }
    let timeout = file.timeout.value.unwrap_or(common.docker_service_timeout);
    let engine = common.engine.clone();
    let keep = file.keep.value;
    (problems.errors.len() == before).then_some(secret::Secret { name: name?, files, keep, engine, timeout })
}
