//! `listen_address` and `listen_port` -> where to listen. Host names become addresses here, once for each reading of the
//! config; it must not listen.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};

use certdeploy_common::setting::{Complaint, Located, Problems};

/// The most addresses: nobody has so many, and each takes a descriptor in a message of limited size.
const MOST: usize = 32;

/// Somewhere to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// All addresses of both families; those of IPv4 where there is no IPv6.
    All(u16),
    /// This one. An IPv6 wildcard takes IPv4 too, unless that is listened on by itself.
    One {
        /// The address.
        address: SocketAddr,
        /// Whether an IPv6 address is to take IPv6 only.
        only_v6: bool,
    },
}

/// Who knows the addresses of a name, and which addresses this machine has.
struct Known {
    addresses: fn(&str, u16) -> io::Result<Vec<SocketAddr>>,
    is_ours: fn(SocketAddr) -> bool,
}

/// Reads the two settings; what is wrong goes to `problems`.
pub(super) fn listen(given: &Located<Vec<Located<String>>>, port: u16, problems: &mut Problems) -> Option<Vec<Listen>> {
    let known = Known { addresses: |name, port| Ok((name, port).to_socket_addrs()?.collect()), is_ours };
    listen_by(&known, given, port, problems)
}

/// Whether it can be bound; without taking a port of anybody's.
fn is_ours(mut address: SocketAddr) -> bool {
    address.set_port(0);
    UdpSocket::bind(address).is_ok()
}

fn listen_by(
    known: &Known,
    given: &Located<Vec<Located<String>>>,
    port: u16,
    problems: &mut Problems,
) -> Option<Vec<Listen>> {
    let before = problems.errors.len();
    let mut addresses: Vec<SocketAddr> = Vec::new();
    let mut all = given.value.is_empty();
    for text in &given.value {
        if text.value.is_empty() {
            all = true;
            continue;
        }
        let found = match (parse(&text.value, port), name(&text.value, port)) {
            (Some(address), _) => vec![address],
            (None, Some((name, port))) => of_name(known, name, port, text, problems),
            (None, None) => {
                let must = "be IP addresses or host names, each like 192.0.2.1, 192.0.2.1:2222, 2001:db8::1, [2001:db8::1]:2222 or localhost, or empty for all";
                problems.error(Complaint::value(text.place, &text.value, "listen_address", must));
                continue;
            }
        };
        for address in found {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    if given.value.len().max(addresses.len()) > MOST {
        let message =
            format!("Invalid sftpd option: `listen_address`: more than {MOST} addresses; leave it empty for all");
        problems.error(Complaint::new(given.place, message));
    }
    if problems.errors.len() > before {
        return None;
    }
    let twin = |address: &SocketAddr| addresses.iter().any(|other| other.is_ipv4() && other.port() == address.port());
    let mut listen: Vec<Listen> = if all { vec![Listen::All(port)] } else { Vec::new() };
    // Everything on this port is listened on already.
    let left = addresses.iter().filter(|address| !all || address.port() != port);
    listen.extend(left.map(|address| Listen::One { address: *address, only_v6: address.is_ipv6() && twin(address) }));
    Some(listen)
}

fn parse(text: &str, port: u16) -> Option<SocketAddr> {
    let alone = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = match alone.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, port),
        Err(_) => text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0)?,
    };
    Some(plain(address))
}

/// `::ffff:192.0.2.1` is IPv4 in other words, and would be refused by a socket of IPv6 alone.
fn plain(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some() => {
            SocketAddr::new(v6.ip().to_canonical(), address.port())
        }
        SocketAddr::V4(_) | SocketAddr::V6(_) => address,
    }
}

/// A host name with or without a port. What ends in a number is no name, but an address that was mistyped.
fn name(text: &str, port: u16) -> Option<(&str, u16)> {
    let (name, port) = match text.rsplit_once(':') {
        None => (text, port),
        Some((name, port)) => (name, port.parse().ok().filter(|port| *port != 0)?),
    };
    let label = |label: &str| {
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        !label.is_empty() && label.chars().all(fine)
    };
    let mut labels = name.strip_suffix('.').unwrap_or(name).split('.');
    let last = labels.clone().next_back()?;
    (labels.all(label) && !last.chars().all(|c| c.is_ascii_digit())).then_some((name, port))
}

/// All addresses of a name. Many machines know `localhost` as ::1 too, and have no IPv6: that is left out, as long as
/// something is left.
fn of_name(known: &Known, name: &str, port: u16, text: &Located<String>, problems: &mut Problems) -> Vec<SocketAddr> {
    let found = match (known.addresses)(name, port) {
        Ok(found) if !found.is_empty() => found,
        failed => {
            let cause = failed.err().map_or_else(|| "it has no address".to_owned(), |error| error.to_string());
            let must = format!("be a host name that can be resolved: {cause}");
            problems.error(Complaint::value(text.place, &text.value, "listen_address", &must));
            return Vec::new();
        }
    };
    let found: Vec<SocketAddr> = found.into_iter().map(plain).collect();
    let had = |address: &SocketAddr| address.is_ipv4() || (known.is_ours)(*address);
    let (ours, others): (Vec<SocketAddr>, Vec<SocketAddr>) = found.iter().partition(|address| had(address));
    if ours.is_empty() {
        return found;
    }
    for address in others {
        let ip = address.ip();
        problems.warn(
            text.place,
            format!("`listen_address`: {name} is {ip} too, which this machine does not have: left out"),
        );
    }
    ours
}

impl Listen {
    /// What is tried, one after the other, until one works: the address, and whether it takes IPv6 only.
    #[must_use]
    pub fn attempts(self) -> Vec<(SocketAddr, bool)> {
        match self {
            Self::All(port) => vec![
                (SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port), false),
                (SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port), false),
            ],
            Self::One { address, only_v6 } => vec![(address, only_v6)],
        }
    }
}

#[cfg(test)]
mod tests {
    use certdeploy_common::setting::Place;

    use super::*;

    /// What the names of this test are; it asks nobody.
    const KNOWN: Known = Known {
        addresses: |name, port| match name {
            "localhost" => Ok(vec![SocketAddr::new([127, 0, 0, 1].into(), port), (Ipv6Addr::LOCALHOST, port).into()]),
            "web1.example" => Ok(vec![([192, 0, 2, 1], port).into(), ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], port).into()]),
            "empty" => Ok(Vec::new()),
            _ => Err(io::Error::other("Name or service not known")),
        },
        is_ours: |address| address.ip() == Ipv6Addr::LOCALHOST,
    };

    fn read(given: &[&str]) -> Result<String, String> {
        let located = |text: &&str| Located { value: (*text).to_owned(), place: Place::default() };
        let given = Located { value: given.iter().map(located).collect(), place: Place::default() };
        let mut problems = Problems::default();
        let show = |listen: Listen| match listen {
            Listen::All(port) => format!("all:{port}"),
            Listen::One { address, only_v6: false } => address.to_string(),
            Listen::One { address, only_v6: true } => format!("{address}!"),
        };
        match listen_by(&KNOWN, &given, 22, &mut problems) {
            Some(listen) => Ok(listen.into_iter().map(show).collect::<Vec<_>>().join(" ")),
            None => Err(problems.errors.into_iter().map(|complaint| complaint.message).collect::<Vec<_>>().join("\n")),
        }
    }

    #[test]
    fn addresses_in_every_spelling() {
        for (given, want) in [
            (vec![], "all:22"),
            (vec![""], "all:22"),
            (vec!["10.0.0.1"], "10.0.0.1:22"),
            (vec!["10.0.0.1:2222", "10.0.0.1"], "10.0.0.1:2222 10.0.0.1:22"),
            (vec!["::1", "[::1]", "[::1]:2222"], "[::1]:22 [::1]:2222"),
            (vec!["::"], "[::]:22"),
            (vec!["::", "0.0.0.0"], "[::]:22! 0.0.0.0:22"),
            (vec!["::", "127.0.0.1:2222"], "[::]:22 127.0.0.1:2222"),
            (vec!["::ffff:10.0.0.1"], "10.0.0.1:22"),
            (vec!["", "10.0.0.1", "10.0.0.1:2222"], "all:22 10.0.0.1:2222"),
            (vec!["localhost"], "127.0.0.1:22 [::1]:22!"),
            (vec!["localhost:2222", "127.0.0.1:2222"], "127.0.0.1:2222 [::1]:2222!"),
            (vec!["web1.example"], "192.0.2.1:22"),
        ] {
            assert_eq!(read(&given).as_deref(), Ok(want), "{given:?}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for given in ["localhost:0", "10.0.0", "a..b", "a b", "10.0.0.1:0", "10.0.0.1:x", "[::1", "10.0.0.0/8", "*"] {
            let said = read(&[given]).unwrap_err();
            assert!(said.contains(&format!("Invalid value \"{given}\" for `listen_address`")), "{said}");
        }
        for (given, cause) in [("nowhere.example:22", "Name or service not known"), ("empty", "it has no address")] {
            let said = read(&[given]).unwrap_err();
            assert!(said.contains(&format!("\"{given}\"")) && said.contains(cause), "{said}");
        }
        assert!(read(&["10.0.0.1"; 33]).unwrap_err().contains("more than 32 addresses"));
    }
}
