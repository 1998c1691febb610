//! The types of settings: what may stand behind a key, YAML 1.1 typing included. Each says what it expects and
//! brings samples of right and wrong, from which the tests' table is made. Must not touch the file system.

use std::path::PathBuf;

use super::list::{Section, read_section};
use super::number;
use super::place::{Complaint, Problems};
use super::yaml::{Content, Node};
use crate::daemon::logging::{LogFormat, LogLevel};

pub use super::loose::{Count, Delay, Seconds, Switch};

/// What a type of setting looks like from outside.
#[derive(Debug)]
pub struct Kind {
    /// The type's name in the reference.
    pub name: &'static str,
    /// Ends the sentence "`key` must ...".
    pub expected: &'static str,
    /// Samples that are accepted, as YAML.
    pub valid: &'static [&'static str],
    /// Samples that are refused, as YAML.
    pub invalid: &'static [&'static str],
    /// The keys inside, for a section or a list of sections.
    pub inside: Option<&'static [super::Setting]>,
}

/// A type of setting.
pub trait Value {
    /// What it is once read.
    type Out;
    /// How it looks from outside.
    const KIND: Kind;

    /// Reads the value of `key`.
    ///
    /// # Errors
    /// A complaint that names what was expected.
    fn read(key: &str, node: Node, problems: &mut Problems) -> Result<Self::Out, Complaint>;

    /// What it is when it is not given and has no default of its own; `None` for types that cannot be unset.
    #[must_use]
    fn unset() -> Option<Self::Out> {
        None
    }
}

fn refuse(key: &str, node: &Node, expected: &str) -> Complaint {
    let written = match &node.content {
        Content::Scalar { text, .. } => text.clone(),
        Content::Null => "null".to_owned(),
        Content::List(_) | Content::Map(_) => node.kind().to_owned(),
    };
    Complaint::value(node.place, &written, key, expected)
}

/// Reads a scalar through `parse`, which gets it without the blanks around it.
///
/// # Errors
/// Not a scalar, or `parse` refuses it: a complaint that ends with `expected`.
pub fn scalar<T>(
    key: &str,
    node: &Node,
    expected: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, Complaint> {
    match &node.content {
        Content::Scalar { text, .. } => parse(text.trim()).ok_or_else(|| refuse(key, node, expected)),
        Content::Null | Content::List(_) | Content::Map(_) => Err(refuse(key, node, expected)),
    }
}

/// Declares types of settings that are one scalar: what they become, their name, what they expect, samples of right
/// and wrong, and the function that reads them.
#[macro_export]
macro_rules! scalar_kinds {
    ($( $(#[$meta:meta])* $name:ident -> $out:ty, $label:literal, $expected:literal,
        [$($valid:literal),*], [$($invalid:literal),*], $parse:expr; )*) => {$(
        $(#[$meta])*
        #[derive(Debug)]
        pub struct $name;
        impl $crate::setting::Value for $name {
            type Out = $out;
            const KIND: $crate::setting::Kind = $crate::setting::Kind {
                name: $label, expected: $expected, valid: &[$($valid),*], invalid: &[$($invalid),*], inside: None,
            };
            fn read(
                key: &str,
                node: $crate::setting::yaml::Node,
                _: &mut $crate::setting::Problems,
            ) -> Result<$out, $crate::setting::Complaint> {
                $crate::setting::value::scalar(key, &node, $expected, $parse)
            }
        }
    )*};
}

scalar_kinds! {
    /// A whole number from 1.
    Positive -> u32, "whole number from 1", "be an integer greater than or equal to 1, and not absurdly large",
        ["1", "12", "'3'", "0x1F"], ["0", "-1", "x"], |text| whole(text).filter(|n| *n >= 1);
    /// A number of bytes.
    Bytes -> u64, "bytes", "be a number of bytes greater than 0",
        ["1", "16384", "'65536'"], ["0", "-1", "1M"], |text| number::whole(text).filter(|n| *n >= 1);
    /// A TCP port.
    Port -> u16, "port", "be a port number from 1 to 65535",
        ["22", "'33774'"], ["0", "65536", "ssh"], |text| whole(text).and_then(|n| n.try_into().ok()).filter(|port| *port != 0);
    /// Text.
    Text -> String, "text", "be text",
        ["x", "'1 2'"], ["{}", "{a: 1}"], |text| Some(text.to_owned());
    /// A path.
    PathText -> PathBuf, "path", "be a path",
        ["/etc/certdeploy/x", "relative/x"], ["''", "{}", "\"-----BEGIN KEY-----\\nx\""], |text| (!text.is_empty() && !text.contains(['\n', '\0'])).then(|| PathBuf::from(text));
    /// `log_format`.
    LogFormatText -> LogFormat, "log format", "be auto, text, json or journald",
        ["auto", "text", "json", "journald"], ["xml", "JSON", "1"], LogFormat::parse;
    /// A name of the log levels of the Python program, or its number.
    Level -> LogLevel, "log level",
        "be one of DEBUG, INFO, WARNING, ERROR, CRITICAL",
        ["DEBUG", "ERROR", "30"], ["debug", "loud"], LogLevel::parse;
}

pub(super) fn whole(text: &str) -> Option<u32> {
    number::whole(text).and_then(|number| number.try_into().ok())
}

/// Any other type, or null.
#[derive(Debug)]
pub struct Maybe<V>(std::marker::PhantomData<V>);
impl<V: Value> Value for Maybe<V> {
    type Out = Option<V::Out>;
    const KIND: Kind = V::KIND;
    fn read(key: &str, node: Node, problems: &mut Problems) -> Result<Self::Out, Complaint> {
        match node.content {
            Content::Null => Ok(None),
            Content::Scalar { .. } | Content::List(_) | Content::Map(_) => V::read(key, node, problems).map(Some),
        }
    }
}

/// Text as it is written: blanks that stand in its quotes are part of it.
#[derive(Debug)]
pub struct Verbatim;
impl Value for Verbatim {
    type Out = String;
    const KIND: Kind = Text::KIND;
    fn read(key: &str, node: Node, _: &mut Problems) -> Result<Self::Out, Complaint> {
        match &node.content {
            Content::Scalar { text, .. } => Ok(text.clone()),
            Content::Null | Content::List(_) | Content::Map(_) => Err(refuse(key, &node, Self::KIND.expected)),
        }
    }
}

/// A path, or nothing; an empty text is nothing too, as it was for the Python program.
#[derive(Debug)]
pub struct MaybePath;
impl Value for MaybePath {
    type Out = Option<PathBuf>;
    const KIND: Kind = Kind {
        name: PathText::KIND.name,
        expected: PathText::KIND.expected,
        valid: &["/etc/certdeploy/x", "relative/x", "''", "null"],
        invalid: &["{}", "\"-----BEGIN KEY-----\\nx\""],
        inside: None,
    };
    fn read(key: &str, node: Node, problems: &mut Problems) -> Result<Self::Out, Complaint> {
        match &node.content {
            Content::Scalar { text, .. } if text.trim().is_empty() => Ok(None),
            Content::Null | Content::Scalar { .. } | Content::List(_) | Content::Map(_) => {
                Maybe::<PathText>::read(key, node, problems)
            }
        }
    }
}

/// Any other type; not given is something else than null.
#[derive(Debug)]
pub struct Given<V>(std::marker::PhantomData<V>);
impl<V: Value> Value for Given<V> {
    type Out = Option<V::Out>;
    const KIND: Kind = V::KIND;
    fn read(key: &str, node: Node, problems: &mut Problems) -> Result<Self::Out, Complaint> {
        V::read(key, node, problems).map(Some)
    }
    fn unset() -> Option<Self::Out> {
        Some(None)
    }
}

/// A list; a single value stands for a list of one, null for an empty one.
#[derive(Debug)]
pub struct List<V>(std::marker::PhantomData<V>);
impl<V: Value> Value for List<V> {
    type Out = Vec<super::Located<V::Out>>;
    const KIND: Kind = Kind {
        name: list_name(V::KIND.name),
        expected: V::KIND.expected,
        valid: V::KIND.valid,
        invalid: V::KIND.invalid,
        inside: V::KIND.inside,
    };
    fn read(key: &str, node: Node, problems: &mut Problems) -> Result<Self::Out, Complaint> {
        let items = match node.content {
            Content::Null => Vec::new(),
            Content::List(items) => items,
            content @ (Content::Scalar { .. } | Content::Map(_)) => vec![Node { place: node.place, content }],
        };
        let mut values = Vec::with_capacity(items.len());
        for item in items {
            let place = item.place;
            match V::read(key, item, problems) {
                Ok(value) => values.push(super::Located { value, place }),
                Err(complaint) => problems.error(complaint),
            }
        }
        Ok(values)
    }
}

const fn list_name(of: &'static str) -> &'static str {
    match of.as_bytes() {
        b"text" => "list of text",
        b"path" => "list of paths",
        b"mapping" => "list of mappings",
        _ => "list",
    }
}

/// A section inside a section.
#[derive(Debug)]
pub struct Nested<S>(std::marker::PhantomData<S>);
impl<S: Section> Value for Nested<S> {
    type Out = S;
    const KIND: Kind =
        Kind { name: "mapping", expected: "be a mapping", valid: &[], invalid: &["7"], inside: Some(S::SETTINGS) };
    fn read(_: &str, node: Node, problems: &mut Problems) -> Result<S, Complaint> {
        let place = node.place;
        let before = problems.errors.len();
        read_section(node, problems).ok_or_else(|| {
            // What is wrong inside has been said with its own place; saying it again here would only hide it.
            problems.errors.get(before).cloned().unwrap_or_else(|| Complaint::new(place, "not readable"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setting::mode::ModeText;
    use crate::setting::yaml;

    fn table<V: Value>() {
        for (samples, want) in [(V::KIND.valid, true), (V::KIND.invalid, false)] {
            for sample in samples {
                let mut problems = Problems::default();
                let read = V::read("key", yaml::parse(sample).unwrap(), &mut problems);
                problems.errors.extend(read.err());
                assert_eq!(problems.errors.is_empty(), want, "{}: {sample}", V::KIND.name);
                for complaint in problems.errors {
                    assert!(complaint.message.contains(V::KIND.expected), "{}", complaint.message);
                }
            }
        }
    }

    #[test]
    fn samples_of_each_type_are_accepted_or_refused_with_what_was_expected() {
        table::<Switch>();
        table::<Count>();
        table::<Positive>();
        table::<Bytes>();
        table::<Port>();
        table::<Seconds>();
        table::<Text>();
        table::<PathText>();
        table::<ModeText>();
        table::<MaybePath>();
        table::<Level>();
        table::<LogFormatText>();
        table::<Delay>();
        table::<Maybe<Port>>();
        table::<List<Port>>();
    }
}
