//! Examining an upload in a process of its own without privileges, so that the process that runs as root parses no
//! peer's bytes. One short-lived process for each upload: nothing that one upload does to it can touch the next.
#![expect(clippy::disallowed_methods, reason = "one of the three places that spawn: the validator is ourselves")]

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::sync::Once;
use std::time::Duration;

use certdeploy_common::cert::{Bundle, FileName};
use certdeploy_common::wire::layout::MANIFEST_LIMIT;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Findings, Origin, Rejection, Upload, ValidBundle, examine};
use crate::account::Account;
use crate::sandbox::{self, Confinement};

/// The hidden command that runs [`serve`].
pub const COMMAND: &str = "internal-validator";

/// Where uploads are examined.
#[derive(Debug, Clone)]
pub enum Validator {
    /// In this process, which has no privileges to lose.
    Here,
    /// In a new process that runs as this account.
    Apart {
        /// Who it runs as.
        account: Account,
        /// How long one check may take.
        timeout: Duration,
    },
}

/// The first line to the validator; the files' bytes follow in this order.
#[derive(Serialize, Deserialize)]
struct Request {
    origin: Origin,
    now: i64,
    files: Vec<(FileName, usize)>,
}

/// The answer.
#[derive(Serialize, Deserialize)]
struct Answer {
    found: Result<Findings, Rejection>,
    /// What the validator was confined by.
    confinement: Confinement,
}

/// Whether the log has it what the validator is confined by: once is enough for all of them.
static SAID: Once = Once::new();

/// The longest answer, in bytes: a leaf and its names.
const ANSWER_LIMIT: u64 = 1024 * 1024;
/// The longest request line, in bytes: the longest manifest as numbers, of up to three digits and a comma, and the rest.
const REQUEST_LIMIT: u64 = 4 * MANIFEST_LIMIT + 64 * 1024;

impl Validator {
    /// Examines an upload.
    ///
    /// # Errors
    /// `Ok(Err(..))`: the upload is not good. `Err(..)`: it could not be examined.
    pub async fn validate(&self, upload: Upload, now: i64) -> io::Result<Result<ValidBundle, Rejection>> {
        let findings =
            match self {
                Self::Here => examine(&upload, now),
                Self::Apart { account, timeout } => tokio::time::timeout(*timeout, apart(account, &upload, now))
                    .await
                    .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the check of the upload took too long"))??,
            };
        Ok(findings.map(|findings| ValidBundle::new(&upload.bundle, findings)))
    }
}

async fn apart(account: &Account, upload: &Upload, now: i64) -> io::Result<Result<Findings, Rejection>> {
    let mut command = std::process::Command::new(crate::account::OURSELVES);
    command
        .arg0("certdeploy-client: validator")
        .arg(COMMAND)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command.current_dir("/").process_group(0);
    let mut child = sandbox::start::start(account, command)?;
    let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(io::Error::other("the validator has no pipes"));
    };
    let files = upload.bundle.files().map(|(name, bytes)| (name, bytes.len())).collect();
    let mut request = serde_json::to_vec(&Request { origin: upload.origin.clone(), now, files })?;
    request.push(b'\n');
    input.write_all(&request).await?;
    for (_, bytes) in upload.bundle.files() {
        input.write_all(bytes).await?;
    }
    drop(input);
    let mut answer = Vec::new();
    output.take(ANSWER_LIMIT).read_to_end(&mut answer).await?;
    let status = child.wait().await?;
    if !status.success() {
        return Err(io::Error::other(format!("the validator ended with {status}")));
    }
    let Answer { found, confinement } = serde_json::from_slice(&answer)?;
    SAID.call_once(|| confinement.say("validator"));
    Ok(found)
}

/// The validator's whole life: reads one upload on stdin, writes what it found on stdout.
///
/// # Errors
/// The request cannot be read; the parent then knows by the exit code.
pub fn serve() -> io::Result<()> {
    crate::account::give_up_the_rest()?;
    let confinement = sandbox::validator()?;
    let mut input = io::stdin().lock();
    let mut line = Vec::new();
    let mut byte = [0];
    while input.read(&mut byte)? == 1 && byte != *b"\n" {
        line.extend(byte);
        if u64::try_from(line.len()).is_ok_and(|length| length > REQUEST_LIMIT) {
            return Err(io::Error::other("the request is too long"));
        }
    }
    let request: Request = serde_json::from_slice(&line)?;
    let mut bundle = Bundle::default();
    for (name, length) in request.files {
        let mut bytes = zeroize::Zeroizing::new(Vec::new());
        (&mut input).take(u64::try_from(length).unwrap_or(u64::MAX)).read_to_end(&mut bytes)?;
        bundle.insert(name, bytes);
    }
    let found = examine(&Upload { origin: request.origin, bundle }, request.now);
    let mut output = io::stdout().lock();
    serde_json::to_writer(&mut output, &Answer { found, confinement })?;
    output.flush()
}
