//! Does this private key belong to that certificate? By comparing public halves out of the DER, because certbot makes
//! keys (P-521, RSA of any size) that the usual crypto libraries will not load. Pure.

use ring::signature::KeyPair;
use x509_parser::asn1_rs::{Any, Class, FromDer, Tag};
use x509_parser::x509::SubjectPublicKeyInfo;

use super::pem::{KeyForm, PrivateKeyDer};

/// Why the two cannot be compared, or do not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// The key belongs to another certificate.
    #[error("the private key does not belong to the certificate")]
    Mismatch,
    /// The DER is broken.
    #[error("the private key cannot be parsed")]
    Broken,
    /// An EC key that was stored without its public point.
    #[error("the private key does not carry its public half; write it anew with `openssl pkey`")]
    NoPublicHalf,
    /// Neither RSA nor EC nor Ed25519.
    #[error("the private key is of a kind that is not known here (RSA, EC and Ed25519 are)")]
    Unknown,
}

/// Checks that `key` is the private half of `public`.
///
/// # Errors
/// See [`KeyFault`].
pub fn fits(key: &PrivateKeyDer, public: &SubjectPublicKeyInfo<'_>) -> Result<(), KeyFault> {
    let theirs = public.subject_public_key.data.as_ref();
    let same = match public_half(key)? {
        Half::Rsa { modulus, exponent } => {
            let parts = children(theirs).unwrap_or_default();
            integer(&parts, 0) == Some(modulus.as_slice()) && integer(&parts, 1) == Some(exponent.as_slice())
        }
        Half::Bits(mine) => mine == theirs,
    };
    if same { Ok(()) } else { Err(KeyFault::Mismatch) }
}

enum Half {
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    Bits(Vec<u8>),
}

const RSA: &str = "1.2.840.113549.1.1.1";
const EC: &str = "1.2.840.10045.2.1";
const ED25519: &str = "1.3.101.112";

fn public_half(key: &PrivateKeyDer) -> Result<Half, KeyFault> {
    match key.form {
        KeyForm::Pkcs1 => rsa(&key.der),
        KeyForm::Sec1 => ec(&key.der),
        KeyForm::Pkcs8 => {
            let parts = children(&key.der)?;
            let algorithm = children_of(parts.get(1))?;
            let oid = algorithm.first().cloned().and_then(|any| any.oid().ok()).ok_or(KeyFault::Broken)?;
            let inner = parts.get(2).filter(|any| any.tag() == Tag::OctetString).ok_or(KeyFault::Broken)?;
            match oid.to_id_string().as_str() {
                RSA => rsa(inner.data),
                EC => ec(inner.data),
                ED25519 => ed25519(inner.data),
                _ => Err(KeyFault::Unknown),
            }
        }
    }
}

/// RFC 8017, A.1.2: version, modulus, publicExponent, ...
fn rsa(der: &[u8]) -> Result<Half, KeyFault> {
    let parts = children(der)?;
    match (integer(&parts, 1), integer(&parts, 2)) {
        (Some(modulus), Some(exponent)) => Ok(Half::Rsa { modulus: modulus.to_owned(), exponent: exponent.to_owned() }),
        _ => Err(KeyFault::Broken),
    }
}

/// RFC 5915, 3: version, privateKey, \[0\] parameters, \[1\] publicKey.
fn ec(der: &[u8]) -> Result<Half, KeyFault> {
    let tagged = children(der)?.into_iter().find(|any| any.class() == Class::ContextSpecific && any.tag().0 == 1);
    let tagged = tagged.ok_or(KeyFault::NoPublicHalf)?;
    let (_, bits) = Any::from_der(tagged.data).map_err(|_| KeyFault::Broken)?;
    // The first byte of a BIT STRING counts its unused bits.
    match bits.data.split_first() {
        Some((0, point)) if bits.tag() == Tag::BitString => Ok(Half::Bits(point.to_owned())),
        _ => Err(KeyFault::Broken),
    }
}

/// RFC 8410, 7: an OCTET STRING with the 32-byte seed.
fn ed25519(der: &[u8]) -> Result<Half, KeyFault> {
    let (_, seed) = Any::from_der(der).map_err(|_| KeyFault::Broken)?;
    let pair = ring::signature::Ed25519KeyPair::from_seed_unchecked(seed.data).map_err(|_| KeyFault::Broken)?;
    Ok(Half::Bits(pair.public_key().as_ref().to_owned()))
}

fn children(der: &[u8]) -> Result<Vec<Any<'_>>, KeyFault> {
    let (_, sequence) = Any::from_der(der).map_err(|_| KeyFault::Broken)?;
    split(&sequence)
}

fn children_of<'a>(any: Option<&Any<'a>>) -> Result<Vec<Any<'a>>, KeyFault> {
    any.ok_or(KeyFault::Broken).and_then(split)
}

fn split<'a>(sequence: &Any<'a>) -> Result<Vec<Any<'a>>, KeyFault> {
    if sequence.tag() != Tag::Sequence {
        return Err(KeyFault::Broken);
    }
    let mut rest = sequence.data;
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let (after, part) = Any::from_der(rest).map_err(|_| KeyFault::Broken)?;
        parts.push(part);
        rest = after;
    }
    Ok(parts)
}

/// An INTEGER's magnitude, without leading zeros.
fn integer<'a>(parts: &[Any<'a>], at: usize) -> Option<&'a [u8]> {
    let any = parts.get(at).filter(|any| any.tag() == Tag::Integer)?;
    let zeros = any.data.iter().take_while(|byte| **byte == 0).count();
    any.data.get(zeros..)
}
