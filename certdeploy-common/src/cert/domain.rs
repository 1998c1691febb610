//! A domain name as certificates and configs write it, case-folded.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A DNS name, perhaps with a leading `*.`; compared without case and without a trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Domain(String);

/// Why a text is no domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{}\" is not a domain name", crate::daemon::logging::escape(.0))]
pub struct NotADomain(String);

impl Domain {
    /// The name, in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a certificate that carries `self` is good for `name` (RFC 6125: `*` stands for one label).
    #[must_use]
    pub fn covers(&self, name: &Domain) -> bool {
        if self == name {
            return true;
        }
        let rest = name.0.split_once('.').filter(|(label, _)| *label != "*");
        matches!((self.0.strip_prefix("*."), rest), (Some(mine), Some((_, rest))) if mine == rest)
    }
}

impl FromStr for Domain {
    type Err = NotADomain;

    fn from_str(text: &str) -> Result<Self, NotADomain> {
        let name = text.trim_end_matches('.').to_ascii_lowercase();
        let body = name.strip_prefix("*.").unwrap_or(&name);
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ':'))
        };
        let ok = (1..=253).contains(&name.len()) && body.split('.').all(label);
        if ok { Ok(Self(name)) } else { Err(NotADomain(text.to_owned())) }
    }
}

impl TryFrom<String> for Domain {
    type Error = NotADomain;

    fn try_from(text: String) -> Result<Self, NotADomain> {
        text.parse()
    }
}

impl From<Domain> for String {
    fn from(domain: Domain) -> Self {
        domain.0
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_folded_and_wildcards_stand_for_one_label() {
        let d = |text: &str| text.parse::<Domain>().unwrap();
        assert_eq!(d("Example.COM."), d("example.com"));
        assert!(d("*.example.com").covers(&d("www.example.com")));
        assert!(d("*.example.com").covers(&d("*.example.com")));
        assert!(!d("*.example.com").covers(&d("example.com")));
        assert!(!d("*.example.com").covers(&d("a.b.example.com")));
        for text in ["", "a..b", "*", "a b", "x/../y", "a.*.b"] {
            assert!(text.parse::<Domain>().is_err(), "{text}");
        }
    }
}
