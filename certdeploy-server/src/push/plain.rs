//! The plain layout, `<path>/<lineage>/<name>.pem`, for OpenSSH's sshd and for a Python certdeploy-client. Certificates
//! first, the key last, our manifest after all where files can be replaced at once.
//!
//! A Python client knows STAT, MKDIR, OPEN, WRITE and CLOSE only, so nothing else may be asked of a peer without
//! `posix-rename@openssh.com`.

use certdeploy_common::wire::layout::{MANIFEST, PushId};
use futures::future::join_all;
use russh_sftp::protocol::{OpenFlags, Packet, StatusCode};

use super::connect::{Plain, Session};
use super::leftovers::{self, part};
use super::upload::{Sync, manifest, mode, new_id, write};
use super::{Error, Parcel};

/// Puts one lineage where a plain peer expects it.
pub(super) async fn push(session: &Session, kind: Plain, base: &str, parcel: &Parcel) -> Result<(), Error> {
    let directory = join(base, parcel.lineage.as_str());
    let made = make_directory(session, &directory).await?;
    // A `path` that is mistyped is made as well, as the Python program does; so it is said.
    if made.iter().any(|made| *made != directory) {
        tracing::info!("Made the directories {} at the target: `path` was not there", made.join(", "));
    }
    if kind.rename {
        replace(session, kind, &directory, parcel).await
    } else {
        overwrite(session, &directory, parcel).await
    }
}

/// Exactly `base` + `/` + `name`; an empty base is where the session begins.
fn join(base: &str, name: &str) -> String {
    if base.is_empty() { name.to_owned() } else { format!("{base}/{name}") }
}

/// The directory that holds `path`, as long as there is one to ask for.
fn parent(path: &str) -> Option<&str> {
    path.rsplit_once('/').map(|(parent, _)| parent).filter(|parent| !parent.is_empty())
}

async fn exists(session: &Session, path: &str) -> Result<bool, Error> {
    match session.operation(path, session.sftp.stat(path)).await {
        Ok(_) => Ok(true),
        Err(Error::Sftp { code: StatusCode::NoSuchFile, .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Looks upwards for a directory that exists, then makes the missing ones downwards; which these are.
async fn make_directory<'p>(session: &Session, path: &'p str) -> Result<Vec<&'p str>, Error> {
    let mut missing = Vec::new();
    let mut at = Some(path);
    while let Some(path) = at {
        if exists(session, path).await? {
            break;
        }
        missing.push(path);
        at = parent(path);
    }
    missing.reverse();
    for path in &missing {
        let made = session.operation(path, session.sftp.mkdir(*path, mode(0o700))).await;
        // Somebody else may have made it in between.
        if let Err(error) = made
            && !exists(session, path).await?
        {
            return Err(error);
        }
    }
    Ok(missing)
}

/// Toward sshd: under temporary names first, then each in place at once. The temporary names do not end in `.pem`.
async fn replace(session: &Session, kind: Plain, directory: &str, parcel: &Parcel) -> Result<(), Error> {
    let id = new_id()?;
    let manifest = manifest(&id, parcel).encode();
    let files = parcel.bundle.files().map(|(name, bytes)| (name.as_str(), bytes));
    let files: Vec<(Names, &[u8])> = files
        .chain([(MANIFEST, manifest.as_slice())])
        .map(|(name, bytes)| (Names::of(directory, name, &id), bytes))
        .collect();
    let flags = OpenFlags::CREATE | OpenFlags::EXCLUDE | OpenFlags::WRITE;
    let sync = if kind.fsync { Sync::Asked } else { Sync::Not };
    let done = async {
        let each = files.iter().map(|(names, bytes)| write(session, &names.part, bytes, flags, sync));
        join_all(each).await.into_iter().collect::<Result<Vec<()>, Error>>()?;
        leftovers::remove(session, directory).await;
        for (names, _) in &files {
            rename(session, names).await?;
        }
        Ok(())
    };
    let done = done.await;
    if done.as_ref().is_err_and(|error: &Error| !error.ends_visit()) {
        // What is not in place must not lie around; if this fails as well, the first error counts. Over a connection
        // that broke nothing can be removed any more: a later push does it.
        join_all(files.iter().map(|(names, _)| session.operation(&names.part, session.sftp.remove(&names.part)))).await;
    }
    done
}

struct Names {
    part: String,
    last: String,
}

impl Names {
    fn of(directory: &str, name: &str, id: &PushId) -> Self {
        Self { part: format!("{directory}/{}", part(name, id)), last: format!("{directory}/{name}") }
    }
}

async fn rename(session: &Session, names: &Names) -> Result<(), Error> {
    let mut payload = Vec::with_capacity(names.part.len() + names.last.len() + 8);
    for text in [&names.part, &names.last] {
        payload.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
        payload.extend(text.as_bytes());
    }
    let asked = session.sftp.extended("posix-rename@openssh.com", payload);
    let Packet::Status(status) = session.operation(&names.last, asked).await? else {
        return Err(Error::Protocol(format!("an unexpected answer to renaming `{}`", names.last)));
    };
    if status.status_code == StatusCode::Ok {
        Ok(())
    } else {
        Err(Error::sftp(&names.last, russh_sftp::client::error::Error::Status(status)))
    }
}

/// Toward anything else: one file after another under its final name, its length compared.
async fn overwrite(session: &Session, directory: &str, parcel: &Parcel) -> Result<(), Error> {
    for (name, bytes) in parcel.bundle.files() {
        let path = format!("{directory}/{name}");
        write(session, &path, bytes, OpenFlags::CREATE | OpenFlags::TRUNCATE | OpenFlags::WRITE, Sync::Not).await?;
        let sent = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let got = session.operation(&path, session.sftp.stat(&path)).await?.attrs.size.unwrap_or_default();
        if got != sent {
            return Err(Error::Size { path, got, sent });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_put_together_as_the_python_program_does() {
        assert_eq!(join("/var/cache/certdeploy", "x"), "/var/cache/certdeploy/x");
        assert_eq!(join("", "x"), "x");
        assert_eq!(parent("/a/b"), Some("/a"));
        assert_eq!(parent("/a"), None);
        assert_eq!(parent("a"), None);
        let names = Names::of("/d", "privkey.pem", &PushId::new([1; 16]));
        assert!(!names.part.ends_with(".pem") && names.last == "/d/privkey.pem");
    }
}
