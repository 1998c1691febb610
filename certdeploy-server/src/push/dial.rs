//! A host name or address -> a TCP connection. All addresses are tried, IPv6 and IPv4 in turn, the next one before the
//! last one has given up (RFC 8305). It must not know what is spoken over the connection.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};

use super::error::{Error, Step, within};

/// How long an address may be silent before the next one is tried beside it (RFC 8305, "Connection Attempt Delay").
const HEAD_START: Duration = Duration::from_millis(250);

/// The resolver of the system blocks its thread, and nothing ends it before its own limits: no more than so many threads
/// hang in it, whatever the name servers do. Who waits for a turn waits within `sftp_tcp_timeout`.
static LOOKUPS: Semaphore = Semaphore::const_new(128);

/// The most addresses whose failures are told one by one.
const TOLD: usize = 8;

/// Connects to `host`; resolving it, and each of its addresses, gets `limit`.
pub(crate) async fn dial(host: &str, port: u16, limit: Option<Duration>) -> Result<TcpStream, Error> {
    let addresses = within(Step::Connect, limit, resolve(host, port)).await?;
    let stream = race(in_turn(addresses), port, limit).await?;
    // 84 ms instead of 3 for a small push without it; if it cannot be set, the push is only slower.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, Error> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let unknown = |cause: &dyn std::fmt::Display| Error::Resolve { host: host.to_owned(), cause: cause.to_string() };
    let turn = LOOKUPS.acquire().await.map_err(|error| unknown(&error))?;
    let (tell, told) = oneshot::channel();
    let name = host.to_owned();
    // A thread of its own and none of the runtime's: the end of the program does not wait for it.
    let lookup = move || {
        let found = (name.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        drop(turn);
        // Whoever asked may have given up.
        let _ = tell.send(found);
    };
    std::thread::Builder::new().name("resolve".to_owned()).spawn(lookup).map_err(|error| unknown(&error))?;
    let found = told.await.map_err(|error| unknown(&error))?.map_err(|error| unknown(&error))?;
    if found.is_empty() { Err(unknown(&"it has no address")) } else { Ok(found) }
}

/// The same addresses, the families in turn; the first one stays first, and so does the order in each family.
fn in_turn(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let mut seen = std::collections::HashSet::new();
    let leading = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().filter(|address| seen.insert(*address)).partition(|address| address.is_ipv6() == leading);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut mixed = Vec::with_capacity(seen.len());
    loop {
        let pair = [first.next(), second.next()];
        if pair == [None, None] {
            return mixed;
        }
        mixed.extend(pair.into_iter().flatten());
    }
}

async fn race(addresses: Vec<SocketAddr>, port: u16, limit: Option<Duration>) -> Result<TcpStream, Error> {
    let mut waiting = addresses.into_iter().enumerate();
    let mut running = FuturesUnordered::new();
    let mut failed: Vec<(usize, String)> = Vec::new();
    loop {
        if let Some((place, address)) = waiting.next() {
            running.push(async move { attempt(address, limit).await.map_err(|cause| (place, cause)) });
        } else if running.is_empty() {
            return Err(Error::Unreachable { port, tried: told(failed) });
        }
        let more = waiting.len() > 0;
        tokio::select! {
            biased;
            ended = running.next() => match ended {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(failure)) => failed.push(failure),
                None => {}
            },
            () = tokio::time::sleep(HEAD_START), if more => {}
        }
    }
}

async fn attempt(address: SocketAddr, limit: Option<Duration>) -> Result<TcpStream, String> {
    let connect = async { Ok(TcpStream::connect(address).await) };
    let cause = match within(Step::Connect, limit, connect).await {
        Ok(Ok(stream)) => return Ok(stream),
        Ok(Err(error)) => error.to_string(),
        Err(timeout) => timeout.to_string(),
    };
    Err(format!("{} ({cause})", address.ip()))
}

fn told(mut failed: Vec<(usize, String)>) -> String {
    failed.sort();
    let more = failed.len().saturating_sub(TOLD);
    let mut tried = failed.into_iter().take(TOLD).map(|(_, cause)| cause).collect::<Vec<_>>().join(", ");
    if more > 0 {
        tried.push_str(&format!(" and {more} more"));
    }
    tried
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|text| SocketAddr::new(text.parse().unwrap(), 22)).collect()
    }

    #[test]
    fn the_families_take_turns_and_the_resolver_says_who_begins() {
        for (given, want) in [
            (vec!["::1", "::2", "::3", "127.0.0.1"], vec!["::1", "127.0.0.1", "::2", "::3"]),
            (vec!["1.1.1.1", "1.1.1.2", "::1", "::2"], vec!["1.1.1.1", "::1", "1.1.1.2", "::2"]),
            (vec!["1.1.1.1", "1.1.1.1"], vec!["1.1.1.1"]),
            (vec![], vec![]),
        ] {
            assert_eq!(in_turn(addresses(&given)), addresses(&want));
        }
    }

    #[tokio::test]
    async fn a_closed_address_does_not_hide_an_open_one() {
        let open = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let stream = race(vec![free, open.local_addr().unwrap()], 0, None).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), open.local_addr().unwrap());
        let error = race(vec![free, free], 22, None).await.unwrap_err().to_string();
        assert!(error.starts_with("NoValidConnectionsError: Unable to connect to port 22 on 127.0.0.1 ("), "{error}");
        assert_eq!(error.matches("127.0.0.1").count(), 2);
    }

    #[test]
    fn a_long_list_of_failures_is_cut() {
        let said = told((0..10).rev().map(|place| (place, place.to_string())).collect());
        assert_eq!(said, "0, 1, 2, 3, 4, 5, 6, 7 and 2 more");
    }

    #[tokio::test]
    async fn addresses_need_no_resolver_and_unknown_names_are_named() {
        assert_eq!(resolve("::1", 22).await.unwrap(), addresses(&["::1"]));
        let error = resolve("no-such-host.invalid", 22).await.unwrap_err().to_string();
        assert!(error.starts_with("gaierror: cannot resolve `no-such-host.invalid`: "), "{error}");
    }
}
