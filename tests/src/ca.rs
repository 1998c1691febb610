//! A small certificate authority: root and issuing certificate, and leaves of any validity.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use certdeploy_common::cert::FileName;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

const DAY: u64 = 24 * 3600;

/// Issues leaves.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    chain: String,
}

/// The four files of one issue, as text.
#[derive(Debug, Clone)]
pub struct Issued {
    /// `cert.pem`.
    pub cert: String,
    /// `chain.pem`.
    pub chain: String,
    /// `fullchain.pem`.
    pub fullchain: String,
    /// `privkey.pem`.
    pub privkey: String,
}

impl Issued {
    /// One file's text.
    #[must_use]
    pub fn file(&self, name: FileName) -> &str {
        match name {
            FileName::Cert => &self.cert,
            FileName::Chain => &self.chain,
            FileName::Fullchain => &self.fullchain,
            FileName::Privkey => &self.privkey,
        }
    }
}

/// When a leaf is valid, in Unix seconds.
#[derive(Debug, Clone, Copy)]
pub struct Validity {
    /// From.
    pub from: u64,
    /// To.
    pub to: u64,
}

impl Validity {
    /// 90 days, begun two days ago; each issue `number` begins a second after the one before it.
    #[must_use]
    pub fn usual(number: u32) -> Self {
        let from = now() - 2 * DAY + u64::from(number);
        Self { from, to: from + 90 * DAY }
    }

    /// 90 days that begin tomorrow.
    #[must_use]
    pub fn from_tomorrow() -> Self {
        let from = now() + DAY;
        Self { from, to: from + 90 * DAY }
    }

    /// Ended an hour ago; begun later than [`Validity::usual`], so that it is not refused for being older.
    #[must_use]
    pub fn over() -> Self {
        Self { from: now() - DAY, to: now() - 3600 }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn date(seconds: u64) -> impl Fn(&mut CertificateParams, bool) {
    move |params, from| {
        let time = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
        if from { params.not_before = time } else { params.not_after = time }
    }
}

impl Ca {
    /// Makes a root and an issuing certificate below it.
    ///
    /// # Panics
    /// The machine has no randomness.
    #[must_use]
    pub fn new() -> Self {
        let authority = |name: &str| {
            let mut params = CertificateParams::new(Vec::new()).expect("no names to refuse");
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CommonName, name);
            (params, KeyPair::generate().expect("a key"))
        };
        let (root, root_key) = authority("certdeploy test root");
        let (issuing, issuing_key) = authority("certdeploy test issuer");
        let chain = issuing.signed_by(&issuing_key, &Issuer::new(root, root_key)).expect("a certificate").pem();
        Self { issuer: Issuer::new(issuing, issuing_key), chain: unix(&chain) }
    }

    /// Issues a leaf with a fresh key.
    ///
    /// # Panics
    /// A name is none.
    #[must_use]
    pub fn issue(&self, names: &[String], validity: Validity) -> Issued {
        self.sign(&KeyPair::generate().expect("a key"), names, validity)
    }

    /// Issues a leaf with the key of an earlier one, as certbot's `--reuse-key` does.
    ///
    /// # Panics
    /// A name is none.
    #[must_use]
    pub fn issue_again(&self, earlier: &Issued, names: &[String], validity: Validity) -> Issued {
        self.sign(&KeyPair::from_pem(&earlier.privkey).expect("a key"), names, validity)
    }

    fn sign(&self, key: &KeyPair, names: &[String], validity: Validity) -> Issued {
        let mut params = CertificateParams::new(names.to_vec()).expect("names");
        date(validity.from)(&mut params, true);
        date(validity.to)(&mut params, false);
        params.distinguished_name.push(DnType::CommonName, names.first().map_or("", String::as_str));
        let cert = unix(&params.signed_by(key, &self.issuer).expect("a certificate").pem());
        Issued {
            fullchain: format!("{cert}{}", self.chain),
            cert,
            chain: self.chain.clone(),
            privkey: unix(&key.serialize_pem()),
        }
    }
}

impl Default for Ca {
    fn default() -> Self {
        Self::new()
    }
}

fn unix(pem: &str) -> String {
    pem.replace('\r', "")
}
