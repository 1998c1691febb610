//! The text of a private key, and its passphrase if it is encrypted -> the key. It must not name files but in messages.

use std::fmt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use russh::keys::{PrivateKey, PublicKey};
use zeroize::Zeroizing;

use super::key::{KeyError, rsa, usable};
use crate::fs::bounded::ReadError;
use crate::fs::private::{self, PrivateFileError};

/// The longest file with a passphrase, in bytes.
const LIMIT: u64 = 4096;

/// A passphrase. It is wiped when dropped and never shown.
pub struct Passphrase(Zeroizing<String>);

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

impl Passphrase {
    /// Reads it from a file that only its owner can read; one line end after it is not part of it.
    ///
    /// # Errors
    /// The file is missing, can be read by others, or is no text.
    pub fn load(path: &Path) -> Result<Self, PrivateFileError> {
        Ok(Self::of(&private::read(path, LIMIT)?, path)?)
    }

    /// Reads it from a directory that keeps others out, as systemd's credentials are.
    ///
    /// # Errors
    /// The file is missing or is no text.
    pub fn load_guarded(path: &Path) -> Result<Self, ReadError> {
        Self::of(&private::read_guarded(path, LIMIT)?, path)
    }

    fn of(bytes: &[u8], path: &Path) -> Result<Self, ReadError> {
        let text = std::str::from_utf8(bytes).map_err(|_| ReadError::NotText(path.to_owned()))?;
        let text = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
        Ok(Self(Zeroizing::new(text.to_owned())))
    }
}

/// Reads a private key; `name` is what messages call it.
pub(super) fn private(text: &str, name: &str, passphrase: Option<&Passphrase>) -> Result<PrivateKey, KeyError> {
    if text.contains("-----BEGIN OPENSSH PRIVATE KEY-----") {
        let key = openssh(text, name)?;
        usable(&key.algorithm(), name)?;
        if !key.is_encrypted() {
            return Ok(key);
        }
        let passphrase = passphrase.ok_or_else(|| KeyError::Encrypted(name.to_owned()))?;
        return key.decrypt(passphrase.0.as_bytes()).map_err(|_| KeyError::Passphrase(name.to_owned()));
    }
    if text.contains("-----BEGIN RSA PRIVATE KEY-----") && !rsa() {
        return Err(KeyError::Rsa(name.to_owned()));
    }
    if text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(KeyError::OldEncryption(name.to_owned()));
    }
    let encrypted = text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----");
    let passphrase = match passphrase {
        Some(passphrase) if encrypted => Some(passphrase.0.as_str()),
        None if encrypted => return Err(KeyError::Encrypted(name.to_owned())),
        Some(_) | None => None,
    };
    let key = match russh::keys::decode_secret_key(text, passphrase) {
        Ok(key) => key,
        Err(russh::keys::Error::UnknownAlgorithm(kind)) if kind.to_string() == RSA => {
            return Err(KeyError::Rsa(name.to_owned()));
        }
        Err(russh::keys::Error::UnknownAlgorithm(kind)) => return Err(KeyError::Kind(kind.to_string())),
        Err(_) if encrypted => return Err(KeyError::Passphrase(name.to_owned())),
        Err(error) => return Err(KeyError::NotPrivate { name: name.to_owned(), cause: error.to_string() }),
    };
    usable(&key.algorithm(), name)?;
    Ok(key)
}

/// The public half of a private key, without its passphrase where the form allows that.
pub(super) fn public_half(text: &str, name: &str) -> Result<PublicKey, KeyError> {
    let key = if text.contains("-----BEGIN OPENSSH PRIVATE KEY-----") {
        openssh(text, name)?
    } else {
        private(text, name, None)?
    };
    usable(&key.algorithm(), name)?;
    Ok(key.public_key().clone())
}

/// The object identifier of RSA keys in PKCS#8.
const RSA: &str = "1.2.840.113549.1.1.1";

/// As the library does it, but what was decoded on the way is wiped.
fn openssh(text: &str, name: &str) -> Result<PrivateKey, KeyError> {
    let not = |cause: String| KeyError::NotPrivate { name: name.to_owned(), cause };
    let mut base64 = Zeroizing::new(String::with_capacity(text.len()));
    let lines = text.lines().map(str::trim).skip_while(|line| !line.starts_with("-----BEGIN OPENSSH"));
    for line in lines.skip(1).take_while(|line| !line.starts_with("-----END")) {
        base64.push_str(line);
    }
    let mut bytes = Zeroizing::new(vec![0; base64.len()]);
    let length = STANDARD.decode_slice(base64.as_bytes(), &mut bytes).map_err(|_| not("not base64".to_owned()))?;
    PrivateKey::from_bytes(bytes.get(..length).unwrap_or_default()).map_err(|error| not(error.to_string()))
}

#[cfg(test)]
mod tests {
    use russh::keys::ssh_key::{Cipher, Kdf, LineEnding, private::Ed25519Keypair};

    use super::*;

    fn passphrase(text: &str) -> Option<Passphrase> {
        Some(Passphrase(Zeroizing::new(text.to_owned())))
    }

    fn openssh_form(key: &PrivateKey) -> String {
        let kdf = Kdf::Bcrypt { salt: vec![7; 16], rounds: 1 };
        let locked = key.encrypt_with(Cipher::Aes256Ctr, kdf, 1, "open sesame").unwrap();
        locked.to_openssh(LineEnding::LF).unwrap().to_string()
    }

    fn pkcs8_form(key: &PrivateKey) -> String {
        let mut text = Vec::new();
        russh::keys::encode_pkcs8_pem_encrypted(key, b"open sesame", 2, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn an_encrypted_key_opens_with_its_passphrase_only() {
        let key = PrivateKey::from(Ed25519Keypair::from_seed(&[1; 32]));
        for (form, text) in [("openssh", openssh_form(&key)), ("pkcs8", pkcs8_form(&key))] {
            let opened = private(&text, "k", passphrase("open sesame").as_ref()).unwrap();
            assert!(!opened.is_encrypted() && opened.key_data() == key.key_data(), "{form}");
            let wrong = private(&text, "k", passphrase("sesame").as_ref()).unwrap_err().to_string();
            assert_eq!(wrong, "`k` does not open with the passphrase that was given", "{form}");
            let none = private(&text, "k", None).unwrap_err().to_string();
            assert!(none.starts_with("`k` is encrypted with a passphrase; "), "{form}: {none}");
        }
        assert_eq!(public_half(&openssh_form(&key), "k").unwrap().key_data(), key.public_key().key_data());
        assert!(matches!(public_half(&pkcs8_form(&key), "k"), Err(KeyError::Encrypted(_))));
    }

    #[test]
    fn a_passphrase_for_a_key_that_needs_none_is_no_mistake() {
        let key = PrivateKey::from(Ed25519Keypair::from_seed(&[1; 32]));
        let mut text = Vec::new();
        russh::keys::encode_pkcs8_pem(&key, &mut text).unwrap();
        let forms = [key.to_openssh(LineEnding::CRLF).unwrap().to_string(), String::from_utf8(text).unwrap()];
        for text in forms {
            let read = private(&text, "k", passphrase("x").as_ref()).unwrap();
            assert_eq!(read.key_data(), key.key_data(), "{text}");
        }
    }

    #[test]
    fn one_line_end_is_not_part_of_the_passphrase_and_nothing_shows_it() {
        for (bytes, want) in [("a b\n", "a b"), ("a\r\n", "a"), ("a\n\n", "a\n"), (" a", " a"), ("", "")] {
            assert_eq!(Passphrase::of(bytes.as_bytes(), Path::new("p")).unwrap().0.as_str(), want);
        }
        assert_eq!(format!("{:?}", passphrase("secret")), "Some(Passphrase(..))");
    }
}
