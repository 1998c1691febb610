//! Our refusals in SFTP's numbers (draft-ietf-secsh-filexfer-02, section 7).

use russh_sftp::protocol::StatusCode;
use russh_sftp::server::StatusReply;

use crate::staging::path::BadPath;
use crate::staging::refusal::Refusal;

/// An answer that is not what was asked for.
#[derive(Debug)]
pub struct No(StatusReply);

impl No {
    /// End of file or of a listing.
    #[must_use]
    pub fn end() -> Self {
        Self(StatusReply::new(StatusCode::Eof))
    }

    /// Not a verb of ours.
    #[must_use]
    pub fn unsupported() -> Self {
        Self(StatusReply::new(StatusCode::OpUnsupported))
    }

    /// No such file.
    #[must_use]
    pub fn missing() -> Self {
        Self(StatusReply::new(StatusCode::NoSuchFile))
    }
}

impl From<Refusal> for No {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::Missing => StatusCode::NoSuchFile,
            Refusal::Denied(_) => StatusCode::PermissionDenied,
            Refusal::Unsupported => StatusCode::OpUnsupported,
            Refusal::Handle | Refusal::TooLarge(_) | Refusal::TooMany(_) | Refusal::Io(_) => StatusCode::Failure,
        };
        Self(StatusReply::new(code).with_message(refusal.to_string()))
    }
}

impl From<BadPath> for No {
    fn from(bad: BadPath) -> Self {
        Self(StatusReply::new(StatusCode::PermissionDenied).with_message(bad.to_string()))
    }
}

impl From<No> for StatusReply {
    fn from(no: No) -> Self {
        no.0
    }
}
