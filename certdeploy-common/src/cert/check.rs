//! Bundle + now -> [`Facts`] or a [`Fault`]: key fits leaf, fullchain is leaf and chain and links up, not expired.
//! No trust anchor is asked for: a private CA is as good as any. Pure.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::bundle::{Bundle, FileName};
use super::domain::Domain;
use super::keypair::{self, KeyFault};
use super::pem::{self, PemFault};

/// What a good bundle says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The leaf's serial number, in hex.
    pub serial: String,
    /// Not valid before this time, in Unix seconds.
    pub not_before: i64,
    /// Not valid after this time, in Unix seconds.
    pub not_after: i64,
    /// The names the leaf carries.
    pub names: BTreeSet<Domain>,
    /// The leaf as PEM, for those who want a `cert.pem` that did not come.
    pub leaf: String,
    /// What is odd but no reason to refuse.
    pub warnings: Vec<String>,
}

/// Why a bundle is not good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A file is no PEM of its kind.
    #[error("{0} {1}")]
    Pem(FileName, PemFault),
    /// A certificate cannot be parsed.
    #[error("{0} holds something that is not an X.509 certificate")]
    Certificate(FileName),
    /// Neither `cert.pem` nor `fullchain.pem`: nothing to check the rest against.
    #[error("there is neither a fullchain.pem nor a cert.pem")]
    NoLeaf,
    /// The key is another's.
    #[error("privkey.pem: {0}")]
    Key(KeyFault),
    /// Two files speak of different certificates.
    #[error("{0} and {1} are of different certificates")]
    Differ(FileName, FileName),
    /// A certificate is not issued by the next one.
    #[error("certificate {number} of {file} was not issued by the one after it")]
    Chain {
        /// The file.
        file: FileName,
        /// Which certificate, from 1.
        number: usize,
    },
    /// The leaf is expired.
    #[error("the certificate with serial {serial} expired at {} UTC", show_time(*.not_after))]
    Expired {
        /// The leaf's serial.
        serial: String,
        /// When, in Unix seconds.
        not_after: i64,
    },
}

impl Fault {
    /// The file that holds nothing that belongs there, if that is all that is wrong.
    #[must_use]
    pub const fn unreadable(&self) -> Option<FileName> {
        match self {
            Self::Pem(file, _) | Self::Certificate(file) => Some(*file),
            Self::NoLeaf | Self::Key(_) | Self::Differ(..) | Self::Chain { .. } | Self::Expired { .. } => None,
        }
    }
}

/// A Unix time for people.
#[must_use]
pub fn show_time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| seconds.to_string(), |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

/// The names that the leaf carries, if there is any that can be read, whatever else is wrong.
#[must_use]
pub fn leaf_names(bundle: &Bundle) -> BTreeSet<Domain> {
    let of = |name| check_forgiving(&bundle.only(&[name]), 0).map(|facts| facts.names);
    of(FileName::Cert).or_else(|_| of(FileName::Fullchain)).unwrap_or_default()
}

/// Checks a bundle at the time `now` (Unix seconds).
///
/// # Errors
/// See [`Fault`]; [`Fault::Expired`] comes last, so that a caller may forgive it with [`check_forgiving`].
pub fn check(bundle: &Bundle, now: i64) -> Result<Facts, Fault> {
    let facts = check_forgiving(bundle, now)?;
    if facts.not_after < now {
        return Err(Fault::Expired { serial: facts.serial, not_after: facts.not_after });
    }
    Ok(facts)
}

/// As [`check`], but an expired leaf is fine (`--force`).
///
/// # Errors
/// See [`Fault`].
pub fn check_forgiving(bundle: &Bundle, now: i64) -> Result<Facts, Fault> {
    let read = |name| bundle.file(name).map(|bytes| pem::certificates(bytes).map_err(|fault| Fault::Pem(name, fault)));
    let fullchain = read(FileName::Fullchain).transpose()?;
    let cert = read(FileName::Cert).transpose()?;
    let chain = read(FileName::Chain).transpose()?;
    let (from, leaf) = match (&fullchain, &cert) {
        (Some(certificates), _) => (FileName::Fullchain, certificates.first()),
        (None, Some(certificates)) => (FileName::Cert, certificates.first()),
        (None, None) => return Err(Fault::NoLeaf),
    };
    let leaf_der = leaf.ok_or(Fault::Pem(from, PemFault::Empty))?;
    let leaf = parse(from, leaf_der)?;
    let mut warnings = Vec::new();
    if let Some(bytes) = bundle.file(FileName::Privkey) {
        let key = pem::private_key(bytes).map_err(|fault| Fault::Pem(FileName::Privkey, fault))?;
        keypair::fits(&key, leaf.public_key()).map_err(Fault::Key)?;
    }
    same_certificates(fullchain.as_deref(), cert.as_deref(), chain.as_deref())?;
    if let Some(certificates) = &fullchain {
        links_up(FileName::Fullchain, certificates, &mut warnings)?;
    }
    if let Some(certificates) = chain.as_ref().filter(|_| fullchain.is_none()) {
        let whole: Vec<Vec<u8>> = std::iter::once(leaf_der.clone()).chain(certificates.iter().cloned()).collect();
        links_up(FileName::Chain, &whole, &mut warnings)?;
    }
    if leaf.subject() == leaf.issuer() {
        warnings.push("the certificate is self-signed".to_owned());
    }
    let not_before = leaf.validity().not_before.timestamp();
    if not_before > now {
        warnings.push(format!("the certificate is not valid before {} UTC", show_time(not_before)));
    }
    Ok(Facts {
        serial: leaf.tbs_certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
        not_before,
        not_after: leaf.validity().not_after.timestamp(),
        names: names(&leaf),
        leaf: pem::encode_certificate(leaf_der),
        warnings,
    })
}

fn parse(file: FileName, der: &[u8]) -> Result<X509Certificate<'_>, Fault> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(Fault::Certificate(file)),
    }
}

fn same_certificates(
    fullchain: Option<&[Vec<u8>]>,
    cert: Option<&[Vec<u8>]>,
    chain: Option<&[Vec<u8>]>,
) -> Result<(), Fault> {
    let Some((first, rest)) = fullchain.and_then(<[_]>::split_first) else { return Ok(()) };
    if cert.is_some_and(|cert| cert != std::slice::from_ref(first)) {
        return Err(Fault::Differ(FileName::Fullchain, FileName::Cert));
    }
    if chain.is_some_and(|chain| chain != rest) {
        return Err(Fault::Differ(FileName::Fullchain, FileName::Chain));
    }
    Ok(())
}

fn links_up(file: FileName, certificates: &[Vec<u8>], warnings: &mut Vec<String>) -> Result<(), Fault> {
    use x509_parser::error::X509Error;
    for (index, pair) in certificates.windows(2).enumerate() {
        let [subject, issuer] = pair else { continue };
        let (subject, issuer) = (parse(file, subject)?, parse(file, issuer)?);
        let broken = Fault::Chain { file, number: index + 1 };
        if subject.issuer() != issuer.subject() {
            return Err(broken);
        }
        match subject.verify_signature(Some(issuer.public_key())) {
            Ok(()) => {}
            Err(X509Error::SignatureUnsupportedAlgorithm) => {
                warnings.push(format!(
                    "the signature of certificate {} of {file} is of a kind not checked here",
                    index + 1
                ));
            }
            Err(_) => return Err(broken),
        }
    }
    Ok(())
}

fn names(leaf: &X509Certificate<'_>) -> BTreeSet<Domain> {
    let mut names = BTreeSet::new();
    if let Ok(Some(alternative)) = leaf.subject_alternative_name() {
        for name in &alternative.value.general_names {
            if let GeneralName::DNSName(text) = name {
                names.extend(text.parse::<Domain>());
            } else if let GeneralName::IPAddress(bytes) = name {
                names.extend(address(bytes).and_then(|text| text.parse::<Domain>().ok()));
            }
        }
    }
    if names.is_empty() {
        let common = leaf.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        names.extend(common.filter_map(|name| name.parse::<Domain>().ok()));
    }
    names
}

fn address(bytes: &[u8]) -> Option<String> {
    use std::net::{Ipv4Addr, Ipv6Addr};
    let four = <[u8; 4]>::try_from(bytes).map(|b| Ipv4Addr::from(b).to_string());
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(|b| Ipv6Addr::from(b).to_string())).ok()
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    use zeroize::Zeroizing;

    use super::*;

    struct Made {
        fullchain: String,
        key: String,
    }

    fn made(name: &str, algorithm: &'static rcgen::SignatureAlgorithm, years: (i32, i32)) -> Made {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(vec![]).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name.push(DnType::CommonName, format!("CA of {name}"));
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
        leaf.not_before = rcgen::date_time_ymd(years.0, 1, 1);
        leaf.not_after = rcgen::date_time_ymd(years.1, 1, 1);
        let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
        Made { fullchain: format!("{}{ca_pem}", leaf.pem()), key: key.serialize_pem() }
    }

    fn bundle(files: &[(FileName, &str)]) -> Bundle {
        let mut bundle = Bundle::default();
        for (name, text) in files {
            bundle.insert(*name, Zeroizing::new(text.as_bytes().to_vec()));
        }
        bundle
    }

    const NOW: i64 = 1_750_000_000;

    #[test]
    fn a_good_bundle_says_what_it_is_whatever_the_kind_of_key() {
        use FileName::{Fullchain, Privkey};
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
            let good = made("Www.example.com", algorithm, (2020, 2040));
            let facts = check(&bundle(&[(Fullchain, &good.fullchain), (Privkey, &good.key)]), NOW).unwrap();
            assert_eq!(facts.names.iter().map(Domain::as_str).collect::<Vec<_>>(), ["www.example.com"]);
            assert!(good.fullchain.replace('\r', "").starts_with(&facts.leaf));
            assert_eq!(facts.warnings, Vec::<String>::new());
        }
    }

    #[test]
    fn each_fault_has_its_own_name() {
        use FileName::{Cert, Chain, Fullchain, Privkey};
        let one = made("a.example", &rcgen::PKCS_ECDSA_P256_SHA256, (2020, 2040));
        let two = made("a.example", &rcgen::PKCS_ECDSA_P256_SHA256, (2020, 2040));
        let old = made("a.example", &rcgen::PKCS_ECDSA_P256_SHA256, (2020, 2021));
        let future = made("a.example", &rcgen::PKCS_ECDSA_P256_SHA256, (2039, 2040));
        let fault = |files: &[(FileName, &str)]| check(&bundle(files), NOW).unwrap_err();
        assert_eq!(fault(&[(Fullchain, &one.fullchain), (Privkey, &two.key)]), Fault::Key(KeyFault::Mismatch));
        assert_eq!(fault(&[(Privkey, &one.key)]), Fault::NoLeaf);
        assert_eq!(fault(&[(Fullchain, &one.key)]), Fault::Pem(Fullchain, PemFault::Label("PRIVATE KEY".into())));
        let (leaf_one, _) = one.fullchain.split_at(one.fullchain.rfind("-----BEGIN").unwrap());
        let (leaf_two, chain_two) = two.fullchain.split_at(two.fullchain.rfind("-----BEGIN").unwrap());
        assert_eq!(fault(&[(Fullchain, &one.fullchain), (Cert, leaf_two)]), Fault::Differ(Fullchain, Cert));
        assert_eq!(fault(&[(Fullchain, &one.fullchain), (Chain, chain_two)]), Fault::Differ(Fullchain, Chain));
        let crossed = format!("{leaf_one}{chain_two}");
        assert_eq!(fault(&[(Fullchain, &crossed)]), Fault::Chain { file: Fullchain, number: 1 });
        assert!(matches!(fault(&[(Fullchain, &old.fullchain)]), Fault::Expired { .. }));
        assert!(check_forgiving(&bundle(&[(Fullchain, &old.fullchain)]), NOW).is_ok());
        let facts = check(&bundle(&[(Fullchain, &future.fullchain)]), NOW).unwrap();
        assert_eq!(facts.warnings, ["the certificate is not valid before 2039-01-01 00:00:00 UTC"]);
    }
}
