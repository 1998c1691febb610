//! The types of settings that only this program has: push mode, renewal interval, timeouts. Pure.

use std::time::Duration;

use certdeploy_common::setting::value::scalar;
use certdeploy_common::setting::yaml::{Content, Node};
use certdeploy_common::setting::{Complaint, Kind, Located, Problems, Value, duration, number};

/// Whether targets are served one after another or side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushMode {
    /// One after another, in the order of the config.
    Serial,
    /// Side by side.
    Parallel,
}

/// The unit of a renewal interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Minutes.
    Minute,
    /// Hours.
    Hour,
    /// Days.
    Day,
    /// Weeks.
    Week,
    /// A day of the week, 0 for Monday.
    Weekday(u8),
}

impl Unit {
    /// Reads a unit as `renew_unit` writes it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        const WEEKDAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
        let text = text.trim().to_ascii_lowercase();
        match text.as_str() {
            "minute" => Some(Self::Minute),
            "hour" => Some(Self::Hour),
            "day" => Some(Self::Day),
            "week" => Some(Self::Week),
            other => {
                let day = WEEKDAYS.iter().position(|name| *name == other)?;
                Some(Self::Weekday(u8::try_from(day).unwrap_or_default()))
            }
        }
    }
}

/// `renew_every`: a number of units, or a day of the week as the old documentation had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Every {
    /// A number of `renew_unit`s.
    Count(u32),
    /// A unit of its own.
    Unit(Unit),
}

/// Whether certbot runs when the daemon starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStart {
    /// If the last run is longer ago than the interval.
    Overdue,
    /// Each time.
    Always,
    /// Never.
    Never,
}

certdeploy_common::scalar_kinds! {
    /// `renew_on_start`.
    OnStartText -> OnStart, "when", "be overdue, always or never",
        ["overdue", "always", "never"], ["yes", "Overdue", "1"], |text| match text {
            "overdue" => Some(OnStart::Overdue),
            "always" => Some(OnStart::Always),
            "never" => Some(OnStart::Never),
            _ => None,
        };
    /// `push_mode`.
    PushModeText -> PushMode, "push mode", "be \"serial\" or \"parallel\"",
        ["serial", "parallel"], ["Serial", "both", "1"], |text| match text {
            "serial" => Some(PushMode::Serial),
            "parallel" => Some(PushMode::Parallel),
            _ => None,
        };
    /// `renew_unit`.
    UnitText -> Unit, "unit of time", "be one of minute, hour, day, week or a day of the week",
        ["minute", "hour", "Day", "week", "monday", "sunday"], ["days", "month", "1"], Unit::parse;
    /// `renew_every`.
    EveryText -> Every, "whole number from 1, or a day of the week",
        "be an integer greater than or equal to 1 or a day of the week",
        ["1", "12", "monday", "week"], ["0", "-1", "mondays"], |text| match number::whole(text) {
            Some(count @ 1..=1_000_000) => u32::try_from(count).ok().map(Every::Count),
            Some(_) => None,
            None => Unit::parse(text).map(Every::Unit),
        };
    /// A length of time that is never none, nor so short that it would keep us busy.
    Interval -> Duration, "seconds from 1", "be a number of seconds greater than or equal to 1",
        ["1", "1.5", "'30'"], ["0", "0.001", "-1", "soon"],
        |text| duration::seconds(text).filter(|time| *time >= Duration::from_secs(1));
    /// A limit on a wait.
    Limit -> Duration, "seconds", "be a number of seconds greater than 0, or null to wait for ever",
        ["1", "0.5", "'30'"], ["0", "-1", "soon"], |text| duration::seconds(text).filter(|limit| !limit.is_zero());
    /// The path of files at the target, '' for where the SFTP session begins.
    RemotePath -> String, "path", "be a path",
        ["/var/cache/certdeploy", "sub/dir", "''"], ["{}", "[]"], |text| Some(text.trim_end_matches('/').to_owned());
}

/// `join_timeout`: a limit, or null for none. 0, which the Python program took, is none too.
#[derive(Debug)]
pub struct JoinLimit;
impl Value for JoinLimit {
    type Out = Option<Duration>;
    const KIND: Kind = Kind {
        name: "seconds",
        expected: "be a number of seconds, or null to set no limit",
        valid: &["1", "0.5", "'30'", "null", "0"],
        invalid: &["-1", "soon"],
        inside: None,
    };
    fn read(key: &str, node: Node, problems: &mut Problems) -> Result<Self::Out, Complaint> {
        if matches!(node.content, Content::Null) {
            return Ok(None);
        }
        let limit = scalar(key, &node, Self::KIND.expected, duration::seconds)?;
        if limit.is_zero() {
            problems.warn(node.place, format!("`{key}` is 0; it is taken as null: no limit"));
        }
        Ok(Some(limit).filter(|limit| !limit.is_zero()))
    }
}

/// A list of words. One text is several words, with a warning: the Python program took it in its own way.
#[derive(Debug)]
pub struct Words;

impl Words {
    /// The words of one text: between blanks and commas.
    pub fn of(text: &str) -> impl Iterator<Item = &str> {
        text.split(|mark: char| mark.is_whitespace() || mark == ',').filter(|word| !word.is_empty())
    }
}

impl Value for Words {
    type Out = Vec<Located<String>>;
    const KIND: Kind = Kind {
        name: "list of text",
        expected: "be a list of text",
        valid: &["[a.example, b.example]", "a.example", "[]"],
        invalid: &["{}", "[{}]", "[[x]]"],
        inside: None,
    };
    fn read(key: &str, node: Node, problems: &mut Problems) -> Result<Self::Out, Complaint> {
        list(key, &node, problems, Self::KIND.expected, |text| Some(Self::of(text).map(str::to_owned).collect()))
    }
}

/// Arguments of a program: a list, or one text with blanks between them. No shell reads it, so a text that speaks to one
/// is refused.
#[derive(Debug)]
pub struct Arguments;

impl Value for Arguments {
    type Out = Vec<Located<String>>;
    const KIND: Kind = Kind {
        name: "list of text",
        expected: "be a list of text (in one text, quotes and backslashes mean nothing)",
        valid: &["[renew, --quiet]", "renew --preferred-challenges dns,http", "[]"],
        invalid: &["{}", "[{}]", "[[x]]", "renew --pre-hook 'a b'", "a\\ b"],
        inside: None,
    };
    fn read(key: &str, node: Node, problems: &mut Problems) -> Result<Self::Out, Complaint> {
        list(key, &node, problems, Self::KIND.expected, |text| {
            let plain = !text.contains(['"', '\'', '\\']);
            plain.then(|| text.split_whitespace().map(str::to_owned).collect())
        })
    }
}

/// A list of text; one text becomes what `split` makes of it, with a warning.
fn list(
    key: &str,
    node: &Node,
    problems: &mut Problems,
    expected: &'static str,
    split: impl Fn(&str) -> Option<Vec<String>>,
) -> Result<Vec<Located<String>>, Complaint> {
    match &node.content {
        Content::Null => Ok(Vec::new()),
        Content::List(items) => {
            let text = |item: &Node| scalar(key, item, expected, |text| Some(text.to_owned()));
            items.iter().map(|item| Ok(Located { value: text(item)?, place: item.place })).collect()
        }
        Content::Scalar { .. } | Content::Map(_) => {
            let words = scalar(key, node, expected, split)?;
            let taken = words.join("`, `");
            problems
                .warn(node.place, format!("`{key}` should be a list; it is taken as {} words: `{taken}`", words.len()));
            Ok(words.into_iter().map(|value| Located { value, place: node.place }).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use certdeploy_common::setting::yaml;

    use super::*;

    fn table<V: Value>() {
        for (samples, want) in [(V::KIND.valid, true), (V::KIND.invalid, false)] {
            for sample in samples {
                let read = V::read("key", yaml::parse(sample).unwrap(), &mut Problems::default());
                assert_eq!(read.is_ok(), want, "{}: {sample}", V::KIND.name);
            }
        }
    }

    #[test]
    fn samples_of_each_type_are_accepted_or_refused() {
        table::<PushModeText>();
        table::<UnitText>();
        table::<EveryText>();
        table::<Interval>();
        table::<Limit>();
        table::<RemotePath>();
        table::<OnStartText>();
        table::<JoinLimit>();
        table::<Words>();
        table::<Arguments>();
    }
}
