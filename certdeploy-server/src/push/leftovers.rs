//! What pushes that were cut off left at a plain peer: temporary files under our own names. It removes nothing whose
//! name is not exactly of our making, and nothing that another pusher may still be writing.

use certdeploy_common::cert::FileName;
use certdeploy_common::wire::layout::{MANIFEST, PushId};
use russh_sftp::protocol::{File, StatusCode};

use super::Error;
use super::connect::Session;

/// Older than this, by the peer's own clock, no push is at work on a file: they have limits of minutes.
const OLD: u32 = 3600;
/// The most replies to one listing that are read: a directory of a lineage has a handful of files.
const REPLIES: usize = 16;

/// The temporary name of one file of a push. It does not end in `.pem`, so nobody takes it for a certificate.
pub(super) fn part(name: &str, id: &PushId) -> String {
    format!(".{name}.{id}.part")
}

/// Whether `name` is a temporary name of ours.
fn is_part(name: &str) -> bool {
    let inside = name.strip_prefix('.').and_then(|rest| rest.strip_suffix(".part"));
    let Some((file, id)) = inside.and_then(|inside| inside.rsplit_once('.')) else { return false };
    id.parse::<PushId>().is_ok() && (file == MANIFEST || FileName::ALL.iter().any(|known| known.as_str() == file))
}

/// What of a listing is left over: temporary files much older than the newest one, which is this push's own.
fn left_over(files: &[File]) -> Vec<&str> {
    let parts = || files.iter().filter(|file| is_part(&file.filename));
    let Some(now) = parts().filter_map(|file| file.attrs.mtime).max() else { return Vec::new() };
    let old = |file: &&File| file.attrs.mtime.is_some_and(|at| now.saturating_sub(at) > OLD);
    parts().filter(old).map(|file| file.filename.as_str()).collect()
}

/// Removes what is left over in `directory`, where this push has just written its own temporary files. A peer that
/// does not allow it keeps them.
pub(super) async fn remove(session: &Session, directory: &str) {
    let files = match list(session, directory).await {
        Ok(files) => files,
        Err(error) => return tracing::debug!("what cut-off pushes left cannot be looked for: {error}"),
    };
    for name in left_over(&files) {
        let path = format!("{directory}/{name}");
        match session.operation(&path, session.sftp.remove(&path)).await {
            Ok(_) => tracing::info!("Removed {path}, which a push that was cut off had left at the target"),
            Err(error) => tracing::debug!("what a push that was cut off left cannot be removed: {error}"),
        }
    }
}

async fn list(session: &Session, directory: &str) -> Result<Vec<File>, Error> {
    let handle = session.operation(directory, session.sftp.opendir(directory)).await?.handle;
    let mut files = Vec::new();
    for _ in 0..REPLIES {
        match session.operation(directory, session.sftp.readdir(&handle)).await {
            Ok(listed) => files.extend(listed.files),
            Err(Error::Sftp { code: StatusCode::Eof, .. }) => break,
            Err(error) => return Err(error),
        }
    }
    session.operation(directory, session.sftp.close(handle)).await?;
    Ok(files)
}

#[cfg(test)]
mod tests {
    use russh_sftp::protocol::FileAttributes;

    use super::*;

    fn file(name: &str, mtime: u32) -> File {
        File::new(name, FileAttributes { mtime: Some(mtime), ..FileAttributes::empty() })
    }

    #[test]
    fn only_old_names_of_exactly_our_making_are_left_over() {
        let id = PushId::new([7; 16]);
        let (key, manifest) = (part("privkey.pem", &id), part(MANIFEST, &id));
        let kept = [
            "privkey.pem".to_owned(),
            ".privkey.pem.part".to_owned(),
            ".privkey.pem.0707.part".to_owned(),
            format!(".other.pem.{id}.part"),
            format!("privkey.pem.{id}.part"),
            format!(".privkey.pem.{id}.part.bak"),
            format!("../.privkey.pem.{id}.part"),
            format!(".privkey.pem.{}.part", id.as_str().to_uppercase().replace('0', "A")),
        ];
        let mut files: Vec<File> = kept.iter().map(|name| file(name, 1)).collect();
        files.extend([file(&key, 1000), file(&manifest, 1001)]);
        assert_eq!(left_over(&files), Vec::<&str>::new(), "without a newer one nothing is old");
        files.push(file(&part("fullchain.pem", &PushId::new([8; 16])), 1001 + OLD));
        assert_eq!(left_over(&files), [key.as_str()]);
    }
}
