//! Who may log in: one name, one key, by signature. Pure.

use russh::keys::PublicKey;
use russh::server::Auth;

/// Whether this is the pusher. The comment of a key is nobody's proof, so only the key itself is compared.
#[must_use]
pub fn is_pusher(user: &str, key: &PublicKey, username: &str, pusher: &PublicKey) -> bool {
    user == username && key.key_data() == pusher.key_data()
}

/// The library's words.
#[must_use]
pub fn verdict(allowed: bool) -> Auth {
    if allowed { Auth::Accept } else { Auth::reject() }
}

#[cfg(test)]
mod tests {
    use certdeploy_common::ssh::key::parse_public;

    use super::*;

    #[test]
    fn name_and_key_must_both_be_right() {
        let one = parse_public("AAAAC3NzaC1lZDI1NTE5AAAAIP+H3Nk/9uSa7LHNt8fvCPKKkNFnVE5SGC5tnthf6/OK a").unwrap();
        let same = parse_public("AAAAC3NzaC1lZDI1NTE5AAAAIP+H3Nk/9uSa7LHNt8fvCPKKkNFnVE5SGC5tnthf6/OK b").unwrap();
        let other = parse_public("AAAAC3NzaC1lZDI1NTE5AAAAIEuhX3Q690lnBhpfGHOs0j4CuCxE3E3jekWehvHRmVKt").unwrap();
        assert!(is_pusher("certdeploy", &same, "certdeploy", &one));
        assert!(!is_pusher("root", &same, "certdeploy", &one));
        assert!(!is_pusher("certdeploy", &other, "certdeploy", &one));
    }
}
