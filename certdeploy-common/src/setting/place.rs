//! Where something stands in a config file, and what is wrong there, in the words people grep for.

use std::fmt;
use std::path::{Path, PathBuf};

/// A line and column of a config file, both from 1; 0:0 is "nowhere in particular".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Which file, when a config has several; 0 is the first.
    pub file: u16,
    /// Line, from 1.
    pub line: u64,
    /// Column in characters, from 1.
    pub column: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A value with the place it came from, so that a later check (does the file exist?) can still name it.
#[derive(Debug, Clone)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where it was written; 0:0 for a default.
    pub place: Place,
}

/// What was written, as far as it may be repeated: whoever pastes a key where a path belongs must not find it in a log.
fn shown(written: &str) -> &str {
    if written.contains(['\n', '\r']) || written.contains("-----BEGIN") {
        "several lines, not shown"
    } else if written.len() > 200 {
        "a long text, not shown"
    } else {
        written
    }
}

/// The most complaints that are printed about one config.
const COMPLAINTS: usize = 20;

/// One thing that is wrong in a config file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Complaint {
    /// Where.
    pub place: Place,
    /// What, the cause and the way out.
    pub message: String,
}

impl Complaint {
    /// A complaint about `place`.
    #[must_use]
    pub fn new(place: Place, message: impl Into<String>) -> Self {
        Self { place, message: message.into() }
    }

    /// As one line about `file`; what is missing from it has no line.
    #[must_use]
    pub fn about(&self, file: &Path) -> String {
        match self.place.line {
            0 => format!("{}: {}", file.display(), self.message),
            _ => format!("{}:{}: {}", file.display(), self.place, self.message),
        }
    }

    /// ``Invalid value "X" for `key`. `key` must ...`` : the Python program's sentence, kept for those who grep.
    #[must_use]
    pub fn value(place: Place, written: &str, key: &str, expected: &str) -> Self {
        let written = shown(written);
        Self::new(place, format!("Invalid value \"{written}\" for `{key}`. `{key}` must {expected}."))
    }
}

/// What reading a file has found so far: errors (which refuse the file) and warnings (which do not).
#[derive(Debug, Default)]
pub struct Problems {
    /// What refuses the file.
    pub errors: Vec<Complaint>,
    /// What a person should change some day.
    pub warnings: Vec<Complaint>,
    /// The config's further files, in the order of [`Place::file`] from 1.
    further: Vec<PathBuf>,
}

impl Problems {
    /// Records an error.
    pub fn error(&mut self, complaint: Complaint) {
        self.errors.push(complaint);
    }

    /// Makes a further file of the config known; what it is called in [`Place::file`].
    pub fn further(&mut self, file: PathBuf) -> u16 {
        self.further.push(file);
        u16::try_from(self.further.len()).unwrap_or(u16::MAX)
    }

    /// Records a warning.
    pub fn warn(&mut self, place: Place, message: impl Into<String>) {
        self.warnings.push(Complaint::new(place, message));
    }

    /// Everything that was found, one line each in the order of the files: errors, then warnings, which say that they
    /// are.
    #[must_use]
    pub fn lines(mut self, file: &Path) -> (Vec<String>, Vec<String>) {
        let files = files(file, self.further);
        let shown = |complaints: &mut Vec<Complaint>, word: &'static str| {
            complaints.sort();
            complaints.dedup();
            complaints.iter().map(|complaint| Line { files: &files, complaint, word }.to_string()).collect()
        };
        (shown(&mut self.errors, ""), shown(&mut self.warnings, "warning: "))
    }

    /// Turns what was read into a result: the value, if nothing was wrong.
    ///
    /// # Errors
    /// All errors found, in the order of the file.
    pub fn finish<T>(mut self, file: &Path, value: Option<T>) -> Result<(T, Vec<ConfigWarning>), ConfigError> {
        self.errors.sort();
        self.errors.dedup();
        match value {
            Some(value) if self.errors.is_empty() => {
                let files = files(file, self.further);
                let warn = |complaint| ConfigWarning { files: files.clone(), complaint };
                Ok((value, self.warnings.into_iter().map(warn).collect()))
            }
            _ => Err(ConfigError { files: files(file, self.further), complaints: self.errors }),
        }
    }
}

/// A warning with the file it is about; prints as `server.yml:3:1: ...`.
#[derive(Debug, Clone)]
pub struct ConfigWarning {
    files: Vec<PathBuf>,
    complaint: Complaint,
}

impl fmt::Display for ConfigWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Line { files: &self.files, complaint: &self.complaint, word: "" }.fmt(f)
    }
}

/// A config file that was refused; one line for each thing that is wrong.
#[derive(Debug, Clone)]
pub struct ConfigError {
    files: Vec<PathBuf>,
    /// What is wrong, in the order of the file.
    pub complaints: Vec<Complaint>,
}

impl ConfigError {
    /// A refusal with a single reason.
    #[must_use]
    pub fn single(file: &Path, complaint: Complaint) -> Self {
        Self { files: vec![file.to_owned()], complaints: vec![complaint] }
    }
}

impl ConfigError {
    /// All of it, one line for each thing that is wrong.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let line = |complaint| Line { files: &self.files, complaint, word: "" }.to_string();
        self.complaints.iter().map(line).collect()
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, complaint) in self.complaints.iter().take(COMPLAINTS).enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            Line { files: &self.files, complaint, word: "" }.fmt(f)?;
        }
        match self.complaints.len().saturating_sub(COMPLAINTS) {
            0 => Ok(()),
            more => write!(f, "\n... and {more} more"),
        }
    }
}

fn files(first: &Path, further: Vec<PathBuf>) -> Vec<PathBuf> {
    std::iter::once(first.to_owned()).chain(further).collect()
}

struct Line<'a> {
    files: &'a [PathBuf],
    complaint: &'a Complaint,
    word: &'static str,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { files, complaint: Complaint { place, message }, word } = self;
        let file = files.get(usize::from(place.file)).map(PathBuf::as_path).unwrap_or(Path::new("the config"));
        if place.line == 0 {
            write!(f, "{}: {word}{message}", file.display())
        } else {
            write!(f, "{}:{place}: {word}{message}", file.display())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_was_pasted_in_is_not_repeated_and_much_is_cut() {
        let key = "-----BEGIN OPENSSH PRIVATE KEY-----\nsecret\n";
        let complaint = Complaint::value(Place::default(), key, "privkey_filename", "be a path");
        assert_eq!(
            complaint.message,
            "Invalid value \"several lines, not shown\" for `privkey_filename`. `privkey_filename` must be a path."
        );
        let error = ConfigError { files: vec!["c.yml".into()], complaints: vec![complaint; 25] };
        assert_eq!(error.to_string().lines().count(), 21);
        assert!(error.to_string().ends_with("... and 5 more"));
    }
}
