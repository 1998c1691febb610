//! Lengths of time as configs write them: seconds (`30`, `1.5`) and the `1h30m` form of `update_delay`. Pure.

use std::time::Duration;

use super::number;

/// Reads `<number><w|d|h|m|s>` pairs, decimals allowed, summed and cut to whole seconds, as `update_delay` has it.
///
/// Blanks between pairs are fine; anything else is not (the Python program found `5s` inside `junk5sjunk`).
#[must_use]
pub fn pairs(text: &str) -> Option<Duration> {
    let mut total = 0.0_f64;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let mut chars = after.trim_start().chars();
        let unit = match chars.next()?.to_ascii_lowercase() {
            'w' => 604_800.0,
            'd' => 86_400.0,
            'h' => 3_600.0,
            'm' => 60.0,
            's' => 1.0,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * unit;
        rest = chars.as_str().trim_start();
    }
    Duration::try_from_secs_f64(total.trunc()).ok()
}

/// Reads a non-negative number of seconds, whole or not. What is longer than thirty years is cut to that, so that no
/// clock overflows.
#[must_use]
pub fn seconds(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(number::decimal(text)?.min(1e9)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn update_delay_as_documented() {
        let cases = [
            ("1h", Some(3600)),
            ("1h30m", Some(5400)),
            ("1.5m 2s", Some(92)),
            ("2w1d", Some(1_296_000)),
            ("0s", Some(0)),
            ("junk5sjunk", None),
            ("5", None),
            ("", None),
            ("1x", None),
        ];
        for (text, want) in cases {
            assert_eq!(pairs(text).map(|d| d.as_secs()), want, "{text}");
        }
    }
}
