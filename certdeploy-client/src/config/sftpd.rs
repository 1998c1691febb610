//! The keys of `sftpd` -> [`Sftpd`]: who may push, where it is listened, and the limits of connections.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use certdeploy_common::fs::{private, text};
use certdeploy_common::setting::{Complaint, Located, Place, Problems};
use certdeploy_common::ssh::key;
use russh::keys::PrivateKey;

use super::file::SftpdFile;
use super::listen::{self, Listen};
use super::pushers::{self, Pusher};
use crate::account::Account;

/// The receiver's part.
#[derive(Debug)]
pub struct Sftpd {
    /// Where to listen.
    pub listen: Vec<Listen>,
    /// How many connections may wait to be taken in.
    pub backlog: u32,
    /// The host key.
    pub host_key: PrivateKey,
    /// Who may push.
    pub pushers: Vec<Pusher>,
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
    /// Bytes of one connection, all together.
    pub max_upload: u64,
    /// The largest SFTP packet, in bytes.
    pub max_packet: u32,
    /// How long a receipt is waited for.
    pub receipt_wait: Duration,
    /// How long connections may go on after SIGTERM.
    pub drain_timeout: Duration,
}

/// Turns the section into what the receiver runs by; what is wrong goes to `problems`.
pub(super) fn sftpd(config: &Path, place: Place, file: SftpdFile, problems: &mut Problems) -> Option<Sftpd> {
    let host_key = host_key(config, &file, problems);
    root(&file.user, problems);
    let pushers = pushers::pushers(place, &file, problems);
    let pusher_addresses = addresses(&file.pusher_addresses, problems);
    let listen = listen::listen(&file.listen_address, file.listen_port.value, problems);
    Some(Sftpd {
        listen: listen?,
        backlog: file.socket_backlog.value.max(1),
        host_key: host_key?,
        pushers: pushers?,
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
            max_upload: file.max_upload.value,
            max_packet: u32::try_from(file.max_packet.value).unwrap_or(u32::MAX),
            receipt_wait: file.receipt_wait.value,
            drain_timeout: file.drain_timeout.value,
        },
    })
}

/// The host key of its file, or the one that stands in the config, which then is a file of a key.
fn host_key(config: &Path, file: &SftpdFile, problems: &mut Problems) -> Option<PrivateKey> {
    let (key, place, read) = match (&file.privkey_filename.value, &file.privkey.value) {
        (Some(_), Some(_)) => {
            let message =
                "Invalid sftpd option: both `privkey` and `privkey_filename` are given; keep the one that is meant";
            problems.error(Complaint::new(file.privkey.place, message));
            return None;
        }
        (Some(path), None) => ("privkey_filename", file.privkey_filename.place, key::load_private(path)),
        (None, Some(text)) => {
            let guarded = private::read(config, text::LIMIT).map(drop).map_err(key::KeyError::from);
            ("privkey", file.privkey.place, guarded.and_then(|()| key::parse_private(text, "privkey")))
        }
        (None, None) => return None,
    };
    let complain = |error| Complaint::new(place, format!("Invalid sftpd option: `{key}`: {error}"));
    read.map_err(|error| problems.error(complain(error))).ok()
}

/// The receiver talks to strangers: it is not to be root.
fn root(user: &Located<String>, problems: &mut Problems) {
    if Account::named(&user.value).is_some_and(|account| account.uid == 0) {
        let must = "be a user without privileges: it is the one that the part runs as that talks to strangers. Leave it out for `certdeploy`";
        problems.error(Complaint::value(user.place, &user.value, "user", must));
    }
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
