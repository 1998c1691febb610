//! Who is asked later: the port, systemd's bus, the Docker engine, rc services. Each question has a limit.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use certdeploy_common::daemon::findings::Findings;
use tokio::net::TcpStream;

use crate::cli::Options;
use crate::config::{Settings, Sftpd};
use crate::health;
use crate::update::docker::{self, Engine};
use crate::update::{Updater, systemd};

/// How long anybody may take to answer.
const LIMIT: Duration = Duration::from_secs(5);

/// Whether it can be listened: the port is free, or our own running daemon has it. It is not taken for a moment either:
/// a daemon that starts now must get it.
pub(super) async fn listening(options: &Options, settings: &Settings, findings: &mut Findings) {
    let Some(sftpd) = &settings.sftpd else {
        let why = settings.no_sftpd.as_ref().map_or("", |complaint| complaint.message.as_str());
        return findings.note(format!("there is no receiver, one pass is all that can be run: {why}"));
    };
    match health::check(&options.config, LIMIT).await {
        Ok(addresses) => {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            findings.note(format!("the daemon runs and listens at {}", addresses.join(", ")));
        }
        Err(error) => {
            findings.note(format!("the daemon does not run, or not well: {error}"));
            free(sftpd, findings).await;
        }
    }
}

async fn free(sftpd: &Sftpd, findings: &mut Findings) {
    for listen in &sftpd.listen {
        let Some((address, _)) = listen.attempts().first().copied() else { continue };
        let shown = format!("{}:{}", address.ip(), address.port());
        if let Err(error) = TcpListener::bind(SocketAddr::new(address.ip(), 0))
            && error.kind() == io::ErrorKind::AddrNotAvailable
            && !address.ip().is_unspecified()
        {
            findings.error(format!("cannot listen on {shown}: this machine does not have this address"));
            continue;
        }
        if address.port() < 1024 && !rustix::process::geteuid().is_root() {
            findings.warn(format!("ports below 1024, like that of {shown}, need root or CAP_NET_BIND_SERVICE"));
        }
        let taken = tokio::time::timeout(LIMIT, TcpStream::connect(&*health::reachable(address))).await;
        if let Ok(Ok(_)) = taken {
            let port = address.port();
            findings.error(format!(
                "cannot listen on {shown}: another program does; `ss -ltnp 'sport = :{port}'` names it: stop it, or set \
                 another `listen_port`"
            ));
        }
    }
}

/// Whether systemd answers and knows the units.
pub(super) async fn systemd(settings: &Settings, findings: &mut Findings) {
    for entry in &settings.updates {
        let Updater::Unit(unit) = &entry.updater else { continue };
        if unit.executable.is_some() {
            continue;
        }
        let asked = tokio::time::timeout(LIMIT, systemd::load_state(&unit.name)).await;
        match asked {
            Ok(Ok(state)) if state == "loaded" => {}
            Ok(Ok(state)) => findings.warn(format!("unit {} is {state}, says systemd", unit.name)),
            Ok(Err(error)) => findings.warn(format!("unit {}: {error}", unit.name)),
            Err(_) => findings.warn(format!("unit {}: no answer within {} seconds", unit.name, LIMIT.as_secs())),
        }
    }
}

/// Whether the Docker engine can be asked, and has what is to be updated.
pub(super) async fn docker(settings: &Settings, findings: &mut Findings) {
    let engines = settings.updates.iter().filter_map(|entry| match &entry.updater {
        Updater::Container(container) => Some(&container.engine),
        Updater::Service(service) => Some(&service.engine),
        Updater::Secret(secret) => Some(&secret.engine),
        Updater::Unit(_) | Updater::Rc(_) | Updater::Script(_) => None,
    });
    // They all have the same one.
    let Some(engine) = engines.into_iter().next() else { return };
    let request = engine.request.min(LIMIT);
    if let Err(error) = (Engine { request, ..engine.clone() }).answers().await {
        return findings.warn(error.to_string());
    }
    for entry in &settings.updates {
        let looked = match &entry.updater {
            Updater::Container(container) => docker::container::look(container, request).await,
            Updater::Service(service) => docker::service::look(service, request).await,
            Updater::Secret(_) | Updater::Unit(_) | Updater::Rc(_) | Updater::Script(_) => Ok(()),
        };
        if let Err(error) = looked {
            findings.warn(format!("{}: {error}", entry.id()));
        }
    }
}

/// Where services of SysV init, OpenRC and the BSDs are.
const RC: [&str; 4] = ["/etc/init.d", "/etc/rc.d", "/usr/local/etc/rc.d", "/usr/local/etc/init.d"];

/// Whether there are such services, where `service` looks for them; with systemd it asks that instead.
pub(super) fn rc(settings: &Settings, findings: &mut Findings) {
    if Path::new("/run/systemd/system").exists() {
        return;
    }
    for entry in &settings.updates {
        let Updater::Rc(service) = &entry.updater else { continue };
        if !RC.iter().any(|place| Path::new(place).join(&service.name).exists()) {
            findings.warn(format!("rc service {}: there is none in {}", service.name, RC.join(", ")));
        }
    }
}
