//! What a program says while it runs: each line goes to the log at once, and the end of it is kept for the error. It
//! must not know of processes.

/// The most output that is kept, in bytes: the end of it.
const KEPT: usize = 64 * 1024;
/// The most output that is logged as it comes, in bytes: the start of it.
const LOGGED: usize = 1024 * 1024;
/// The longest piece that is logged as one line, in bytes.
const LINE: usize = 8 * 1024;

/// The output of one run.
#[derive(Debug, Default)]
pub struct Output {
    tail: Vec<u8>,
    line: Vec<u8>,
    logged: usize,
}

impl Output {
    /// Takes in what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        if self.tail.len() > 2 * KEPT {
            self.tail.drain(..self.tail.len() - KEPT);
        }
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.logged >= LOGGED {
                return;
            }
            self.line.extend_from_slice(piece);
            self.logged += piece.len();
            if piece.ends_with(b"\n") || self.line.len() >= LINE {
                self.log();
            }
            if self.logged >= LOGGED {
                self.log();
                tracing::debug!("certbot: (further output is not logged)");
            }
        }
    }

    /// No more comes.
    pub fn finish(&mut self) {
        self.log();
    }

    /// The end of all that was said.
    #[must_use]
    pub fn tail(&self) -> String {
        let from = self.tail.len().saturating_sub(KEPT);
        String::from_utf8_lossy(self.tail.get(from..).unwrap_or_default()).trim_end().to_owned()
    }

    fn log(&mut self) {
        let line = String::from_utf8_lossy(&self.line);
        let line = line.trim_end();
        if !line.is_empty() {
            tracing::debug!("certbot: {line}");
        }
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_kept_and_lines_wait_for_their_end() {
        let mut output = Output::default();
        for _ in 0..40 {
            output.push(&[b'x'; 10_000]);
        }
        assert!(output.line.len() < LINE + 10_000);
        output.push(b"\nhalf a");
        assert_eq!(output.line, b"half a");
        output.push(b" line\n");
        assert!(output.line.is_empty());
        let tail = output.tail();
        assert!(tail.ends_with("xx\nhalf a line") && tail.len() < KEPT && output.tail.len() <= 2 * KEPT + 10_000);
        for _ in 0..200 {
            output.push(&[b'\n'; 10_000]);
        }
        assert!(output.logged <= LOGGED + 10_000 && output.line.is_empty());
        output.finish();
    }
}
