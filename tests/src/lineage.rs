//! A lineage as certbot lays it out: `archive/<name>/<file><n>.pem` and relative links to it in `live/<name>`.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use certdeploy_common::cert::FileName;

use crate::ca::{Ca, Issued, Validity};

/// One lineage below certbot's config directory.
#[derive(Debug)]
pub struct Lineage {
    /// Its name.
    pub name: String,
    /// The names it covers.
    pub domains: Vec<String>,
    /// `live/<name>`.
    pub live: PathBuf,
    archive: PathBuf,
    number: u32,
    /// What was issued last.
    pub issued: Issued,
}

impl Lineage {
    /// Makes the first issue of a lineage below `config`.
    #[must_use]
    pub fn new(config: &Path, ca: &Ca, name: &str, domains: &[&str]) -> Self {
        let domains: Vec<String> = domains.iter().map(|name| (*name).to_owned()).collect();
        let issued = ca.issue(&domains, Validity::usual(1));
        let live = config.join("live").join(name);
        let archive = config.join("archive").join(name);
        for folder in [&live, &archive] {
            private_folder(folder.parent().expect("a parent"));
            std::fs::DirBuilder::new().mode(0o755).create(folder).expect("a folder for the lineage");
        }
        let mut lineage = Self { name: name.to_owned(), domains, live, archive, number: 0, issued: issued.clone() };
        lineage.install(issued);
        lineage
    }

    /// Renews: a new key and a new certificate, the links switched one after another as certbot does.
    pub fn renew(&mut self, ca: &Ca) {
        let issued = ca.issue(&self.domains, Validity::usual(self.number + 1));
        self.install(issued);
    }

    /// Writes the next number and switches the links to it.
    pub fn install(&mut self, issued: Issued) {
        self.number += 1;
        for name in FileName::ALL {
            let file = self.archive.join(self.numbered(name));
            std::fs::write(&file, issued.file(name)).expect("write into the archive");
            let mode = if name == FileName::Privkey { 0o600 } else { 0o644 };
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("chmod");
        }
        for name in FileName::ALL {
            let link = self.live.join(name.as_str());
            // certbot removes the link, then makes the new one.
            let _ = std::fs::remove_file(&link);
            symlink(format!("../../archive/{}/{}", self.name, self.numbered(name)), &link).expect("a link");
        }
        self.issued = issued;
    }

    fn numbered(&self, name: FileName) -> String {
        name.as_str().replace(".pem", &format!("{}.pem", self.number))
    }

    /// `RENEWED_DOMAINS`.
    #[must_use]
    pub fn renewed_domains(&self) -> String {
        self.domains.join(" ")
    }
}

fn private_folder(path: &Path) {
    let _ = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
}
