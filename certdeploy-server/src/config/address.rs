//! `address` of a target: one host name or IP address, and what to write instead of everything else that people put
//! there. Pure: it asks no resolver.

use std::net::Ipv6Addr;

use certdeploy_common::setting::{Complaint, Located, Problems};

/// The host as the resolver wants it, without brackets; what is wrong goes to `problems`.
pub fn address(written: &Located<String>, problems: &mut Problems) -> Option<String> {
    let text = written.value.trim();
    let host = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if is_ipv6(host) || (host == text && is_name(host)) {
        return Some(host.to_owned());
    }
    let must = format!("be one host name or IP address{}", instead(text));
    problems.error(Complaint::value(written.place, &written.value, "address", &must));
    None
}

fn is_ipv6(text: &str) -> bool {
    // `fe80::1%eth0`: the zone is the resolver's business.
    text.split('%').next().is_some_and(|address| address.parse::<Ipv6Addr>().is_ok())
}

fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    (1..=253).contains(&name.len()) && name.split('.').all(label)
}

/// What was probably meant, as the end of the sentence.
fn instead(text: &str) -> String {
    if let Some((_, rest)) = text.split_once("://") {
        let host = rest.split('/').next().unwrap_or_default();
        return format!(", not a URL{}", better(host));
    }
    if let Some((user, host)) = text.rsplit_once('@').filter(|(user, _)| is_name(user)) {
        return format!(": write `username: {user}`{}", better(host).replacen(": write", " and", 1));
    }
    if !text.is_ascii() {
        return " in ASCII: write an international name as `xn--...`".to_owned();
    }
    if text.contains(['*', ',']) || text.split_whitespace().count() > 1 {
        return ": write one entry for each host".to_owned();
    }
    better(text)
}

fn better(text: &str) -> String {
    let parts = text.strip_prefix('[').and_then(|rest| rest.split_once("]:")).or_else(|| text.rsplit_once(':'));
    match parts {
        Some((host, port)) if (is_name(host) || is_ipv6(host)) && port.parse::<u16>().is_ok() => {
            format!(": write `address: {host}` and `port: {port}`")
        }
        _ if is_name(text) => format!(": write `address: {text}`"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use certdeploy_common::setting::Place;

    use super::*;

    fn read(text: &str) -> Result<String, String> {
        let mut problems = Problems::default();
        let read = address(&Located { value: text.to_owned(), place: Place::default() }, &mut problems);
        read.ok_or_else(|| problems.errors.remove(0).message)
    }

    #[test]
    fn names_and_addresses_are_taken() {
        for (text, want) in [
            ("1.2.3.4", "1.2.3.4"),
            ("web1", "web1"),
            ("web_1.example.com.", "web_1.example.com."),
            ("::1", "::1"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("fe80::1%eth0", "fe80::1%eth0"),
            (" h ", "h"),
        ] {
            assert_eq!(read(text), Ok(want.to_owned()), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused_with_what_to_write_instead() {
        for (text, want) in [
            ("", "must be one host name or IP address."),
            ("   ", "must be one host name or IP address."),
            ("https://web1.example/", "not a URL: write `address: web1.example`."),
            ("sftp://web1:2222/x", "not a URL: write `address: web1` and `port: 2222`."),
            ("web1:2222", "IP address: write `address: web1` and `port: 2222`."),
            ("[::1]:2222", "write `address: ::1` and `port: 2222`."),
            ("root@web1", "write `username: root` and `address: web1`."),
            ("root@web1:22", "write `username: root` and `address: web1` and `port: 22`."),
            ("a b", "write one entry for each host."),
            ("a,b", "write one entry for each host."),
            ("b\u{fc}cher.example", "write an international name as `xn--...`."),
            ("<your client ip or hostname>", "write one entry for each host."),
            ("-oProxyCommand=x", "must be one host name or IP address."),
            ("/etc/passwd", "must be one host name or IP address."),
            ("a..b", "must be one host name or IP address."),
        ] {
            let message = read(text).unwrap_err();
            assert!(message.ends_with(want) && message.starts_with("Invalid value "), "{text}: {message}");
        }
    }
}
