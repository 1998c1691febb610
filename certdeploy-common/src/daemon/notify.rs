//! What the service manager is told, see sd_notify(3), and the watchdog's beat. Nothing here waits, and nothing that
//! goes wrong here stops anything: a service manager that does not listen is its own problem.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The line to the service manager; silent when there is none.
#[derive(Debug, Clone, Default)]
pub struct Notifier(Option<Arc<Line>>);

#[derive(Debug)]
struct Line {
    socket: UnixDatagram,
    address: SocketAddr,
    beat_every: Option<Duration>,
}

impl Notifier {
    /// The line that `NOTIFY_SOCKET` names.
    #[must_use]
    pub fn of_environment() -> Self {
        let text = |name| std::env::var(name).ok();
        let beat_every = beat_every(text("WATCHDOG_USEC"), text("WATCHDOG_PID"), std::process::id());
        let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return Self::default() };
        Self::new(&name, beat_every).unwrap_or_else(|error| {
            tracing::warn!("The service manager cannot be told anything, NOTIFY_SOCKET is {name:?}: {error}");
            Self::default()
        })
    }

    /// A line to the socket `name`: a path, or an abstract name after an `@`. A beat is due each `beat_every`.
    ///
    /// # Errors
    /// It is no name of a socket.
    pub fn new(name: &OsStr, beat_every: Option<Duration>) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
            [b'/', ..] => SocketAddr::from_pathname(name)?,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a path nor an abstract name")),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self(Some(Arc::new(Line { socket, address, beat_every }))))
    }

    /// The start or the reload is over.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={}\n", one_line(status)));
    }

    /// A reload begins; [`ready`](Self::ready) ends it.
    pub fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=Reloading\n"));
    }

    /// The start or the reload takes up to `longer` from now on.
    pub fn needs(&self, longer: Duration) {
        self.tell(&format!("EXTEND_TIMEOUT_USEC={}\n", longer.as_micros()));
    }

    /// The end begins.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=Stopping\n");
    }

    /// A sentence for `systemctl status`.
    pub fn status(&self, status: &str) {
        self.tell(&format!("STATUS={}\n", one_line(status)));
    }

    /// The watchdog's beat, to be given to the one loop whose life it is.
    #[must_use]
    pub fn heart(&self) -> Heart {
        Heart { notifier: self.clone(), last: None }
    }

    fn tell(&self, message: &str) {
        if let Some(line) = &self.0
            && let Err(error) = line.socket.send_to_addr(message.as_bytes(), &line.address)
        {
            tracing::debug!("The service manager was not told: {error}");
        }
    }
}

/// A newline would begin another assignment.
fn one_line(text: &str) -> String {
    super::logging::escape(text)
}

/// Half of what the service manager allows, if it means this process.
fn beat_every(usec: Option<String>, pid: Option<String>, own: u32) -> Option<Duration> {
    let meant = pid.is_none_or(|pid| pid.parse() == Ok(own));
    let allowed: u64 = usec?.parse().ok()?;
    (meant && allowed > 0).then(|| Duration::from_micros(allowed / 2))
}

/// Beats as long as the loop that owns it turns. There is no task that beats by itself: it would go on when the loop
/// is stuck.
#[derive(Debug, Default)]
pub struct Heart {
    notifier: Notifier,
    last: Option<Instant>,
}

impl Heart {
    /// Tells the watchdog that the loop turns, if that is due.
    pub fn beat(&mut self) {
        if self.rest().is_zero() {
            self.last = Some(Instant::now());
            self.notifier.tell("WATCHDOG=1\n");
        }
    }

    /// How long the loop may sleep before the next beat.
    #[must_use]
    pub fn rest(&self) -> Duration {
        let Some(every) = self.notifier.0.as_ref().and_then(|line| line.beat_every) else { return Duration::MAX };
        self.last.map_or(Duration::ZERO, |last| every.saturating_sub(last.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 8192];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_path_and_an_abstract_name_are_both_heard() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("certdeploy-test-{}-{}", std::process::id(), path.display());
        let of_path = UnixDatagram::bind(&path).unwrap();
        let of_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (socket, name) in [(of_path, path.clone().into_os_string()), (of_name, format!("@{name}").into())] {
            let notifier = Notifier::new(&name, None).unwrap();
            notifier.ready("Serving 1 target\nREADY=0");
            assert_eq!(heard(&socket), "READY=1\nSTATUS=Serving 1 target\\nREADY=0\n");
            notifier.reloading();
            let said = heard(&socket);
            let micros = said.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
            assert!(said.starts_with("RELOADING=1\n") && micros.parse::<u64>().unwrap() > 0, "{said}");
            notifier.stopping();
            assert_eq!(heard(&socket), "STOPPING=1\nSTATUS=Stopping\n");
            notifier.needs(Duration::from_secs(2));
            assert_eq!(heard(&socket), "EXTEND_TIMEOUT_USEC=2000000\n");
            notifier.status("x");
            assert_eq!(heard(&socket), "STATUS=x\n");
        }
    }

    #[test]
    fn nobody_who_listens_and_nothing_to_listen_on_stop_nothing() {
        let notifier = Notifier::new(OsStr::new("/nowhere/notify"), Some(Duration::ZERO)).unwrap();
        notifier.ready("");
        notifier.heart().beat();
        Notifier::default().ready("");
        Heart::default().beat();
        assert_eq!(Heart::default().rest(), Duration::MAX);
        for name in ["", "relative", "vsock:2:1", &format!("/{}", "x".repeat(200))] {
            assert!(Notifier::new(OsStr::new(name), None).is_err(), "{name}");
        }
    }

    #[test]
    fn a_service_manager_that_does_not_read_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let _deaf = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::new(path.as_os_str(), None).unwrap();
        for _ in 0..10_000 {
            notifier.status("still here");
        }
    }

    #[test]
    fn the_heart_beats_when_it_is_due_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut heart = Notifier::new(path.as_os_str(), Some(Duration::from_secs(3600))).unwrap().heart();
        assert_eq!(heart.rest(), Duration::ZERO);
        heart.beat();
        assert_eq!(heard(&socket), "WATCHDOG=1\n");
        heart.beat();
        assert!(socket.recv(&mut [0; 8]).is_err(), "not due yet");
        assert!(heart.rest() > Duration::from_secs(3000));
        let mut heart = Notifier::new(path.as_os_str(), Some(Duration::ZERO)).unwrap().heart();
        heart.beat();
        heart.beat();
        assert_eq!((heard(&socket), heard(&socket)), ("WATCHDOG=1\n".into(), "WATCHDOG=1\n".into()));
    }

    #[test]
    fn the_watchdog_of_another_process_is_not_ours() {
        let of = |usec: &str, pid: Option<&str>| beat_every(Some(usec.into()), pid.map(str::to_owned), 7);
        assert_eq!(of("2000000", None), Some(Duration::from_secs(1)));
        assert_eq!(of("2000000", Some("7")), Some(Duration::from_secs(1)));
        assert_eq!((of("2000000", Some("8")), of("0", None), of("x", None)), (None, None, None));
        assert_eq!(beat_every(None, None, 7), None);
    }
}
