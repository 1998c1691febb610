//! `enroll`: fetches a host key, shows its fingerprint and, on a yes, writes the entry.

use certdeploy_common::daemon::exit::Exit;

use crate::Failure;
use crate::cli::Invocation;

pub(crate) fn enroll(invocation: &Invocation, host: &str, fingerprint: Option<&str>) -> Result<Exit, Failure> {
    let _ = (invocation, host, fingerprint);
    Err("`enroll` is not there yet".into())
}
