//! Fault -> may these files still be arriving? A file that is being written looks cut; one that holds something else
//! will not become good by waiting. Pure.

use certdeploy_common::cert::keypair::KeyFault;
use certdeploy_common::cert::pem::PemFault;
use certdeploy_common::cert::{Bundle, Fault, FileName};

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";

/// Whether more bytes, or a newer file beside these, could mend this.
#[must_use]
pub(super) fn may_be(fault: &Fault, bundle: &Bundle) -> bool {
    match fault {
        // Each file is fine by itself: one of them is of the set before, and its successor may be on its way.
        Fault::Key(KeyFault::Mismatch) | Fault::Differ(..) | Fault::Chain { .. } | Fault::NoLeaf => true,
        Fault::Pem(name, PemFault::Empty | PemFault::Broken) => is_cut(bundle, *name),
        Fault::Pem(_, PemFault::Encrypted | PemFault::Label(_) | PemFault::TooLarge(_) | PemFault::TooMany(_))
        | Fault::Key(KeyFault::Broken | KeyFault::NoPublicHalf | KeyFault::Unknown)
        | Fault::Certificate(_)
        | Fault::Expired { .. } => false,
    }
}

fn is_cut(bundle: &Bundle, name: FileName) -> bool {
    let Some(bytes) = bundle.file(name) else { return true };
    let rest = after_whole_blocks(bytes);
    if rest.trim_ascii().is_empty() {
        // Nothing at all: it has only been opened. Whole blocks that are wrong: they stay wrong.
        return rest.len() == bytes.len();
    }
    match find(rest, BEGIN) {
        // Its first line may not be there yet.
        None => last_line(rest).is_some_and(|line| BEGIN.starts_with(line)),
        Some(at) => rest.get(at + BEGIN.len()..).is_some_and(is_text),
    }
}

/// What follows the last line that ends a block.
fn after_whole_blocks(bytes: &[u8]) -> &[u8] {
    let mut rest = bytes;
    while let Some(at) = find(rest, END) {
        let line = rest.get(at..).unwrap_or_default();
        let end = line.iter().position(|byte| *byte == b'\n').unwrap_or(line.len());
        let whole =
            line.get(..end).is_some_and(|line| line.trim_ascii_end().ends_with(b"-----") && line.len() > END.len() + 5);
        if !whole {
            break;
        }
        rest = line.get(end..).unwrap_or_default();
    }
    rest
}

fn last_line(bytes: &[u8]) -> Option<&[u8]> {
    bytes.rsplit(|byte| *byte == b'\n').next().filter(|line| !line.is_empty())
}

/// Label, base64, line ends and dashes.
fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+/=- \r\n".contains(byte))
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &[u8]) -> bool {
        let mut bundle = Bundle::default();
        bundle.insert(FileName::Privkey, text.to_vec().into());
        may_be(&Fault::Pem(FileName::Privkey, PemFault::Broken), &bundle)
    }

    #[test]
    fn a_file_at_any_moment_of_its_writing_is_still_arriving_and_junk_is_not() {
        let block = "-----BEGIN CERTIFICATE-----\nBwcHBwc=\n-----END CERTIFICATE-----\n";
        let whole = block.repeat(2);
        for length in 0..whole.len() {
            // A file that ends between two blocks is whole as far as one can see; so is one without its last line end.
            let text = &whole[..length];
            if text.trim_end().ends_with("-----END CERTIFICATE-----") {
                continue;
            }
            assert!(cut(text.as_bytes()), "{text:?}");
        }
        for junk in ["junk", "\u{0}\u{9f}", "-----BEGIN X-----\n<html>", "{}", "junk\n", &whole] {
            assert!(!cut(junk.as_bytes()), "{junk:?}");
        }
    }

    #[test]
    fn what_is_whole_and_wrong_stays_wrong() {
        let none = Bundle::default();
        assert!(may_be(&Fault::Key(KeyFault::Mismatch), &none));
        assert!(!may_be(&Fault::Key(KeyFault::Broken), &none));
        assert!(!may_be(&Fault::Pem(FileName::Cert, PemFault::TooMany(10)), &none));
        assert!(!may_be(&Fault::Certificate(FileName::Cert), &none));
    }
}
