//! The file as written -> [`Settings`]: merged, checked against the file system where that can be, valid by
//! construction. It must not open connections or the queue.

use std::path::{Path, PathBuf};
use std::time::Duration;

use certdeploy_common::setting::{Complaint, Located, Place, Problems};

use super::file::{ServerFile, TargetFile};
use super::identity::KeySetting;
use super::kinds::{Every, OnStart, PushMode, Unit};
use super::log::LogPolicy;
use super::pins::{Demand, PinBook};
use super::targets::{Burst, Target, targets};
use crate::renew::schedule::{At, Interval};

/// Everything that `server.yml` says.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The key to log in with.
    pub key: KeySetting,
    /// Who gets certificates.
    pub targets: Vec<Target>,
    /// The file of host keys.
    pub known_hosts: Option<PathBuf>,
    /// How long things may take at a target that says nothing else.
    pub timeouts: Timeouts,
    /// The directory of the queue.
    pub queue_dir: PathBuf,
    /// Where the Python program kept its queue when `queue_dir` was not set, if ours is the default too.
    pub former_queue_dir: Option<PathBuf>,
    /// certbot's `live/`.
    pub live_directory: PathBuf,
    /// How often the two are compared.
    pub reconcile_interval: Duration,
    /// Stop at the first failure.
    pub fail_fast: bool,
    /// What is logged.
    pub log: LogPolicy,
    /// How pushes are made.
    pub push: PushPolicy,
    /// When and how certbot runs.
    pub renew: RenewPolicy,
}

/// How pushes are made.
#[derive(Debug, Clone, Copy)]
pub struct PushPolicy {
    /// The most targets at once.
    pub at_once: usize,
    /// The most connections that are being made beside these; 0 when a target is connected to only when it is its turn.
    pub connecting: usize,
    /// The pause after the start of a push.
    pub interval: Duration,
    /// The longest pause between two attempts.
    pub longest: Duration,
    /// Whether the daemon goes on after the first retries.
    pub forever: bool,
    /// How long pushes under way may take after the order to stop.
    pub stop: Duration,
}

/// How long things may take; `None` waits for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP, for each address.
    pub connect: Option<Duration>,
    /// Banner and key exchange.
    pub handshake: Option<Duration>,
    /// Logging in.
    pub login: Option<Duration>,
    /// Each SFTP operation.
    pub operation: Option<Duration>,
    /// One lineage to one target.
    pub push: Option<Duration>,
    /// All lineages of one visit to a target.
    pub visit: Option<Duration>,
}

impl Timeouts {
    /// Waits for ever.
    pub const NONE: Self =
        Self { connect: None, handshake: None, login: None, operation: None, push: None, visit: None };
}

/// When and how certbot runs.
#[derive(Debug, Clone)]
pub struct RenewPolicy {
    /// How often.
    pub interval: Interval,
    /// The program; `None` is `certbot` in `PATH`.
    pub program: Option<PathBuf>,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// How long it may run.
    pub timeout: Option<Duration>,
    /// Whether it runs when the daemon starts.
    pub on_start: OnStart,
    /// The most that is waited, at random, before a scheduled run.
    pub jitter: Duration,
}

/// The default of `queue_dir`.
const QUEUE_DIR: &str = "/var/lib/certdeploy";
/// The Python program's default; a tmpfs, so it is not ours.
const FORMER_QUEUE_DIR: &str = "/var/run/certdeploy";

/// Makes settings of what was written in `file` and in `further` files of targets; what is wrong goes to `problems`.
pub fn settings(
    file: &Path,
    written: ServerFile,
    further: Vec<Located<TargetFile>>,
    demand: Demand,
    problems: &mut Problems,
) -> Option<Settings> {
    let key = KeySetting::of(file, &written, problems);
    let burst = Burst { retries: written.push_retries.value, interval: written.push_retry_interval.value };
    let interval = interval(&written, problems);
    let log = LogPolicy::of(file, &written, problems);
    let mut entries = written.client_configs.value;
    entries.extend(further);
    if entries.is_empty() && problems.errors.is_empty() && demand != Demand::Anything {
        problems.error(Complaint::new(written.client_configs.place, "ConfigError: No client configs given."));
    }
    let timeouts = Timeouts {
        connect: written.sftp_tcp_timeout.value,
        handshake: written.sftp_banner_timeout.value,
        login: written.sftp_auth_timeout.value,
        operation: written.sftp_operation_timeout.value,
        push: written.push_timeout.value,
        visit: written.join_timeout.value,
    };
    let mut book = PinBook::open(&written.known_hosts, demand, problems);
    let targets = targets(entries, burst, timeouts, &mut book, problems);
    let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    let (at_once, connecting) = match written.push_mode.value {
        PushMode::Serial => (1, 0),
        PushMode::Parallel => (count(written.push_concurrency.value), count(written.connect_concurrency.value)),
    };
    let former = (written.queue_dir.value == Path::new(QUEUE_DIR)).then(|| FORMER_QUEUE_DIR.into());
    Some(Settings {
        key,
        targets,
        known_hosts: written.known_hosts.value,
        timeouts,
        former_queue_dir: former,
        queue_dir: written.queue_dir.value,
        live_directory: written.live_directory.value,
        reconcile_interval: written.reconcile_interval.value,
        fail_fast: written.fail_fast.value,
        log,
        push: PushPolicy {
            at_once,
            connecting,
            interval: written.push_interval.value,
            longest: written.push_retry_max_interval.value,
            forever: written.push_retry_forever.value,
            stop: written.stop_timeout.value,
        },
        renew: RenewPolicy {
            interval: interval?,
            program: written.renew_exec.value,
            arguments: written.renew_args.value.into_iter().map(|argument| argument.value).collect(),
            timeout: written.renew_timeout.value,
            on_start: written.renew_on_start.value,
            jitter: written.renew_jitter.value,
        },
    })
}

fn interval(written: &ServerFile, problems: &mut Problems) -> Option<Interval> {
    let mut every = written.renew_every.value;
    let mut unit = written.renew_unit.value;
    if let Some(old) = &written.check_renew.value {
        let hint = "`check_renew` works, but its names are `renew_every` and `renew_unit` now";
        problems.warn(written.check_renew.place, hint);
        (every, unit) = (old.every.value, Unit::Day);
    }
    let count = match every {
        Every::Count(count) => count,
        Every::Unit(own) => {
            unit = own;
            1
        }
    };
    let mut complain = |place: Place, written: &str, key: &str, rule: &str| {
        problems.error(Complaint::value(place, written, key, rule));
    };
    if matches!(unit, Unit::Weekday(_)) && count != 1 {
        let text = count.to_string();
        complain(written.renew_every.place, &text, "renew_every", "be 1 when `renew_unit` is a day of the week");
        return None;
    }
    let at = match written.renew_at.value.as_deref().map(str::trim).filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => match At::parse(text, unit) {
            Some(at) => Some(at),
            None => {
                complain(written.renew_at.place, text, "renew_at", At::expected(unit));
                return None;
            }
        },
    };
    Some(Interval { count, unit, at })
}
