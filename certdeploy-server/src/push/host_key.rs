//! The host key that a peer shows: compared with the pinned ones, or only looked at for `enroll`. It decides nothing
//! else about a connection.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use certdeploy_common::ssh::key;
use russh::client::ChannelOpenHandle;
use russh::keys::{Algorithm, PublicKey, PublicKeyOrCertificate};
use russh::{Channel, ChannelId, client};
use tokio::net::TcpStream;

use super::connect::Cut;
use super::error::{Error, Step, within};

/// Our algorithms, the pinned keys' kinds first, so that a host with several keys shows one of these.
pub(crate) fn preferred(pins: &[PublicKey]) -> russh::Preferred {
    let mut preferred = key::preferred();
    let mut kinds: Vec<Algorithm> = preferred.key.to_vec();
    kinds.sort_by_key(|kind| !pins.iter().any(|pin| is_of(&pin.algorithm(), kind)));
    preferred.key = Cow::Owned(kinds);
    preferred
}

fn is_of(key: &Algorithm, kind: &Algorithm) -> bool {
    matches!((key, kind), (Algorithm::Rsa { .. }, Algorithm::Rsa { .. })) || key == kind
}

/// Why a handshake ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The key is not pinned.
    Refused(Error),
    /// `enroll` has seen what it wanted.
    Seen(Box<PublicKey>),
    /// Something else.
    Broken(russh::Error),
}

impl Ended {
    /// It opened a channel towards us.
    const fn opens() -> Self {
        Self::Broken(russh::Error::Inconsistent)
    }
}

impl From<russh::Error> for Ended {
    fn from(error: russh::Error) -> Self {
        Self::Broken(error)
    }
}

impl From<Ended> for Error {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Refused(error) => error,
            Ended::Seen(_) => Self::Ssh("the host key was only looked at".to_owned()),
            Ended::Broken(error) => error.into(),
        }
    }
}

/// Lets through the host keys that are pinned.
#[derive(Clone)]
pub(super) struct Pin {
    host: String,
    keys: Vec<PublicKey>,
}

impl Pin {
    pub(super) fn new(host: &str, port: u16, keys: &[PublicKey]) -> Self {
        let host = if port == 22 { host.to_owned() } else { format!("[{host}]:{port}") };
        Self { host, keys: keys.to_vec() }
    }

    fn refuse(&self, got: String) -> Error {
        let pinned = self.keys.iter().map(key::fingerprint).collect::<Vec<_>>().join("' or '");
        let pinned = if pinned.is_empty() { "none that is not revoked".to_owned() } else { pinned };
        Error::HostKey { host: self.host.clone(), got, pinned }
    }

    /// A host that has no key of our kinds cannot show a pinned one: as good as another key.
    pub(super) fn judge(&self, ended: Ended) -> Error {
        if let Ended::Broken(russh::Error::NoCommonAlgo { kind: russh::AlgorithmKind::Key, theirs, .. }) = &ended {
            return self.refuse(format!("only {}", theirs.join(", ")));
        }
        ended.into()
    }
}

impl client::Handler for Pin {
    type Error = Ended;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Ended> {
        let got = match shown {
            PublicKeyOrCertificate::PublicKey { key, .. }
                if self.keys.iter().any(|pin| pin.key_data() == key.key_data()) =>
            {
                return Ok(true);
            }
            PublicKeyOrCertificate::PublicKey { key, .. } => format!("{} {}", key.algorithm(), key::fingerprint(key)),
            // We do not ask for one.
            PublicKeyOrCertificate::Certificate(_) => "a host certificate, which is not used".to_owned(),
        };
        Err(Ended::Refused(self.refuse(got)))
    }

    // Nothing legitimate opens a channel towards us. The library would accept each one and keep it: a peer that is let
    // in could fill our memory. A refusal would be kept too, while keys are exchanged: so it ends the connection.

    async fn server_channel_open_session(
        &mut self,
        _: Channel<client::Msg>,
        _: ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Ended> {
        Err(Ended::opens())
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _: Channel<client::Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _: ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Ended> {
        Err(Ended::opens())
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _: Channel<client::Msg>,
        _: &str,
        _: ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Ended> {
        Err(Ended::opens())
    }

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        _: Channel<client::Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _: ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Ended> {
        Err(Ended::opens())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _: Channel<client::Msg>,
        _: &str,
        _: ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Ended> {
        Err(Ended::opens())
    }

    async fn server_channel_open_x11(
        &mut self,
        _: Channel<client::Msg>,
        _: &str,
        _: u32,
        _: ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Ended> {
        Err(Ended::opens())
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        _: Channel<client::Msg>,
        _: ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Ended> {
        Err(Ended::opens())
    }

    /// Taken, to be ended as the others.
    async fn should_accept_unknown_server_channel(&mut self, _: ChannelId, _: &str) -> bool {
        true
    }

    async fn server_channel_open_unknown(
        &mut self,
        _: Channel<client::Msg>,
        _: ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Ended> {
        Err(Ended::opens())
    }
}

/// Looks at the host key, and goes no further.
struct Look;

impl client::Handler for Look {
    type Error = Ended;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Ended> {
        Err(Ended::Seen(Box::new(shown.public_key())))
    }
}

/// The key that the host at the other end of `stream` proves to have, of the first of `kinds` that it has; `None` if it
/// has none of these. Nothing of ours is sent but the key exchange.
pub(crate) async fn look(
    stream: TcpStream,
    kinds: Vec<Algorithm>,
    limit: Option<Duration>,
) -> Result<Option<PublicKey>, Error> {
    let _cut = Cut::of(&stream)?;
    let preferred = russh::Preferred { key: Cow::Owned(kinds), ..key::preferred() };
    let config = Arc::new(client::Config { preferred, nodelay: true, ..client::Config::default() });
    let handshake = async {
        match client::connect_stream(config, stream, Look).await {
            Err(Ended::Seen(key)) => Ok(Some(*key)),
            Err(Ended::Broken(russh::Error::NoCommonAlgo { kind: russh::AlgorithmKind::Key, .. })) => Ok(None),
            Err(ended) => Err(ended.into()),
            Ok(_) => Err(Error::Ssh("the handshake ended without a host key".to_owned())),
        }
    };
    within(Step::Handshake, limit, handshake).await
}

#[cfg(test)]
mod tests {
    use super::*;

    const ECDSA: &str = "AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBEmKSENjQEezOmxkZMy7opKgwFB9nkt5YRrYMjNuG5N87uRgg6CLrbo5wAdT/y6v0mKV0U2w0WZ2YB/++Tpockg=";
    const ED25519: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIP+H3Nk/9uSa7LHNt8fvCPKKkNFnVE5SGC5tnthf6/OK";

    #[test]
    fn the_pinned_kinds_are_asked_for_first() {
        let [ecdsa, ed25519] = [ECDSA, ED25519].map(|text| key::parse_public(text).unwrap());
        let all = key::preferred().key.len();
        for (pins, want) in [
            (vec![ecdsa.clone()], vec![ecdsa.algorithm()]),
            (vec![ecdsa.clone(), ed25519.clone()], vec![ed25519.algorithm(), ecdsa.algorithm()]),
        ] {
            let kinds = preferred(&pins).key;
            assert_eq!((&kinds[..want.len()], kinds.len()), (want.as_slice(), all));
        }
        assert!(preferred(&[ecdsa]).host_key_certificates.is_empty(), "host certificates are never asked for");
    }

    #[test]
    fn a_host_without_a_key_of_our_kinds_is_as_good_as_another_key() {
        let pin = Pin::new("h", 2222, &[key::parse_public(ED25519).unwrap()]);
        let kind = russh::AlgorithmKind::Key;
        let theirs = vec!["ssh-rsa".to_owned(), "ssh-dss".to_owned()];
        let error = pin.judge(Ended::Broken(russh::Error::NoCommonAlgo { kind, ours: Vec::new(), theirs }));
        assert!(error.is_permanent());
        let said = error.to_string();
        assert!(
            said.contains("server '[h]:2222' does not match: got 'only ssh-rsa, ssh-dss', expected 'SHA256:"),
            "{said}"
        );
    }

    /// Lets everybody in, and then opens a channel towards them.
    struct Opener(u8);

    impl russh::server::Handler for Opener {
        type Error = russh::Error;

        async fn auth_none(&mut self, _: &str) -> Result<russh::server::Auth, russh::Error> {
            Ok(russh::server::Auth::Accept)
        }

        async fn auth_succeeded(&mut self, session: &mut russh::server::Session) -> Result<(), russh::Error> {
            let (handle, kind) = (session.handle(), self.0);
            tokio::spawn(async move {
                let _opened = match kind {
                    0 => handle.channel_open_session().await,
                    1 => handle.channel_open_direct_tcpip("h", 1_u32, "h", 1_u32).await,
                    2 => handle.channel_open_direct_streamlocal("/s").await,
                    3 => handle.channel_open_forwarded_tcpip("h", 1_u32, "h", 1_u32).await,
                    4 => handle.channel_open_forwarded_streamlocal("/s").await,
                    5 => handle.channel_open_x11("h", 1_u32).await,
                    _ => handle.channel_open_agent().await,
                };
                std::future::pending::<()>().await;
            });
            Ok(())
        }
    }

    #[tokio::test]
    async fn who_opens_a_channel_towards_us_is_hung_up_on() {
        let host = russh::keys::PrivateKey::from(russh::keys::ssh_key::private::Ed25519Keypair::from_seed(&[7; 32]));
        let pin = Pin::new("h", 22, &[host.public_key().clone()]);
        let server = Arc::new(russh::server::Config { keys: vec![host], ..russh::server::Config::default() });
        for kind in 0..7 {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            let peer = tokio::spawn(russh::server::run_stream(Arc::clone(&server), theirs, Opener(kind)));
            let config = Arc::new(client::Config::default());
            let mut handle = client::connect_stream(config, ours, pin.clone()).await.unwrap();
            assert!(handle.authenticate_none("u").await.unwrap().success());
            let ended = tokio::time::timeout(Duration::from_secs(10), handle).await;
            let ended = ended.unwrap_or_else(|_| panic!("channel {kind} was let open"));
            assert!(matches!(ended, Err(Ended::Broken(russh::Error::Inconsistent))), "{kind}: {ended:?}");
            peer.abort();
        }
    }
}
