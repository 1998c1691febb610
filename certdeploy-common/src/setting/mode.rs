//! File modes as configs write them: `0600`, `0o600`, `600`, `'0600'`. Pure.

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
    ///
    /// PyYAML reads an unquoted 0600 as the number 384, so `384` on its own was valid there; a mode that is no
    /// octal number but a decimal one below 0o1000 is taken so.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("0o").unwrap_or(text);
        let octal = u32::from_str_radix(digits, 8).ok().filter(|_| digits.len() <= 4);
        let bits = octal.or_else(|| digits.parse::<u32>().ok())?;
        (1..=0o777).contains(&bits).then_some(Self(bits))
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_0600_is_the_same() {
        for text in ["0600", "0o600", "600", "384"] {
            assert_eq!(Mode::parse(text), Some(Mode::new(0o600)), "{text}");
        }
        for text in ["0", "0o1777", "rw", "", "99999", "-1"] {
            assert_eq!(Mode::parse(text), None, "{text}");
        }
    }
}
