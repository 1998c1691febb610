//! `docker_url`, in all forms that the Python program took, and the TLS files that go with it. Pure.

use std::fmt;
use std::path::PathBuf;

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A socket.
    Unix(PathBuf),
    /// HTTP over TCP.
    Tcp {
        /// Whether the URL itself says what lies below HTTP.
        scheme: Scheme,
        /// Name or IP address, without brackets.
        host: String,
        /// The port.
        port: u16,
    },
}

/// What the URL begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `tcp://` or nothing: TLS when there are files for it.
    Tcp,
    /// `http://`: never TLS.
    Http,
    /// `https://`: always TLS.
    Https,
}

/// The files for TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificates that the engine's must be issued by.
    pub ca: PathBuf,
    /// Our own certificate with its chain, and its key, when the engine asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Where the engine listens when nothing is said.
const USUAL: &str = "/var/run/docker.sock";
/// Whose port is meant when no host is said.
const HERE: &str = "127.0.0.1";

/// The sentence ends "`docker_url` must ...".
const MUST: &str = "be unix://PATH, tcp://HOST:PORT, http://HOST:PORT or https://HOST:PORT";
const NO_SSH: &str = "be unix://PATH, tcp://HOST:PORT, http://HOST:PORT or https://HOST:PORT. ssh:// is not spoken \
    here: forward the engine's socket with `ssh -N -L /run/docker-far.sock:/var/run/docker.sock HOST`, as a service \
    that is kept running, and set `docker_url: unix:///run/docker-far.sock`";

impl Address {
    /// Reads `docker_url`; empty is the usual socket. The forms are those that the Python program took.
    ///
    /// # Errors
    /// What it must be.
    pub fn parse(url: &str) -> Result<Self, &'static str> {
        let url = url.trim();
        if url.is_empty() || url == "unix://" {
            return Ok(Self::Unix(USUAL.into()));
        }
        if let Some(path) = url.strip_prefix("http+").unwrap_or(url).strip_prefix("unix:") {
            // With one or two slashes as with three.
            let path = path.trim_start_matches('/');
            return if path.is_empty() { Err(MUST) } else { Ok(Self::Unix(format!("/{path}").into())) };
        }
        let (scheme, rest) = match url.split_once("://") {
            None => (Scheme::Tcp, url),
            Some(("tcp", rest)) => (Scheme::Tcp, rest),
            Some(("http", rest)) => (Scheme::Http, rest),
            Some(("https", rest)) => (Scheme::Https, rest),
            Some(("ssh", _)) => return Err(NO_SSH),
            Some(_) => return Err(MUST),
        };
        let (host, port) = rest.trim_end_matches('/').rsplit_once(':').ok_or(MUST)?;
        let port = port.parse().map_err(|_| MUST)?;
        let host = match host.strip_prefix('[') {
            Some(bracketed) => bracketed.strip_suffix(']').filter(|inside| inside.contains(':')),
            None if host.is_empty() => Some(HERE),
            None => Some(host).filter(|host| !host.contains(':')),
        };
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
        match host {
            Some(host) if port > 0 && !host.is_empty() && host.chars().all(fine) => {
                Ok(Self::Tcp { scheme, host: host.to_owned(), port })
            }
            _ => Err(MUST),
        }
    }

    /// Whether what is sent there may be read on the way, unless TLS covers it.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        match self {
            Self::Unix(_) => false,
            Self::Tcp { host, .. } => {
                let loopback = host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
                !loopback && host != "localhost"
            }
        }
    }

    /// What stands in a request's `Host`.
    #[must_use]
    pub fn authority(&self) -> String {
        match self {
            Self::Unix(_) => "localhost".to_owned(),
            Self::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp { host, port, .. } => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { scheme, .. } => {
                let scheme = match scheme {
                    Scheme::Tcp => "tcp",
                    Scheme::Http => "http",
                    Scheme::Https => "https",
                };
                write!(f, "{scheme}://{}", self.authority())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_is_taken_in_all_documented_forms() {
        for unix in [
            "unix://var/run/docker.sock",
            "unix:///var/run/docker.sock",
            "unix:/var/run/docker.sock",
            "http+unix://var/run/docker.sock",
            "",
            " ",
            "unix://",
        ] {
            assert_eq!(Address::parse(unix), Ok(Address::Unix("/var/run/docker.sock".into())), "{unix}");
        }
        for (url, scheme, host, port) in [
            ("tcp://h:2375", Scheme::Tcp, "h", 2375),
            ("h:2375", Scheme::Tcp, "h", 2375),
            ("http://h:2375/", Scheme::Http, "h", 2375),
            (" https://10.0.0.1:2376 ", Scheme::Https, "10.0.0.1", 2376),
            ("tcp://[::1]:2376", Scheme::Tcp, "::1", 2376),
            ("tcp://:2375", Scheme::Tcp, "127.0.0.1", 2375),
            (":2375", Scheme::Tcp, "127.0.0.1", 2375),
            ("https://:2376/", Scheme::Https, "127.0.0.1", 2376),
        ] {
            assert_eq!(Address::parse(url), Ok(Address::Tcp { scheme, host: host.into(), port }), "{url}");
        }
        for bad in
            ["unix:", "unix:///", "h", "tcp://", "tcp://h:x", "tcp://h:0", "tcp://::1:1", "tcp://a/b:1", "npipe://x:1"]
                .into_iter()
                .chain(["http://h:2375/v1.41", "tcp://h:2375?x", "tcp://:0", "tcp://[]:1", ":"])
        {
            assert_eq!(Address::parse(bad), Err(MUST), "{bad}");
        }
        assert_eq!(Address::parse("ssh://me@h:22"), Err(NO_SSH));
    }

    #[test]
    fn what_leaves_this_machine_is_known() {
        for (url, remote) in [
            ("unix:///s", false),
            ("tcp://127.0.0.1:1", false),
            ("tcp://localhost:1", false),
            ("tcp://[::1]:1", false),
            ("tcp://10.0.0.1:1", true),
            ("h:1", true),
        ] {
            assert_eq!(Address::parse(url).unwrap().is_remote(), remote, "{url}");
        }
        assert_eq!(Address::parse("tcp://[::1]:7").unwrap().to_string(), "tcp://[::1]:7");
    }
}
