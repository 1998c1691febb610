//! Numbers as YAML 1.1 writes them, because existing configs were read so: `1_000`, `0x1F`, `0b11`, `+1`, `017`
//! (octal), `1:30` (base 60). Pure.

/// A whole number, signless or with `+`. `30.0` is 30, as tools that write JSON have it.
#[must_use]
pub fn whole(text: &str) -> Option<u64> {
    let text = text.strip_prefix('+').unwrap_or(text);
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let text = match text.split_once('.') {
        Some((whole, zeros)) if zeros.bytes().all(|byte| byte == b'0') => whole,
        Some(_) => return None,
        None => text,
    };
    if text.contains(':') {
        return base_60(text);
    }
    let digits = text.replace('_', "");
    let radix = |digits: &str, radix: u32| u64::from_str_radix(digits, radix).ok();
    match digits.as_bytes() {
        [b'0', b'x', ..] => radix(digits.get(2..)?, 16),
        [b'0', b'b', ..] => radix(digits.get(2..)?, 2),
        [b'0', b'o', ..] => radix(digits.get(2..)?, 8),
        // `08` is no octal number; YAML 1.1 took it as text, and text that is a number is a number here.
        [b'0', _, ..] => radix(&digits, 8).or_else(|| radix(&digits, 10)),
        _ => radix(&digits, 10),
    }
}

/// A number that is not negative, whole or not.
#[must_use]
pub fn decimal(text: &str) -> Option<f64> {
    if let Some(whole) = whole(text) {
        // What does not fit a float exactly is far beyond any length of time.
        #[expect(clippy::cast_precision_loss, reason = "no setting means such a number")]
        return Some(whole as f64);
    }
    let digits = text.strip_prefix('+').unwrap_or(text).replace('_', "");
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'));
    digits.parse().ok().filter(|number: &f64| plain && number.is_finite() && *number >= 0.0)
}

fn base_60(text: &str) -> Option<u64> {
    let mut parts = text.split(':');
    let first = parts.next()?.replace('_', "").parse::<u64>().ok()?;
    parts.try_fold(first, |sum, part| {
        let part = part.parse::<u64>().ok().filter(|part| *part < 60)?;
        sum.checked_mul(60)?.checked_add(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_in_every_spelling_of_yaml_1_1() {
        let cases = [
            ("0", Some(0)),
            ("12", Some(12)),
            ("+1", Some(1)),
            ("1_000", Some(1000)),
            ("0x1F", Some(31)),
            ("0b11", Some(3)),
            ("0o17", Some(15)),
            ("017", Some(15)),
            ("08", Some(8)),
            ("1:00", Some(60)),
            ("1:00:30", Some(3630)),
            ("30.0", Some(30)),
            ("30.", Some(30)),
            ("1:60", None),
            ("1.5", None),
            ("1e3", None),
            ("-1", None),
            ("", None),
            ("+", None),
            ("++1", None),
            ("_1", None),
            ("0x", None),
            ("ten", None),
            ("99999999999999999999", None),
        ];
        for (text, want) in cases {
            assert_eq!(whole(text), want, "{text}");
        }
    }

    #[test]
    fn decimals_are_finite_and_not_negative() {
        let cases =
            [("1.5", Some(1.5)), (".5", Some(0.5)), ("1.0e+3", Some(1000.0)), ("1:30", Some(90.0)), ("-0.1", None)];
        for (text, want) in cases.into_iter().chain([(".inf", None), ("inf", None), ("nan", None), ("1e999", None)]) {
            assert_eq!(decimal(text), want, "{text}");
        }
    }
}
