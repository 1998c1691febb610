//! What the pusher of a staged push may upload, kept beside its files: the applier must know it even when the push is
//! found after a restart. The receiver writes it; no peer can name it.

use std::io::{self, Write};

use certdeploy_common::cert::Lineage;

use crate::config::pushers::Scope;
use crate::dir::{Dir, Unfit};

/// The file; a push of somebody who may upload everything has none.
const FILE: &str = "scope.json";

/// The largest such file, in bytes.
const LIMIT: u64 = 4 * 1024 * 1024;

/// Writes it into the directory of a push. It is on disk when this returns, though its name may not be.
///
/// # Errors
/// It exists, or the disk refuses.
pub fn write(push: &Dir, scope: &Scope) -> io::Result<()> {
    if *scope == Scope::All {
        return Ok(());
    }
    let mut file = push.create(FILE)?;
    file.write_all(&serde_json::to_vec(scope)?)?;
    file.sync_all()
}

/// Reads it back.
///
/// # Errors
/// It is not a plain file of `owners`, or not what [`write()`] writes.
pub fn read(push: &Dir, owners: &[u32]) -> Result<Scope, Unfit> {
    match push.read(FILE, LIMIT, owners) {
        Ok((bytes, _)) => serde_json::from_slice(&bytes).map_err(|error| Unfit::Io(error.into())),
        Err(Unfit::Missing) => Ok(Scope::All),
        Err(error) => Err(error),
    }
}

/// What a pusher hears that goes beyond it.
#[must_use]
pub fn refusal(lineage: &Lineage) -> String {
    format!("this pusher may not upload lineage {lineage}: it is not among the `lineages` of its `server_pubkey` entry")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_back_and_nothing_means_everything() {
        let temp = tempfile::tempdir().unwrap();
        let push = Dir::open(temp.path()).unwrap();
        let owners = [rustix::process::geteuid().as_raw()];
        write(&push, &Scope::All).unwrap();
        assert_eq!(read(&push, &owners).unwrap(), Scope::All);
        let only = Scope::Only(["a.example".parse().unwrap()].into());
        write(&push, &only).unwrap();
        assert_eq!(read(&push, &owners).unwrap(), only);
        std::fs::write(temp.path().join(FILE), "{").unwrap();
        assert!(read(&push, &owners).is_err());
    }
}
