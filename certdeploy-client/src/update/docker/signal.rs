//! The signals of Linux (signal(7)) as people write them to `docker kill`. Pure.

/// A signal that the engine knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signal(String);

/// What a signal must be.
pub const MUST: &str = "be a signal like HUP or SIGHUP, or its number";

const NAMES: [&str; 36] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL",
    "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1",
    "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
];
/// The highest number of one.
const HIGHEST: u8 = 64;
/// How many real-time signals the engine counts from the lowest and from the highest one.
const REAL_TIME: (u8, u8) = (15, 14);

impl Signal {
    /// Reads it as the config writes it: a name in either case, with or without `SIG`, a real-time signal like
    /// `RTMIN+3`, or a number.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_uppercase();
        let name = text.strip_prefix("SIG").unwrap_or(&text);
        let number = |text: &str| text.parse::<u8>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        let counted = |from: &str, most: u8| {
            name.strip_prefix(from).and_then(number).is_some_and(|count| (1..=most).contains(&count))
        };
        let known = NAMES.contains(&name)
            || counted("RTMIN+", REAL_TIME.0)
            || counted("RTMAX-", REAL_TIME.1)
            || number(&text).is_some_and(|number| (1..=HIGHEST).contains(&number));
        known.then_some(Self(text))
    }

    /// As the engine takes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_name_and_number() {
        for good in ["HUP", "sighup", "SIGUSR1", "10", "64", "RTMIN+3", "SIGRTMAX-1", "rtmin"] {
            assert_eq!(Signal::parse(good).map(|signal| signal.0), Some(good.to_uppercase()), "{good}");
        }
        for bad in ["", "SIG", "HUPP", "0", "65", "-1", "RTMIN+16", "RTMIN-1", "SIG9", "RTMAX-15", "RTMIN++3", "+9"] {
            assert_eq!(Signal::parse(bad), None, "{bad}");
        }
    }
}
