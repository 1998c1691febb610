//! Who may log in: a pusher's name with its key, by signature. Pure.

use russh::keys::PublicKey;
use russh::server::Auth;

use crate::config::pushers::Pusher;

/// The pusher that this is, and which of them. The comment of a key is nobody's proof, so only the key itself is compared.
#[must_use]
pub fn find<'a>(user: &str, key: &PublicKey, pushers: &'a [Pusher]) -> Option<(usize, &'a Pusher)> {
    let mut all = pushers.iter().enumerate();
    all.find(|(_, pusher)| user == pusher.username && key.key_data() == pusher.key.key_data())
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
    use crate::config::pushers::Scope;

    #[test]
    fn name_and_key_must_both_be_right() {
        let one = parse_public("AAAAC3NzaC1lZDI1NTE5AAAAIP+H3Nk/9uSa7LHNt8fvCPKKkNFnVE5SGC5tnthf6/OK a").unwrap();
        let same = parse_public("AAAAC3NzaC1lZDI1NTE5AAAAIP+H3Nk/9uSa7LHNt8fvCPKKkNFnVE5SGC5tnthf6/OK b").unwrap();
        let other = parse_public("AAAAC3NzaC1lZDI1NTE5AAAAIEuhX3Q690lnBhpfGHOs0j4CuCxE3E3jekWehvHRmVKt").unwrap();
        let pusher =
            |username: &str, key: &PublicKey, scope| Pusher { username: username.to_owned(), key: key.clone(), scope };
        let only = Scope::Only(["a.example".parse().unwrap()].into());
        let pushers = [pusher("certdeploy", &one, Scope::All), pusher("second", &other, only.clone())];
        let scope = |user, key| find(user, key, &pushers).map(|(_, pusher)| pusher.scope.clone());
        assert_eq!(scope("certdeploy", &same), Some(Scope::All));
        assert_eq!(scope("second", &other), Some(only));
        assert_eq!(scope("root", &same), None);
        assert_eq!(scope("certdeploy", &other), None);
        assert_eq!(scope("second", &one), None);
    }
}
