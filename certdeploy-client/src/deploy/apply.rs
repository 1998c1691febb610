//! Acts on the steps of [`mod@super::plan`]: the only file that writes below `destination`. Decides nothing.

use std::io;
use std::path::{Path, PathBuf};

use certdeploy_common::cert::{Bundle, FileName};
use certdeploy_common::fs::atomic;

use super::plan::Step;
use super::record::Record;
use super::seen;
use super::state::{DATA, RECORD, generation_name};
use crate::config::Permissions;
use crate::dir::Dir;

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{}`: {source}", path.display())]
pub struct ApplyError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// What is written by [`Step::Write`].
#[derive(Debug)]
pub struct Content<'a> {
    /// The files.
    pub files: &'a Bundle,
    /// What is known of them.
    pub record: &'a Record,
    /// What is known of what [`Step::Keep`] finds, if it makes a whole set: only then it can be gone back to.
    pub kept: Option<&'a Record>,
}

/// Runs the steps in `directory`. When one fails, what was current before still is, and the unfinished generation
/// is removed.
///
/// # Errors
/// The first step that fails.
pub fn apply(
    directory: &Path,
    steps: &[Step],
    content: &Content<'_>,
    permissions: &Permissions,
) -> Result<(), ApplyError> {
    let made = steps.contains(&Step::MakeDirectory);
    if made {
        make(directory, permissions).map_err(failed("make", directory))?;
    }
    let held = Dir::open(directory).map_err(failed("open", directory))?;
    if !made {
        permissions.adopt(&held).map_err(failed("set mode or owner of", directory))?;
    }
    let work = Work { directory, held, content, permissions };
    steps.iter().try_for_each(|step| work.step(step))
}

fn make(directory: &Path, permissions: &Permissions) -> io::Result<()> {
    atomic::create_directory(directory, 0o700)?;
    permissions.release(&Dir::open(directory)?)
}

/// The lineage's directory is held open, and everything in it is done below that descriptor: it may be configured to
/// belong to somebody who must not be able to lead us elsewhere.
struct Work<'a> {
    directory: &'a Path,
    held: Dir,
    content: &'a Content<'a>,
    permissions: &'a Permissions,
}

impl Work<'_> {
    fn step(&self, step: &Step) -> Result<(), ApplyError> {
        match step {
            // Done before the directory could be held.
            Step::MakeDirectory => Ok(()),
            Step::Keep { number, names } => self.generation(*number, |to| self.keep(to, names)),
            Step::Write { number } => self.generation(*number, |to| self.write(to)),
            Step::Switch { number } => self.place(DATA, &generation_name(*number), "switch"),
            Step::Link(name) => self.place(name.as_str(), &format!("{DATA}/{name}"), "link"),
            Step::Unlink(name) => {
                self.held.remove_file(name.as_str()).map_err(|e| self.failed("remove", name.as_str())(e))
            }
            Step::Remove(number) => {
                let name = generation_name(*number);
                // Tidying up comes after the swap: it may fail, the deployment has not.
                if let Err(error) = self.held.remove_tree(&name) {
                    tracing::warn!(
                        "Cannot remove the old generation `{}`: {error}",
                        self.directory.join(name).display()
                    );
                }
                Ok(())
            }
        }
    }

    fn write(&self, to: &Dir) -> Result<(), ApplyError> {
        for (name, bytes) in self.content.files.files() {
            self.permissions.write(to, name, bytes).map_err(self.failed("write", name.as_str()))?;
        }
        self.note(to, self.content.record)
    }

    fn note(&self, to: &Dir, record: &Record) -> Result<(), ApplyError> {
        let record = serde_json::to_vec(record).map_err(|e| self.failed("write", RECORD)(e.into()))?;
        self.permissions.note(to, RECORD, &record).map_err(self.failed("write", RECORD))
    }

    /// What a reader sees under the name now is what is kept.
    fn keep(&self, to: &Dir, names: &[FileName]) -> Result<(), ApplyError> {
        for name in names {
            let seen = seen::file(self.directory, &self.held, *name);
            let seen = seen.map_err(|unkept| self.failed("keep", name.as_str())(io::Error::other(unkept)))?;
            let Some(bytes) = seen else { continue };
            self.permissions.write(to, *name, &bytes).map_err(self.failed("write", name.as_str()))?;
        }
        self.content.kept.map_or(Ok(()), |record| self.note(to, record))
    }

    /// Makes a generation, has it filled, and syncs it; one that cannot be filled is removed again.
    fn generation(&self, number: u64, fill: impl FnOnce(&Dir) -> Result<(), ApplyError>) -> Result<(), ApplyError> {
        let name = generation_name(number);
        let to = self.held.make(&name).map_err(self.failed("make", &name))?;
        let release = |()| {
            let synced = self.permissions.release(&to).and_then(|()| to.sync()).and_then(|()| self.held.sync());
            synced.map_err(self.failed("sync", &name))
        };
        fill(&to).and_then(release).inspect_err(|_| {
            // Best effort: the next deployment removes what is left of it.
            let _ = self.held.remove_tree(&name);
        })
    }

    fn place(&self, name: &str, target: &str, action: &'static str) -> Result<(), ApplyError> {
        self.held.place_link(name, target).map_err(self.failed(action, name))
    }

    fn failed(&self, action: &'static str, name: &str) -> impl FnOnce(io::Error) -> ApplyError + use<> {
        let path = self.directory.join(name);
        move |source| ApplyError { action, path, source }
    }
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> ApplyError + use<'a> {
    move |source| ApplyError { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::plan::{Retention, plan};
    use super::super::state::State;
    use super::*;

    const USUAL: Permissions = Permissions::USUAL;

    fn bundle(mark: &str) -> Bundle {
        let mut bundle = Bundle::default();
        for name in [FileName::Fullchain, FileName::Privkey] {
            bundle.insert(name, format!("{mark} {name}").into_bytes().into());
        }
        bundle
    }

    fn deploy(directory: &Path, mark: &str) -> u64 {
        try_deploy(directory, mark).unwrap()
    }

    fn try_deploy(directory: &Path, mark: &str) -> Result<u64, ApplyError> {
        let files = bundle(mark);
        let record = Record {
            digest: files.digest(),
            files: files.names(),
            serial: String::new(),
            not_before: 0,
            not_after: 0,
            names: std::collections::BTreeSet::new(),
            all: None,
            permissions: None,
            instead: None,
        };
        let state = State::read(directory).unwrap();
        let (number, steps) = plan(&state, &files.names(), Retention { keep: 2, min_age: 0 }, i64::MAX);
        apply(directory, &steps, &Content { files: &files, record: &record, kept: None }, &USUAL)?;
        Ok(number)
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn generations_follow_each_other_and_old_ones_go() {
        let temp = tempfile::tempdir().unwrap();
        let directory = temp.path().join("example.com");
        for (number, mark) in [(1, "a"), (2, "b"), (3, "c")] {
            assert_eq!(deploy(&directory, mark), number);
            let key = std::fs::read_to_string(directory.join("privkey.pem")).unwrap();
            assert_eq!(key, format!("{mark} privkey.pem"));
        }
        let state = State::read(&directory).unwrap();
        assert_eq!(state.generations.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [2, 3]);
        assert!(state.current.unwrap().intact);
        assert_eq!(mode(&directory.join("privkey.pem")), 0o600);
        assert_eq!(mode(&directory.join("fullchain.pem")), 0o644);
        assert_eq!(mode(&directory), 0o755);
    }

    #[test]
    fn a_directory_of_the_python_program_is_taken_over_and_other_files_stay() {
        let temp = tempfile::tempdir().unwrap();
        let directory = temp.path().join("example.com");
        std::fs::create_dir(&directory).unwrap();
        for name in ["fullchain.pem", "privkey.pem", "README"] {
            std::fs::write(directory.join(name), format!("old {name}")).unwrap();
        }
        assert_eq!(deploy(&directory, "new"), 1);
        assert_eq!(std::fs::read_to_string(directory.join("fullchain.pem")).unwrap(), "new fullchain.pem");
        assert_eq!(std::fs::read_to_string(directory.join(".gen-0/privkey.pem")).unwrap(), "old privkey.pem");
        assert_eq!(std::fs::read_to_string(directory.join("README")).unwrap(), "old README");
    }

    #[test]
    fn who_owns_the_directory_cannot_have_us_copy_what_he_may_not_read() {
        let temp = tempfile::tempdir().unwrap();
        let directory = temp.path().join("example.com");
        deploy(&directory, "a");
        std::fs::write(temp.path().join("secret"), "not his").unwrap();
        let plant = |name: &str, target: &str| {
            let _ = std::fs::remove_file(directory.join(name));
            std::os::unix::fs::symlink(target, directory.join(name)).unwrap();
        };
        plant("privkey.pem", "../secret");
        deploy(&directory, "b");
        let kept = std::fs::read_to_string(directory.join(".gen-2/privkey.pem")).unwrap();
        assert_eq!(kept, "not his", "an administrator's link in our own directory is followed");
        plant("privkey.pem", "/dev/zero");
        let error = try_deploy(&directory, "c").unwrap_err().to_string();
        assert!(error.contains("is not a plain file"), "but only to a plain file: {error}");
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&directory, Some(65534), None).unwrap();
            plant("privkey.pem", "../secret");
            let error = try_deploy(&directory, "d").unwrap_err().to_string();
            assert!(error.contains("leads to `../secret`"), "somebody else's directory: {error}");
            assert!(directory.join("privkey.pem").is_symlink(), "it is not taken away");
            assert!(!directory.join(".gen-4").exists());
        }
        std::fs::remove_file(directory.join("privkey.pem")).unwrap();
        plant(".gen-18446744073709551615", "x");
        deploy(&directory, "e");
    }

    #[test]
    fn a_failure_leaves_what_was_current() {
        let temp = tempfile::tempdir().unwrap();
        let directory = temp.path().join("example.com");
        deploy(&directory, "a");
        let steps = [Step::Write { number: 1 }];
        let files = bundle("b");
        let record = State::read(&directory).unwrap().current.unwrap().record.unwrap();
        let content = Content { files: &files, record: &record, kept: None };
        let error = apply(&directory.join("nowhere"), &steps, &content, &USUAL).unwrap_err();
        assert!(error.to_string().contains("nowhere"), "{error}");
        assert_eq!(std::fs::read_to_string(directory.join("privkey.pem")).unwrap(), "a privkey.pem");
    }
}
