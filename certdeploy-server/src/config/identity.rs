//! The server's own key: how the config names it, and what it becomes. No agent is spoken to here, and none is used that
//! the config does not name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use certdeploy_common::setting::{Complaint, ConfigError, Located, Problems};
use certdeploy_common::ssh::decode::Passphrase;
use certdeploy_common::ssh::key::{self, KeyError};
use russh::keys::{PrivateKey, PublicKey};

use super::file::ServerFile;

/// Who the server is at its targets.
#[derive(Debug, Clone)]
pub struct Identity {
    /// What signs.
    pub signer: Signer,
    /// The public half.
    pub public: PublicKey,
    /// The file of an OpenSSH certificate for it. It is read for each login: such certificates are short-lived.
    pub certificate: Option<PathBuf>,
}

/// What signs for us.
#[derive(Debug, Clone)]
pub enum Signer {
    /// A key of ours.
    Key(Arc<PrivateKey>),
    /// The agent at this socket.
    Agent(PathBuf),
}

/// Where the key is, and where the config says so.
#[derive(Debug, Clone)]
pub struct KeySetting {
    file: PathBuf,
    path: Located<PathBuf>,
    passphrase: Option<Located<Place>>,
    certificate: Option<Located<PathBuf>>,
    agent: Option<PathBuf>,
}

/// Where the passphrase is.
#[derive(Debug, Clone)]
enum Place {
    File(PathBuf),
    Credential(String),
}

impl KeySetting {
    /// Takes the settings about the key; what cannot be together goes to `problems`.
    pub fn of(file: &Path, written: &ServerFile, problems: &mut Problems) -> Self {
        let in_file = written.privkey_passphrase_filename.value.as_ref();
        let credential = &written.privkey_passphrase_credential;
        let passphrase = match (in_file, &credential.value) {
            (Some(_), Some(_)) => {
                let message = "Invalid config option: `privkey_passphrase_filename` and `privkey_passphrase_credential` \
                               cannot both be set; leave one out";
                problems.error(Complaint::new(credential.place, message));
                None
            }
            (Some(path), None) => {
                Some(Located { value: Place::File(path.clone()), place: written.privkey_passphrase_filename.place })
            }
            (None, Some(name)) if name.is_empty() || name.contains('/') || name.starts_with('.') => {
                let rule = "be the name of a credential, as in `LoadCredential=NAME:PATH`";
                problems.error(Complaint::value(credential.place, name, "privkey_passphrase_credential", rule));
                None
            }
            (None, Some(name)) => Some(Located { value: Place::Credential(name.clone()), place: credential.place }),
            (None, None) => None,
        };
        let agent = written.ssh_agent.value.clone();
        if let Some(passphrase) = passphrase.as_ref().filter(|_| agent.is_some()) {
            problems.warn(passphrase.place, "the passphrase is not used: the key is the agent's (`ssh_agent`)");
        }
        let certificate = &written.privkey_cert_filename;
        Self {
            file: file.to_owned(),
            path: written.privkey_filename.clone(),
            passphrase,
            certificate: certificate
                .value
                .as_ref()
                .map(|path| Located { value: path.clone(), place: certificate.place }),
            agent,
        }
    }

    /// Reads the key. An agent is not asked yet: it may come and go while we run.
    ///
    /// # Errors
    /// A file is missing, can be read by others, or holds nothing usable; with the place of the setting.
    pub fn load(&self) -> Result<Identity, ConfigError> {
        let path = &self.path.value;
        let (signer, public) = match &self.agent {
            Some(socket) => {
                let public = key::load_public(path).map_err(|error| self.refuse_key(&error))?;
                (Signer::Agent(socket.clone()), public)
            }
            None => {
                let passphrase = self.passphrase()?;
                let key = key::load_private_with(path, passphrase.as_ref()).map_err(|error| self.refuse_key(&error))?;
                let public = key.public_key().clone();
                (Signer::Key(Arc::new(key)), public)
            }
        };
        self.check_certificate(&public)?;
        Ok(Identity { signer, public, certificate: self.certificate.as_ref().map(|path| path.value.clone()) })
    }

    /// Looks at the key as the hook can: without the agent, without a passphrase that only the daemon's service is given,
    /// and without the certificate, which others renew. The hook must not fail because of these: certbot never calls it
    /// again, and what it queues is delivered once they are there.
    ///
    /// # Errors
    /// The key's file is missing, can be read by others, or holds nothing usable; with the place of the setting.
    pub fn look(&self) -> Result<(), ConfigError> {
        self.public().map(drop)
    }

    /// Looks at the key and its certificate without the passphrase, as far as that goes.
    ///
    /// # Errors
    /// A file is missing, can be read by others, or holds nothing usable; with the place of the setting.
    pub fn look_without_passphrase(&self) -> Result<(), ConfigError> {
        self.public()?.map_or(Ok(()), |public| self.check_certificate(&public))
    }

    /// The credential that holds the passphrase, if we are not the service that is given it.
    #[must_use]
    pub fn missing_credential(&self) -> Option<&str> {
        let Some(Located { value: Place::Credential(name), .. }) = &self.passphrase else { return None };
        (self.agent.is_none() && credentials().is_none()).then_some(name)
    }

    /// The public half; none if the file shows it only to who has the passphrase.
    fn public(&self) -> Result<Option<PublicKey>, ConfigError> {
        let path = &self.path.value;
        let looked = if self.agent.is_none() && self.passphrase.is_none() {
            key::load_private(path).map(|key| key.public_key().clone())
        } else {
            key::load_public(path)
        };
        match looked {
            // Some forms hide the public half too.
            Err(KeyError::Encrypted(_)) if self.passphrase.is_some() && self.agent.is_none() => Ok(None),
            looked => looked.map(Some).map_err(|error| self.refuse_key(&error)),
        }
    }

    fn passphrase(&self) -> Result<Option<Passphrase>, ConfigError> {
        let Some(Located { value, place }) = &self.passphrase else { return Ok(None) };
        let (key, name, read) = match value {
            Place::File(path) => {
                let read = Passphrase::load(path).map_err(|error| error.to_string());
                ("privkey_passphrase_filename", path.display().to_string(), read)
            }
            Place::Credential(name) => {
                let read = match credentials() {
                    Some(directory) => {
                        Passphrase::load_guarded(&directory.join(name)).map_err(|error| error.to_string())
                    }
                    None => Err("systemd gave us no credentials ($CREDENTIALS_DIRECTORY is not set); \
                                 add `LoadCredential=` to the service"
                        .to_owned()),
                };
                ("privkey_passphrase_credential", name.clone(), read)
            }
        };
        read.map(Some).map_err(|cause| {
            let message = format!("Invalid value \"{name}\" for `{key}`. {cause}");
            ConfigError::single(&self.file, Complaint::new(*place, message))
        })
    }

    fn refuse_key(&self, error: &KeyError) -> ConfigError {
        let path = &self.path.value;
        let hint = match (error, &self.agent) {
            (KeyError::Encrypted(_), None) => ", or give `privkey_passphrase_filename`",
            (KeyError::Encrypted(_), Some(_)) => ", or name the public key's file (`..pub`): the agent has the rest",
            _ => "",
        };
        let message = if path.is_file() {
            format!("Invalid value \"{}\" for `privkey_filename`. {error}{hint}", path.display())
        } else {
            let rule = "`privkey_filename` must be a file that exists";
            format!("Invalid value \"{}\" for `privkey_filename`. {rule}: {error}", path.display())
        };
        ConfigError::single(&self.file, Complaint::new(self.path.place, message))
    }

    fn check_certificate(&self, public: &PublicKey) -> Result<(), ConfigError> {
        let Some(Located { value: path, place }) = &self.certificate else { return Ok(()) };
        let refuse = |cause: String| {
            let message = format!("Invalid value \"{}\" for `privkey_cert_filename`. {cause}", path.display());
            ConfigError::single(&self.file, Complaint::new(*place, message))
        };
        let certificate = key::load_certificate(path).map_err(|error| refuse(error.to_string()))?;
        if certificate.public_key() != public.key_data() {
            let (of, ours) =
                (certificate.public_key().fingerprint(russh::keys::HashAlg::Sha256), key::fingerprint(public));
            return Err(refuse(format!("It is a certificate for another key ({of}) than ours ({ours})")));
        }
        if let Some(problem) = key::out_of_time(&certificate, crate::clock::now().seconds()) {
            tracing::warn!("`privkey_cert_filename` `{}`: {problem}; targets will not let us in", path.display());
        }
        Ok(())
    }
}

/// Where systemd put the service's credentials.
fn credentials() -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").filter(|path| !path.is_empty()).map(PathBuf::from)
}
