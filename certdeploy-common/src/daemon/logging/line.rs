//! One event -> one line: text as certdeploy 0.5 writes it, JSON, or an entry for the journal. Everything a peer may
//! have chosen is made harmless here, once. Pure.

use std::fmt::{self, Write as _};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};

/// How severe a line is, in the Python program's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Severity {
    Error,
    Warning,
    Info,
    Debug,
}

impl Severity {
    pub(super) fn of(level: tracing::Level) -> Self {
        match level {
            tracing::Level::ERROR => Self::Error,
            tracing::Level::WARN => Self::Warning,
            tracing::Level::INFO => Self::Info,
            tracing::Level::DEBUG | tracing::Level::TRACE => Self::Debug,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Warning => "WARNING",
            Self::Info => "INFO",
            Self::Debug => "DEBUG",
        }
    }

    /// As syslog counts.
    fn priority(self) -> u8 {
        match self {
            Self::Error => 3,
            Self::Warning => 4,
            Self::Info => 6,
            Self::Debug => 7,
        }
    }
}

/// One line of the log, before it has a form.
#[derive(Debug)]
pub(super) struct Line<'a> {
    pub(super) severity: Severity,
    pub(super) logger: &'static str,
    /// The module that speaks.
    pub(super) target: &'a str,
    pub(super) message: String,
    /// What the event names.
    pub(super) fields: Fields,
    /// What the work names that the event is part of; not in the text, whose words are the Python program's.
    pub(super) context: Fields,
}

impl Line<'_> {
    /// A warning about the log itself.
    pub(super) fn of_ours(message: String) -> Self {
        let severity = Severity::Warning;
        let (fields, context) = (Fields::default(), Fields::default());
        Self { severity, logger: "certdeploy", target: "certdeploy", message, fields, context }
    }

    /// `LEVEL:logger: message field=value`.
    pub(super) fn text(&self) -> String {
        format!("{}:{}: {}\n", self.severity.name(), self.logger, self.said())
    }

    /// One object.
    pub(super) fn json(&self, timestamp: &str) -> String {
        let mut object = Map::new();
        let mut put = |name: &str, value: &str| object.insert(name.to_owned(), Value::String(value.to_owned()));
        put("timestamp", timestamp);
        put("level", self.severity.name());
        put("logger", self.logger);
        put("message", &cut(&self.message));
        put("target", self.target);
        let fields = self.context.0.iter().chain(&self.fields.0);
        let fields: Map<String, Value> = fields.map(|(name, value)| ((*name).to_owned(), cut(value).into())).collect();
        if !fields.is_empty() {
            object.insert("fields".to_owned(), Value::Object(fields));
        }
        let mut line = String::new();
        // What JSON need not escape, but a terminal obeys, only stands inside its strings.
        for c in Value::Object(object).to_string().chars() {
            if is_harmful(c) {
                let _ = write!(line, "\\u{:04x}", u32::from(c));
            } else {
                line.push(c);
            }
        }
        line.push('\n');
        line
    }

    /// The journal's native form, see <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>.
    pub(super) fn journal(&self) -> String {
        let mut entry = format!(
            "PRIORITY={}\nSYSLOG_IDENTIFIER={}\nTARGET={}\nMESSAGE={}\n",
            self.severity.priority(),
            self.logger,
            escape(self.target),
            self.said()
        );
        for (name, value) in self.context.0.iter().chain(&self.fields.0) {
            let name: String =
                name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
            let _ = writeln!(entry, "CERTDEPLOY_{name}={}", escape(value));
        }
        entry
    }

    fn said(&self) -> String {
        let mut said = self.message.clone();
        for (name, value) in &self.fields.0 {
            let is_word = value.chars().all(|c| c.is_alphanumeric() || "-._/:@+".contains(c));
            let _ = if is_word { write!(said, " {name}={value}") } else { write!(said, " {name}={value:?}") };
        }
        escape(&said)
    }
}

/// Names and values, in their order.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields(pub(super) Vec<(&'static str, String)>);

/// Takes an event or a span apart.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) message: String,
    pub(super) fields: Fields,
}

impl Visit for Parts {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        } else {
            self.fields.0.push((field.name(), format!("{value:?}")));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.fields.0.push((field.name(), value.to_owned()));
        }
    }
}

/// Makes one harmless line of at most [`LINE_LIMIT`] characters out of anything.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(LINE_LIMIT));
    for (count, c) in text.chars().enumerate() {
        if count == LINE_LIMIT {
            line.push_str(" [cut]");
            break;
        }
        if is_harmful(c) {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

/// What ends a line, moves a terminal's cursor, or turns the reading order round.
fn is_harmful(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn cut(text: &str) -> String {
    let mut short: String = text.chars().take(LINE_LIMIT).collect();
    if short.len() < text.len() {
        short.push_str(" [cut]");
    }
    short
}

/// The most characters of one log line.
pub const LINE_LIMIT: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn line(message: &str) -> Line<'static> {
        Line {
            severity: Severity::Warning,
            logger: "certdeploy-server",
            target: "certdeploy_server::push",
            message: message.to_owned(),
            fields: Fields(vec![("attempt", "2".to_owned())]),
            context: Fields(vec![("lineage", "a\nb".to_owned())]),
        }
    }

    const NASTY: &str = "a\nERROR:certdeploy-server: b\u{1b}[2J\u{9b}\u{202e}\"\\";

    #[test]
    fn a_text_line_has_the_form_of_certdeploy_0_5_and_cannot_be_forged() {
        let text = line(NASTY).text();
        let want = r#"WARNING:certdeploy-server: a\nERROR:certdeploy-server: b\u{1b}[2J\u{9b}\u{202e}"\ attempt=2"#;
        assert_eq!(text, format!("{want}\n"));
        assert_eq!(escape(&"x".repeat(5000)).len(), LINE_LIMIT + 6);
    }

    #[test]
    fn a_json_line_is_one_object_with_everything_in_it() {
        let json = line(NASTY).json("2026-11-22T00:00:00.000Z");
        assert_eq!(json.lines().count(), 1);
        assert!(!json.trim_end().contains(is_harmful), "{json}");
        let object: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(object["message"], NASTY);
        assert_eq!(object["level"], "WARNING");
        assert_eq!(object["logger"], "certdeploy-server");
        assert_eq!(object["timestamp"], "2026-11-22T00:00:00.000Z");
        assert_eq!(object["fields"], serde_json::json!({"lineage": "a\nb", "attempt": "2"}));
        assert!(line(&"\u{1}".repeat(50_000)).json("").len() < 8 * LINE_LIMIT);
    }

    #[test]
    fn a_journal_entry_has_priority_and_fields_and_cannot_be_forged() {
        let entry = line("a\nPRIORITY=0").journal();
        assert_eq!(
            entry,
            "PRIORITY=4\nSYSLOG_IDENTIFIER=certdeploy-server\nTARGET=certdeploy_server::push\n\
             MESSAGE=a\\nPRIORITY=0 attempt=2\nCERTDEPLOY_LINEAGE=a\\nb\nCERTDEPLOY_ATTEMPT=2\n"
        );
    }
}
