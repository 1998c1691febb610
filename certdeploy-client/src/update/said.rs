//! What a command or an engine said, as far as it is kept: the end of it, because that is where it says why it failed. Pure.

use certdeploy_common::daemon::logging::escape;

/// The most characters of somebody else's words that go into an error; the error goes into log, ledger and receipt.
const LINE_LIMIT: usize = 300;

/// The last bytes of an output.
#[derive(Debug)]
pub(super) struct Said {
    limit: usize,
    bytes: Vec<u8>,
}

impl Said {
    /// Keeps at most `limit` bytes, and needs twice that while it is filled.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, bytes: Vec::new() }
    }

    /// Adds what came.
    pub(super) fn add(&mut self, more: &[u8]) {
        self.bytes.extend_from_slice(more);
        if self.bytes.len() > 2 * self.limit {
            self.cut();
        }
    }

    fn cut(&mut self) {
        let surplus = self.bytes.len().saturating_sub(self.limit);
        self.bytes.drain(..surplus);
    }

    /// The end of it as text.
    pub(super) fn text(mut self) -> String {
        self.cut();
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// The end of a sentence about a failure: the last line, if there is any.
pub(super) fn last_line(text: &str) -> String {
    // What cannot be seen says nothing, and NULs come by the million.
    let line = text.lines().rev().map(|line| line.trim_matches(|c: char| c.is_whitespace() || c.is_control()));
    let Some(line) = line.into_iter().find(|line| !line.is_empty()) else { return String::new() };
    format!("; it last said: {}", cut(line))
}

/// Somebody else's words as a part of one line.
pub(super) fn cut(words: &str) -> String {
    let begin: String = words.trim().chars().take(LINE_LIMIT + 1).collect();
    let line = escape(&begin);
    if line.chars().count() <= LINE_LIMIT {
        return line;
    }
    line.chars().take(LINE_LIMIT).chain("...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_kept_and_the_last_line_is_short() {
        let mut said = Said::new(10);
        for n in 0..100 {
            said.add(format!("line {n}\n").as_bytes());
            assert!(said.bytes.len() <= 20);
        }
        assert_eq!(said.text(), "8\nline 99\n");
        assert_eq!(last_line("a\nb\n\n"), "; it last said: b");
        assert_eq!((last_line(""), last_line("\0\0\n \n")), (String::new(), String::new()));
        assert_eq!(last_line(&"x".repeat(1000)).len(), "; it last said: ".len() + LINE_LIMIT + 3);
        assert_eq!(cut(" two\nlines\x1b[0m "), "two\\nlines\\u{1b}[0m");
        assert_eq!(cut(&"\n".repeat(9)), "");
        assert_eq!(cut(&"\x07".repeat(1000)).len(), LINE_LIMIT + 3, "also when it grows");
    }
}
