//! Acts on the steps of [`mod@super::plan`]: the only file that writes below `destination`. Decides nothing.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use certdeploy_common::cert::{Bundle, FileName};
use certdeploy_common::fs::atomic;

use super::plan::Step;
use super::state::{DATA, RECORD, Record, generation_name};
use crate::config::Permissions;

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
    let work = Work { directory, content, permissions };
    if !steps.contains(&Step::MakeDirectory) {
        permissions.adopt_directory(directory).map_err(failed("set mode or owner of", directory))?;
    }
    steps.iter().try_for_each(|step| work.step(step))
}

struct Work<'a> {
    directory: &'a Path,
    content: &'a Content<'a>,
    permissions: &'a Permissions,
}

impl Work<'_> {
    fn step(&self, step: &Step) -> Result<(), ApplyError> {
        match step {
            Step::MakeDirectory => self
                .permissions
                .make_directory(self.directory)
                .and_then(|()| self.directory.parent().map_or(Ok(()), atomic::sync_directory))
                .map_err(failed("make", self.directory)),
            Step::Keep { number, names } => self.generation(*number, |path| self.keep(path, names)),
            Step::Write { number } => self.generation(*number, |path| self.write(path)),
            Step::Switch { number } => self.place(DATA, Path::new(&generation_name(*number)), "switch"),
            Step::Link(name) => self.place(name.as_str(), &Path::new(DATA).join(name.as_str()), "link"),
            Step::Unlink(name) => {
                let path = self.directory.join(name.as_str());
                std::fs::remove_file(&path).map_err(failed("remove", &path))
            }
            Step::Remove(number) => {
                let path = self.directory.join(generation_name(*number));
                // Tidying up comes after the swap: it may fail, the deployment has not.
                if let Err(error) = std::fs::remove_dir_all(&path) {
                    tracing::warn!("Cannot remove the old generation `{}`: {error}", path.display());
                }
                Ok(())
            }
        }
    }

    fn write(&self, generation: &Path) -> Result<(), ApplyError> {
        for (name, bytes) in self.content.files.files() {
            let path = generation.join(name.as_str());
            self.permissions.write(&path, self.permissions.mode(name), bytes).map_err(failed("write", &path))?;
        }
        let path = generation.join(RECORD);
        let record = serde_json::to_vec(self.content.record).map_err(|e| failed("write", &path)(e.into()))?;
        let private = certdeploy_common::setting::mode::Mode::new(0o600);
        self.permissions.write(&path, private, &record).map_err(failed("write", &path))
    }

    /// Follows links: what a reader sees under the name now is what is kept.
    fn keep(&self, generation: &Path, names: &[FileName]) -> Result<(), ApplyError> {
        for name in names {
            let from = self.directory.join(name.as_str());
            let bytes = match std::fs::read(&from) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                bytes => zeroize::Zeroizing::new(bytes.map_err(failed("read", &from))?),
            };
            let path = generation.join(name.as_str());
            self.permissions.write(&path, self.permissions.mode(*name), &bytes).map_err(failed("write", &path))?;
        }
        Ok(())
    }

    /// Makes a generation, has it filled, and syncs it; one that cannot be filled is removed again.
    fn generation(&self, number: u64, fill: impl FnOnce(&Path) -> Result<(), ApplyError>) -> Result<(), ApplyError> {
        let path = self.directory.join(generation_name(number));
        self.permissions.make_directory(&path).map_err(failed("make", &path))?;
        let sync = |()| {
            atomic::sync_directory(&path)
                .and_then(|()| atomic::sync_directory(self.directory))
                .map_err(failed("sync", &path))
        };
        fill(&path).and_then(sync).inspect_err(|_| {
            // Best effort: the next deployment removes what is left of it.
            let _ = std::fs::remove_dir_all(&path);
        })
    }

    /// Puts a symlink in place of whatever is there, in one rename.
    fn place(&self, name: &str, target: &Path, action: &'static str) -> Result<(), ApplyError> {
        let path = self.directory.join(name);
        let temporary = self.directory.join(format!(".{name}.new"));
        let _ = std::fs::remove_file(&temporary);
        symlink(target, &temporary).and_then(|()| atomic::rename(&temporary, &path)).map_err(failed(action, &path))
    }
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> ApplyError + use<'a> {
    move |source| ApplyError { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use certdeploy_common::setting::mode::Mode;

    use super::super::plan::{Retention, plan};
    use super::super::state::State;
    use super::*;

    const USUAL: Permissions =
        Permissions { key: Mode::new(0o600), certificate: Mode::new(0o644), directory: None, owner: None, group: None };

    fn bundle(mark: &str) -> Bundle {
        let mut bundle = Bundle::default();
        for name in [FileName::Fullchain, FileName::Privkey] {
            bundle.insert(name, format!("{mark} {name}").into_bytes().into());
        }
        bundle
    }

    fn deploy(directory: &Path, mark: &str) -> u64 {
        let files = bundle(mark);
        let record = Record {
            digest: files.digest(),
            files: files.names(),
            serial: String::new(),
            not_before: 0,
            not_after: 0,
            names: std::collections::BTreeSet::new(),
        };
        let state = State::read(directory).unwrap();
        let (number, steps) = plan(&state, &files.names(), Retention { keep: 2, min_age: 0 }, i64::MAX);
        apply(directory, &steps, &Content { files: &files, record: &record }, &USUAL).unwrap();
        number
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
    fn a_failure_leaves_what_was_current() {
        let temp = tempfile::tempdir().unwrap();
        let directory = temp.path().join("example.com");
        deploy(&directory, "a");
        let steps = [Step::Write { number: 1 }];
        let files = bundle("b");
        let record = State::read(&directory).unwrap().current.unwrap().record.unwrap();
        let content = Content { files: &files, record: &record };
        let error = apply(&directory.join("nowhere"), &steps, &content, &USUAL).unwrap_err();
        assert!(error.to_string().contains("nowhere"), "{error}");
        assert_eq!(std::fs::read_to_string(directory.join("privkey.pem")).unwrap(), "a privkey.pem");
    }
}
