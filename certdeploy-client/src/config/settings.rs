//! [`ClientFile`] -> [`Settings`]: the values made strong, the files they name looked at, each failure at its place.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use certdeploy_common::daemon::logging::{LogFormat, LogLevel};
use certdeploy_common::setting::mode::Mode;
use certdeploy_common::setting::place::{ConfigError, ConfigWarning};
use certdeploy_common::setting::{Complaint, Located, Place, Problems};
use certdeploy_common::ssh::key;
use russh::keys::{PrivateKey, PublicKey};

use super::file::{ClientFile, PermissionsFile, SftpdFile};
use super::updates;
use crate::update::Entry;
use crate::update::delay::Retry;

/// Everything the program runs by; immutable once made.
#[derive(Debug)]
pub struct Settings {
    /// Where the certificates are put.
    pub destination: PathBuf,
    /// The staging directory.
    pub source: PathBuf,
    /// The receiver's part; `None` without a host key, which is fine for one pass.
    pub sftpd: Option<Sftpd>,
    /// Why there is no receiver's part, for the message of `--daemon`.
    pub no_sftpd: Option<Complaint>,
    /// What is updated after a deployment, in order.
    pub updates: Vec<Entry>,
    /// How long the daemon waits before it runs them.
    pub update_delay: Duration,
    /// When failed updates run again.
    pub update_retry: Retry,
    /// How many generations are kept.
    pub keep_generations: usize,
    /// How long a replaced generation is kept at least.
    pub generation_min_age: Duration,
    /// Modes and owners of what is deployed.
    pub permissions: Permissions,
    /// The limit of one validation.
    pub validate_timeout: Duration,
    /// Stop at the first failed update.
    pub fail_fast: bool,
    /// What is logged, where and how.
    pub log: LogPolicy,
}

/// What is logged, where and how.
#[derive(Debug, Clone)]
pub struct LogPolicy {
    /// Our own lines.
    pub level: LogLevel,
    /// How lines look.
    pub format: LogFormat,
    /// A file beside the stream.
    pub file: Option<PathBuf>,
    /// The lines of the SSH and SFTP library.
    pub library_level: LogLevel,
    /// A file for these.
    pub library_file: Option<PathBuf>,
}

/// The receiver's part.
#[derive(Debug)]
pub struct Sftpd {
    /// Where to listen; tried in order when the first is the dual-stack wildcard.
    pub listen: Vec<SocketAddr>,
    /// The name the pusher logs in with.
    pub username: String,
    /// The host key.
    pub host_key: PrivateKey,
    /// The pusher's key.
    pub pusher: PublicKey,
    /// The system user of the receiver.
    pub user: String,
    /// The limits of connections.
    pub limits: Limits,
}

/// The limits of connections; handed to the receiver as they are.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Limits {
    /// To authenticate.
    pub login_grace_time: Duration,
    /// Silence of an authenticated peer.
    pub idle_timeout: Duration,
    /// One connection at most.
    pub session_timeout: Duration,
    /// Connections at once.
    pub max_connections: u32,
    /// Connections at once that have not authenticated.
    pub max_startups: u32,
    /// Those from one address.
    pub max_startups_per_address: u32,
    /// Whence the pusher comes.
    pub pusher_addresses: Vec<IpAddr>,
    /// Open files of one connection.
    pub max_handles: u32,
    /// Lineages of one connection.
    pub max_lineages: u32,
    /// The largest SFTP packet, in bytes.
    pub max_packet: u32,
    /// How long a receipt is waited for.
    pub receipt_wait: Duration,
    /// How long connections may go on after SIGTERM.
    pub drain_timeout: Duration,
}

/// Modes and owners of what is deployed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permissions {
    /// `privkey.pem`.
    pub key: Mode,
    /// The other files.
    pub certificate: Mode,
    /// Lineage directories and generations, if it is configured; else 0755 for those that are made.
    pub directory: Option<Mode>,
    /// The owner, if it is to be changed.
    pub owner: Option<u32>,
    /// The group, if it is to be changed.
    pub group: Option<u32>,
}

/// Turns what the file says into what the program runs by.
///
/// # Errors
/// All that is wrong, with places.
pub fn check(file: ClientFile, path: &Path) -> Result<(Settings, Vec<ConfigWarning>), ConfigError> {
    let mut problems = Problems::default();
    let settings = settings(file, &mut problems);
    problems.finish(path, settings)
}

fn settings(file: ClientFile, problems: &mut Problems) -> Option<Settings> {
    let common = updates::Common::of(&file, problems);
    let log = LogPolicy {
        level: file.log_level.value,
        format: file.log_format.value,
        file: file.log_filename.value.clone(),
        library_level: file.sftpd.value.log_level.value,
        library_file: file.sftpd.value.log_filename.value.clone(),
    };
    let destination = directory("destination", file.destination, problems);
    let source = directory("source", file.source, problems);
    let permissions = permissions(file.file_permissions.value, problems);
    let entries = file.update_services.value;
    let updates: Option<Vec<Option<Entry>>> =
        common.map(|common| entries.into_iter().map(|entry| updates::entry(entry, &common, problems)).collect());
    let no_key = file.sftpd.value.privkey_filename.value.is_none().then(|| {
        Complaint::new(file.sftpd.place, "Invalid sftpd option: `privkey_filename` is needed with --daemon; make a key with `certdeploy-client keygen PATH`")
    });
    let sftpd = match no_key {
        Some(_) => None,
        None => Some(sftpd(file.sftpd.place, file.sftpd.value, problems)?),
    };
    Some(Settings {
        destination: destination?,
        source: source?,
        sftpd,
        no_sftpd: no_key,
        updates: updates?.into_iter().collect::<Option<_>>()?,
        update_delay: file.update_delay.value,
        update_retry: Retry { first: file.update_retry_interval.value, longest: file.update_retry_max_interval.value },
        keep_generations: usize::try_from(file.keep_generations.value).unwrap_or(usize::MAX),
        generation_min_age: file.generation_min_age.value,
        permissions: permissions?,
        validate_timeout: file.validate_timeout.value,
        fail_fast: file.fail_fast.value,
        log,
    })
}

fn directory(key: &str, given: Located<PathBuf>, problems: &mut Problems) -> Option<PathBuf> {
    if given.value.is_dir() {
        return std::path::absolute(&given.value).ok();
    }
    let written = given.value.display().to_string();
    problems.error(Complaint::value(given.place, &written, key, "be a directory that exists"));
    None
}

fn sftpd(place: Place, file: SftpdFile, problems: &mut Problems) -> Option<Sftpd> {
    let host_key = file.privkey_filename.value.as_deref().and_then(|path| {
        let complain = |error: key::KeyError| {
            Complaint::new(file.privkey_filename.place, format!("Invalid sftpd option: `privkey_filename`: {error}"))
        };
        key::load_private(path).map_err(|error| problems.error(complain(error))).ok()
    });
    let pusher = pusher(place, &file, problems);
    let pusher_addresses = addresses(&file.pusher_addresses, problems);
    let listen = listen(&file.listen_address, file.listen_port.value, problems);
    Some(Sftpd {
        listen: listen?,
        username: file.username.value,
        host_key: host_key?,
        pusher: pusher?,
        user: file.user.value,
        limits: Limits {
            login_grace_time: file.login_grace_time.value,
            idle_timeout: file.idle_timeout.value,
            session_timeout: file.session_timeout.value,
            max_connections: file.max_connections.value,
            max_startups: file.max_startups.value,
            max_startups_per_address: file.max_startups_per_address.value,
            pusher_addresses: pusher_addresses?,
            max_handles: file.max_handles.value,
            max_lineages: file.max_lineages.value,
            max_packet: u32::try_from(file.max_packet.value).unwrap_or(u32::MAX),
            receipt_wait: file.receipt_wait.value,
            drain_timeout: file.drain_timeout.value,
        },
    })
}

fn pusher(place: Place, file: &SftpdFile, problems: &mut Problems) -> Option<PublicKey> {
    let (at, name, text) = match (&file.server_pubkey_filename.value, &file.server_pubkey.value) {
        (Some(path), _) => {
            let at = file.server_pubkey_filename.place;
            match std::fs::read_to_string(path) {
                Ok(text) => (at, "server_pubkey_filename", text),
                Err(error) => {
                    let message = format!("cannot read `{}`: {error}", path.display());
                    problems.error(Complaint::new(
                        at,
                        format!("Invalid sftpd option: `server_pubkey_filename`: {message}"),
                    ));
                    return None;
                }
            }
        }
        (None, Some(text)) => (file.server_pubkey.place, "server_pubkey", text.clone()),
        (None, None) => {
            problems.error(Complaint::new(
                place,
                "Invalid sftpd option: neither `server_pubkey` nor `server_pubkey_filename`: nobody could log in; give the content of the server's `.pub` file",
            ));
            return None;
        }
    };
    let complain = |error| Complaint::new(at, format!("Invalid sftpd option: `{name}`: {error}"));
    key::parse_public(&text).map_err(|error| problems.error(complain(error))).ok()
}

fn addresses(given: &Located<Vec<Located<String>>>, problems: &mut Problems) -> Option<Vec<IpAddr>> {
    let mut addresses = Vec::new();
    for text in &given.value {
        match text.value.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(ip) => addresses.push(ip),
            Err(_) => {
                problems.error(Complaint::value(text.place, &text.value, "pusher_addresses", "hold IP addresses only"));
            }
        }
    }
    (addresses.len() == given.value.len()).then_some(addresses)
}

fn listen(address: &Located<Option<String>>, port: u16, problems: &mut Problems) -> Option<Vec<SocketAddr>> {
    let text = address.value.as_deref().unwrap_or_default();
    if text.is_empty() {
        let all = [IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
        return Some(all.map(|ip| SocketAddr::new(ip, port)).to_vec());
    }
    match text.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(ip) => Some(vec![SocketAddr::new(ip, port)]),
        Err(_) => {
            problems.error(Complaint::value(address.place, text, "listen_address", "be an IP address or empty"));
            None
        }
    }
}

fn permissions(file: PermissionsFile, problems: &mut Problems) -> Option<Permissions> {
    let owner = id("owner", &file.owner, problems, |name| {
        nix::unistd::User::from_name(name).ok()?.map(|user| user.uid.as_raw())
    });
    let group = id("group", &file.group, problems, |name| {
        nix::unistd::Group::from_name(name).ok()?.map(|group| group.gid.as_raw())
    });
    Some(Permissions {
        key: file.mode.value.unwrap_or(Mode::new(0o600)),
        certificate: file.mode.value.unwrap_or(Mode::new(0o644)),
        directory: file.directory_mode.value,
        owner: owner?,
        group: group?,
    })
}

/// `Some(None)`: not given; `None`: wrong, and said so.
#[expect(clippy::option_option, reason = "the outer one is the verdict, the inner one the setting")]
fn id(
    key: &str,
    given: &Located<Option<String>>,
    problems: &mut Problems,
    look_up: impl FnOnce(&str) -> Option<u32>,
) -> Option<Option<u32>> {
    let Some(name) = &given.value else { return Some(None) };
    let found = name.parse().ok().or_else(|| look_up(name));
    if found.is_none() {
        let must = format!("be the name or id of a{} {key} that exists", if key == "owner" { "n" } else { "" });
        problems.error(Complaint::value(given.place, name, key, must.trim_end()));
    }
    found.map(Some)
}
