//! Who else can change what the config names: said as warnings, or refused with `strict_modes`. Must not change anything.

use std::path::{Path, PathBuf};

use certdeploy_common::fs::modes::{self, Guard};
use certdeploy_common::setting::{Complaint, Place, Problems};

use super::file::{ClientFile, UpdateFile};
use super::kinds::UpdateType;
use super::updates;

/// Looks at the config `path`, the keys, and the executables that are run as us.
pub(super) fn look(path: &Path, file: &ClientFile, problems: &mut Problems) {
    let strict = file.strict_modes.value;
    let mut look = |key: &str, place: Place, path: &Path, guard| {
        for found in modes::look(path, guard) {
            let message = if key.is_empty() { found } else { format!("`{key}`: {found}") };
            if strict && !modes::is_mounted(path) {
                problems.error(Complaint::new(place, format!("Invalid config option: {message} (`strict_modes`)")));
            } else {
                problems.warn(place, message);
            }
        }
    };
    let sftpd = &file.sftpd.value;
    let guard = if sftpd.privkey.value.is_some() { Guard::Secret } else { Guard::Trusted };
    look("", Place::default(), path, guard);
    for (key, given, guard) in [
        // Whether others can read it is looked at, whatever this setting says, when it is read.
        ("privkey_filename", &sftpd.privkey_filename, Guard::Trusted),
        ("server_pubkey_filename", &sftpd.server_pubkey_filename, Guard::Trusted),
        ("docker_tls_ca", &file.docker_tls_ca, Guard::Trusted),
        ("docker_tls_cert", &file.docker_tls_cert, Guard::Trusted),
        ("docker_tls_key", &file.docker_tls_key, Guard::Secret),
        ("systemd_exec", &file.systemd_exec, Guard::Trusted),
        ("rc_service_exec", &file.rc_service_exec, Guard::Trusted),
    ] {
        if let Some(path) = &given.value {
            look(key, given.place, path, guard);
        }
    }
    for entry in &file.update_services.value {
        for (key, place, program) in executables(&entry.value) {
            look(key, place, &program, Guard::Trusted);
        }
    }
}

/// What an entry runs on this host.
fn executables(entry: &UpdateFile) -> Vec<(&'static str, Place, PathBuf)> {
    let script = entry.name.value.as_ref().filter(|_| entry.r#type.value == UpdateType::Script);
    let script = script.map(|name| ("name", entry.name.place, name.as_str()));
    let check = entry.check.value.first().and_then(|words| words.value.split_whitespace().next());
    let check = check.map(|program| ("check", entry.check.place, program));
    let program = |name: &Path| updates::executable(name).or_else(|| updates::present(name));
    let found = |(key, place, name): (_, _, &str)| Some((key, place, program(Path::new(name))?));
    [script, check].into_iter().flatten().filter_map(found).collect()
}
