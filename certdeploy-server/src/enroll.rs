//! `enroll`: fetches the host key of a target, shows its fingerprint and, on a yes, pins it. Nothing of ours is sent to
//! the host but the key exchange.

use std::io::{BufRead, Read, Write};
use std::path::Path;
use std::time::Duration;

use certdeploy_common::daemon::exit::Exit;
use certdeploy_common::daemon::logging::Stream;
use certdeploy_common::fs::{append, bounded};
use certdeploy_common::setting::{Located, Problems};
use certdeploy_common::ssh::key;
use russh::keys::{Algorithm, PublicKey};

use crate::Failure;
use crate::cli::Invocation;
use crate::config::known_hosts::{Form, Found, KnownHosts};
use crate::config::pins::{self, Demand};
use crate::config::{self, LoadError, Settings, Target, Timeouts};
use crate::log::{self, Need};
use crate::push::dial::dial;
use crate::push::host_key::{look, preferred};

/// Limits where the config sets none: a person is waiting.
const CONNECT: Duration = Duration::from_secs(10);
const HANDSHAKE: Duration = Duration::from_secs(15);

pub(crate) fn enroll(invocation: &Invocation, host: &str, fingerprint: Option<&str>) -> Result<Exit, Failure> {
    let settings = settings(invocation)?;
    let peer = Peer::of(host, settings.as_ref())?;
    let wanted = fingerprint.map(whole_fingerprint).transpose()?;
    let shown = crate::block_on(peer.fetch(wanted.as_deref()))?;
    let file = settings.as_ref().and_then(|settings| settings.known_hosts.as_deref());
    let known = file.map_or(Ok(Found::default()), |file| peer.known(file))?;
    say(&format!("{} shows this host key:\n{}\n", peer.shown(), listed(&shown, &peer.host)));
    if let Some((line, _)) = known.revoked.iter().find(|(_, key)| same(key, &shown)) {
        let file = file.unwrap_or(Path::new("known_hosts")).display();
        return Err(format!("this key is revoked by line {line} of `{file}`; nothing is pinned").into());
    }
    if let Some(wanted) = wanted.as_deref().filter(|wanted| *wanted != key::fingerprint(&shown)) {
        return Err(format!("the host key is not the one that was given ({wanted}); nothing is pinned").into());
    }
    let line = key::public_line(&PublicKey::new(shown.key_data().clone(), ""))?;
    if peer.pins.iter().any(|pin| same(pin, &shown)) {
        say("It is pinned already.\n");
        return Ok(crate::print(&format!("pubkey: {line}\n")));
    }
    let other = peer.warn_of_others(&known);
    if (other || wanted.is_none()) && !agreed(other) {
        say("Nothing is pinned.\n");
        return Ok(Exit::Failed);
    }
    let config = &invocation.config;
    match file {
        Some(file) if peer.is_pinned_by(&known) => peer.write(file, &line, &known)?,
        Some(_) => say(&format!(
            "The target has a `pubkey` or `pubkey_filename` in `{}`, which comes before `known_hosts`: change it there.\n",
            config.display()
        )),
        None => say(&format!("Put this line into its entry of `client_configs` in `{}`:\n", config.display())),
    }
    Ok(crate::print(&format!("pubkey: {line}\n")))
}

/// The config, even if host keys are missing in it: that is why we are here. Without a config, nothing is written.
fn settings(invocation: &Invocation) -> Result<Option<Settings>, Failure> {
    match config::load_with(&invocation.config, Demand::Anything) {
        Ok((settings, warnings)) => {
            log::begin(&invocation.log, &settings, Need::Stderr)?;
            for warning in warnings {
                tracing::warn!("{warning}");
            }
            Ok(Some(settings))
        }
        Err(error) => {
            log::without_settings(&invocation.log, Stream::Stderr);
            if !matches!(error, LoadError::Missing(_)) {
                return Err(error.into());
            }
            let config = invocation.config.display();
            say(&format!("There is no config `{config}`: no key is known from it, and none is written.\n"));
            Ok(None)
        }
    }
}

/// The host, and what the config says of it.
struct Peer {
    host: String,
    port: u16,
    pins: Vec<PublicKey>,
    timeouts: Timeouts,
}

impl Peer {
    fn of(written: &str, settings: Option<&Settings>) -> Result<Self, Failure> {
        let (host, port) = host_and_port(written)?;
        let all = settings.map_or(&[][..], |settings| &settings.targets);
        let is_it = |target: &&Target| {
            target.address.eq_ignore_ascii_case(&host) && port.is_none_or(|port| target.port == port)
        };
        let mut targets: Vec<&Target> = all.iter().filter(is_it).collect();
        targets.sort_by_key(|target| target.port);
        let ports = targets.chunk_by(|one, other| one.port == other.port).count();
        if ports > 1 {
            let ports = targets.iter().map(|target| target.port.to_string()).collect::<Vec<_>>().join(", ");
            return Err(format!("`{host}` is configured with several ports ({ports}); say which: HOST:PORT").into());
        }
        let first = targets.first();
        let shared = settings.map_or(Timeouts::NONE, |settings| settings.timeouts);
        Ok(Self {
            port: port.or(first.map(|target| target.port)).unwrap_or(22),
            pins: targets.iter().flat_map(|target| target.pins.clone()).collect(),
            timeouts: first.map_or(shared, |target| target.timeouts),
            host,
        })
    }

    fn shown(&self) -> String {
        pins::shown(&self.host, self.port)
    }

    /// The host key: one of the kind that a push would be shown, or the one with the wanted fingerprint if there is one.
    async fn fetch(&self, wanted: Option<&str>) -> Result<PublicKey, Failure> {
        let kinds = preferred(&self.pins).key.to_vec();
        let rounds = if wanted.is_some() { kinds.into_iter().map(|kind| vec![kind]).collect() } else { vec![kinds] };
        let mut first = None;
        for kinds in rounds {
            let stream = dial(&self.host, self.port, self.timeouts.connect.or(Some(CONNECT))).await?;
            let Some(shown) = look(stream, kinds, self.timeouts.handshake.or(Some(HANDSHAKE))).await? else { continue };
            if wanted.is_none_or(|wanted| wanted == key::fingerprint(&shown)) {
                return Ok(shown);
            }
            first.get_or_insert(shown);
        }
        first.ok_or_else(|| "the host has no host key of a kind that is used: ed25519 or ECDSA".into())
    }

    fn known(&self, file: &Path) -> Result<Found, Failure> {
        match bounded::text(file, pins::KNOWN_HOSTS) {
            Ok(text) => Ok(KnownHosts::parse(&text, Form::Hosts).0.of(&self.host, self.port)),
            Err(error) if error.is_missing() => Ok(Found::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// Says aloud that other keys are pinned; whether there are any.
    fn warn_of_others(&self, known: &Found) -> bool {
        let others = || self.pins.iter().chain(known.keys.iter().map(|(_, key)| key));
        if others().next().is_none() {
            return false;
        }
        let mut fingerprints: Vec<String> = others().map(key::fingerprint).collect();
        fingerprints.dedup();
        say(&format!(
            "WARNING: ANOTHER HOST KEY IS PINNED: {}\n\
             Either the host was set up anew, or somebody stands between you and it.\n",
            fingerprints.join(", ")
        ));
        true
    }

    /// Whether what is pinned, if anything, comes from `known_hosts`.
    fn is_pinned_by(&self, known: &Found) -> bool {
        self.pins.iter().all(|pin| known.keys.iter().any(|(_, key)| same(key, pin)))
    }

    fn write(&self, file: &Path, line: &str, known: &Found) -> Result<(), Failure> {
        let name = if self.port == 22 { self.host.clone() } else { format!("[{}]:{}", self.host, self.port) };
        append::line(file, &format!("{name} {line}"), 0o644)
            .map_err(|error| format!("cannot write `{}`: {error}; nothing is pinned", file.display()))?;
        let file = file.display();
        say(&format!("Written to `{file}`. A running daemon sees it after a reload (SIGHUP).\n"));
        if !known.keys.is_empty() {
            let lines = known.keys.iter().map(|(line, _)| line.to_string()).collect::<Vec<_>>().join(", ");
            say(&format!("The old key still counts: take line {lines} out of `{file}` when the host has left it.\n"));
        }
        Ok(())
    }
}

/// `HOST`, `HOST:PORT`, `::1`, `[::1]`, `[::1]:PORT`.
fn host_and_port(written: &str) -> Result<(String, Option<u16>), Failure> {
    let (host, port) = match written.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':').unwrap_or_default())),
        None => match written.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host, Some(port)),
            Some(_) | None => (written, None),
        },
    };
    let mut problems = Problems::default();
    let located = Located { value: host.to_owned(), place: Default::default() };
    let host = config::address::address(&located, &mut problems);
    let port =
        port.map(|port| port.parse::<u16>().ok().filter(|port| *port != 0)).map_or(Some(None), |port| port.map(Some));
    match (host, port) {
        (Some(host), Some(port)) => Ok((host, port)),
        _ => {
            Err(format!("`{written}` is no HOST or HOST:PORT (an IPv6 address with a port is written `[::1]:22`)")
                .into())
        }
    }
}

fn whole_fingerprint(given: &str) -> Result<String, Failure> {
    let hash = given.trim().strip_prefix("SHA256:").unwrap_or(given.trim()).trim_end_matches('=');
    let is_hash = hash.len() == 43 && hash.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(&byte));
    if is_hash {
        return Ok(format!("SHA256:{hash}"));
    }
    Err(format!("`{given}` is no fingerprint; expected `SHA256:...` as `ssh-keygen -lf FILE` prints it").into())
}

fn same(one: &PublicKey, other: &PublicKey) -> bool {
    one.key_data() == other.key_data()
}

/// As `ssh-keygen -lf` has it.
fn listed(key: &PublicKey, host: &str) -> String {
    let algorithm = key.algorithm();
    let (bits, kind) = if let Some(rsa) = key.key_data().rsa() {
        (rsa.key_size(), "RSA")
    } else if matches!(algorithm, Algorithm::Ed25519) {
        (256, "ED25519")
    } else {
        // The name of an ECDSA key ends with the size of its curve.
        let digits = algorithm.as_str().rsplit("nistp").next().and_then(|digits| digits.parse().ok());
        (digits.unwrap_or_default(), "ECDSA")
    };
    format!("{bits} {} {host} ({kind})", key::fingerprint(key))
}

/// Asks; the end of the input is a no.
fn agreed(other: bool) -> bool {
    let how = "Compare it with what the host itself says: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub there, or the \
               `..pub` beside the `privkey_filename` of a certdeploy-client.\n";
    let question = if other { "Pin this key as well? Type yes or no: " } else { "Pin this key? Type yes or no: " };
    say(&format!("{how}{question}"));
    let mut answer = String::new();
    let read = std::io::stdin().lock().take(64).read_line(&mut answer);
    read.is_ok() && answer.trim().eq_ignore_ascii_case("yes")
}

/// To stderr: stdout is for the line that goes into the config.
fn say(text: &str) {
    // If stderr is closed, the exit code still says it.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_written_in_many_ways() {
        for (written, host, port) in [
            ("web1", "web1", None),
            ("web1:2222", "web1", Some(2222)),
            ("192.0.2.1:22", "192.0.2.1", Some(22)),
            ("::1", "::1", None),
            ("[::1]", "::1", None),
            ("[2001:db8::7]:22", "2001:db8::7", Some(22)),
        ] {
            assert_eq!(host_and_port(written).unwrap(), (host.to_owned(), port), "{written}");
        }
        for bad in ["", ":22", "web1:", "web1:ssh", "web1:0", "[::1]22", "root@web1", "[web1]x"] {
            assert!(host_and_port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_fingerprint_is_as_ssh_keygen_prints_it() {
        let hash = "a".repeat(43);
        assert_eq!(whole_fingerprint(&format!("SHA256:{hash}")).unwrap(), format!("SHA256:{hash}"));
        assert_eq!(whole_fingerprint(&format!(" {hash}= ")).unwrap(), format!("SHA256:{hash}"));
        for bad in ["", "SHA256:", "MD5:00:11", &hash[1..]] {
            assert!(whole_fingerprint(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_key_is_listed_with_its_size_and_kind() {
        let ecdsa = "AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBEmKSENjQEezOmxkZMy7opKgwFB9nkt5YRrYMjNuG5N87uRgg6CLrbo5wAdT/y6v0mKV0U2w0WZ2YB/++Tpockg=";
        let said = listed(&key::parse_public(ecdsa).unwrap(), "web1");
        assert!(said.starts_with("256 SHA256:") && said.ends_with(" web1 (ECDSA)"), "{said}");
    }
}
