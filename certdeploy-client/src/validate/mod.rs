//! Bytes + now -> [`ValidBundle`] or [`Rejection`]. A `ValidBundle` cannot be made anywhere else, so what is deployed
//! has been through here. Sees bytes, never paths.

mod arriving;
pub mod process;

use certdeploy_common::cert::{self, Bundle, Facts, Fault, FileName, Lineage};
use certdeploy_common::wire::manifest::ManifestFault;
use certdeploy_common::wire::{Manifest, PushId};
use serde::{Deserialize, Serialize};

/// An upload: what a peer says it is, and its bytes. Complete, but not trusted.
#[derive(Debug, Clone)]
pub struct Upload {
    /// What kind of peer it came from.
    pub origin: Origin,
    /// The files.
    pub bundle: Bundle,
}

/// Where an upload came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// A pusher that speaks our contract: its manifest, unread.
    Manifest {
        /// The push it must be of; `None` when it lies beside files in a directory of its lineage.
        push: Option<PushId>,
        /// The manifest's bytes.
        bytes: Vec<u8>,
    },
    /// A peer that only puts files.
    Plain {
        /// The directory's name.
        lineage: Lineage,
    },
    /// Files that were examined when they came, beside files that are deployed: do they belong together?
    Joined {
        /// The lineage.
        lineage: Lineage,
    },
}

/// What the check found out; made by [`examine`], in a process without privileges when there is one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Findings {
    lineage: Lineage,
    force: bool,
    /// The files it is about.
    files: Vec<FileName>,
    /// `None`: a bare key or chain of a plain peer, about which nothing can be said.
    facts: Option<Facts>,
    /// `chain.pem`, when only `fullchain.pem` came.
    chain: Option<String>,
    /// `fullchain.pem`, when only the other two came.
    fullchain: Option<String>,
    warnings: Vec<String>,
}

/// Why an upload is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{reason}")]
pub struct Rejection {
    /// The reason, as a sentence.
    pub reason: String,
    /// Whether it may be an upload that is still arriving.
    pub incomplete: bool,
}

/// A bundle that may be deployed.
#[derive(Debug)]
pub struct ValidBundle {
    bundle: Bundle,
    findings: Findings,
    /// What was there already and fits.
    kept: Bundle,
}

impl ValidBundle {
    /// Joins the bytes with what the check said of these very bytes.
    fn new(bundle: &Bundle, findings: Findings) -> Self {
        Self { bundle: bundle.only(&findings.files), findings, kept: Bundle::default() }
    }

    /// The lineage.
    #[must_use]
    pub fn lineage(&self) -> &Lineage {
        &self.findings.lineage
    }

    /// Whether age and sameness are to be overlooked.
    #[must_use]
    pub fn force(&self) -> bool {
        self.findings.force
    }

    /// The files as they came.
    #[must_use]
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// What the certificate says of itself, if there is one.
    #[must_use]
    pub fn facts(&self) -> Option<&Facts> {
        self.findings.facts.as_ref()
    }

    /// What is odd but no reason to refuse.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.findings.warnings
    }

    /// The names that must come or be there already, if there is to be a file of each of `names`: the others can be
    /// made of what came.
    #[must_use]
    pub fn lacks(&self, names: &[FileName]) -> Vec<FileName> {
        let came = |name| self.bundle.file(name).is_some();
        let made = |name| match name {
            FileName::Cert | FileName::Chain => came(FileName::Fullchain),
            FileName::Fullchain => self.findings.fullchain.is_some(),
            FileName::Privkey => false,
        };
        names.iter().copied().filter(|name| !came(*name) && !made(*name)).collect()
    }

    /// What came beside what is there: to be examined together.
    #[must_use]
    pub fn beside(&self, there: &Bundle) -> Upload {
        let mut bundle = there.clone();
        for (name, bytes) in self.bundle.files() {
            bundle.insert(name, bytes.to_vec().into());
        }
        Upload { origin: Origin::Joined { lineage: self.findings.lineage.clone() }, bundle }
    }

    /// With what was found to fit it: what [`beside`](Self::beside) made, examined.
    #[must_use]
    pub fn completed(mut self, joined: Self) -> Self {
        let kept: Vec<FileName> = self.lacks(&joined.bundle.names());
        self.kept = joined.bundle.only(&kept);
        if self.findings.facts.is_none() && joined.findings.facts.is_some() {
            // What is there was the certificate for it.
            self.findings.warnings = joined.findings.warnings;
            self.findings.facts = joined.findings.facts;
        }
        self
    }

    /// The files to deploy: those that came or were kept, `cert.pem`, and of `names` what can be made of these.
    #[must_use]
    pub fn files(&self, names: &[FileName]) -> Bundle {
        let mut files = self.kept.clone();
        for (name, bytes) in self.bundle.files() {
            files.insert(name, bytes.to_vec().into());
        }
        let findings = &self.findings;
        let leaf = self.bundle.file(FileName::Fullchain).and(findings.facts.as_ref()).map(|facts| &facts.leaf);
        let made = [
            (FileName::Cert, leaf),
            (FileName::Chain, findings.chain.as_ref().filter(|_| names.contains(&FileName::Chain))),
            (FileName::Fullchain, findings.fullchain.as_ref().filter(|_| names.contains(&FileName::Fullchain))),
        ];
        for (name, text) in made {
            if let (Some(text), None) = (text, files.file(name)) {
                files.insert(name, text.clone().into_bytes().into());
            }
        }
        files
    }
}

/// Examines an upload at the time `now` (Unix seconds). Pure: this is what runs without privileges.
///
/// # Errors
/// See [`Rejection`].
pub fn examine(upload: &Upload, now: i64) -> Result<Findings, Rejection> {
    match &upload.origin {
        Origin::Manifest { push, bytes } => manifested(push.as_ref(), bytes, &upload.bundle, now),
        Origin::Plain { lineage } => plain(lineage, &upload.bundle, now),
        Origin::Joined { lineage } => {
            // Its age was judged when it came.
            let facts = cert::check::check_forgiving(&upload.bundle, now);
            facts
                .map(|facts| Findings::of(lineage, &upload.bundle, facts))
                .map_err(|fault| refused(&fault, &upload.bundle))
        }
    }
}

fn manifested(push: Option<&PushId>, bytes: &[u8], bundle: &Bundle, now: i64) -> Result<Findings, Rejection> {
    let manifest = Manifest::decode(bytes)?;
    if push.is_some_and(|push| manifest.push != *push) {
        return Err(ManifestFault::OtherPush.into());
    }
    let files: Vec<FileName> = manifest.files.iter().map(|entry| entry.name).collect();
    // A directory of a lineage may hold more than this push brought; a push directory may not.
    let bundle = if push.is_some() { bundle.clone() } else { bundle.only(&files) };
    manifest.matches(&bundle)?;
    let mut examined = bundle.clone();
    if bundle.file(FileName::Fullchain).is_none() && bundle.file(FileName::Cert).is_none() {
        examined.insert(FileName::Cert, manifest.leaf.clone().into_bytes().into());
    }
    // Expired only if both clocks agree: a client whose clock is off must not refuse what is good.
    let both = now.min(manifest.time);
    let facts =
        if manifest.force { cert::check::check_forgiving(&examined, both) } else { cert::check(&examined, both) };
    let facts = facts.map_err(|fault| refused(&fault, &examined))?;
    if let Some(name) = manifest.domains.iter().find(|name| !facts.names.iter().any(|own| own.covers(name))) {
        return Err(Rejection::final_because(format!("the certificate does not cover {name}")));
    }
    Ok(Findings { force: manifest.force, ..Findings::of(&manifest.lineage, &bundle, facts) })
}

fn plain(lineage: &Lineage, bundle: &Bundle, now: i64) -> Result<Findings, Rejection> {
    match cert::check(bundle, now) {
        Ok(facts) => Ok(Findings::of(lineage, bundle, facts)),
        Err(Fault::NoLeaf) if !bundle.is_empty() => {
            let refused = |name, fault| refused(&Fault::Pem(name, fault), bundle);
            if let Some(key) = bundle.file(FileName::Privkey) {
                cert::pem::private_key(key).map_err(|fault| refused(FileName::Privkey, fault))?;
            }
            if let Some(chain) = bundle.file(FileName::Chain) {
                cert::pem::certificates(chain).map_err(|fault| refused(FileName::Chain, fault))?;
            }
            let warnings = vec!["came without its certificate, so nothing could be checked against it".to_owned()];
            let (lineage, files) = (lineage.clone(), bundle.names());
            Ok(Findings { lineage, force: false, files, facts: None, chain: None, fullchain: None, warnings })
        }
        Err(fault) => Err(refused(&fault, bundle)),
    }
}

impl Findings {
    fn of(lineage: &Lineage, bundle: &Bundle, facts: Facts) -> Self {
        let of = |name| bundle.file(name).and_then(|bytes| cert::pem::certificates(bytes).ok());
        let text = |certificates: &[Vec<u8>]| -> String {
            certificates.iter().map(|der| cert::pem::encode_certificate(der)).collect()
        };
        let (leaf, chain, whole) = (of(FileName::Cert), of(FileName::Chain), of(FileName::Fullchain));
        let rest = whole.as_ref().and_then(|whole| whole.split_first()).map(|(_, rest)| rest);
        Self {
            lineage: lineage.clone(),
            force: false,
            files: bundle.names(),
            chain: rest.filter(|rest| !rest.is_empty()).map(text),
            fullchain: whole
                .is_none()
                .then_some(leaf.zip(chain))
                .flatten()
                .map(|(leaf, chain)| text(&[leaf, chain].concat())),
            warnings: facts.warnings.clone(),
            facts: Some(facts),
        }
    }
}

impl Rejection {
    /// A refusal that no waiting will change.
    #[must_use]
    pub fn final_because(reason: String) -> Self {
        Self { reason, incomplete: false }
    }
}

fn refused(fault: &Fault, bundle: &Bundle) -> Rejection {
    Rejection { reason: fault.to_string(), incomplete: arriving::may_be(fault, bundle) }
}

impl From<ManifestFault> for Rejection {
    fn from(fault: ManifestFault) -> Self {
        let incomplete = matches!(fault, ManifestFault::File(_));
        Self { reason: fault.to_string(), incomplete }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use certdeploy_common::wire::Claims;

    use super::*;

    const NOW: i64 = 1_750_000_000;

    fn made(name: &str, years: (i32, i32)) -> Bundle {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
        let mut bundle = Bundle::default();
        let cert = params.self_signed(&key).unwrap();
        bundle.insert(FileName::Fullchain, cert.pem().into_bytes().into());
        bundle.insert(FileName::Privkey, key.serialize_pem().into_bytes().into());
        bundle
    }

    fn pushed(bundle: &Bundle, domains: &[&str], time: i64, force: bool) -> Upload {
        let leaf = cert::check::check_forgiving(bundle, NOW).map(|facts| facts.leaf).unwrap_or_default();
        let domains: BTreeSet<_> = domains.iter().map(|name| name.parse().unwrap()).collect();
        let claims = Claims { domains, leaf, time, force };
        let push = PushId::new([1; 16]);
        let bytes = Manifest::of(push.clone(), "a.example".parse().unwrap(), bundle, claims).encode();
        Upload { origin: Origin::Manifest { push: Some(push), bytes }, bundle: bundle.clone() }
    }

    fn reason(upload: &Upload) -> String {
        examine(upload, NOW).map(|_| String::new()).unwrap_or_else(|rejection| rejection.reason)
    }

    #[test]
    fn a_good_push_is_taken_and_brings_its_cert_pem() {
        let upload = pushed(&made("a.example", (2020, 2040)), &["A.example"], NOW, false);
        let valid = ValidBundle::new(&upload.bundle, examine(&upload, NOW).unwrap());
        assert_eq!(valid.lineage().as_str(), "a.example");
        assert_eq!(valid.files(&[]).names(), [FileName::Cert, FileName::Fullchain, FileName::Privkey]);
        assert_eq!(valid.warnings(), ["the certificate is self-signed"]);
    }

    #[test]
    fn each_reason_to_refuse_a_push() {
        let good = made("a.example", (2020, 2040));
        assert_eq!(reason(&pushed(&good, &["b.example"], NOW, false)), "the certificate does not cover b.example");
        let mut other = pushed(&good, &[], NOW, false);
        let Origin::Manifest { push, .. } = &mut other.origin else { unreachable!("made so") };
        *push = Some(PushId::new([2; 16]));
        assert_eq!(reason(&other), "the manifest is of another push");
        let mut changed = pushed(&good, &[], NOW, false);
        changed.bundle.insert(
            FileName::Privkey,
            made("a.example", (2020, 2040)).file(FileName::Privkey).unwrap().to_vec().into(),
        );
        assert_eq!(reason(&changed), "privkey.pem is not what the manifest says");
        let mut crossed = good.clone();
        crossed.insert(
            FileName::Privkey,
            made("a.example", (2020, 2040)).file(FileName::Privkey).unwrap().to_vec().into(),
        );
        let crossed = reason(&pushed(&crossed, &[], NOW, false));
        assert_eq!(crossed, "privkey.pem: the private key does not belong to the certificate");
    }

    #[test]
    fn expired_means_expired_by_both_clocks() {
        let old = made("a.example", (2020, 2021));
        assert!(reason(&pushed(&old, &[], NOW, false)).contains("expired at 2021-01-01"));
        let then = 1_600_000_000;
        assert_eq!(reason(&pushed(&old, &[], then, false)), "", "the pusher's clock says that it is good");
        assert_eq!(reason(&pushed(&old, &[], NOW, true)), "", "forced");
    }

    #[test]
    fn a_key_alone_is_checked_against_the_leaf_of_the_manifest() {
        let whole = made("a.example", (2020, 2040));
        let leaf = cert::check(&whole, NOW).unwrap().leaf;
        let push = PushId::new([1; 16]);
        let upload = |key: &Bundle| {
            let claims = Claims { domains: BTreeSet::new(), leaf: leaf.clone(), time: NOW, force: false };
            let bytes = Manifest::of(push.clone(), "a.example".parse().unwrap(), key, claims).encode();
            Upload { origin: Origin::Manifest { push: Some(push.clone()), bytes }, bundle: key.clone() }
        };
        assert_eq!(reason(&upload(&whole.only(&[FileName::Privkey]))), "");
        let other = made("a.example", (2020, 2040)).only(&[FileName::Privkey]);
        assert!(reason(&upload(&other)).contains("does not belong"));
    }

    #[test]
    fn plain_peers_may_bring_less_and_a_cut_file_may_still_be_arriving() {
        let origin = Origin::Plain { lineage: "a.example".parse().unwrap() };
        let whole = made("a.example", (2020, 2040));
        let bare = Upload { origin: origin.clone(), bundle: whole.only(&[FileName::Privkey]) };
        assert!(examine(&bare, NOW).unwrap().warnings[0].contains("without its certificate"));
        let text = whole.file(FileName::Fullchain).unwrap();
        let mut cut = whole.clone();
        cut.insert(FileName::Fullchain, text[..text.len() - 40].to_vec().into());
        let rejection = examine(&Upload { origin, bundle: cut }, NOW).unwrap_err();
        assert!(rejection.incomplete, "{rejection}");
    }
}
