//! The document of certdeploy 0.2 that users have: its text, its fenced blocks, and the words of its command lines.

use std::path::Path;

/// The whole text.
///
/// # Panics
/// It is not there.
#[must_use]
pub fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/certdeploy-0.2-readme.md");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The fenced blocks, without the indentation of their list items.
#[must_use]
pub fn blocks() -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for line in document().lines() {
        let indent = line.len() - line.trim_start().len();
        match (line.trim_start().starts_with("```"), open.take()) {
            // "``x``" in running text is no fence.
            (true, None) if !line.trim_start().trim_start_matches("```").contains('`') => {
                open = Some((indent, String::new()));
            }
            (true, Some((_, text))) => blocks.push(text),
            (false, Some((indent, text))) => {
                open = Some((indent, format!("{text}{}\n", line.get(indent..).unwrap_or_default())));
            }
            (_, None) => {}
        }
    }
    blocks
}

/// Words of a command line; double quotes hold blanks.
#[must_use]
pub fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match (c, words.last_mut()) {
            ('"', _) => quoted = !quoted,
            (' ', _) if !quoted => words.push(String::new()),
            (c, Some(word)) => word.push(c),
            (_, None) => {}
        }
    }
    words
}
