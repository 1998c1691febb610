//! pebble, an ACME server for tests, and its DNS, both on loopback.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

use crate::network::Network;
use crate::process::{Daemon, command, free_port};
use crate::wait::until;

/// A running pebble with the DNS server it asks.
#[derive(Debug)]
pub struct Pebble {
    /// The certificate of its own https.
    pub api_certificate: PathBuf,
    /// Its directory URL.
    pub directory: String,
    /// Where it looks for the answer to an http-01 challenge.
    pub http_port: u16,
    _acme: Daemon,
    _dns: Daemon,
}

impl Pebble {
    /// Starts both in `folder`.
    #[must_use]
    pub fn start(folder: &Path) -> Self {
        Self::start_by(folder, "127.0.0.1", free_port(), command)
    }

    /// Starts both in a network of its own, pebble at `address` of it; it looks for answers at port 80 of loopback there.
    #[must_use]
    pub fn start_on(folder: &Path, network: &Network, address: &str) -> Self {
        Self::start_by(folder, address, 80, |program| network.command(program))
    }

    fn start_by(folder: &Path, address: &str, http_port: u16, command: impl Fn(&'static str) -> Command) -> Self {
        std::fs::create_dir_all(folder).expect("a folder");
        let (acme_port, dns_port) = (free_port(), free_port());
        let api_certificate = api_certificate(folder, address);
        let config = config(folder, &format!("{address}:{acme_port}"), http_port);
        std::fs::write(folder.join("pebble.json"), config).expect("write pebble.json");

        let mut dns = command("/usr/bin/pebble-challtestsrv");
        dns.args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", ""]);
        dns.args(["-dns01", &format!("127.0.0.1:{dns_port}"), "-management", &format!("127.0.0.1:{}", free_port())]);
        let dns = Daemon::start("pebble-challtestsrv", dns, &folder.join("dns.log"));

        let mut acme = command("/usr/bin/pebble");
        acme.arg("-config").arg(folder.join("pebble.json")).args(["-dnsserver", &format!("127.0.0.1:{dns_port}")]);
        acme.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_WFE_NONCEREJECT", "0").env("PEBBLE_AUTHZREUSE", "0");
        let acme = Daemon::start("pebble", acme, &folder.join("pebble.log"));
        until("pebble listens", Duration::from_secs(30), || {
            // As its own network shows it.
            let sockets = std::fs::read_to_string(format!("/proc/{}/net/tcp", acme.id())).unwrap_or_default();
            sockets.contains(&format!(":{acme_port:04X} 00000000:0000 0A ")).then_some(())
        });
        let directory = format!("https://{address}:{acme_port}/dir");
        Self { api_certificate, directory, http_port, _acme: acme, _dns: dns }
    }
}

fn api_certificate(folder: &Path, address: &str) -> PathBuf {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec!["localhost".to_owned(), address.to_owned()]).expect("names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let path = folder.join("api.pem");
    std::fs::write(&path, params.self_signed(&key).expect("a certificate").pem()).expect("write");
    std::fs::write(folder.join("api-key.pem"), key.serialize_pem()).expect("write");
    path
}

fn config(folder: &Path, acme: &str, http_port: u16) -> String {
    let path = |name: &str| folder.join(name).display().to_string();
    serde_json::json!({ "pebble": {
        "listenAddress": acme,
        "managementListenAddress": format!("127.0.0.1:{}", free_port()),
        "certificate": path("api.pem"),
        "privateKey": path("api-key.pem"),
        "httpPort": http_port,
        "tlsPort": free_port(),
        "ocspResponderURL": "",
        "externalAccountBindingRequired": false,
    }})
    .to_string()
}
