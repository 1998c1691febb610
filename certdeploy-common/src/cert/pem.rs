//! Strict reading of the PEM files of a bundle: known labels only, capped sizes and counts, nothing cut.

use x509_parser::pem::Pem;
use zeroize::Zeroizing;

/// The largest private key file, in bytes (an RSA-8192 key has about 6.4 KiB).
pub const KEY_LIMIT: u64 = 16 * 1024;
/// The largest certificate file, in bytes.
pub const CHAIN_LIMIT: u64 = 128 * 1024;
/// The most certificates in one file.
pub const CERTIFICATE_LIMIT: usize = 10;

/// Why a PEM file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemFault {
    /// No block at all.
    #[error("holds no PEM block")]
    Empty,
    /// A block is cut or not base64.
    #[error("has a PEM block that is cut or not base64")]
    Broken,
    /// A block that does not belong there.
    #[error("has an unexpected PEM block `{}`", crate::daemon::logging::escape(.0))]
    Label(String),
    /// A key that only a passphrase opens, which no server that is to use it has.
    #[error(
        "is encrypted with a passphrase, which no server has when it starts by itself; put the key there without one"
    )]
    Encrypted,
    /// Larger than anything that belongs there.
    #[error("is larger than {0} bytes")]
    TooLarge(u64),
    /// More blocks than belong there.
    #[error("has more than {0} PEM blocks")]
    TooMany(usize),
}

/// The certificates of `cert.pem`, `chain.pem` or `fullchain.pem`, as DER, in order.
///
/// # Errors
/// See [`PemFault`].
pub fn certificates(bytes: &[u8]) -> Result<Vec<Vec<u8>>, PemFault> {
    let blocks = blocks(bytes, CHAIN_LIMIT, CERTIFICATE_LIMIT)?;
    if let Some(block) = blocks.iter().find(|block| block.label != "CERTIFICATE") {
        return Err(PemFault::Label(block.label.clone()));
    }
    Ok(blocks.into_iter().map(|block| block.contents).collect())
}

/// A private key of `privkey.pem`: how it is wrapped, and its DER.
#[derive(Debug)]
pub struct PrivateKeyDer {
    /// What is inside.
    pub form: KeyForm,
    /// The DER.
    pub der: Zeroizing<Vec<u8>>,
}

/// How a private key is wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyForm {
    /// `PRIVATE KEY` (RFC 5208, RFC 5958).
    Pkcs8,
    /// `RSA PRIVATE KEY` (RFC 8017).
    Pkcs1,
    /// `EC PRIVATE KEY` (RFC 5915).
    Sec1,
}

/// What an encrypted key in the old form says of itself (RFC 1421, 4.6.1.1).
const OLD_ENCRYPTED: &[u8] = b"Proc-Type: 4,ENCRYPTED";

/// The one private key of `privkey.pem`; `EC PARAMETERS` before it is fine.
///
/// # Errors
/// See [`PemFault`].
pub fn private_key(bytes: &[u8]) -> Result<PrivateKeyDer, PemFault> {
    let mut key = None;
    // The old way: its headers are none of the reader's.
    if bytes.windows(OLD_ENCRYPTED.len()).any(|window| window == OLD_ENCRYPTED) {
        return Err(PemFault::Encrypted);
    }
    for block in blocks(bytes, KEY_LIMIT, 2)? {
        let form = match block.label.as_str() {
            "PRIVATE KEY" => KeyForm::Pkcs8,
            "RSA PRIVATE KEY" => KeyForm::Pkcs1,
            "EC PRIVATE KEY" => KeyForm::Sec1,
            "EC PARAMETERS" if key.is_none() => continue,
            "ENCRYPTED PRIVATE KEY" => return Err(PemFault::Encrypted),
            _ => return Err(PemFault::Label(block.label)),
        };
        if key.is_some() {
            return Err(PemFault::TooMany(1));
        }
        key = Some(PrivateKeyDer { form, der: Zeroizing::new(block.contents) });
    }
    key.ok_or(PemFault::Empty)
}

fn blocks(bytes: &[u8], limit: u64, most: usize) -> Result<Vec<Pem>, PemFault> {
    if u64::try_from(bytes.len()).is_ok_and(|length| length > limit) {
        return Err(PemFault::TooLarge(limit));
    }
    let mut blocks = Vec::new();
    for block in Pem::iter_from_buffer(bytes) {
        blocks.push(block.map_err(|_| PemFault::Broken)?);
        if blocks.len() > most {
            return Err(PemFault::TooMany(most));
        }
    }
    // The reader stops quietly at a block without an end, and takes one whose last line is cut.
    let marks = |start: &str| {
        let whole = |line: &&[u8]| line.starts_with(start.as_bytes()) && line.ends_with(b"-----");
        bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(whole).count()
    };
    let (begun, ended) = (marks("-----BEGIN "), marks("-----END "));
    match blocks.len() {
        0 if begun == 0 => Err(PemFault::Empty),
        found if found == begun && found == ended => Ok(blocks),
        _ => Err(PemFault::Broken),
    }
}

/// One certificate as PEM.
#[must_use]
pub fn encode_certificate(der: &[u8]) -> String {
    use base64::Engine;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_survive_a_round_trip_and_cuts_are_seen() {
        let one = encode_certificate(&[7; 100]);
        let two = format!("{one}{}", encode_certificate(&[8; 10]));
        assert_eq!(certificates(two.as_bytes()).unwrap(), [vec![7; 100], vec![8; 10]]);
        for cut in [1, 30, one.len() - 5, one.len() + 40, two.len() - 10] {
            assert!(certificates(&two.as_bytes()[..cut]).is_err(), "cut at {cut}");
        }
        assert_eq!(certificates(b""), Err(PemFault::Empty));
        assert_eq!(certificates(one.repeat(11).as_bytes()), Err(PemFault::TooMany(10)));
        assert_eq!(certificates(&[b'x'; 200_000]), Err(PemFault::TooLarge(CHAIN_LIMIT)));
    }

    #[test]
    fn a_key_file_holds_one_key() {
        let key = "-----BEGIN PRIVATE KEY-----\nBwcH\n-----END PRIVATE KEY-----\n";
        assert_eq!(private_key(key.as_bytes()).unwrap().form, KeyForm::Pkcs8);
        assert_eq!(private_key(key.repeat(2).as_bytes()).unwrap_err(), PemFault::TooMany(1));
        assert_eq!(
            private_key(key.replace("PRIVATE", "ENCRYPTED PRIVATE").as_bytes()).unwrap_err(),
            PemFault::Encrypted
        );
        let old = key.replace("BwcH", "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nBwcH");
        assert_eq!(private_key(old.as_bytes()).unwrap_err(), PemFault::Encrypted);
        let cert = encode_certificate(&[7; 100]);
        assert_eq!(private_key(cert.as_bytes()).unwrap_err(), PemFault::Label("CERTIFICATE".into()));
    }
}
