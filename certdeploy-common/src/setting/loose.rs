//! Types of settings that have several spellings because the Python program did not look closely: what stood for a number
//! or a truth there does so here, with a warning where it can hardly be meant. Pure.

use std::time::Duration;

use super::place::{Complaint, Problems};
use super::value::{Kind, Value, scalar, whole};
use super::yaml::{Content, Node};
use super::{duration, number};

fn switch(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" | "1" => Some(true),
        "false" | "no" | "off" | "n" | "0" => Some(false),
        _ => None,
    }
}

fn is_quoted(node: &Node) -> bool {
    matches!(node.content, Content::Scalar { quoted: true, .. })
}

/// true or false, in any YAML 1.1 spelling, quoted or not. Nothing is false and any other number than 0 is true, as it was
/// for the Python program.
#[derive(Debug)]
pub struct Switch;
impl Value for Switch {
    type Out = bool;
    const KIND: Kind = Kind {
        name: "true or false",
        expected: "be true or false",
        valid: &["true", "no", "On", "'yes'", "1", "5"],
        invalid: &["maybe", "'2'", "{}"],
        inside: None,
    };
    fn read(key: &str, node: Node, problems: &mut Problems) -> Result<bool, Complaint> {
        if matches!(node.content, Content::Null) {
            problems.warn(node.place, format!("`{key}` has no value; it is taken as false"));
            return Ok(false);
        }
        let mut meant = None;
        let read = scalar(key, &node, Self::KIND.expected, |text| {
            switch(text).or_else(|| {
                let number = number::decimal(text.strip_prefix('-').unwrap_or(text));
                meant = number.filter(|_| !is_quoted(&node)).map(|number| number != 0.0);
                meant
            })
        });
        if let Some(meant) = meant {
            problems.warn(node.place, format!("`{key}` should be true or false; it is taken as {meant}"));
        }
        read
    }
}

/// A whole number from 0. A boolean is 1 or 0, as it was for the Python program: `push_retries: no`.
#[derive(Debug)]
pub struct Count;
impl Value for Count {
    type Out = u32;
    const KIND: Kind = Kind {
        name: "whole number",
        expected: "be an integer greater than or equal to 0, and not absurdly large",
        valid: &["0", "12", "'3'", "1_000", "30.0"],
        invalid: &["-1", "1.5", "many"],
        inside: None,
    };
    fn read(key: &str, node: Node, problems: &mut Problems) -> Result<u32, Complaint> {
        let mut meant = None;
        let count = scalar(key, &node, Self::KIND.expected, |text| {
            whole(text).or_else(|| {
                meant = switch(text).map(u32::from);
                meant
            })
        });
        if let Some(number) = meant {
            problems.warn(node.place, format!("`{key}` should be a number; it is taken as {number}"));
        }
        count
    }
}

/// A length of time in seconds. `true` is 1, as it was for the Python program.
#[derive(Debug)]
pub struct Seconds;
impl Value for Seconds {
    type Out = Duration;
    const KIND: Kind = Kind {
        name: "seconds",
        expected: "be a number of seconds greater than or equal to 0",
        valid: &["0", "30", "1.5", "'10'", "true"],
        invalid: &["-1", "soon", "1h", "'true'", "false"],
        inside: None,
    };
    fn read(key: &str, node: Node, problems: &mut Problems) -> Result<Duration, Complaint> {
        let mut meant = None;
        let read = scalar(key, &node, Self::KIND.expected, |text| {
            duration::seconds(text).or_else(|| {
                let is_true = !is_quoted(&node) && ["true", "yes", "on"].contains(&text.to_ascii_lowercase().as_str());
                meant = is_true.then_some(Duration::from_secs(1));
                meant
            })
        });
        if meant.is_some() {
            problems.warn(node.place, format!("`{key}` should be a number of seconds; it is taken as 1"));
        }
        read
    }
}

/// A length of time like `1h30m`; null is none.
#[derive(Debug)]
pub struct Delay;
impl Value for Delay {
    type Out = Duration;
    const KIND: Kind = Kind {
        name: "delay",
        expected: "be numbers with units w, d, h, m or s, like \"1h30m\"",
        valid: &["1h", "10m", "'1d 2h'", "null", "0", "10min", "1h, 30m"],
        invalid: &["junk5sjunk", "5", "1x", "-5m"],
        inside: None,
    };
    fn read(key: &str, node: Node, _: &mut Problems) -> Result<Duration, Complaint> {
        match node.content {
            Content::Null => Ok(Duration::ZERO),
            Content::Scalar { .. } | Content::List(_) | Content::Map(_) => {
                scalar(key, &node, Self::KIND.expected, |text| match text {
                    "0" => Some(Duration::ZERO),
                    _ => duration::pairs(text),
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setting::value::Maybe;
    use crate::setting::yaml;

    #[test]
    fn what_the_python_program_took_for_a_number_or_a_truth_is_taken_with_a_warning() {
        fn read<V: Value>(yaml: &str) -> (Option<V::Out>, Vec<String>) {
            let mut problems = Problems::default();
            let read = V::read("key", yaml::parse(yaml).unwrap(), &mut problems).ok();
            (read, problems.warnings.into_iter().map(|warning| warning.message).collect())
        }
        for (yaml, want) in [("5", true), ("-1", true), ("0.0", false), ("0x1F", true)] {
            let warning = format!("`key` should be true or false; it is taken as {want}");
            assert_eq!(read::<Switch>(yaml), (Some(want), vec![warning]), "{yaml}");
        }
        for (yaml, want) in [("0", Some(false)), ("1", Some(true)), ("'5'", None), ("5 of them", None)] {
            assert_eq!(read::<Switch>(yaml), (want, Vec::new()), "{yaml}");
        }
        let one =
            (Some(Duration::from_secs(1)), vec!["`key` should be a number of seconds; it is taken as 1".to_owned()]);
        assert_eq!(read::<Seconds>("True"), one);
        assert_eq!(read::<Maybe<Seconds>>("null"), (Some(None), Vec::new()));
    }
}
