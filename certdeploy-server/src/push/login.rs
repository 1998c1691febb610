//! Logging in: by our own key or by the one identity of an agent that the config names. No other key is ever tried.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use certdeploy_common::ssh::key;
use russh::Signer as Signs;
use russh::client::{AuthResult, Handle};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{Algorithm, Certificate, HashAlg, PrivateKeyWithHashAlg, PublicKey};
use tokio::net::UnixStream;

use super::error::Error;
use super::host_key::Pin;
use crate::clock;
use crate::config::identity::{Identity, Signer};

/// Logs in; the caller limits how long it takes.
pub(super) async fn login(handle: &mut Handle<Pin>, user: &str, identity: &Identity) -> Result<(), Error> {
    let certificate = identity.certificate.as_deref().map(key::load_certificate).transpose();
    let certificate = certificate.map_err(|error| Error::Ssh(format!("while logging in: {error}")))?;
    let hash = hash(handle, &identity.public).await?;
    let late = certificate.as_ref().and_then(|certificate| key::out_of_time(certificate, clock::now().seconds()));
    let result = match (&identity.signer, certificate) {
        (Signer::Key(key), None) => {
            let key = PrivateKeyWithHashAlg::new(Arc::clone(key), hash);
            handle.authenticate_publickey(user, key).await.map_err(broken)?
        }
        (Signer::Key(key), Some(certificate)) => {
            handle.authenticate_openssh_cert(user, Arc::clone(key), certificate).await.map_err(broken)?
        }
        (Signer::Agent(socket), certificate) => {
            let agent = Agent::open(socket, &identity.public, handle).await?;
            by_agent(handle, user, agent, certificate, hash).await?
        }
    };
    match result {
        AuthResult::Success => Ok(()),
        // The library tells a connection that ends meanwhile like this too; a peer that refuses says what it would take.
        AuthResult::Failure { remaining_methods, .. } if remaining_methods.is_empty() && has_ended(handle).await => {
            Err(closed())
        }
        AuthResult::Failure { .. } => {
            let key = key::fingerprint(&identity.public);
            let key = late.map_or(key.clone(), |problem| format!("{key}, whose certificate {problem},"));
            Err(Error::Login { user: user.to_owned(), key })
        }
    }
}

fn broken(error: russh::Error) -> Error {
    // What was to be said found nobody.
    if matches!(error, russh::Error::SendError | russh::Error::HUP | russh::Error::Disconnect) {
        return closed();
    }
    Error::Ssh(format!("while logging in: {error}"))
}

fn closed() -> Error {
    Error::Ssh("while logging in: the connection was closed".to_owned())
}

/// Whether the connection is over, or is so in a moment.
async fn has_ended(handle: &mut Handle<Pin>) -> bool {
    const MOMENT: Duration = Duration::from_millis(200);
    handle.is_closed() || tokio::time::timeout(MOMENT, handle).await.is_ok()
}

/// RSA alone has a choice of signatures: what the peer says it takes, and never SHA-1.
async fn hash(handle: &Handle<Pin>, key: &PublicKey) -> Result<Option<HashAlg>, Error> {
    if !matches!(key.algorithm(), Algorithm::Rsa { .. }) {
        return Ok(None);
    }
    match handle.best_supported_rsa_hash().await.map_err(broken)? {
        Some(Some(hash)) => Ok(Some(hash)),
        // It does not say; each that knows SHA-2 at all knows this one.
        None => Ok(Some(HashAlg::Sha256)),
        Some(None) => {
            Err(Error::Ssh("the target takes RSA signatures with SHA-1 only, which we do not make".to_owned()))
        }
    }
}

async fn by_agent(
    handle: &mut Handle<Pin>,
    user: &str,
    mut agent: Agent<'_>,
    certificate: Option<Certificate>,
    hash: Option<HashAlg>,
) -> Result<AuthResult, Error> {
    let result = match certificate {
        None => handle.authenticate_publickey_with(user, agent.key.clone(), hash, &mut agent).await,
        Some(certificate) => handle.authenticate_certificate_with(user, certificate, hash, &mut agent).await,
    };
    result.map_err(|error| match error {
        Silent::Session => closed(),
        Silent::Agent(cause) => agent.refuse(&format!(
            "does not sign with {}: {cause}. Is it locked, or does it wait for a confirmation?",
            key::fingerprint(&agent.key)
        )),
    })
}

/// How long `check` waits for an agent.
const ANSWER: std::time::Duration = std::time::Duration::from_secs(5);

/// Whether the agent at `socket` holds `key`; nothing is signed. One whose list cannot be read may hold it.
pub(crate) async fn agent_holds(socket: &Path, key: &PublicKey) -> std::io::Result<bool> {
    let asked = async {
        let mut client = AgentClient::connect(UnixStream::connect(socket).await?);
        Ok(client.request_identities().await.map_or(true, |all| all.iter().any(|one| holds(one, key))))
    };
    tokio::time::timeout(ANSWER, asked).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

/// An agent, asked for the one key that the config names.
struct Agent<'p> {
    client: AgentClient<UnixStream>,
    socket: &'p Path,
    key: PublicKey,
}

impl<'p> Agent<'p> {
    async fn open(socket: &'p Path, key: &PublicKey, handle: &Handle<Pin>) -> Result<Self, Error> {
        let refuse = |cause: String| Error::Agent { socket: socket.display().to_string(), cause };
        let stream = UnixStream::connect(socket)
            .await
            .map_err(|error| refuse(format!("does not answer: {error}. Start it, or take `ssh_agent` out")))?;
        let mut agent = Self { client: AgentClient::connect(stream), socket, key: key.clone() };
        if let Some(binding) = handle.agent_session_binding() {
            // Keys that are bound to destinations need it; agents that do not know it refuse it, and work.
            let _ = agent.client.bind_session(binding, false).await;
        }
        // A list that cannot be read may hold other people's exotic keys: whether ours is there shows when it signs.
        let held = agent.client.request_identities().await.map_or(true, |all| all.iter().any(|one| holds(one, key)));
        if held {
            return Ok(agent);
        }
        let key = key::fingerprint(key);
        Err(refuse(format!("does not hold the key {key} of `privkey_filename`; add it with `ssh-add`")))
    }

    fn refuse(&self, cause: &str) -> Error {
        Error::Agent { socket: self.socket.display().to_string(), cause: cause.to_owned() }
    }
}

fn holds(identity: &AgentIdentity, key: &PublicKey) -> bool {
    matches!(identity, AgentIdentity::PublicKey { key: held, .. } if held.key_data() == key.key_data())
}

/// Why there is no signature.
enum Silent {
    Session,
    Agent(russh::keys::Error),
}

impl From<russh::SendError> for Silent {
    fn from(_: russh::SendError) -> Self {
        Self::Session
    }
}

impl Signs for Agent<'_> {
    type Error = Silent;

    /// Signs with the plain key, also for a certificate: the agent may hold the key without it.
    async fn auth_sign(
        &mut self,
        _: &AgentIdentity,
        hash: Option<HashAlg>,
        to_sign: Vec<u8>,
    ) -> Result<Vec<u8>, Silent> {
        let identity = AgentIdentity::PublicKey { key: self.key.clone(), comment: String::new() };
        self.client.sign_request(&identity, hash, to_sign).await.map_err(Silent::Agent)
    }
}
