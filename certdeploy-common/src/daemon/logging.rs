//! The log: lines `LEVEL:logger: message`, as certdeploy 0.5 writes them, on stdout, or on stderr when stdout
//! carries data. Everything a peer may have chosen is escaped here, once.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

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

    fn filter(self) -> LevelFilter {
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// Where log lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// As in certdeploy 0.5.
    Stdout,
    /// When stdout carries data.
    Stderr,
}

/// Starts the log of this process. A second call does nothing.
pub fn start(logger: &'static str, level: LogLevel, stream: Stream) {
    // A log that cannot be written (full disk, reader gone) must not stop anything: the subscriber's own complaint on
    // stderr would panic there.
    let builder = tracing_subscriber::fmt()
        .with_max_level(level.filter())
        .log_internal_errors(false)
        .event_format(Lines { logger });
    // A second start can only happen in one process that runs both roles; the first log stays.
    let _ = match stream {
        Stream::Stdout => builder.with_writer(std::io::stdout).try_init(),
        Stream::Stderr => builder.with_writer(std::io::stderr).try_init(),
    };
}

/// Runs `body` with its log lines collected; for tests of messages.
pub fn collected(logger: &'static str, body: impl FnOnce()) -> String {
    let lines = Arc::new(std::sync::Mutex::new(Vec::new()));
    let writer = Arc::clone(&lines);
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::DEBUG)
        .event_format(Lines { logger })
        .with_writer(move || Collector(Arc::clone(&writer)))
        .finish();
    tracing::subscriber::with_default(subscriber, body);
    let bytes = lines.lock().map(|bytes| bytes.clone()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

struct Collector(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Collector {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if let Ok(mut lines) = self.0.lock() {
            lines.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Lines {
    logger: &'static str,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = match *event.metadata().level() {
            Level::ERROR => "ERROR",
            Level::WARN => "WARNING",
            Level::INFO => "INFO",
            Level::DEBUG | Level::TRACE => "DEBUG",
        };
        let mut text = Text::default();
        event.record(&mut text);
        let line = format!("{}{}", text.message, text.fields);
        writeln!(writer, "{level}:{}: {}", self.logger, escape(&line))
    }
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }
}

/// Makes one harmless line of at most [`LINE_LIMIT`] characters out of anything.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for (count, c) in text.chars().enumerate() {
        if count == LINE_LIMIT {
            line.push_str(" [cut]");
            break;
        }
        if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

/// The most characters of one log line.
pub const LINE_LIMIT: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_the_form_of_certdeploy_0_5_and_cannot_be_forged() {
        let log = collected("certdeploy-server", || {
            tracing::warn!(target = "web1", attempt = 2, "Pushed {}", "a\nERROR:certdeploy-server: b\u{1b}[2J");
        });
        assert_eq!(
            log,
            "WARNING:certdeploy-server: Pushed a\\nERROR:certdeploy-server: b\\u{1b}[2J target=\"web1\" attempt=2\n"
        );
        assert_eq!(escape(&"x".repeat(5000)).len(), LINE_LIMIT + 6);
    }
}
