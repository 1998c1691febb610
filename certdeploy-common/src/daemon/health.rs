//! How a daemon is asked whether it works: a socket that only its main loop answers, so an answer says that the loop
//! turns now. Must not decide what healthy is.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};

/// The longest answer, in bytes.
const ANSWER: u64 = 64 * 1024;

/// The longest path that fits into an address of a socket, see unix(7); the end of the text is one more byte.
const LONGEST: usize = 107;

/// Why nobody answered.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// Nobody listens.
    #[error("no daemon is running: nobody listens at `{}`", .0.display())]
    NoDaemon(PathBuf),
    /// The loop does not turn.
    #[error("the daemon runs, but does not answer within {} seconds", .0.as_secs_f64())]
    Stuck(Duration),
    /// We may not ask, or something else.
    #[error("the daemon cannot be asked at `{}`: {source}", path.display())]
    Failed {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The daemon's end. Whoever may connect is decided by the directory and the umask.
#[derive(Debug)]
pub struct Answerer {
    listener: UnixListener,
    path: PathBuf,
}

impl Answerer {
    /// Listens as `name` in `directory`. The caller holds the daemon's lock, so what is there is left over.
    ///
    /// # Errors
    /// As `bind(2)`.
    pub fn bind(directory: &Path, name: &str) -> io::Result<Self> {
        let path = directory.join(name);
        let _ = std::fs::remove_file(&path);
        let (short, _held) = short(directory, name)?;
        let listener = UnixListener::bind(short)?;
        Ok(Self { listener, path })
    }

    /// Answers everybody who asks, for as long as it is waited for; to be awaited by the loop whose life is in question,
    /// which may stop waiting and begin again at any time.
    pub async fn answer(&self, text: &str) -> std::convert::Infallible {
        loop {
            match self.listener.accept().await {
                // A short answer fits into the socket at once; who does not read it has lost it.
                Ok((stream, _)) => _ = stream.into_std().and_then(|mut stream| stream.write_all(text.as_bytes())),
                // Asking again at once could spin; who asks is told nothing, which is the truth.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Asks the daemon that listens as `name` in `directory`, and waits for at most `limit`.
///
/// # Errors
/// See [`NoAnswer`].
pub async fn ask(directory: &Path, name: &str, limit: Duration) -> Result<String, NoAnswer> {
    let path = directory.join(name);
    let asking = async {
        let mut answer = String::new();
        let (short, _held) = short(directory, name)?;
        let stream = UnixStream::connect(short).await?;
        stream.take(ANSWER).read_to_string(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    match tokio::time::timeout(limit, asking).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            Err(NoAnswer::NoDaemon(path))
        }
        // The backlog is full of questions that nobody took.
        Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => Err(NoAnswer::Stuck(limit)),
        Ok(Err(error)) => Err(NoAnswer::Failed { path, source: error }),
        Err(_) => Err(NoAnswer::Stuck(limit)),
    }
}

/// A name of the socket that fits into an address, good for as long as the directory beside it is open.
fn short(directory: &Path, name: &str) -> io::Result<(PathBuf, Option<File>)> {
    let path = directory.join(name);
    if path.as_os_str().len() <= LONGEST {
        return Ok((path, None));
    }
    let held = File::open(directory)?;
    Ok((Path::new("/proc/self/fd").join(held.as_raw_fd().to_string()).join(name), Some(held)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(200);

    async fn answered(directory: &Path) {
        let answerer = Answerer::bind(directory, "health.sock").unwrap();
        tokio::select! {
            never = answerer.answer("well\n") => match never {},
            asked = ask(directory, "health.sock", Duration::from_secs(10)) => assert_eq!(asked.unwrap(), "well\n"),
        }
        // The loop is elsewhere.
        let stuck = ask(directory, "health.sock", LIMIT).await.unwrap_err();
        assert!(matches!(stuck, NoAnswer::Stuck(_)), "{stuck}");
        assert_eq!(stuck.to_string(), "the daemon runs, but does not answer within 0.2 seconds");
        // Whoever gave up is no hindrance to the next one.
        tokio::select! {
            never = answerer.answer("again\n") => match never {},
            asked = ask(directory, "health.sock", Duration::from_secs(10)) => assert_eq!(asked.unwrap(), "again\n"),
        }
        drop(answerer);
        let gone = ask(directory, "health.sock", LIMIT).await.unwrap_err();
        assert!(matches!(gone, NoAnswer::NoDaemon(_)), "{gone}");
    }

    #[tokio::test]
    async fn only_a_loop_that_turns_answers() {
        let dir = tempfile::tempdir().unwrap();
        answered(dir.path()).await;
        let long = dir.path().join("x".repeat(120));
        std::fs::create_dir(&long).unwrap();
        answered(&long).await;
        // Left over by a daemon that was killed.
        std::mem::forget(Answerer::bind(dir.path(), "health.sock").unwrap());
        assert!(Answerer::bind(dir.path(), "health.sock").is_ok());
    }
}
