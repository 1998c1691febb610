//! What `check` has found, and how it is printed. It decides nothing.

use std::fmt::Write as _;

use super::logging::escape;

/// The most lines of one kind that are printed; the count of the rest follows.
const LINES: usize = 1000;

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    /// What keeps the program from doing its work.
    pub errors: Vec<String>,
    /// What a person should look at.
    pub warnings: Vec<String>,
    /// What is good to know.
    pub notes: Vec<String>,
}

impl Findings {
    /// Adds what keeps the program from doing its work.
    pub fn error(&mut self, text: impl Into<String>) {
        self.errors.push(text.into());
    }

    /// Adds what a person should look at.
    pub fn warn(&mut self, text: impl AsRef<str>) {
        self.warnings.push(format!("warning: {}", text.as_ref()));
    }

    /// Adds what is good to know.
    pub fn note(&mut self, text: impl AsRef<str>) {
        self.notes.push(format!("note: {}", text.as_ref()));
    }

    /// The problems first, one line each, then how many there are.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for lines in [&self.errors, &self.warnings, &self.notes] {
            for line in lines.iter().take(LINES) {
                // Names come from files that others write.
                let _ = writeln!(text, "{}", escape(line));
            }
            if let Some(more @ 1..) = lines.len().checked_sub(LINES) {
                let _ = writeln!(text, "... and {more} more");
            }
        }
        let counted = |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
        let (errors, warnings) = (counted(self.errors.len(), "error"), counted(self.warnings.len(), "warning"));
        let _ = writeln!(text, "{errors}, {warnings}");
        text
    }
}
