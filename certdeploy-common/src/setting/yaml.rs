//! YAML text -> [`Node`], a tree of scalars as they were written, each with its place in the file.
//!
//! The only file that names `serde_yaml`. It must not know any key: what a scalar means is decided by the
//! setting's own type (`value.rs`), because existing configs rely on YAML 1.1 typing (`yes`, `0600`, `15:00`).

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::{DuplicateKeyPolicy, Location, Spanned};

use super::{Complaint, Place};

/// A value of a config file and where it stands.
#[derive(Debug, Clone)]
pub struct Node {
    /// Where the value begins.
    pub place: Place,
    /// What stands there.
    pub content: Content,
}

/// What a [`Node`] holds.
#[derive(Debug, Clone)]
pub enum Content {
    /// Nothing, `~` or `null`.
    Null,
    /// A scalar, as written.
    Scalar {
        /// The text, without quotes.
        text: String,
        /// Whether it stood in quotes, which makes it text whatever it looks like.
        quoted: bool,
    },
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the file.
    Map(Vec<(Key, Node)>),
}

/// A key of a mapping and where it stands.
#[derive(Debug, Clone)]
pub struct Key {
    /// Where the key begins.
    pub place: Place,
    /// The key itself.
    pub name: String,
}

impl Node {
    /// Names the kind of value for a message ("a list").
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match &self.content {
            Content::Null => "nothing",
            Content::Scalar { .. } => "a single value",
            Content::List(_) => "a list",
            Content::Map(_) => "a mapping",
        }
    }
}

/// Parses one YAML (or JSON) document; an empty one is [`Content::Null`].
///
/// # Errors
/// Text that is no YAML, a duplicate key, an anchor bomb: one complaint with its place.
pub fn parse(text: &str) -> Result<Node, Complaint> {
    parse_file(text, 0)
}

/// As [`parse`], for a further file of the config.
///
/// # Errors
/// As [`parse`].
pub fn parse_file(text: &str, file: u16) -> Result<Node, Complaint> {
    // Ten thousand targets that share one anchor are fine; what stays bounded is what aliases may multiply.
    let options = serde_yaml::options! {
        duplicate_keys: DuplicateKeyPolicy::Error,
        budget: serde_yaml::budget! {
            max_events: 8_000_000,
            max_nodes: 4_000_000,
            max_aliases: 100_000,
            max_merge_keys: 100_000,
            enforce_alias_anchor_ratio: false,
        },
    };
    let raw: Spanned<Raw> = serde_yaml::from_str_with_options(text, options).map_err(|error| {
        let at = error.location();
        let place = at.map_or(Place { file, ..Place::default() }, |at| place(&at, file));
        let message = error.without_snippet().to_string();
        let message = words(message.lines().next().unwrap_or_default());
        Complaint::new(place, format!("not valid YAML: {message}{}", advice(message)))
    })?;
    Ok(node(raw, text, file))
}

/// The parser's words without its advice to programmers and without the place, which is said already.
fn words(message: &str) -> &str {
    let ends = [", set DuplicateKeyPolicy", "; use from_str", " at line "];
    let end = ends.iter().filter_map(|end| message.find(end)).min();
    end.and_then(|end| message.get(..end)).unwrap_or(message)
}

/// What people most often meant.
fn advice(message: &str) -> &'static str {
    if message.contains("alias") {
        " (a value that begins with `*` or `&` must stand in quotes, like '*.example.com')"
    } else if message.contains("unexpected character") {
        " (a value that begins with it must stand in quotes)"
    } else if message.contains("tabs disallowed") {
        " (indent with blanks)"
    } else if message.contains("mapping values are not allowed") {
        " (look at the indentation; a value with `: ` in it must stand in quotes)"
    } else {
        ""
    }
}

fn node(raw: Spanned<Raw>, text: &str, file: u16) -> Node {
    let at = place(&raw.referenced, file);
    let content = match raw.value {
        Raw::Null => Content::Null,
        Raw::Text(parsed) => {
            let quoted = written(&raw.defined, text).is_some_and(|w| w.starts_with(['"', '\'', '|', '>']));
            Content::Scalar { text: parsed, quoted }
        }
        Raw::Other(parsed) => {
            let text = written(&raw.defined, text).map_or(parsed, |w| w.trim().to_owned());
            Content::Scalar { text, quoted: false }
        }
        Raw::List(items) => Content::List(items.into_iter().map(|item| node(item, text, file)).collect()),
        Raw::Map(pairs) => Content::Map(
            pairs
                .into_iter()
                .map(|(key, value)| {
                    let as_written = || written(&key.defined, text).map(|w| w.trim().to_owned());
                    let name = match &key.value {
                        Raw::Text(name) => name.clone(),
                        Raw::Other(name) => as_written().unwrap_or_else(|| name.clone()),
                        Raw::Null => "null".to_owned(),
                        Raw::List(_) | Raw::Map(_) => "?".to_owned(),
                    };
                    (Key { place: place(&key.referenced, file), name }, node(value, text, file))
                })
                .collect(),
        ),
    };
    Node { place: at, content }
}

/// The scalar's own characters: `0600` must not become 600.
fn written<'t>(at: &Location, text: &'t str) -> Option<&'t str> {
    let span = at.span();
    let start = usize::try_from(span.byte_offset()?).ok()?;
    let length = usize::try_from(span.byte_len()?).ok()?;
    text.get(start..start.checked_add(length)?)
}

fn place(at: &Location, file: u16) -> Place {
    Place { file, line: at.line(), column: at.column() }
}

enum Raw {
    Null,
    Text(String),
    Other(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<Raw>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }
    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }
    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Other(value.to_string()))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Other(value.to_string()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Other(value.to_string()))
    }
    fn visit_i128<E>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Other(value.to_string()))
    }
    fn visit_u128<E>(self, value: u128) -> Result<Raw, E> {
        Ok(Raw::Other(value.to_string()))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Other(value.to_string()))
    }
    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Raw::Map(pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(node: &Node) -> String {
        let at = node.place;
        match &node.content {
            Content::Null => format!("{at}:null"),
            Content::Scalar { text, quoted } => format!("{at}:{}{text}", if *quoted { "'" } else { "" }),
            Content::List(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(" ")),
            Content::Map(pairs) => format!(
                "{{{}}}",
                pairs.iter().map(|(k, v)| format!("{}={}", k.name, show(v))).collect::<Vec<_>>().join(" ")
            ),
        }
    }

    #[test]
    fn scalars_keep_the_characters_of_the_file() {
        let cases = [
            ("a: 0600", "{a=1:4:0600}"),
            ("a: 15:00", "{a=1:4:15:00}"),
            ("a: '0600'", "{a=1:4:'0600}"),
            ("a: yes", "{a=1:4:yes}"),
            ("a: 1_000", "{a=1:4:1_000}"),
            ("a: 0x1F", "{a=1:4:0x1F}"),
            ("a: 1e3 # comment", "{a=1:4:1e3}"),
            ("a: ~", "{a=1:4:null}"),
            ("a:\n  - x\n  - 2", "{a=[2:5:x 3:5:2]}"),
            ("{\"a\": [1, true]}", "{a=[1:8:1 1:11:true]}"),
            ("b: &x {m: 07}\na:\n  <<: *x\n  n: 1", "{b={m=1:11:07} a={n=4:6:1 m=3:7:07}}"),
        ];
        for (text, want) in cases {
            assert_eq!(show(&parse(text).unwrap()), want, "{text}");
        }
    }

    #[test]
    fn an_empty_file_is_null_and_broken_ones_name_the_place() {
        assert!(matches!(parse("").unwrap().content, Content::Null));
        let twice = parse("a: 1\na: 2\n").unwrap_err();
        assert_eq!((twice.place.line, twice.message.as_str()), (2, "not valid YAML: duplicate mapping key: a"));
        assert_eq!(parse("a: 1\nb: [\n").unwrap_err().place.line, 2);
    }

    #[test]
    fn files_as_editors_and_other_programs_leave_them_are_read() {
        for text in
            ["\u{feff}a: 1\n", "a: 1\r\n", "---\na: 1\n...\n", "%YAML 1.1\n---\na: 1\n", "{\"a\": 1,}", "# c\na: 1"]
        {
            assert!(show(&parse(text).unwrap()).ends_with(":1}"), "{text:?}");
        }
        for text in ["", "\n\n", "# only a comment\n", "---\n", "--- ~\n"] {
            assert!(matches!(parse(text).unwrap().content, Content::Null), "{text:?}");
        }
        for (text, line, want) in [
            ("a:\n\tb: 1\n", 2, "(indent with blanks)"),
            ("a: 1\n---\nb: 2\n", 3, "multiple YAML documents"),
            ("a:\n  - *.example.com\n", 2, "must stand in quotes, like '*.example.com'"),
            ("a: `x`\n", 1, "must stand in quotes"),
            ("a: b: c\n", 1, "look at the indentation"),
            ("b: *nix\n", 1, "unknown anchor"),
            ("a: 1\n  b: 2\n", 2, "look at the indentation"),
        ] {
            let complaint = parse(text).unwrap_err();
            assert_eq!(complaint.place.line, line, "{text:?}");
            assert!(complaint.message.contains(want), "{text:?}: {}", complaint.message);
        }
    }

    #[test]
    fn one_anchor_may_serve_thousands_but_not_multiply_itself() {
        let shared: String = (0..3_000).map(|n| format!("  - {{<<: *d, n: {n}}}\n")).collect();
        assert!(parse(&format!("d: &d {{port: 22}}\nl:\n{shared}")).is_ok());
        let tens = |n: usize| vec![format!("*a{}", n - 1); 10].join(",");
        let bomb: String = (1..12).map(|n| format!("a{n}: &a{n} [{}]\n", tens(n))).collect();
        assert!(parse(&format!("a0: &a0 [x]\n{bomb}")).unwrap_err().message.contains("budget"));
        assert!(parse(&"[".repeat(100_000)).unwrap_err().message.contains("recursion limit"));
    }
}
