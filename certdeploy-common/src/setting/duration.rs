//! Lengths of time as configs write them: seconds (`30`, `1.5`) and the `1h30m` form of `update_delay`. Pure.

use std::time::Duration;

use super::number;

/// The longest time that is meant seriously, in seconds: thirty years. What is longer is cut to it, so that no clock
/// overflows.
const LONGEST: f64 = 1e9;

/// Reads `<number><w|d|h|m|s>` pairs, decimals allowed, summed and cut to whole seconds, as `update_delay` has it.
///
/// The Python program looked for pairs anywhere in the text, so `10min`, `1h, 30m` and `2 hours and 5m` worked there and
/// work here. What it made of `junk5sjunk` (5 s), `1 month` (a minute) or `1h30` (an hour) nobody meant: refused.
#[must_use]
pub fn pairs(text: &str) -> Option<Duration> {
    let mut total = 0.0_f64;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let after = after.trim_start();
        let (word, after) = after.split_at(after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len()));
        total += number.parse::<f64>().ok()? * unit(word)?;
        rest = after.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '+' | '&'));
        if let Some(after) = rest.strip_prefix("and").filter(|after| after.starts_with(char::is_whitespace)) {
            rest = after.trim_start();
        }
    }
    Duration::try_from_secs_f64(total.trunc().min(LONGEST)).ok()
}

fn unit(word: &str) -> Option<f64> {
    match word.to_ascii_lowercase().as_str() {
        "w" | "wk" | "wks" | "week" | "weeks" => Some(604_800.0),
        "d" | "day" | "days" => Some(86_400.0),
        "h" | "hr" | "hrs" | "hour" | "hours" => Some(3_600.0),
        "m" | "min" | "mins" | "minute" | "minutes" => Some(60.0),
        "s" | "sec" | "secs" | "second" | "seconds" => Some(1.0),
        _ => None,
    }
}

/// Reads a non-negative number of seconds, whole or not.
#[must_use]
pub fn seconds(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(number::decimal(text)?.min(LONGEST)).ok()
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
            ("10min", Some(600)),
            ("1h, 30m", Some(5400)),
            ("1h,30m", Some(5400)),
            ("1 week + 2 Days; 3hrs & 4 secs", Some(788_404)),
            ("2 hours and 5 minutes", Some(7500)),
            ("99999999999w", Some(1_000_000_000)),
            ("1 month", None),
            ("500ms", None),
            ("1h30", None),
            ("1h-30m", None),
            ("-5m", None),
            ("1,5h", None),
            ("1h and", None),
            ("in 5m", None),
        ];
        for (text, want) in cases {
            assert_eq!(pairs(text).map(|d| d.as_secs()), want, "{text}");
        }
    }
}
