//! File modes as configs write them: `0600`, `0o600`, `600`, `'0600'`, and the numbers that YAML makes of them. Pure.

use super::place::{Complaint, Problems};
use super::value::{Kind, Value, scalar};
use super::yaml::{Content, Node};

/// Permission bits of a file or directory, 0 to 0o777.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode(u32);

impl Mode {
    /// Mode bits; anything above 0o777 is cut off.
    #[must_use]
    pub const fn new(bits: u32) -> Self {
        Self(bits & 0o777)
    }

    /// The bits, for `fchmod(2)`.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Reads an octal mode. 0 is refused, as the Python program does: nobody means it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("0o").unwrap_or(text);
        let octal = u32::from_str_radix(digits, 8).ok().filter(|_| digits.len() <= 4)?;
        Self::of(octal)
    }

    fn of(bits: u32) -> Option<Self> {
        (1..=0o777).contains(&bits).then_some(Self(bits))
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

/// What an unquoted number without a leading 0 may mean. To YAML 1.1 it is decimal, and so it was to the Python program:
/// 416 was 0640 there, and 400 was 0620. A person who writes 400 means 0400.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// There is one reading.
    Plain(Mode),
    /// No octal number; the decimal one is a mode.
    Decimal(Mode),
    /// Two modes, and a wrong guess could open a key to others.
    Either {
        /// As it is written.
        octal: Mode,
        /// As the Python program read it.
        decimal: Mode,
    },
}

impl Meaning {
    fn of(text: &str, quoted: bool) -> Option<Self> {
        let digits = text.strip_prefix('+').unwrap_or(text);
        let number = digits.parse::<u32>().ok().filter(|_| !quoted && !digits.starts_with('0'));
        let Some(number) = number else { return Mode::parse(text).map(Self::Plain) };
        match (Mode::parse(digits), Mode::of(number)) {
            (Some(octal), Some(decimal)) if octal != decimal => Some(Self::Either { octal, decimal }),
            (Some(octal), _) => Some(Self::Plain(octal)),
            (None, decimal) => decimal.map(Self::Decimal),
        }
    }
}

/// A file mode. Text is octal; a number that could be read in two ways is refused.
#[derive(Debug)]
pub struct ModeText;
impl Value for ModeText {
    type Out = Mode;
    const KIND: Kind = Kind {
        name: "file mode",
        expected: "be an octal mode from 0001 to 0777",
        valid: &["0600", "0o640", "'644'", "755", "384"],
        invalid: &["rw-", "0", "07777", "'384'", "0384", "416", "400"],
        inside: None,
    };
    fn read(key: &str, node: Node, problems: &mut Problems) -> Result<Mode, Complaint> {
        let expected = Self::KIND.expected;
        let quoted = matches!(node.content, Content::Scalar { quoted: true, .. });
        let mut written = String::new();
        let meaning = scalar(key, &node, expected, |text| {
            text.clone_into(&mut written);
            Meaning::of(text, quoted)
        })?;
        match meaning {
            Meaning::Plain(mode) => Ok(mode),
            Meaning::Decimal(mode) => {
                problems.warn(node.place, format!("`{key}`: {written} is taken as a decimal number; write {mode}"));
                Ok(mode)
            }
            Meaning::Either { octal, decimal } => {
                let must = format!(
                    "{expected} with its leading 0: this is {octal} or, as the Python program read it, {decimal}; write \
                     the one that is meant"
                );
                Err(Complaint::value(node.place, &written, key, &must))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str) -> (Result<Mode, String>, Vec<String>) {
        let mut problems = Problems::default();
        let read = ModeText::read("mode", super::super::yaml::parse(yaml).unwrap(), &mut problems);
        let warnings = problems.warnings.into_iter().map(|warning| warning.message).collect();
        (read.map_err(|complaint| complaint.message), warnings)
    }

    #[test]
    fn every_spelling_of_0600_is_the_same() {
        for yaml in ["0600", "0o600", "600", "+600", "'600'", "'0600'", "\"0o600\""] {
            assert_eq!(read(yaml), (Ok(Mode::new(0o600)), Vec::new()), "{yaml}");
        }
        for yaml in ["0", "0o1777", "rw", "''", "99999", "-1", "-600", "'384'", "0384", "1600", "888", "0x180"] {
            assert!(read(yaml).0.is_err(), "{yaml}");
        }
        for (yaml, bits) in
            [("755", 0o755), ("700", 0o700), ("640", 0o640), ("'400'", 0o400), ("0400", 0o400), ("7", 7)]
        {
            assert_eq!(read(yaml), (Ok(Mode::new(bits)), Vec::new()), "{yaml}");
        }
    }

    #[test]
    fn a_number_is_decimal_where_it_can_be_nothing_else() {
        for (yaml, bits, octal) in [("384", 0o600, "0600"), ("480", 0o740, "0740"), ("493", 0o755, "0755")] {
            let warning = format!("`mode`: {yaml} is taken as a decimal number; write {octal}");
            assert_eq!(read(yaml), (Ok(Mode::new(bits)), vec![warning]));
        }
    }

    #[test]
    fn a_number_with_two_readings_is_refused_with_both() {
        for (yaml, octal, decimal) in [
            ("416", "0416", "0640"),
            ("420", "0420", "0644"),
            ("400", "0400", "0620"),
            ("440", "0440", "0670"),
            ("444", "0444", "0674"),
            ("+444", "0444", "0674"),
            ("511", "0511", "0777"),
        ] {
            let said = read(yaml).0.unwrap_err();
            let want = format!("this is {octal} or, as the Python program read it, {decimal}; write the one");
            assert!(said.contains(&format!("Invalid value \"{yaml}\" for `mode`")) && said.contains(&want), "{said}");
        }
    }
}
