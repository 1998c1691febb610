//! Sets of files that come one after another for one lineage, as a plain sshd or plain peers put them, and what readers
//! find after each pass. Must not know what is right.

use std::path::PathBuf;

use certdeploy_common::cert::FileName;
use certdeploy_common::cert::FileName::{Cert, Chain, Fullchain, Privkey};

use crate::World;
use crate::ca::{Issued, Validity};
use crate::pass::Pass;
use crate::process::{Ran, run};

/// All files of a lineage.
pub const ALL: [FileName; 4] = [Cert, Chain, Fullchain, Privkey];

/// A lineage, its issuer, and one pass after another over what is put into staging.
pub struct Sets {
    /// Its issuer.
    pub world: World,
    /// The passes.
    pub pass: Pass,
    /// The names of the lineage.
    pub names: Vec<String>,
    issues: u32,
}

impl Sets {
    /// One with nothing in staging.
    ///
    /// # Panics
    /// The disk is full.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let world = World::new();
        let lineage = world.lineage("a.example", &["a.example"]);
        let pass = Pass::over(&world, &lineage, name);
        let scene = Self { world, pass, names: lineage.domains, issues: 1 };
        scene.unstage();
        scene
    }

    /// Another certificate with another key.
    ///
    /// # Panics
    /// The disk is full.
    #[must_use]
    pub fn issue(&mut self) -> Issued {
        self.issues += 1;
        self.world.ca.issue(&self.names, Validity::usual(self.issues))
    }

    /// Another certificate with the same key.
    ///
    /// # Panics
    /// The disk is full.
    #[must_use]
    pub fn issue_again(&mut self, earlier: &Issued) -> Issued {
        self.issues += 1;
        self.world.ca.issue_again(earlier, &self.names, Validity::usual(self.issues))
    }

    /// Takes everything out of staging.
    ///
    /// # Panics
    /// The disk is full.
    pub fn unstage(&self) {
        let _ = std::fs::remove_dir_all(self.pass.path("staging/a.example"));
    }

    /// Puts files of a set into staging.
    ///
    /// # Panics
    /// The disk is full.
    pub fn stage(&self, issued: &Issued, names: &[FileName]) {
        for name in names {
            self.put(*name, issued.file(*name));
        }
    }

    /// Puts a text into staging.
    ///
    /// # Panics
    /// The disk is full.
    pub fn put(&self, name: FileName, text: &str) {
        let folder = self.pass.path("staging/a.example");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name.as_str()), text).unwrap();
    }

    /// What a program without generations left: plain files.
    ///
    /// # Panics
    /// The disk is full.
    pub fn left_plain(&self, issued: &Issued, names: &[FileName]) {
        let folder = self.pass.path("certs/a.example");
        std::fs::create_dir_all(&folder).unwrap();
        for name in names {
            std::fs::write(folder.join(name.as_str()), issued.file(*name)).unwrap();
        }
    }

    /// A complete upload of a plain peer that waits in staging; those with higher numbers are newer.
    ///
    /// # Panics
    /// The disk is full.
    pub fn upload(&self, number: u8, files: &[(FileName, &str)]) -> PathBuf {
        let folder = self.pass.path("staging/.incoming").join(format!(".plain-{number:032x}-a.example"));
        std::fs::create_dir_all(&folder).unwrap();
        for (name, text) in files {
            std::fs::write(folder.join(name.as_str()), text).unwrap();
        }
        folder
    }

    /// One pass, with these lines in `client.yml`.
    ///
    /// # Panics
    /// The disk is full.
    #[must_use]
    pub fn pass(&self, lines: &str) -> Ran {
        run(self.pass.command(lines))
    }

    /// What readers find behind a name.
    ///
    /// # Panics
    /// The disk is full.
    #[must_use]
    pub fn file(&self, name: FileName) -> Option<String> {
        std::fs::read_to_string(self.place(name)).ok()
    }

    /// Where readers look.
    ///
    /// # Panics
    /// The disk is full.
    #[must_use]
    pub fn place(&self, name: FileName) -> PathBuf {
        self.pass.path("certs/a.example").join(name.as_str())
    }

    /// Readers find just these files of a set.
    ///
    /// # Panics
    /// The disk is full.
    #[track_caller]
    pub fn holds(&self, issued: &Issued, names: &[FileName]) {
        for name in ALL {
            let want = names.contains(&name).then(|| issued.file(name).to_owned());
            assert_eq!(self.file(name), want, "{name}");
        }
    }
}
