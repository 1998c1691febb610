//! The sockets that the receiver will accept on: bound here while there are privileges, or handed to us by systemd.
//! Must not accept.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::OnceLock;

use listenfd::ListenFd;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::config::Sftpd;

/// Why there is nothing to listen on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// An address cannot be had.
    #[error("CertDeployError: Failed to listen on {address}: {source}{}", way_out(*address, source))]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The supervisor handed over something else.
    #[error(
        "CertDeployError: Failed to listen: the socket that was handed over as descriptor {number} {why}; a unit of \
         type socket needs `ListenStream=` with a port and `Accept=no`"
    )]
    Handed {
        /// Its number.
        number: usize,
        /// What is wrong with it.
        why: String,
    },
}

fn way_out(address: SocketAddr, source: &io::Error) -> String {
    let (port, is) = (address.port(), |kind| source.kind() == kind);
    if is(io::ErrorKind::AddrInUse) {
        return format!(
            "; another program listens there, which `ss -ltnp 'sport = :{port}'` names: stop it, or set another \
             `listen_port` or `listen_address`"
        );
    }
    let words = if is(io::ErrorKind::PermissionDenied) && port < 1024 {
        "; ports below 1024 need root or CAP_NET_BIND_SERVICE: set `listen_port` to 1024 or more, or let systemd open \
         the socket"
    } else if is(io::ErrorKind::AddrNotAvailable) {
        "; this machine does not have this address, or not yet: correct `listen_address`, or leave it empty for all"
    } else {
        ""
    };
    words.to_owned()
}

/// The first descriptor that a supervisor hands over.
const FIRST: usize = 3;

/// The listening sockets: those that systemd has handed to this very process, else those of the config. Of these, what is
/// among `held` already is used on: it cannot be bound twice, and whoever is waiting there is not lost.
///
/// # Errors
/// See [`ListenError`].
pub fn sockets(sftpd: &Sftpd, held: &[TcpListener]) -> Result<Vec<TcpListener>, ListenError> {
    let handed = handed()?;
    if !handed.is_empty() {
        tracing::info!(
            "systemd has handed over {} listening socket(s); `listen_address`, `listen_port` and `socket_backlog` are \
             not used",
            handed.len()
        );
        let copies = handed.iter().enumerate().map(|(index, socket)| {
            let failed = |error| ListenError::Handed { number: FIRST + index, why: format!("cannot be used: {error}") };
            socket.try_clone().map_err(failed)
        });
        return copies.collect();
    }
    let listens = sftpd.listen.iter().map(|listen| listen.attempts());
    listens
        .map(|attempts| again(&attempts, sftpd.backlog, held).map_or_else(|| first(&attempts, sftpd.backlog), Ok))
        .collect()
}

/// A socket that listens at one of these addresses already, with its new backlog.
fn again(attempts: &[(SocketAddr, bool)], backlog: u32, held: &[TcpListener]) -> Option<TcpListener> {
    let same = |socket: &&TcpListener| {
        let only_v6 = sockopt::ipv6_v6only(socket).unwrap_or(false);
        socket.local_addr().is_ok_and(|address| attempts.contains(&(address, only_v6)))
    };
    let socket = held.iter().find(same)?.try_clone().ok()?;
    rustix::net::listen(&socket, most(backlog)).ok()?;
    Some(socket)
}

fn most(backlog: u32) -> i32 {
    i32::try_from(backlog).unwrap_or(i32::MAX)
}

/// What was handed over; taken only once, because the environment goes on naming these numbers.
fn handed() -> Result<&'static [TcpListener], ListenError> {
    static HANDED: OnceLock<Vec<TcpListener>> = OnceLock::new();
    match HANDED.get() {
        Some(handed) => Ok(handed),
        None => take().map(|taken| HANDED.get_or_init(|| taken).as_slice()),
    }
}

fn take() -> Result<Vec<TcpListener>, ListenError> {
    let mut given = ListenFd::from_env();
    let mut sockets = Vec::new();
    for index in 0..given.len() {
        let failed = |why: String| ListenError::Handed { number: FIRST + index, why };
        let socket = given.take_tcp_listener(index).map_err(|_| failed("is no TCP socket".to_owned()))?;
        let Some(socket) = socket else { continue };
        match sockopt::socket_acceptconn(&socket) {
            Ok(true) => sockets.push(socket),
            Ok(false) => return Err(failed("does not listen".to_owned())),
            Err(error) => return Err(failed(format!("cannot be used: {error}"))),
        }
    }
    Ok(sockets)
}

/// Binds the first address that can be had.
fn first(attempts: &[(SocketAddr, bool)], backlog: u32) -> Result<TcpListener, ListenError> {
    use rustix::io::Errno;
    let mut failed = None;
    for (address, only_v6) in attempts {
        match bind(*address, *only_v6, backlog) {
            Ok(listener) => return Ok(listener),
            Err(error) => {
                failed = Some(ListenError::Bind { address: *address, source: error.into() });
                // A machine without IPv6. Anything else is a fault that the second family would only hide.
                if !matches!(error, Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) {
                    break;
                }
            }
        }
    }
    Err(failed.unwrap_or_else(|| ListenError::Handed { number: FIRST, why: "is missing".to_owned() }))
}

fn bind(address: SocketAddr, only_v6: bool, backlog: u32) -> rustix::io::Result<TcpListener> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // Connections of the run before, which linger for a minute, must not keep this one from starting.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, only_v6)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, most(backlog))?;
    Ok(TcpListener::from(socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn both_families_share_a_port_and_one_socket_takes_both() {
        let v6 = first(&[(any("[::]:0"), true)], 1).unwrap();
        let port = v6.local_addr().unwrap().port();
        let v4 = first(&[(SocketAddr::new([0, 0, 0, 0].into(), port), false)], 1).unwrap();
        drop((v6, v4));
        let both = first(&[(any("[::]:0"), false)], 1).unwrap();
        let port = both.local_addr().unwrap().port();
        std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let error = first(&[(any(&format!("127.0.0.1:{port}")), false)], 1).unwrap_err().to_string();
        assert!(error.starts_with(&format!("CertDeployError: Failed to listen on 127.0.0.1:{port}: ")), "{error}");
        assert!(error.contains(&format!("ss -ltnp 'sport = :{port}'")), "{error}");
    }

    #[test]
    fn what_is_listened_on_already_is_used_on() {
        let held = first(&[(any("127.0.0.1:0"), false)], 1).unwrap();
        let at = held.local_addr().unwrap();
        assert_eq!(again(&[(at, false)], 7, &[held.try_clone().unwrap()]).unwrap().local_addr().unwrap(), at);
        assert!(again(&[(any("127.0.0.1:1"), false)], 7, &[held]).is_none());
        let both = first(&[(any("[::]:0"), false)], 1).unwrap();
        let at = both.local_addr().unwrap();
        assert!(again(&[(at, true)], 1, &[both.try_clone().unwrap()]).is_none(), "one that takes both is another");
        assert!(again(&[(at, false)], 1, &[both]).is_some());
    }

    #[test]
    fn a_failure_names_a_way_out() {
        let error = first(&[(any("192.0.2.77:2222"), false)], 1).unwrap_err();
        assert!(error.to_string().contains("192.0.2.77:2222"), "{error}");
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        assert!(way_out(any("10.0.0.1:22"), &denied()).contains("CAP_NET_BIND_SERVICE"));
        assert_eq!(way_out(any("10.0.0.1:2222"), &denied()), "");
    }
}
