//! Our refusals in SFTP's numbers (draft-ietf-secsh-filexfer-02, section 7).

use russh_sftp::protocol::StatusCode;
use russh_sftp::server::StatusReply;

use crate::staging::path::BadPath;
use crate::staging::refusal::Refusal;

/// An answer that is not what was asked for.
#[derive(Debug)]
pub struct No(StatusReply, Option<String>);

impl No {
    /// End of file or of a listing.
    #[must_use]
    pub fn end() -> Self {
        Self(StatusReply::new(StatusCode::Eof), None)
    }

    /// Not a verb of ours.
    #[must_use]
    pub fn unsupported() -> Self {
        Self(StatusReply::new(StatusCode::OpUnsupported), None)
    }

    /// Why it is a refusal; `None`: it is none, only how things are.
    #[must_use]
    pub fn cause(&self) -> Option<&str> {
        self.1.as_deref()
    }

    /// No such file.
    #[must_use]
    pub fn missing() -> Self {
        Self(StatusReply::new(StatusCode::NoSuchFile), None)
    }
}

impl From<Refusal> for No {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::Missing => StatusCode::NoSuchFile,
            Refusal::Denied(_) => StatusCode::PermissionDenied,
            Refusal::Unsupported => StatusCode::OpUnsupported,
            // As sshd: some tools take it for "make it if it is not there".
            Refusal::Exists | Refusal::Handle | Refusal::TooLarge(_) | Refusal::TooMany(_) | Refusal::Io(_) => {
                StatusCode::Failure
            }
        };
        let cause = refusal.to_string();
        let told = Some(cause.clone()).filter(|_| !matches!(refusal, Refusal::Missing | Refusal::Exists));
        Self(StatusReply::new(code).with_message(cause), told)
    }
}

impl From<BadPath> for No {
    fn from(bad: BadPath) -> Self {
        let cause = bad.to_string();
        Self(StatusReply::new(StatusCode::PermissionDenied).with_message(cause.clone()), Some(cause))
    }
}

impl From<No> for StatusReply {
    fn from(no: No) -> Self {
        no.0
    }
}
