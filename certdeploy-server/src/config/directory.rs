//! `client_config_directory`: each file in it is one target.

use std::io;
use std::path::{Path, PathBuf};

use certdeploy_common::setting::list::read_section;
use certdeploy_common::setting::{Complaint, Located, Place, Problems, yaml};

use super::file::TargetFile;

/// Reads the targets of the directory, by the names of the files, so that every run sees the same order.
pub fn targets(directory: &Located<Option<PathBuf>>, problems: &mut Problems) -> Vec<Located<TargetFile>> {
    let Some(path) = &directory.value else { return Vec::new() };
    match files(path) {
        Ok(files) => files.into_iter().filter_map(|file| target(file, problems)).collect(),
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

fn target(path: PathBuf, problems: &mut Problems) -> Option<Located<TargetFile>> {
    let text = std::fs::read_to_string(&path);
    let file = problems.further(path);
    let place = Place { file, ..Place::default() };
    let text = text.map_err(|error| problems.error(Complaint::new(place, format!("cannot be read: {error}")))).ok()?;
    let node = yaml::parse_file(&text, file).map_err(|complaint| problems.error(complaint)).ok()?;
    let place = node.place;
    read_section(node, problems).map(|value| Located { value, place })
}
