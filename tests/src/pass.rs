//! One pass of the client over a lineage that lies in its staging directory, with these updates.

use std::path::PathBuf;
use std::process::Command;

use crate::process::{binary, command};
use crate::{Lineage, World};

/// Where everything of a pass is.
#[derive(Debug)]
pub struct Pass {
    folder: PathBuf,
}

impl Pass {
    /// Puts the lineage's files into staging, as a plain sshd would have.
    ///
    /// # Panics
    /// The disk is full.
    #[must_use]
    pub fn over(world: &World, lineage: &Lineage, name: &str) -> Self {
        let folder = world.path(&format!("pass-{name}"));
        let staged = folder.join("staging").join(&lineage.name);
        std::fs::create_dir_all(&staged).expect("a folder");
        std::fs::create_dir_all(folder.join("certs")).expect("a folder");
        for file in ["fullchain.pem", "privkey.pem"] {
            std::fs::copy(lineage.live.join(file), staged.join(file)).expect("copy");
        }
        Self { folder }
    }

    /// A path of it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The command, with these lines in `client.yml`.
    ///
    /// # Panics
    /// The disk is full.
    #[must_use]
    pub fn command(&self, lines: &str) -> Command {
        let config = self.path("client.yml");
        let text = format!(
            "source: {f}/staging\ndestination: {f}/certs\nlog_level: DEBUG\n{lines}",
            f = self.folder.display()
        );
        std::fs::write(&config, text).expect("write client.yml");
        let mut client = command(binary("certdeploy-client"));
        client.arg("--config").arg(&config);
        client
    }
}
