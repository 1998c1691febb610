//! [`Node`]s -> YAML text that the same parser reads again; and a section with its defaults filled in. Pure.

use std::fmt::Write as _;

use super::yaml::{Content, Key, Node};
use super::{Default, Place, Setting};

/// One setting of a section and what holds for it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The setting.
    pub setting: &'static Setting,
    /// Its value, as written, or its default.
    pub node: Node,
    /// Whether it was written.
    pub given: bool,
}

/// What a section says with all its settings, in the order of the reference; `node` is known to be a good one. A
/// required key that is missing and one without a value of its own are null.
#[must_use]
pub fn complete(settings: &'static [Setting], node: Node) -> Vec<Entry> {
    let mut pairs = match node.content {
        Content::Map(pairs) => pairs,
        Content::Null | Content::Scalar { .. } | Content::List(_) => Vec::new(),
    };
    let entry = |setting: &'static Setting| {
        let names = |(key, _): &(Key, Node)| key.name == setting.key || setting.old.contains(&key.name.as_str());
        match pairs.iter().position(names) {
            Some(at) => Entry { setting, node: pairs.swap_remove(at).1, given: true },
            None => Entry { setting, node: default(setting), given: false },
        }
    };
    settings.iter().map(entry).collect()
}

fn default(setting: &Setting) -> Node {
    let null = Node { place: Place::default(), content: Content::Null };
    match setting.default {
        Default::Yaml(text) => super::list::default(text).unwrap_or(null),
        Default::Required | Default::Unset => null,
    }
}

/// A scalar that nobody wrote.
#[must_use]
pub fn text(text: impl Into<String>) -> Node {
    Node { place: Place::default(), content: Content::Scalar { text: text.into(), quoted: true } }
}

/// A section as a mapping; what was not written says so. Sections inside are written out too.
#[must_use]
pub fn section(entries: Vec<Entry>) -> String {
    let mut out = String::new();
    for entry in entries {
        self::entry(&mut out, entry, 0, "");
    }
    out
}

fn entry(out: &mut String, entry: Entry, depth: usize, first: &str) {
    let Entry { setting, node, given } = entry;
    let pad = if first.is_empty() { "  ".repeat(depth) } else { first.to_owned() };
    let note = if given { "" } else { "  # default" };
    let key = setting.key;
    let unset = !given && matches!((setting.default, &node.content), (Default::Unset, Content::Null));
    let _ = match (setting.kind.inside, node.content) {
        // What is not given means something else than nothing.
        _ if unset => writeln!(out, "{pad}# {key}: not given"),
        (Some(inside), Content::List(items)) if !items.is_empty() => {
            let _ = writeln!(out, "{pad}{key}:");
            for item in items {
                if !matches!(item.content, Content::Map(_) | Content::Null) {
                    // Text or mapping: this one is text.
                    let _ = writeln!(out, "{}- {}", "  ".repeat(depth + 1), flow(&item.content));
                    continue;
                }
                let first = format!("{}- ", "  ".repeat(depth + 1));
                for (n, inner) in complete(inside, item).into_iter().enumerate() {
                    self::entry(out, inner, depth + 2, if n == 0 { &first } else { "" });
                }
            }
            Ok(())
        }
        (Some(inside), Content::Map(pairs)) => {
            let _ = writeln!(out, "{pad}{key}:");
            let map = Node { place: node.place, content: Content::Map(pairs) };
            for inner in complete(inside, map) {
                self::entry(out, inner, depth + 1, "");
            }
            Ok(())
        }
        (_, content) => writeln!(out, "{pad}{key}: {}{note}", flow(&content)),
    };
}

fn flow(content: &Content) -> String {
    match content {
        Content::Null => "null".to_owned(),
        Content::Scalar { text, quoted } => scalar(text, *quoted),
        Content::List(items) => {
            let items: Vec<String> = items.iter().map(|item| flow(&item.content)).collect();
            format!("[{}]", items.join(", "))
        }
        Content::Map(pairs) => {
            let pair = |(key, node): &(Key, Node)| format!("{}: {}", scalar(&key.name, true), flow(&node.content));
            format!("{{{}}}", pairs.iter().map(pair).collect::<Vec<_>>().join(", "))
        }
    }
}

/// Plain where no reader can take it for something else, else in double quotes.
fn scalar(text: &str, quoted: bool) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '.' | '+' | '-');
    let word = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/') && text.chars().all(safe);
    let reserved = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    let plain = word && !(quoted && reserved.contains(&text.to_ascii_lowercase().as_str()));
    // A number as it was written, `0600` too.
    let number = !quoted && !text.is_empty() && text.chars().all(|c| safe(c) || c == ':') && !text.starts_with('-');
    if plain || number { text.to_owned() } else { double_quoted(text) }
}

fn double_quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => _ = write!(out, "\\U{:08x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setting::yaml;

    #[test]
    fn every_text_is_read_again_as_it_was() {
        for text in
            ["x", "null", "yes", "", "15:00", "0600", "a b", "it's", "\"\\\n\t\u{7}\u{fc}", "- x", "#c", "*", "a: b"]
        {
            let written = scalar(text, true);
            let read = yaml::parse(&format!("a: {written}\n")).unwrap();
            let Content::Map(pairs) = read.content else { panic!("{written}") };
            let Content::Scalar { text: read, .. } = &pairs[0].1.content else { panic!("{written}") };
            assert_eq!(read, text, "{written}");
        }
        for plain in ["0600", "15:00", "yes", "1_000", "/etc/x", "ERROR", "+1"] {
            assert_eq!(scalar(plain, false), plain);
        }
        assert_eq!(flow(&yaml::parse("[a, {b: 'no', 3: ~}]").unwrap().content), "[a, {b: \"no\", \"3\": null}]");
    }
}
