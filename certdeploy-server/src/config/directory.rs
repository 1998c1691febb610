//! `client_config_directory`: each file in it is one target.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use certdeploy_common::fs::text;
use certdeploy_common::setting::list::read_section;
use certdeploy_common::setting::yaml::Node;
use certdeploy_common::setting::{Complaint, Located, Place, Problems, yaml};

use super::file::TargetFile;
use super::paths;

/// One file of the directory.
pub struct Further {
    /// Its path.
    pub path: PathBuf,
    /// What it says.
    pub node: Node,
}

/// Reads the targets of the directory.
pub fn targets(directory: &Located<Option<PathBuf>>, problems: &mut Problems) -> Vec<Located<TargetFile>> {
    let mut targets = Vec::new();
    for Further { path, node } in read(directory, problems) {
        let place = node.place;
        if let Some(mut value) = read_section::<TargetFile>(node, problems) {
            paths::of_target(&path, &mut value, problems);
            targets.push(Located { value, place });
        }
    }
    targets
}

/// Reads the directory's files by their names, so that every run sees the same order.
pub fn read(directory: &Located<Option<PathBuf>>, problems: &mut Problems) -> Vec<Further> {
    let Some(path) = &directory.value else { return Vec::new() };
    match files(path) {
        Ok(files) => files.into_iter().filter_map(|file| further(file, directory.place, problems)).collect(),
        Err(error) => {
            let rule = "`client_config_directory` must be a directory that exists";
            let message =
                format!("Invalid value \"{}\" for `client_config_directory`. {rule}: {error}", path.display());
            problems.error(Complaint::new(directory.place, message));
            Vec::new()
        }
    }
}

fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in directory.read_dir()? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

fn further(path: PathBuf, configured: Place, problems: &mut Problems) -> Option<Further> {
    if path.file_name().is_some_and(is_left_over) {
        problems.warn(configured, format!("`{}` looks like an editor's copy and is not read", path.display()));
        return None;
    }
    let read = text::read(&path);
    let file = problems.further(path.clone());
    let mut refuse = |line, column, why: String| problems.error(Complaint::new(Place { file, line, column }, why));
    let text = match read {
        Ok(text) => text,
        Err(error @ text::TextError::NotUtf8 { line, column, .. }) => {
            refuse(line, column, error.to_string());
            return None;
        }
        Err(text::TextError::Unreadable(error)) => {
            let rule =
                "each entry of `client_config_directory` must be a file with one target; only hidden ones are skipped";
            refuse(0, 0, format!("{error}; {rule}"));
            return None;
        }
    };
    yaml::parse_file(&text, file).map_err(|error| problems.error(error)).ok().map(|node| Further { path, node })
}

/// Whether an editor or a package manager left it: the same target as it was before.
fn is_left_over(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let ends = ["~", ".bak", ".orig", ".rej", ".swp", ".swo", ".tmp", ".rpmnew", ".rpmsave", ".rpmorig"];
    ends.iter().any(|end| name.ends_with(end))
        || [".dpkg-", ".ucf-"].iter().any(|part| name.contains(part))
        || (name.starts_with('#') && name.ends_with('#'))
}
