//! Adds a line to a file that people and other programs write too: what is there stays as it is, owner, mode and links
//! included; and says beforehand whether that can be done. It must not decide what the line says.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;

use rustix::fs::Access;

use super::atomic;

/// Adds `line` at the end of the file, durably; a file that is missing is made with `mode`.
///
/// # Errors
/// It cannot be written, or another process is adding a line; then nothing was added.
pub fn line(path: &Path, line: &str, mode: u32) -> io::Result<()> {
    let made = !path.exists();
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    file.try_lock().map_err(|_| io::Error::new(io::ErrorKind::WouldBlock, "another process is writing it"))?;
    if made {
        rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(mode))?;
    }
    let length = file.seek(SeekFrom::End(0))?;
    let start = if ends_amid_a_line(&file, length)? { "\n" } else { "" };
    // In one piece: whoever reads now sees all of it or nothing.
    let added = file.write_all(format!("{start}{line}\n").as_bytes()).and_then(|()| file.sync_all());
    if added.is_err() {
        // Half a line would be worse; if this fails too, the first error is the one to tell.
        let _ = file.set_len(length);
    }
    added?;
    let parent = path.parent().filter(|parent| made && !parent.as_os_str().is_empty());
    parent.map_or(Ok(()), atomic::sync_directory)
}

fn ends_amid_a_line(file: &File, length: u64) -> io::Result<bool> {
    let Some(last) = length.checked_sub(1) else { return Ok(false) };
    let mut byte = [0];
    file.read_exact_at(&mut byte, last)?;
    Ok(byte != *b"\n")
}

/// Whether a file could be appended to, or made, found out without making it.
///
/// # Errors
/// Why not; a pipe or a socket is not taken, for it may have no reader.
pub fn appendable(path: &Path) -> io::Result<()> {
    let meta = match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            if !directory.metadata()?.is_dir() {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            return Ok(rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK)?);
        }
        meta => meta?,
    };
    if meta.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if meta.file_type().is_fifo() || meta.file_type().is_socket() {
        return Err(io::Error::other("it is a pipe or a socket, not a file"));
    }
    Ok(rustix::fs::access(path, Access::WRITE_OK)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_line_is_added_and_nothing_else_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("known_hosts");
        let mode = || path.metadata().unwrap().permissions().mode() & 0o777;
        line(&path, "one", 0o644).unwrap();
        assert_eq!((std::fs::read_to_string(&path).unwrap().as_str(), mode()), ("one\n", 0o644));
        std::fs::write(&path, "# mine\nno end").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        line(&link, "two", 0o644).unwrap();
        assert_eq!((std::fs::read_to_string(&path).unwrap().as_str(), mode()), ("# mine\nno end\ntwo\n", 0o600));
        assert!(link.is_symlink());
    }

    #[test]
    fn two_do_not_write_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("known_hosts");
        std::fs::write(&path, "one\n").unwrap();
        let other = File::open(&path).unwrap();
        other.lock().unwrap();
        assert_eq!(line(&path, "two", 0o644).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\n");
    }
}
