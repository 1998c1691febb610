//! The log: lines `LEVEL:logger: message`, as certdeploy 0.5 writes them, on stdout, or on stderr when stdout carries
//! data; JSON or the journal when asked for; and files beside them. What the SSH library says is a logger of its own.
//! It must not decide what is worth a line.

mod line;
mod output;
mod words;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use tracing::span::{Attributes, Id};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use crate::ssh;
use line::{Fields, Line, Parts, Severity};
pub use line::{LINE_LIMIT, escape};
use output::Output;
pub use words::{LogFormat, LogLevel};

/// The stream that log lines go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// As in certdeploy 0.5.
    Stdout,
    /// When stdout carries data.
    Stderr,
}

/// What is logged, where and how.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Our name in each line.
    pub logger: &'static str,
    /// The stream.
    pub stream: Stream,
    /// How it looks there; in files it is JSON or text.
    pub format: LogFormat,
    /// What is logged.
    pub level: LogLevel,
    /// A file besides the stream.
    pub file: Option<PathBuf>,
    /// What is logged of what the SSH and SFTP library says.
    pub library_level: LogLevel,
    /// A file for it besides the stream.
    pub library_file: Option<PathBuf>,
    /// Files that another process has opened for us, besides everything else.
    pub handed: Handed,
}

/// Log files that are open: a process without privileges cannot open them itself.
#[derive(Debug, Clone, Default)]
pub struct Handed {
    /// For our own lines.
    pub own: Option<Arc<File>>,
    /// For the library's.
    pub library: Option<Arc<File>>,
}

impl Setup {
    /// Our own lines on a stream and nothing else.
    #[must_use]
    pub fn plain(logger: &'static str, level: LogLevel, stream: Stream) -> Self {
        Self {
            logger,
            stream,
            format: LogFormat::Text,
            level,
            file: None,
            library_level: LogLevel::Critical,
            library_file: None,
            handed: Handed::default(),
        }
    }
}

/// Opens a log file to hand it over.
///
/// # Errors
/// It cannot be written.
pub fn open(path: &Path) -> io::Result<File> {
    output::open(path)
}

/// Whether a name of a log file is that of a stream, as in certdeploy 0.5.
#[must_use]
pub fn is_stream(path: &Path) -> bool {
    matches!(path.to_str(), Some("stdout" | "/dev/stdout" | "stderr" | "/dev/stderr"))
}

/// A log file that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("`{}`: {source}", path.display())]
pub struct LogError {
    /// Which one.
    pub file: LogFile,
    /// Its path.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// The two files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFile {
    /// For our own lines.
    Own,
    /// For the SSH and SFTP library's.
    Library,
}

/// Starts the log of this process with our own lines on a stream.
pub fn start(logger: &'static str, level: LogLevel, stream: Stream) {
    // Without files nothing can fail.
    let _ = begin(&Setup::plain(logger, level, stream));
}

/// Starts the log of this process, or changes it; files are opened anew.
///
/// # Errors
/// A file cannot be written; then the log stays as it was.
pub fn begin(setup: &Setup) -> Result<(), LogError> {
    let (active, complaint) = Active::of(setup)?;
    match CURRENT.get() {
        Some(current) => *current.write().unwrap_or_else(PoisonError::into_inner) = active,
        None => {
            let log = Arc::clone(CURRENT.get_or_init(|| Arc::new(RwLock::new(active))));
            // Fails only if there is a log already, in a process that runs both roles; the first one stays.
            let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Log(log)));
            let _ = log::set_logger(&Library);
        }
    }
    log::set_max_level(library_filter(setup.library_level));
    tracing::callsite::rebuild_interest_cache();
    if let Some(complaint) = complaint {
        tracing::warn!("{complaint}");
    }
    Ok(())
}

/// Runs `body` with its log lines collected; for tests of messages.
pub fn collected(logger: &'static str, body: impl FnOnce()) -> String {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let outputs = vec![Arc::new(Output::memory(Arc::clone(&lines)))];
    let own = Voice { logger, level: LevelFilter::DEBUG, outputs };
    let active = Active { own, library: Voice { logger: LIBRARY, level: LevelFilter::OFF, outputs: Vec::new() } };
    let subscriber = tracing_subscriber::registry().with(Log(Arc::new(RwLock::new(active))));
    tracing::subscriber::with_default(subscriber, body);
    let bytes = lines.lock().map(|bytes| bytes.clone()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An error with what it came from, in one line.
#[must_use]
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        // Most of them repeat their cause.
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

/// The log of this process.
static CURRENT: OnceLock<Arc<RwLock<Active>>> = OnceLock::new();
/// The name of the SSH and SFTP library in each line.
const LIBRARY: &str = "sftp";

/// What holds at the moment.
#[derive(Debug)]
struct Active {
    own: Voice,
    library: Voice,
}

/// One logger.
#[derive(Debug)]
struct Voice {
    logger: &'static str,
    level: LevelFilter,
    outputs: Vec<Arc<Output>>,
}

impl Active {
    fn of(setup: &Setup) -> Result<(Self, Option<String>), LogError> {
        let (stream, complaint) = Output::stream(setup.stream, setup.format);
        let stream = Arc::new(stream);
        let voice = |logger, level: LogLevel, file: &Option<PathBuf>, handed: &Option<Arc<File>>, which| {
            let mut outputs = vec![Arc::clone(&stream)];
            if let Some(path) = file {
                let output = beside(path, setup).map_err(|source| {
                    let path = path.clone();
                    LogError { file: which, path, source }
                })?;
                // Python prints everything twice here.
                if !output.is_same(&stream) {
                    outputs.push(Arc::new(output));
                }
            }
            outputs.extend(handed.iter().map(|file| Arc::new(Output::handed(Arc::clone(file), setup.format))));
            Ok(Voice { logger, level: level.filter(), outputs })
        };
        let own = voice(setup.logger, setup.level, &setup.file, &setup.handed.own, LogFile::Own)?;
        let library =
            voice(LIBRARY, setup.library_level, &setup.library_file, &setup.handed.library, LogFile::Library)?;
        Ok((Self { own, library }, complaint))
    }

    fn voice(&self, target: &str) -> &Voice {
        if target.starts_with("certdeploy") { &self.own } else { &self.library }
    }
}

/// What a log file's name means: four names are those of the streams, as in certdeploy 0.5.
fn beside(path: &Path, setup: &Setup) -> io::Result<Output> {
    let stream = match path.to_str() {
        Some("stdout" | "/dev/stdout") => Stream::Stdout,
        Some("stderr" | "/dev/stderr") => Stream::Stderr,
        _ => return Output::file(path, setup.format),
    };
    Ok(Output::stream(stream, setup.format).0)
}

impl Voice {
    fn write(&self, line: &Line<'_>) {
        for output in &self.outputs {
            output.write(line);
        }
    }
}

/// The way of our own events.
struct Log(Arc<RwLock<Active>>);

impl Log {
    fn with<T>(&self, work: impl FnOnce(&Active) -> T) -> T {
        work(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Log {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.with(|active| is_wanted(active, metadata)) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.with(|active| is_wanted(active, metadata))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.with(|active| active.own.level.max(active.library.level)))
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut parts = Parts::default();
        attributes.record(&mut parts);
        span.extensions_mut().insert(parts.fields);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut parts = Parts::default();
        event.record(&mut parts);
        let mut around = Fields::default();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(Fields(fields)) = span.extensions().get::<Fields>() {
                around.0.extend(fields.iter().cloned());
            }
        }
        let target = event.metadata().target();
        let severity = Severity::of(*event.metadata().level());
        self.with(|active| {
            let voice = active.voice(target);
            let Parts { message, fields } = parts;
            voice.write(&Line { severity, logger: voice.logger, target, message, fields, context: around });
        });
    }
}

/// Spans are always kept: they say what an error belongs to.
fn is_wanted(active: &Active, metadata: &Metadata<'_>) -> bool {
    let (target, level) = (metadata.target(), *metadata.level());
    metadata.is_span() || (level <= active.voice(target).level && is_heard(target))
}

/// Whether it is worth a line. Other libraries than that for SSH and SFTP have no log of ours: the caller says what went
/// wrong there, and that for the Docker engine prints what it sends, commands and secrets included.
fn is_heard(target: &str) -> bool {
    target.starts_with("certdeploy") || target.starts_with(ssh::LIBRARY)
}

/// The way of what the SSH and SFTP library says.
struct Library;

impl log::Log for Library {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::max_level() && is_heard(metadata.target())
    }

    fn log(&self, record: &log::Record<'_>) {
        let (Some(current), true) = (CURRENT.get(), self.enabled(record.metadata())) else { return };
        let active = current.read().unwrap_or_else(PoisonError::into_inner);
        let severity = match record.level() {
            log::Level::Error => Severity::Error,
            log::Level::Warn => Severity::Warning,
            log::Level::Info => Severity::Info,
            log::Level::Debug | log::Level::Trace => Severity::Debug,
        };
        active.library.write(&Line {
            severity,
            logger: LIBRARY,
            target: record.target(),
            message: record.args().to_string(),
            fields: Fields::default(),
            context: Fields::default(),
        });
    }

    fn flush(&self) {}
}

/// Never more than DEBUG: at TRACE the library prints what it reads and writes.
fn library_filter(level: LogLevel) -> log::LevelFilter {
    match level {
        LogLevel::Debug => log::LevelFilter::Debug,
        LogLevel::Info => log::LevelFilter::Info,
        LogLevel::Warning => log::LevelFilter::Warn,
        LogLevel::Error => log::LevelFilter::Error,
        LogLevel::Critical => log::LevelFilter::Off,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_line_has_its_fields_and_not_those_of_the_work_around_it() {
        let log = collected("certdeploy-server", || {
            let _around = tracing::error_span!("push", lineage = "a.example").entered();
            tracing::warn!(attempt = 2, "Pushed {}", "x");
            tracing::trace!("never");
        });
        assert_eq!(log, "WARNING:certdeploy-server: Pushed x attempt=2\n");
    }

    #[test]
    fn a_log_file_that_cannot_be_written_is_named() {
        let setup = |file: &str| Setup {
            file: Some(file.into()),
            ..Setup::plain("certdeploy-server", LogLevel::Info, Stream::Stderr)
        };
        let error = Active::of(&setup("/nowhere/log")).unwrap_err();
        assert_eq!(error.file, LogFile::Own);
        assert_eq!(error.to_string(), "`/nowhere/log`: No such file or directory (os error 2)");
        for name in ["stderr", "/dev/stderr"] {
            assert_eq!(Active::of(&setup(name)).unwrap().0.own.outputs.len(), 1, "{name}: once, not twice");
        }
        assert_eq!(Active::of(&setup("/dev/null")).unwrap().0.own.outputs.len(), 2);
    }

    #[test]
    fn what_is_not_ours_is_the_librarys() {
        let (active, _) = Active::of(&Setup::plain("certdeploy-server", LogLevel::Info, Stream::Stderr)).unwrap();
        assert_eq!(active.voice("certdeploy_server::push").logger, "certdeploy-server");
        assert_eq!(active.voice("russh::client").logger, "sftp");
        assert_eq!(library_filter(LogLevel::Debug), log::LevelFilter::Debug);
    }

    #[test]
    fn no_other_library_tells_its_steps() {
        for (target, heard) in
            [("certdeploy_client::pass", true), ("russh_sftp::server", true), ("hyper_util::client", false)]
        {
            assert_eq!(is_heard(target), heard, "{target}");
        }
        let log = collected("certdeploy-client", || tracing::error!(target: "engine::exec", "hunter2"));
        assert_eq!(log, "");
    }
}
