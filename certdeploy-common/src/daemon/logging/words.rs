//! The words of `log_level` and `log_format`. Pure.

use serde::{Deserialize, Serialize};
use tracing::level_filters::LevelFilter;

/// The five levels of the Python program's `log_level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// What a person would want to know next month.
    Info,
    /// What will be tried again, or was refused.
    Warning,
    /// What a person must act on.
    Error,
    /// Nothing below the end of the process.
    Critical,
}

impl LogLevel {
    /// The names, exactly as they must be written.
    pub const NAMES: [&'static str; 5] = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"];

    /// The name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warning => "WARNING",
            Self::Error => "ERROR",
            Self::Critical => "CRITICAL",
        }
    }

    /// Reads a name (upper case) or Python's number.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "DEBUG" | "10" => Some(Self::Debug),
            "INFO" | "20" => Some(Self::Info),
            "WARNING" | "30" => Some(Self::Warning),
            "ERROR" | "40" => Some(Self::Error),
            "CRITICAL" | "50" => Some(Self::Critical),
            _ => None,
        }
    }

    pub(super) fn filter(self) -> LevelFilter {
        match self {
            Self::Debug => LevelFilter::DEBUG,
            Self::Info => LevelFilter::INFO,
            Self::Warning => LevelFilter::WARN,
            Self::Error => LevelFilter::ERROR,
            Self::Critical => LevelFilter::OFF,
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogFormat {
    /// Journald when the output leads there, else text.
    Auto,
    /// `LEVEL:logger: message`.
    Text,
    /// One JSON object a line.
    Json,
    /// systemd's journal.
    Journald,
}

impl LogFormat {
    /// Reads a name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            "text" => Some(Self::Text),
            "json" => Some(Self::Json),
            "journald" => Some(Self::Journald),
            _ => None,
        }
    }
}
