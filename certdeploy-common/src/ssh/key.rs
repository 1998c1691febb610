//! SSH keys as people hand them to us: private keys of files, public keys of config lines, and `keygen`.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use russh::keys::ssh_key::{self, LineEnding};
use russh::keys::{Algorithm, Certificate, HashAlg, PrivateKey, PublicKey};
use zeroize::Zeroizing;

use super::decode::{self, Passphrase};
use crate::fs::{atomic, bounded, private};

/// The largest private key file, in bytes.
const LIMIT: u64 = 16 * 1024;

/// Why a key cannot be used; each sentence says what to do.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] private::PrivateFileError),
    /// It is encrypted, and there is no passphrase.
    #[error("`{0}` is encrypted with a passphrase; make a key without one with `keygen PATH`")]
    Encrypted(String),
    /// The passphrase is not that of the key.
    #[error("`{0}` does not open with the passphrase that was given")]
    Passphrase(String),
    /// It is encrypted in a way that protects little.
    #[error("`{0}` is encrypted in the old PEM way, which is not read; write it anew with `ssh-keygen -p -f {0}`")]
    OldEncryption(String),
    /// It is an RSA key and this build has no RSA.
    #[error(
        "`{0}` is an RSA key, which this build does not use; take an ed25519 or ECDSA key (`keygen PATH` makes one), or build with `--features rsa`"
    )]
    Rsa(String),
    /// It is no key.
    #[error("`{name}` holds no SSH private key ({cause}); make one with `keygen PATH`")]
    NotPrivate {
        /// What was read.
        name: String,
        /// What the parser says.
        cause: String,
    },
    /// It is the public half.
    #[error(
        "`{0}` holds a public key; the private one is needed here, the file that `keygen` wrote beside it without `.pub`"
    )]
    IsPublic(String),
    /// It is a private key, where a public one is needed.
    #[error(
        "this is a private key; the public one is needed here, the line in the `.pub` file beside it. If it was shown to others, make a new pair with `keygen PATH`"
    )]
    IsPrivate,
    /// It is no certificate for logging in with.
    #[error("`{name}` holds no OpenSSH user certificate ({cause}); expected a file like `id_ed25519-cert.pub`")]
    NotCertificate {
        /// What was read.
        name: String,
        /// What is wrong with it.
        cause: String,
    },
    /// It is no public key.
    #[error("not an SSH public key; expected a line like `ssh-ed25519 AAAA...`")]
    NotPublic,
    /// The kind is not used.
    #[error("`{0}` keys are not used; expected ed25519 or ECDSA")]
    Kind(String),
    /// `keygen` would overwrite something.
    #[error("`{}` exists; keygen does not overwrite keys", .0.display())]
    Exists(PathBuf),
    /// `keygen` cannot write.
    #[error("cannot write `{}`: {source}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Reads a private key of a file that only its owner can read.
///
/// # Errors
/// See [`KeyError`].
pub fn load_private(path: &Path) -> Result<PrivateKey, KeyError> {
    load_private_with(path, None)
}

/// The same; `passphrase` opens it if it is encrypted.
///
/// # Errors
/// See [`KeyError`].
pub fn load_private_with(path: &Path, passphrase: Option<&Passphrase>) -> Result<PrivateKey, KeyError> {
    let name = path.display().to_string();
    let bytes = match private::read(path, LIMIT) {
        // To make the public half private would be bad advice.
        Err(private::PrivateFileError::TooOpen { .. }) if holds_public(path) => return Err(KeyError::IsPublic(name)),
        read => read?,
    };
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| KeyError::NotPrivate { name: name.clone(), cause: "not text".to_owned() })?;
    if parse_public(text.trim()).is_ok() {
        return Err(KeyError::IsPublic(name));
    }
    decode::private(text, &name, passphrase)
}

fn holds_public(path: &Path) -> bool {
    bounded::text(path, LIMIT).is_ok_and(|text| parse_public(text.trim()).is_ok())
}

/// Reads a private key in OpenSSH or PKCS#8 form; `name` is what messages call it.
///
/// # Errors
/// See [`KeyError`].
pub fn parse_private(text: &str, name: &str) -> Result<PrivateKey, KeyError> {
    decode::private(text, name, None)
}

/// The public key of a file that holds it, or that holds the private key. An encrypted key in OpenSSH's form tells its
/// public half without the passphrase.
///
/// # Errors
/// See [`KeyError`]; [`KeyError::Encrypted`] for encrypted keys in other forms.
pub fn load_public(path: &Path) -> Result<PublicKey, KeyError> {
    let text = bounded::text(path, LIMIT).map(Zeroizing::new).map_err(private::PrivateFileError::from)?;
    if !text.contains("PRIVATE KEY-----") {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        return parse_public(lines.next().unwrap_or_default());
    }
    let bytes = private::read(path, LIMIT)?;
    decode::public_half(std::str::from_utf8(&bytes).unwrap_or_default(), &path.display().to_string())
}

/// Reads an OpenSSH user certificate.
///
/// # Errors
/// [`KeyError::File`], or [`KeyError::NotCertificate`].
pub fn load_certificate(path: &Path) -> Result<Certificate, KeyError> {
    let text = bounded::text(path, LIMIT).map_err(private::PrivateFileError::from)?;
    let name = path.display().to_string();
    let not = |cause: &str| KeyError::NotCertificate { name: name.clone(), cause: cause.to_owned() };
    let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    let certificate = Certificate::from_openssh(line.unwrap_or_default()).map_err(|error| not(&error.to_string()))?;
    if matches!(certificate.algorithm(), Algorithm::Rsa { .. }) {
        return Err(not("it is for an RSA key; certificates are used with ed25519 and ECDSA keys"));
    }
    if certificate.cert_type() != ssh_key::certificate::CertType::User {
        return Err(not("it is a certificate of a host"));
    }
    Ok(certificate)
}

/// Why a certificate does not hold at `now`, in Unix seconds: "expired on ..."; `None` if it does.
#[must_use]
pub fn out_of_time(certificate: &Certificate, now: i64) -> Option<String> {
    let now = u64::try_from(now).unwrap_or_default();
    let at = |seconds: u64| {
        let time = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
        time.map_or_else(|| "a time far away".to_owned(), |time| time.to_string())
    };
    if certificate.valid_before() <= now {
        return Some(format!("expired on {}", at(certificate.valid_before())));
    }
    (certificate.valid_after() > now).then(|| format!("is not valid before {}", at(certificate.valid_after())))
}

/// Writes a private key as text that [`parse_private`] reads, for handing it to our own other process.
///
/// # Errors
/// The key cannot be encoded; does not happen to keys that were parsed.
pub fn encode_private(key: &PrivateKey) -> Result<Zeroizing<String>, KeyError> {
    key.to_openssh(LineEnding::LF)
        .map_err(|error| KeyError::NotPrivate { name: "the key".to_owned(), cause: error.to_string() })
}

/// Reads a public key: `ssh-ed25519 AAAA... comment`, or the bare base64.
///
/// # Errors
/// See [`KeyError`].
pub fn parse_public(line: &str) -> Result<PublicKey, KeyError> {
    if line.contains("PRIVATE KEY-----") {
        return Err(KeyError::IsPrivate);
    }
    let mut words = line.split_whitespace();
    let (Some(first), second) = (words.next(), words.next()) else { return Err(KeyError::NotPublic) };
    let blob = second.filter(|_| first.parse::<Algorithm>().is_ok_and(|a| !matches!(a, Algorithm::Other(_))));
    let key = russh::keys::parse_public_key_base64(blob.unwrap_or(first)).map_err(|_| KeyError::NotPublic)?;
    if blob.is_some() && first != key.algorithm().as_str() {
        return Err(KeyError::NotPublic);
    }
    usable(&key.algorithm(), "the key")?;
    Ok(key)
}

/// Whether keys of this kind are used by this build; `name` is what the message calls it.
pub(super) fn usable(algorithm: &Algorithm, name: &str) -> Result<(), KeyError> {
    if matches!(algorithm, Algorithm::Rsa { .. }) && !rsa() {
        return Err(KeyError::Rsa(name.to_owned()));
    }
    let used = matches!(algorithm, Algorithm::Ed25519 | Algorithm::Ecdsa { .. } | Algorithm::Rsa { .. });
    if used { Ok(()) } else { Err(KeyError::Kind(algorithm.to_string())) }
}

/// Whether this build has RSA.
#[must_use]
pub const fn rsa() -> bool {
    cfg!(feature = "rsa")
}

/// `SHA256:...`, as `ssh-keygen -l` shows it.
#[must_use]
pub fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

/// The public half as one line, as `keygen` writes it to `PATH.pub`.
///
/// # Errors
/// The key cannot be encoded; does not happen to keys that were parsed.
pub fn public_line(key: &PublicKey) -> Result<String, KeyError> {
    key.to_openssh().map_err(|_| KeyError::NotPublic)
}

/// Makes an ed25519 key pair: `path` (0600) and `path.pub` (0644). Returns the public line.
///
/// # Errors
/// Either file exists or cannot be written.
pub fn generate(path: &Path, comment: &str) -> Result<String, KeyError> {
    let public_path = PathBuf::from(format!("{}.pub", path.display()));
    for file in [path, &public_path] {
        if file.symlink_metadata().is_ok() {
            return Err(KeyError::Exists(file.to_owned()));
        }
    }
    let unwritable = |source| KeyError::Unwritable { path: path.to_owned(), source };
    let pair = ssh_key::private::Ed25519Keypair::from_seed(&Zeroizing::new(random::<32>().map_err(unwritable)?));
    let mut key = PrivateKey::from(pair);
    key.set_comment(comment);
    let line = public_line(key.public_key())?;
    let write = |file: &Path, bytes: &[u8], mode| {
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        atomic::create(file, bytes, mode)
            .and_then(|()| atomic::sync_directory(parent))
            .map_err(|source| KeyError::Unwritable { path: file.to_owned(), source })
    };
    write(path, encode_private(&key)?.as_bytes(), 0o600)?;
    write(&public_path, format!("{line}\n").as_bytes(), 0o644)?;
    Ok(line)
}

/// Random bytes, for keys and for the ids of pushes.
///
/// # Errors
/// The system has no randomness.
pub fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    use ring::rand::SecureRandom;
    let mut bytes = [0; N];
    ring::rand::SystemRandom::new().fill(&mut bytes).map_err(|_| std::io::Error::other("no randomness"))?;
    Ok(bytes)
}

/// The algorithms we offer: russh's own choice without SHA-1 `ssh-rsa`, and without RSA where it is not built in.
#[must_use]
pub fn preferred() -> russh::Preferred {
    let mut preferred = russh::Preferred::default();
    let unwanted = |algorithm: &Algorithm| {
        let sha1 = matches!(algorithm, Algorithm::Rsa { hash: None });
        sha1 || (!rsa() && matches!(algorithm, Algorithm::Rsa { .. }))
    };
    let kept = preferred.key.iter().filter(|algorithm| !unwanted(algorithm));
    preferred.key = Cow::Owned(kept.cloned().collect());
    preferred.compression = Cow::Borrowed(&[russh::compression::NONE]);
    preferred
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_key_is_private_loads_again_and_is_never_overwritten() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let line = generate(&path, "certdeploy").unwrap();
        let key = load_private(&path).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("key.pub")).unwrap(), format!("{line}\n"));
        assert_eq!(parse_public(&line).unwrap().key_data(), key.public_key().key_data());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(generate(&path, ""), Err(KeyError::Exists(_))));
    }

    #[test]
    fn public_keys_are_taken_with_type_or_bare() {
        let blob = "AAAAC3NzaC1lZDI1NTE5AAAAIP+H3Nk/9uSa7LHNt8fvCPKKkNFnVE5SGC5tnthf6/OK";
        let typed = parse_public(&format!("ssh-ed25519   {blob} some comment\n")).unwrap();
        assert_eq!(parse_public(blob).unwrap().key_data(), typed.key_data());
        assert_eq!(parse_public(&format!("{blob} a comment")).unwrap().key_data(), typed.key_data());
        for bad in ["", "ssh-ed25519", "ssh-ed25519 xx", "AAAA", &format!("ecdsa-sha2-nistp256 {blob}")] {
            assert!(matches!(parse_public(bad), Err(KeyError::NotPublic)), "{bad}");
        }
        assert!(fingerprint(&typed).starts_with("SHA256:"));
    }

    #[test]
    fn ssh_rsa_with_sha1_is_never_offered() {
        assert!(!preferred().key.iter().any(|a| a.as_str() == "ssh-rsa"));
    }
}
