//! A lineage's name: one safe path component, whoever sent it.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// certbot's name for a certificate set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Lineage(String);

/// Why a text is no lineage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{}\" is not a safe lineage name: letters, digits, `.`, `_` and `-`, not starting with `.` or `-`, at most 200 characters", crate::daemon::logging::escape(.0))]
pub struct UnsafeLineage(String);

impl Lineage {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The lineage of a directory such as `/etc/letsencrypt/live/example.com/`: its last component.
    ///
    /// # Errors
    /// The path ends in `..`, is `/`, or its last component is not a safe name.
    pub fn of_path(path: &Path) -> Result<Self, UnsafeLineage> {
        let unsafe_name = || UnsafeLineage(path.display().to_string());
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(unsafe_name)?;
        // `file_name` of `live/x/.` is `x`; such a path is nobody's intention.
        let text = path.to_str().ok_or_else(unsafe_name)?.trim_end_matches('/');
        if text.ends_with(name) { name.parse() } else { Err(unsafe_name()) }
    }
}

impl FromStr for Lineage {
    type Err = UnsafeLineage;

    fn from_str(name: &str) -> Result<Self, UnsafeLineage> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let safe = (1..=200).contains(&name.len()) && !name.starts_with(['.', '-']) && name.chars().all(allowed);
        if safe { Ok(Self(name.to_owned())) } else { Err(UnsafeLineage(name.to_owned())) }
    }
}

impl TryFrom<String> for Lineage {
    type Error = UnsafeLineage;

    fn try_from(name: String) -> Result<Self, UnsafeLineage> {
        name.parse()
    }
}

impl From<Lineage> for String {
    fn from(lineage: Lineage) -> Self {
        lineage.0
    }
}

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_not_one_safe_component_are_refused() {
        for name in ["example.com", "example.com-0001", "my_cert", "0"] {
            assert_eq!(name.parse::<Lineage>().unwrap().as_str(), name);
        }
        for name in ["", ".", "..", "../x", "a/b", ".hidden", "-x", "a\0", "a b", "é", &"x".repeat(201)] {
            assert!(name.parse::<Lineage>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_path_gives_its_last_component_and_trailing_slashes_do_not_matter() {
        let of = |path: &str| Lineage::of_path(Path::new(path)).map(String::from);
        assert_eq!(of("/etc/letsencrypt/live/example.com"), Ok("example.com".into()));
        assert_eq!(of("live/example.com//"), Ok("example.com".into()));
        for path in ["/", "", "/live/..", "/live/x/.", "/live/.x"] {
            assert!(of(path).is_err(), "{path}");
        }
    }
}
