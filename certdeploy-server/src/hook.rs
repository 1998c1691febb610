//! What certbot (or a person) hands over -> [`Renewal`]. Pure; it names nothing behind the queue.

use std::path::{Path, PathBuf};

use certdeploy_common::cert::lineage::UnsafeLineage;
use certdeploy_common::cert::{Domain, Lineage};

use crate::cli::Enqueue;

/// A hint that a lineage was renewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    /// The lineage's directory, absolute.
    pub path: PathBuf,
    /// Its name.
    pub lineage: Lineage,
    /// The names it was handed over with; they narrow, the certificate decides.
    pub domains: Vec<Domain>,
    /// Deliver though older, expired or refused, and run the updates again.
    pub force: bool,
    /// Deliver even what was acknowledged before.
    pub anew: bool,
}

/// Makes a renewal of what was handed over in the directory `cwd`. Names that are none come back beside it.
///
/// # Errors
/// The directory's last component is no safe name for a lineage.
pub fn parse(handed: &Enqueue, cwd: &Path) -> Result<(Renewal, Vec<String>), UnsafeLineage> {
    // Components, so that `live/x//`, `live/x` and `.` in it are one lineage.
    let path: PathBuf = cwd.join(&handed.lineage).components().collect();
    let lineage = Lineage::of_path(&path)?;
    let mut domains = Vec::new();
    let mut strange = Vec::new();
    for word in handed.domains.split_whitespace() {
        match word.parse() {
            Ok(domain) => domains.push(domain),
            Err(_) => strange.push(word.to_owned()),
        }
    }
    Ok((Renewal { path, lineage, domains, force: handed.force, anew: handed.anew || handed.force }, strange))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handed(lineage: &str) -> Enqueue {
        let domains = "a.example  *.B.example ..x".to_owned();
        Enqueue { lineage: lineage.into(), domains, force: false, anew: false, push: false }
    }

    #[test]
    fn relative_paths_become_absolute_and_strange_names_are_set_apart() {
        let (renewal, strange) = parse(&handed("live/x//"), Path::new("/etc/le")).unwrap();
        assert_eq!(renewal.path, Path::new("/etc/le/live/x"));
        assert_eq!(renewal.lineage.as_str(), "x");
        assert_eq!(renewal.domains.iter().map(Domain::as_str).collect::<Vec<_>>(), ["a.example", "*.b.example"]);
        assert_eq!(strange, ["..x"]);
    }

    #[test]
    fn the_directory_one_stands_in_is_a_lineage() {
        for word in [".", "./", "../x"] {
            let (renewal, _) = parse(&handed(word), Path::new("/etc/le/live/x")).unwrap();
            assert_eq!(renewal.lineage.as_str(), "x", "{word}");
        }
        assert_eq!(parse(&handed("."), Path::new("/live/x")).unwrap().0.path, Path::new("/live/x"));
    }

    #[test]
    fn a_lineage_that_is_not_one_safe_component_is_refused() {
        for path in ["/live/..", "/", "/live/.hidden"] {
            assert!(parse(&handed(path), Path::new("/")).is_err(), "{path}");
        }
    }
}
