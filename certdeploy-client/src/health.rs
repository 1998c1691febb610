//! `healthcheck`: the daemon's loop answers, and what it listens with greets as SSH does. The daemon's end of that is
//! here too. Must not need more of the config than `source`: a daemon goes on when its config was broken since.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use certdeploy_common::daemon::health::{self, Answerer, NoAnswer};
use certdeploy_common::setting::Section;
use certdeploy_common::setting::place::ConfigError;
use certdeploy_common::setting::write;
use certdeploy_common::setting::yaml::{self, Content};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::config::{self, ClientFile};

/// The socket in `source`.
const SOCKET: &str = ".health.sock";

/// How every SSH server begins.
const GREETING: &[u8] = b"SSH-2.0-";

/// Why the daemon is not healthy.
#[derive(Debug, thiserror::Error)]
pub enum Unhealthy {
    /// Nobody knows where it is.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// It does not answer.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// It answers, but not as one of ours.
    #[error("the daemon's answer is not understood: {0:?}")]
    Strange(String),
    /// Its loop turns, but peers are not greeted.
    #[error("the daemon runs, but its receiver does not greet at {0}: {1}")]
    Mute(SocketAddr, io::Error),
}

/// The daemon's end: answers with where it listens.
#[derive(Debug)]
pub struct Health {
    answerer: Option<Answerer>,
    answer: String,
}

impl Health {
    /// Can be asked from now on, if the system allows it.
    #[must_use]
    pub fn bind(source: &Path) -> Self {
        let answerer = Answerer::bind(source, SOCKET);
        if let Err(error) = &answerer {
            tracing::warn!("`healthcheck` cannot ask this daemon at `{}`: {error}", source.join(SOCKET).display());
        }
        Self { answerer: answerer.ok(), answer: String::new() }
    }

    /// From now on the daemon listens there.
    pub fn listens(&mut self, addresses: &[SocketAddr]) {
        self.answer = addresses.iter().map(|address| format!("{address}\n")).collect();
    }

    /// Answers for as long as it is waited for; the loop does so.
    pub async fn answer(&self) -> std::convert::Infallible {
        match &self.answerer {
            Some(answerer) => answerer.answer(&self.answer).await,
            None => std::future::pending().await,
        }
    }
}

/// Asks the daemon of this config; returns where it listens. All of it takes at most `limit`.
///
/// # Errors
/// See [`Unhealthy`].
pub async fn check(config: &Path, limit: Duration) -> Result<Vec<SocketAddr>, Unhealthy> {
    let source = source(config)?;
    let end = tokio::time::Instant::now() + limit;
    let answer = health::ask(&source, SOCKET, limit).await?;
    let addresses: Result<Vec<SocketAddr>, _> = answer.lines().map(str::parse).collect();
    let addresses = addresses.ok().filter(|addresses| !addresses.is_empty()).ok_or(Unhealthy::Strange(answer))?;
    for address in &addresses {
        let greeted = tokio::time::timeout_at(end, greeted(&reachable(*address))).await;
        let late = || io::Error::new(io::ErrorKind::TimedOut, format!("not within {} seconds", limit.as_secs_f64()));
        greeted.unwrap_or_else(|_| Err(late())).map_err(|error| Unhealthy::Mute(*address, error))?;
    }
    Ok(addresses)
}

/// `source` of a config that may have become wrong otherwise.
fn source(config: &Path) -> Result<PathBuf, config::Error> {
    let node = yaml::parse(&config::text(config)?)
        .map_err(|complaint| config::Error::from(ConfigError::single(config, complaint)))?;
    let entries = write::complete(ClientFile::SETTINGS, node);
    let source = entries.into_iter().find(|entry| entry.setting.key == "source").map(|entry| entry.node.content);
    Ok(match source {
        Some(Content::Scalar { text, .. }) => text.into(),
        Some(Content::Null | Content::List(_) | Content::Map(_)) | None => PathBuf::new(),
    })
}

/// Where to connect to reach what listens everywhere, in this order. Many containers have no `::1`, and the IPv6 wildcard
/// takes IPv4 too.
pub(crate) fn reachable(address: SocketAddr) -> Vec<SocketAddr> {
    let (v4, v6) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST));
    let ips = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => vec![v4],
        IpAddr::V6(ip) if ip.is_unspecified() => vec![v6, v4],
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => vec![ip],
    };
    let port = address.port();
    let of = |ip: IpAddr| if ip == address.ip() { address } else { SocketAddr::new(ip, port) };
    ips.into_iter().map(of).collect()
}

async fn greeted(addresses: &[SocketAddr]) -> io::Result<()> {
    let mut stream = TcpStream::connect(addresses).await?;
    let mut greeting = [0; GREETING.len()];
    stream.read_exact(&mut greeting).await?;
    if greeting == GREETING { Ok(()) } else { Err(io::Error::other("what greets there does not speak SSH")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listens_everywhere_is_asked_over_both_families() {
        for (listens, want) in [
            ("[::]:7", vec!["[::1]:7", "127.0.0.1:7"]),
            ("0.0.0.0:7", vec!["127.0.0.1:7"]),
            ("192.0.2.1:7", vec!["192.0.2.1:7"]),
        ] {
            let found: Vec<String> = reachable(listens.parse().unwrap()).iter().map(ToString::to_string).collect();
            assert_eq!(found, want);
        }
    }
}
