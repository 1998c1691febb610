//! Where lines go: the streams, files, the journal. A full disk, a reader that is gone and a reader that does not read
//! cost lines, never more than a moment: the log must not be what stops a daemon.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, OFlags};

use super::line::Line;
use super::{LogFormat, Stream};

/// How long a reader may hold us up before lines are lost to it.
const STALL: Duration = Duration::from_secs(1);
/// What a pipe takes as a whole.
const PIPE_BUF: usize = 4096;
/// Where systemd-journald listens.
const JOURNAL: &str = "/run/systemd/journal/socket";

/// One place that lines go to.
#[derive(Debug)]
pub(super) struct Output {
    form: Form,
    sink: Mutex<Sink>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Json,
}

#[derive(Debug)]
struct Sink {
    way: Way,
    /// The journal, if it is asked first.
    journal: Option<UnixDatagram>,
    journal_path: PathBuf,
    /// The reader does not read.
    stalled: bool,
    lost: u64,
}

#[derive(Debug)]
enum Way {
    Stdout,
    Stderr,
    File(Arc<File>),
    Memory(Arc<Mutex<Vec<u8>>>),
}

impl Output {
    /// The stream of the process, in the format that is asked for; says so when the journal is not there.
    pub(super) fn stream(stream: Stream, format: LogFormat) -> (Self, Option<String>) {
        let way = match stream {
            Stream::Stdout => Way::Stdout,
            Stream::Stderr => Way::Stderr,
        };
        let wanted = match format {
            LogFormat::Journald => true,
            LogFormat::Auto => leads_to_journal(std::env::var("JOURNAL_STREAM").ok().as_deref(), way.identity()),
            LogFormat::Text | LogFormat::Json => false,
        };
        let output = Self::new(form(format), way);
        let missing = if wanted { output.connect(Path::new(JOURNAL)) } else { Ok(()) };
        let asked = format == LogFormat::Journald;
        let complaint = missing.err().filter(|_| asked).map(|error| {
            format!("`log_format: journald`, but there is no journal at `{JOURNAL}` ({error}); the log is text")
        });
        (output, complaint)
    }

    /// A file that is appended to, made 0600 less umask if it is missing.
    pub(super) fn file(path: &Path, format: LogFormat) -> io::Result<Self> {
        Ok(Self::handed(Arc::new(open(path)?), format))
    }

    /// A file that is open already.
    pub(super) fn handed(file: Arc<File>, format: LogFormat) -> Self {
        Self::new(form(format), Way::File(file))
    }

    /// Memory, for tests.
    pub(super) fn memory(bytes: Arc<Mutex<Vec<u8>>>) -> Self {
        Self::new(Form::Text, Way::Memory(bytes))
    }

    fn new(form: Form, way: Way) -> Self {
        let sink = Sink { way, journal: None, journal_path: PathBuf::new(), stalled: false, lost: 0 };
        Self { form, sink: Mutex::new(sink) }
    }

    fn connect(&self, path: &Path) -> io::Result<()> {
        path.symlink_metadata()?;
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        sink.journal = Some(socket);
        path.clone_into(&mut sink.journal_path);
        Ok(())
    }

    /// Whether lines of both would end in the same file, pipe or terminal.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let identity = |output: &Self| output.sink.lock().unwrap_or_else(PoisonError::into_inner).way.identity();
        identity(self).is_some_and(|own| Some(own) == identity(other))
    }

    pub(super) fn write(&self, line: &Line<'_>) {
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(journal) = &sink.journal
            && journal.send_to(line.journal().as_bytes(), &sink.journal_path).is_ok()
        {
            return;
        }
        if sink.lost > 0 && sink.way.is_ready(Duration::ZERO) {
            let note = Line::of_ours(format!("{} lines of the log were lost here: nobody read them", sink.lost));
            if sink.way.write(self.formed(&note).as_bytes(), Duration::ZERO).is_ok() {
                sink.lost = 0;
            }
        }
        sink.write(self.formed(line).as_bytes());
    }

    fn formed(&self, line: &Line<'_>) -> String {
        match self.form {
            Form::Text => line.text(),
            Form::Json => line.json(&format!("{:.3}", jiff::Timestamp::now())),
        }
    }
}

/// Opens a file to append to it, made 0600 less umask if it is missing.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // A FIFO without a reader must not be waited for.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    options.append(true).create(true).mode(0o600).custom_flags(i32::try_from(flags.bits()).unwrap_or_default());
    options.open(path)
}

fn form(format: LogFormat) -> Form {
    match format {
        LogFormat::Json => Form::Json,
        LogFormat::Auto | LogFormat::Text | LogFormat::Journald => Form::Text,
    }
}

/// `JOURNAL_STREAM` names the device and inode of the stream that systemd has connected to the journal, see
/// systemd.exec(5). A stream that was redirected since is another.
fn leads_to_journal(variable: Option<&str>, stream: Option<(u64, u64)>) -> bool {
    let named = variable.and_then(|text| text.split_once(':'));
    let named = named.and_then(|(device, inode)| Some((device.parse().ok()?, inode.parse().ok()?)));
    named.is_some() && named == stream
}

impl Sink {
    /// Errors cost the line: there is nobody to tell.
    fn write(&mut self, bytes: &[u8]) {
        let patience = if self.stalled { Duration::ZERO } else { STALL };
        match self.way.write(bytes, patience) {
            Ok(()) => self.stalled = false,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.stalled = true;
                self.lost = self.lost.saturating_add(1);
            }
            Err(_) => {}
        }
    }
}

impl Way {
    fn on<T>(&self, work: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
        match self {
            Self::Stdout => Some(work(io::stdout().as_fd())),
            Self::Stderr => Some(work(io::stderr().as_fd())),
            Self::File(file) => Some(work(file.as_fd())),
            Self::Memory(_) => None,
        }
    }

    fn identity(&self) -> Option<(u64, u64)> {
        self.on(|fd| {
            let file = File::from(fd.try_clone_to_owned().ok()?);
            file.metadata().ok().map(|meta| (meta.st_dev(), meta.st_ino()))
        })?
    }

    fn is_ready(&self, patience: Duration) -> bool {
        self.on(|fd| is_ready(fd, patience)).unwrap_or(true)
    }

    fn write(&self, bytes: &[u8], patience: Duration) -> io::Result<()> {
        match self {
            Self::Memory(memory) => memory.lock().unwrap_or_else(PoisonError::into_inner).write_all(bytes),
            Self::Stdout | Self::Stderr | Self::File(_) => {
                self.on(|fd| write(fd, bytes, patience)).unwrap_or(Err(io::ErrorKind::Unsupported.into()))
            }
        }
    }
}

/// Writes all of it, in one piece to a file (others append to it too) and in pieces that a pipe takes as a whole.
fn write(fd: BorrowedFd<'_>, mut bytes: &[u8], patience: Duration) -> io::Result<()> {
    let is_file =
        rustix::fs::fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    let most = if is_file { bytes.len() } else { PIPE_BUF };
    while !bytes.is_empty() {
        if !is_ready(fd, patience) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        match rustix::io::write(fd, bytes.get(..most.min(bytes.len())).unwrap_or_default()) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whether a write would not wait; also when it would fail at once.
fn is_ready(fd: BorrowedFd<'_>, patience: Duration) -> bool {
    let limit = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    let limit = rustix::time::Timespec::try_from(patience).unwrap_or(limit);
    !matches!(poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::OUT)], Some(&limit)), Ok(0))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Instant;

    use super::super::line::{Fields, Severity};
    use super::*;

    fn line(message: &str) -> Line<'static> {
        Line {
            severity: Severity::Info,
            logger: "l",
            target: "t",
            message: message.to_owned(),
            fields: Fields::default(),
            context: Fields::default(),
        }
    }

    fn pipe() -> (io::PipeReader, Output) {
        let (reader, writer) = io::pipe().unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(writer));
        (reader, Output::new(Form::Text, Way::File(Arc::new(file))))
    }

    #[test]
    fn a_reader_that_does_not_read_costs_lines_and_one_second_altogether() {
        let (mut reader, output) = pipe();
        let start = Instant::now();
        for _ in 0..2000 {
            output.write(&line(&"x".repeat(200)));
        }
        let took = start.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}");
        // It reads again.
        let drained = std::thread::spawn(move || {
            let mut all = String::new();
            reader.read_to_string(&mut all).map(|_| all)
        });
        while !output.sink.lock().unwrap().way.is_ready(Duration::ZERO) {
            std::thread::yield_now();
        }
        output.write(&line("again"));
        drop(output);
        let all = drained.join().unwrap().unwrap();
        assert!(all.ends_with("INFO:l: again\n"), "{}", &all[all.len() - 200..]);
        assert!(all.contains("lines of the log were lost here"));
    }

    #[test]
    fn a_reader_that_is_gone_and_a_full_disk_stop_nothing() {
        let (reader, output) = pipe();
        drop(reader);
        output.write(&line("nobody"));
        Output::file(Path::new("/dev/full"), LogFormat::Text).unwrap().write(&line("full"));
        Output::file(Path::new("/dev/null"), LogFormat::Text).unwrap().write(&line("null"));
    }

    #[test]
    fn a_fifo_without_a_reader_is_an_error_and_not_a_wait() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
        assert!(Output::file(&path, LogFormat::Text).is_err());
    }

    #[test]
    fn one_file_by_two_names_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let one = Output::file(&path, LogFormat::Text).unwrap();
        std::os::unix::fs::symlink(&path, dir.path().join("link")).unwrap();
        assert!(one.is_same(&Output::file(&dir.path().join("link"), LogFormat::Text).unwrap()));
        assert!(!one.is_same(&Output::file(&dir.path().join("other"), LogFormat::Text).unwrap()));
    }

    #[test]
    fn the_journal_is_asked_first_and_the_stream_is_there_when_it_does_not_answer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let journal = UnixDatagram::bind(&path).unwrap();
        let log = dir.path().join("log");
        let output = Output::file(&log, LogFormat::Text).unwrap();
        output.connect(&path).unwrap();
        output.write(&line("first"));
        let mut buffer = [0; 1000];
        let length = journal.recv(&mut buffer).unwrap();
        let entry = String::from_utf8_lossy(&buffer[..length]).into_owned();
        assert!(entry.starts_with("PRIORITY=6\n") && entry.contains("\nMESSAGE=first\n"), "{entry}");
        drop(journal);
        output.write(&line("second"));
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "INFO:l: second\n");
        assert!(output.connect(Path::new("/nowhere/journal")).is_err());
    }

    #[test]
    fn only_the_stream_that_systemd_named_leads_to_the_journal() {
        for (variable, stream, want) in [
            (Some("8:10"), Some((8, 10)), true),
            (Some("8:10"), Some((8, 11)), false),
            (Some("8"), Some((8, 10)), false),
            (Some(""), None, false),
            (Some("x:y"), None, false),
            (None, Some((8, 10)), false),
        ] {
            assert_eq!(leads_to_journal(variable, stream), want, "{variable:?} {stream:?}");
        }
    }
}
