//! Where something stands in a config file, and what is wrong there, in the words people grep for.

use std::fmt;
use std::path::{Path, PathBuf};

/// A line and column of a config file, both from 1; 0:0 is "nowhere in particular".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
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

    /// ``Invalid value "X" for `key`. `key` must ...`` : the Python program's sentence, kept for those who grep.
    #[must_use]
    pub fn value(place: Place, written: &str, key: &str, expected: &str) -> Self {
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
}

impl Problems {
    /// Records an error.
    pub fn error(&mut self, complaint: Complaint) {
        self.errors.push(complaint);
    }

    /// Records a warning.
    pub fn warn(&mut self, place: Place, message: impl Into<String>) {
        self.warnings.push(Complaint::new(place, message));
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
                let file = file.to_owned();
                let warn = |complaint| ConfigWarning { file: file.clone(), complaint };
                Ok((value, self.warnings.into_iter().map(warn).collect()))
            }
            _ => Err(ConfigError { file: file.to_owned(), complaints: self.errors }),
        }
    }
}

/// A warning with the file it is about; prints as `server.yml:3:1: ...`.
#[derive(Debug, Clone)]
pub struct ConfigWarning {
    file: PathBuf,
    complaint: Complaint,
}

impl fmt::Display for ConfigWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(f, &self.file, &self.complaint)
    }
}

/// A config file that was refused; one line for each thing that is wrong.
#[derive(Debug, Clone)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong, in the order of the file.
    pub complaints: Vec<Complaint>,
}

impl ConfigError {
    /// A refusal with a single reason.
    #[must_use]
    pub fn single(file: &Path, complaint: Complaint) -> Self {
        Self { file: file.to_owned(), complaints: vec![complaint] }
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, complaint) in self.complaints.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            line(f, &self.file, complaint)?;
        }
        Ok(())
    }
}

fn line(f: &mut fmt::Formatter<'_>, file: &Path, complaint: &Complaint) -> fmt::Result {
    let Complaint { place, message } = complaint;
    if *place == Place::default() {
        write!(f, "{}: {message}", file.display())
    } else {
        write!(f, "{}:{place}: {message}", file.display())
    }
}
