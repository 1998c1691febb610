//! The framing guard in front of the SFTP library: a length word beyond the limit, or anything before INIT, ends the
//! channel at once. The library would go on reading inside the attacker's bytes. Pure.

/// What is wrong with a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A packet longer than the limit, or empty.
    #[error("an SFTP packet of {0} bytes")]
    Length(u32),
    /// Not INIT first, or INIT again.
    #[error("SFTP packets in the wrong order")]
    Order,
}

/// Follows a stream of SFTP packets, however it is cut into pieces.
#[derive(Debug)]
pub struct Guard {
    limit: u32,
    begun: bool,
    header: Vec<u8>,
    body: u32,
}

const INIT: u8 = 1;

impl Guard {
    /// A guard for packets of at most `limit` bytes (type byte included, length word not).
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self { limit, begun: false, header: Vec::with_capacity(5), body: 0 }
    }

    /// Looks at the next piece of the stream.
    ///
    /// # Errors
    /// The stream must be ended.
    pub fn check(&mut self, mut piece: &[u8]) -> Result<(), Violation> {
        while let Some((byte, rest)) = piece.split_first() {
            if self.body > 0 {
                let skip = piece.len().min(usize::try_from(self.body).unwrap_or(usize::MAX));
                self.body -= u32::try_from(skip).unwrap_or(self.body);
                piece = piece.get(skip..).unwrap_or_default();
                continue;
            }
            self.header.push(*byte);
            piece = rest;
            if let [a, b, c, d, kind] = *self.header.as_slice() {
                let length = u32::from_be_bytes([a, b, c, d]);
                if length == 0 || length > self.limit {
                    return Err(Violation::Length(length));
                }
                if (kind == INIT) == self.begun {
                    return Err(Violation::Order);
                }
                self.begun = true;
                self.body = length - 1;
                self.header.clear();
            } else if let [0, 0, 0, 0] = *self.header.as_slice() {
                return Err(Violation::Length(0));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(kind: u8, body: usize) -> Vec<u8> {
        let mut bytes = u32::try_from(body + 1).unwrap().to_be_bytes().to_vec();
        bytes.push(kind);
        bytes.extend(vec![0xff; body]);
        bytes
    }

    #[test]
    fn good_streams_pass_however_they_are_cut() {
        let stream: Vec<u8> = [packet(1, 4), packet(3, 100), packet(6, 0), packet(6, 1)].concat();
        for size in 1..stream.len() {
            let mut guard = Guard::new(1000);
            for piece in stream.chunks(size) {
                assert_eq!(guard.check(piece), Ok(()), "pieces of {size}");
            }
        }
    }

    #[test]
    fn bad_streams_end_at_the_first_violation() {
        let check = |stream: &[u8]| {
            stream.chunks(3).try_fold(Guard::new(1000), |mut guard, piece| {
                guard.check(piece)?;
                Ok::<_, Violation>(guard)
            })
        };
        assert_eq!(check(&packet(3, 4)).unwrap_err(), Violation::Order);
        assert_eq!(check(&[packet(1, 4), packet(1, 4)].concat()).unwrap_err(), Violation::Order);
        assert_eq!(check(&[packet(1, 4), vec![0xff; 8]].concat()).unwrap_err(), Violation::Length(u32::MAX));
        assert_eq!(check(&[packet(1, 4), vec![0; 4]].concat()).unwrap_err(), Violation::Length(0));
        assert_eq!(check(&packet(1, 1000)).unwrap_err(), Violation::Length(1001));
    }
}
