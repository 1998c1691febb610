//! Why a push failed, in the words that people grep for: `<Type>: <text>`, with the types that the Python program
//! printed. It decides only what is permanent.

use std::time::Duration;

use russh_sftp::protocol::StatusCode;

/// Why a push failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// The name leads nowhere.
    #[error("gaierror: cannot resolve `{host}`: {cause}. Check `address`, and the name server of this host")]
    Resolve {
        /// The host.
        host: String,
        /// What the resolver says.
        cause: String,
    },
    /// No address answers.
    #[error("NoValidConnectionsError: Unable to connect to port {port} on {tried}")]
    Unreachable {
        /// The port.
        port: u16,
        /// Each address with its reason.
        tried: String,
    },
    /// Something took too long.
    #[error("TimeoutError: {step} took longer than {} seconds (`{}`)", limit.as_secs_f64(), step.setting())]
    Timeout {
        /// What.
        step: Step,
        /// How long it may take.
        limit: Duration,
    },
    /// What answers does not speak SSH.
    #[error("SSHException: Error reading SSH protocol banner: {0}")]
    NotSsh(String),
    /// Another host key than the pinned one.
    #[error(
        "BadHostKeyException: Host key for server '{host}' does not match: got '{got}', expected '{pinned}'. Nothing was sent. If the host was set up anew, `certdeploy-server enroll {host}` shows its key and pins it (`pubkey`, `known_hosts`)"
    )]
    HostKey {
        /// The host.
        host: String,
        /// Its key's fingerprint.
        got: String,
        /// The pinned key's fingerprint.
        pinned: String,
    },
    /// The target does not let us in.
    #[error(
        "AuthenticationException: Authentication failed: user '{user}' with the key {key} is not let in. Check `username`, and that the target has our public key (`server_pubkey` of a certdeploy-client, `authorized_keys` of an sshd)"
    )]
    Login {
        /// The user.
        user: String,
        /// Our key's fingerprint.
        key: String,
    },
    /// The agent that holds our key does not sign.
    #[error("AuthenticationException: the SSH agent at `{socket}` {cause}")]
    Agent {
        /// Its socket.
        socket: String,
        /// What is wrong.
        cause: String,
    },
    /// SSH broke.
    #[error("SSHException: {0}")]
    Ssh(String),
    /// There is no SFTP.
    #[error("SSHException: the target offers no SFTP: {0}")]
    NoSftp(String),
    /// An SFTP operation was refused.
    #[error("{}: `{path}`: {message}", sftp_type(*code))]
    Sftp {
        /// The file at the target.
        path: String,
        /// The status.
        code: StatusCode,
        /// The peer's words.
        message: String,
    },
    /// The connection broke in the middle.
    #[error("OSError: `{path}`: {cause}")]
    Broken {
        /// The file at the target.
        path: String,
        /// What happened.
        cause: String,
    },
    /// A file arrived with another length.
    #[error("OSError: size mismatch in put! `{path}`: {got} != {sent}")]
    Size {
        /// The file at the target.
        path: String,
        /// Its length there.
        got: u64,
        /// Its length here.
        sent: u64,
    },
    /// Our own client said something that the contract does not know.
    #[error("ProtocolError: {0}")]
    Protocol(String),
}

/// What may take too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Resolving and connecting.
    Connect,
    /// Banner and key exchange.
    Handshake,
    /// Logging in.
    Login,
    /// One SFTP operation.
    Operation,
    /// The whole push.
    Push,
    /// All pushes of a visit.
    Visit,
}

impl Step {
    /// The setting that limits it.
    #[must_use]
    pub const fn setting(self) -> &'static str {
        match self {
            Self::Connect => "sftp_tcp_timeout",
            Self::Handshake => "sftp_banner_timeout",
            Self::Login => "sftp_auth_timeout",
            Self::Operation => "sftp_operation_timeout",
            Self::Push => "push_timeout",
            Self::Visit => "join_timeout",
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connect => "connecting",
            Self::Handshake => "the SSH handshake (Error reading SSH protocol banner)",
            Self::Login => "logging in",
            Self::Operation => "an SFTP operation",
            Self::Push => "the push",
            Self::Visit => "the visit",
        })
    }
}

fn sftp_type(code: StatusCode) -> &'static str {
    match code {
        StatusCode::NoSuchFile => "FileNotFoundError",
        StatusCode::PermissionDenied => "PermissionError",
        StatusCode::Ok
        | StatusCode::Eof
        | StatusCode::Failure
        | StatusCode::BadMessage
        | StatusCode::NoConnection
        | StatusCode::ConnectionLost
        | StatusCode::OpUnsupported => "OSError",
    }
}

impl Error {
    /// Whether another attempt will hardly mend it.
    #[must_use]
    pub const fn is_permanent(&self) -> bool {
        matches!(self, Self::HostKey { .. })
    }

    /// Whether the whole visit is over: the next lineage would meet the same.
    #[must_use]
    pub const fn ends_visit(&self) -> bool {
        !matches!(self, Self::Sftp { .. } | Self::Size { .. } | Self::Protocol(_))
    }

    /// An SFTP operation on `path` that failed.
    #[must_use]
    pub fn sftp(path: &str, error: russh_sftp::client::error::Error) -> Self {
        use russh_sftp::client::error::Error as Sftp;
        let path = path.to_owned();
        match error {
            Sftp::Status(status) => Self::Sftp { path, code: status.status_code, message: said(&status.error_message) },
            Sftp::UnexpectedPacket => Self::Protocol(format!("`{path}`: the answer does not belong to what was asked")),
            other @ (Sftp::IO(_) | Sftp::Timeout | Sftp::Limited(_) | Sftp::UnexpectedBehavior(_)) => {
                let cause = other.to_string();
                // The library's word for a stream that ended under it.
                let ended = cause.contains("sender dropped") || cause.contains("channel closed");
                let closed = "the connection was closed, or what came over it was no SFTP".to_owned();
                Self::Broken { path, cause: if ended { closed } else { cause } }
            }
        }
    }
}

/// A peer's words, as they can stand in a log, in the queue and in `status`: short, and in one line.
pub(super) fn said(words: &str) -> String {
    const LIMIT: usize = 300;
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let short: String = words.chars().take(LIMIT).map(plain).collect();
    if short.len() < words.len() { format!("{short} [...]") } else { short }
}

impl From<russh::Error> for Error {
    fn from(error: russh::Error) -> Self {
        use russh::Error as Ssh;
        if matches!(error, Ssh::Version | Ssh::HUP | Ssh::Disconnect | Ssh::IO(_)) {
            Self::NotSsh(error.to_string())
        } else {
            Self::Ssh(error.to_string())
        }
    }
}

/// Gives `work` at most `limit`.
///
/// # Errors
/// [`Error::Timeout`], or what `work` says.
pub(super) async fn within<T>(
    step: Step,
    limit: Option<Duration>,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match limit {
        None => work.await,
        Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or(Err(Error::Timeout { step, limit })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_python_program_are_kept() {
        let limit = Duration::from_secs(15);
        let cases = [
            (Error::Timeout { step: Step::Handshake, limit }, "Error reading SSH protocol banner"),
            (Error::Timeout { step: Step::Push, limit }, "took longer than 15 seconds (`push_timeout`)"),
            (Error::NotSsh("x".into()), "SSHException: Error reading SSH protocol banner"),
            (Error::from(russh::Error::Version), "Error reading SSH protocol banner"),
            (
                Error::Sftp { path: "/x".into(), code: StatusCode::PermissionDenied, message: "no".into() },
                "PermissionError: `/x`: no",
            ),
        ];
        for (error, want) in cases {
            assert!(error.to_string().contains(want), "{error}");
            assert!(!error.is_permanent());
        }
    }

    #[test]
    fn a_peer_has_one_short_line() {
        assert_eq!(said("no space"), "no space");
        assert_eq!(said("no\nERROR:certdeploy-server: \u{1b}[2J"), "no ERROR:certdeploy-server:  [2J");
        assert!(said(&"x".repeat(100_000)).len() < 400);
    }

    #[test]
    fn another_host_key_is_permanent_and_names_both() {
        let error = Error::HostKey { host: "h".into(), got: "SHA256:a".into(), pinned: "SHA256:b".into() };
        assert!(error.is_permanent() && error.ends_visit());
        assert!(error.to_string().starts_with("BadHostKeyException: "));
    }
}
