//! Who else can change what the config names: said as warnings, or refused with `strict_modes`. Must not change anything.

use std::path::Path;

use certdeploy_common::fs::modes::{self, Guard};
use certdeploy_common::setting::{Complaint, Place, Problems};

use super::file::ServerFile;

/// Looks at the config `path`, the keys, and what is run as us.
pub(super) fn look(path: &Path, file: &ServerFile, problems: &mut Problems) {
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
    look("", Place::default(), path, Guard::Trusted);
    // Whether others can read it is looked at, whatever this setting says, when it is read.
    look("privkey_filename", file.privkey_filename.place, &file.privkey_filename.value, Guard::Trusted);
    for (key, given, guard) in [
        ("privkey_passphrase_filename", &file.privkey_passphrase_filename, Guard::Trusted),
        ("privkey_cert_filename", &file.privkey_cert_filename, Guard::Trusted),
        ("known_hosts", &file.known_hosts, Guard::Trusted),
        ("client_config_directory", &file.client_config_directory, Guard::Trusted),
        ("renew_exec", &file.renew_exec, Guard::Trusted),
    ] {
        if let Some(path) = &given.value {
            look(key, given.place, path, guard);
        }
    }
    for target in &file.client_configs.value {
        if let Some(path) = &target.value.pubkey_filename.value {
            look("pubkey_filename", target.value.pubkey_filename.place, path, Guard::Trusted);
        }
    }
}
