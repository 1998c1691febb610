//! Relative paths in the config: where they lead, said aloud. The hook, the daemon and a person in a shell start in
//! different directories and must mean the same file. Looks whether files exist; opens none.

use std::path::{Path, PathBuf};

use certdeploy_common::setting::{Complaint, Located, Place, Problems};

use super::file::{ServerFile, TargetFile};

/// Makes the paths of `server.yml` (its name is `file`) absolute.
pub fn of_server(file: &Path, written: &mut ServerFile, problems: &mut Problems) {
    let ServerFile {
        privkey_filename,
        privkey_passphrase_filename,
        privkey_cert_filename,
        ssh_agent,
        known_hosts,
        client_config_directory,
        renew_exec,
        queue_dir,
        live_directory,
        ..
    } = written;
    required(file, "privkey_filename", privkey_filename, problems);
    required(file, "queue_dir", queue_dir, problems);
    required(file, "live_directory", live_directory, problems);
    let optional = [
        ("privkey_passphrase_filename", privkey_passphrase_filename),
        ("privkey_cert_filename", privkey_cert_filename),
        ("ssh_agent", ssh_agent),
        ("known_hosts", known_hosts),
        ("client_config_directory", client_config_directory),
        ("renew_exec", renew_exec),
    ];
    for (key, path) in optional {
        maybe(file, key, path, problems);
    }
    for entry in &mut written.client_configs.value {
        of_target(file, &mut entry.value, problems);
    }
}

/// Makes the paths of an entry of `client_configs` absolute; `file` is the one it stands in.
pub fn of_target(file: &Path, entry: &mut TargetFile, problems: &mut Problems) {
    maybe(file, "pubkey_filename", &mut entry.pubkey_filename, problems);
}

fn required(file: &Path, key: &str, path: &mut Located<PathBuf>, problems: &mut Problems) {
    path.value = said(file, key, path.place, &path.value, problems);
}

fn maybe(file: &Path, key: &str, path: &mut Located<Option<PathBuf>>, problems: &mut Problems) {
    path.value = path.value.take().map(|value| said(file, key, path.place, &value, problems));
}

fn said(file: &Path, key: &str, place: Place, path: &Path, problems: &mut Problems) -> PathBuf {
    if path.starts_with("~") {
        let must = "be a whole path: `~` is not expanded";
        problems.error(Complaint::value(place, &path.display().to_string(), key, must));
    }
    let absolute = absolute(file, key, path);
    if absolute != path {
        problems.warn(place, format!("`{key}` is relative; it is taken as `{}`", absolute.display()));
    }
    absolute
}

/// What a path in `file` means: it is looked for beside the file, then, as certdeploy 0.5 did, from the working
/// directory. The queue is only beside the file: it must be one and the same for all. A program's bare name stays, it
/// is looked up in `PATH`.
#[must_use]
pub fn absolute(file: &Path, key: &str, path: &Path) -> PathBuf {
    if path.is_absolute() || (key == "renew_exec" && path.components().count() == 1 && !path.starts_with(".")) {
        return path.to_owned();
    }
    let whole = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    let beside = whole(file.parent().unwrap_or(Path::new("")).join(path));
    let here = whole(path.to_owned());
    if key != "queue_dir" && !beside.exists() && here.exists() { here } else { beside }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_path_is_beside_the_config_first() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("server.yml");
        let is = |key: &str, path: &str, want: PathBuf| assert_eq!(absolute(&file, key, Path::new(path)), want);
        is("privkey_filename", "server_key", dir.path().join("server_key"));
        is("privkey_filename", "/etc/key", "/etc/key".into());
        is("renew_exec", "certbot", "certbot".into());
        is("renew_exec", "bin/certbot", dir.path().join("bin/certbot"));
        // The working directory of a test is its crate's.
        let here = std::env::current_dir().unwrap();
        is("privkey_filename", "Cargo.toml", here.join("Cargo.toml"));
        is("queue_dir", "src", dir.path().join("src"));
        std::fs::write(dir.path().join("Cargo.toml"), "").unwrap();
        is("privkey_filename", "Cargo.toml", dir.path().join("Cargo.toml"));
    }
}
