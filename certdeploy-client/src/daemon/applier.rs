//! The applier's loop: takes what the receiver reports, deploys it, runs the updates when they are due.

mod arrivals;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use certdeploy_common::cert::Lineage;
use certdeploy_common::daemon::logging::Handed;
use certdeploy_common::daemon::notify::{Heart, Notifier};
use certdeploy_common::daemon::shutdown::{Orders, Reload};
use tokio::sync::watch;
use tokio::time::Instant;

use super::known::Known;
use super::pair::{self, Other};
use super::receivers::{Event, Id, Receivers};
use super::reload::{self, Loaded, Loading};
use super::staged::Waiting;
use super::updates::{Ended, Updates, until};
use super::{DRAIN, DaemonError, UPDATE_GRACE};
use crate::account::Account;
use crate::cli::Options;
use crate::config::{Settings, Sftpd};
use crate::dir::Dir;
use crate::health::Health;
use crate::link::{self, ToApplier, ToReceiver};
use crate::log;
use crate::mend;
use crate::pipeline::Pipeline;

/// How often the staging directory is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// For each second that a look takes, so many are left to others.
const REST: u32 = 50;

/// What the loop is given.
pub(super) struct Parts {
    pub(super) options: Arc<Options>,
    pub(super) settings: Arc<Settings>,
    pub(super) pipeline: Pipeline,
    pub(super) account: Option<Account>,
    pub(super) incoming: Dir,
    pub(super) listeners: Vec<TcpListener>,
    pub(super) notifier: Notifier,
    pub(super) reload: Reload,
    /// Told how long open connections may go on after the order to end.
    pub(super) drain_timeout: watch::Sender<Duration>,
    /// What lies in staging already.
    pub(super) staged: Waiting,
    /// What the daemon was told about its end.
    pub(super) orders: Orders,
}

pub(super) struct Applier {
    parts: Parts,
    receivers: Receivers,
    health: Health,
    heart: Heart,
    /// Whether the receiver owes an answer.
    asked: bool,
    /// What the service manager is to be told once the receiver has answered.
    ready: Option<String>,
    loading: Option<Loading>,
    updates: Updates,
    known: Known,
    /// When the staging directory is looked at again.
    look_at: Instant,
    /// After the order to end: until when the running update may go on.
    until: Option<Instant>,
}

impl Applier {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            receivers: Receivers::none(),
            health: Health::bind(&parts.settings.source),
            heart: parts.notifier.heart(),
            asked: false,
            ready: None,
            loading: None,
            updates: Updates::new(&parts.settings, parts.orders.clone()),
            known: Known::nothing(),
            look_at: Instant::now() + LOOK,
            until: None,
            parts,
        }
    }

    /// Starts the first receiver, then works until it is to stop.
    pub(super) async fn run(&mut self, sftpd: &Sftpd) -> Result<(), DaemonError> {
        let logs = pair::logs(&self.parts.settings)?;
        self.add(&self.parts.settings.clone(), sftpd, None, &logs).await?;
        self.turn_to(sftpd).await?;
        self.updates.owed(&self.parts.settings);
        self.tell_holdings().await?;
        self.work().await
    }

    /// Starts a receiver with these settings.
    async fn add(
        &mut self,
        settings: &Settings,
        sftpd: &Sftpd,
        listeners: Option<&[TcpListener]>,
        logs: &Handed,
    ) -> Result<(), DaemonError> {
        let Parts { account, incoming, listeners: old, .. } = &self.parts;
        let setup = pair::setup(settings, sftpd)?;
        let (other, line) =
            Other::start(account.as_ref(), incoming, listeners.unwrap_or(old), logs).map_err(DaemonError::Start)?;
        self.receivers.add(other, line, setup).await?;
        self.asked = true;
        Ok(())
    }

    /// The receiver that was started last is the one that accepts; those before it finish what is open.
    async fn turn_to(&mut self, sftpd: &Sftpd) -> Result<(), DaemonError> {
        let Parts { settings, listeners, drain_timeout, .. } = &self.parts;
        let addresses: Result<Vec<_>, _> = listeners.iter().map(TcpListener::local_addr).collect();
        let addresses = addresses.map_err(DaemonError::Start)?;
        for address in &addresses {
            tracing::info!("Listening for incoming connections at {}:{}", address.ip(), address.port());
        }
        let limit = drain_timeout.send_replace(sftpd.limits.drain_timeout);
        let accepting = self.receivers.accepting();
        self.receivers.drain(accepting, limit + DRAIN).await;
        self.health.listens(&addresses);
        let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        self.ready =
            Some(format!("Listening at {}, certificates in `{}`", shown.join(", "), settings.destination.display()));
        Ok(())
    }

    async fn work(&mut self) -> Result<(), DaemonError> {
        let Orders { stop, at_once, cut } = self.parts.orders.clone();
        let mut hurry = false;
        loop {
            let stopping = self.until.is_some();
            if stopping && (hurry || self.receivers.is_empty()) && !self.updates.is_running() {
                return Ok(());
            }
            let due = self.updates.due().filter(|_| !stopping);
            let (rest, overdue) = (self.heart.rest(), self.receivers.overdue());
            let retry_at = self.parts.staged.due().filter(|_| !stopping);
            tokio::select! {
                (id, event) = self.receivers.next() => self.heard(id, event).await?,
                () = until(due) => self.updates.begin(&self.parts.settings),
                ended = self.updates.finished() => self.updated(&ended).await?,
                () = passed(retry_at) => self.retry().await?,
                () = passed(self.known.due()), if !stopping => self.tell_holdings().await?,
                never = self.health.answer() => match never {},
                () = tokio::time::sleep(rest), if !self.asked => self.ask().await?,
                () = self.parts.reload.asked(), if self.loading.is_none() && !stopping => self.reload(),
                loaded = reload::finished(&mut self.loading), if !stopping => self.loaded(loaded).await?,
                () = passed(Some(self.look_at)), if !stopping => self.look()?,
                () = passed(overdue) => self.receivers.cut(),
                () = stop.cancelled(), if !stopping => self.stop().await,
                () = at_once.cancelled(), if stopping && !hurry => hurry = true,
                () = passed(self.until), if self.updates.is_running() && !cut.is_cancelled() => self.updates.cut(),
            }
        }
    }

    async fn heard(&mut self, id: Id, event: Event) -> Result<(), DaemonError> {
        // Whatever it says, it lives: its answer to our question may stand in line behind many uploads.
        let answers = matches!(event, Event::Said(_)) && self.receivers.accepting() == Some(id);
        if answers {
            self.answered();
        }
        match event {
            Event::Said(ToApplier::Committed(commit)) => self.received(id, commit).await?,
            Event::Said(ToApplier::Ask) => {
                let holdings = self.known.fresh(&self.parts.pipeline);
                self.receivers.tell(id, &holdings).await?;
            }
            Event::Said(ToApplier::Pong) => {}
            Event::Ended(_) if self.receivers.ended(id) => {}
            Event::Ended(why) => return Err(DaemonError::Gone(why)),
        }
        if answers {
            // What it said may have taken long to do.
            self.heart.beat();
        }
        Ok(())
    }

    fn look(&mut self) -> Result<(), DaemonError> {
        let begun = Instant::now();
        self.parts.staged.look(&self.parts.settings.source);
        self.updates.look_at_secrets(&self.parts.settings);
        self.updates.look_at_all();
        self.updates.look_at_left(&self.parts.settings);
        self.look_at = Instant::now() + LOOK.max(begun.elapsed() * REST);
        pair::still_there(&self.parts.settings.source, &self.parts.incoming)
    }

    /// The watchdog's beat is due: the receiver must be alive too, and says so first.
    async fn ask(&mut self) -> Result<(), DaemonError> {
        match self.receivers.accepting() {
            Some(id) => {
                self.asked = true;
                self.receivers.tell(id, &ToReceiver::Ping).await
            }
            // At the end there is none.
            None => {
                self.heart.beat();
                Ok(())
            }
        }
    }

    fn answered(&mut self) {
        self.asked = false;
        self.heart.beat();
        if let Some(status) = self.ready.take() {
            self.parts.notifier.ready(&status);
        }
    }

    fn reload(&mut self) {
        tracing::info!("Reloading on SIGHUP");
        self.parts.notifier.reloading();
        self.loading = Some(reload::begin(&self.parts.settings, &self.parts.options));
    }

    /// What became of a config that was read: the new settings hold, all of them, or the old ones go on.
    async fn loaded(&mut self, loaded: Loaded) -> Result<(), DaemonError> {
        let config = self.parts.options.config.display().to_string();
        let refused = match loaded {
            Ok((settings, warnings)) => match self.prepared(&settings) {
                Ok((listeners, logs)) => {
                    for warning in warnings {
                        tracing::warn!("{warning}");
                    }
                    match self.renew(settings, listeners, &logs).await {
                        Ok(()) => {
                            tracing::info!("Reloaded `{config}`");
                            return Ok(());
                        }
                        Err(error) => error.to_string(),
                    }
                }
                Err(refused) => refused,
            },
            Err(refused) => refused,
        };
        // Whoever rotates logs says so by SIGHUP too, whatever the config has become.
        if let Err(error) = log::begin(&self.parts.settings.log) {
            tracing::error!("The log file {error}");
        }
        for line in refused.lines() {
            tracing::error!("{line}");
        }
        tracing::error!("`{config}` is not reloaded; this daemon goes on with the settings it has");
        self.parts.notifier.ready("Goes on with its old settings; the changed config is refused, see the log");
        Ok(())
    }

    /// All that can go wrong with new settings; only the log is changed already when nothing does.
    fn prepared(&self, settings: &Settings) -> Result<(Option<Vec<TcpListener>>, Handed), String> {
        let (old, new) = (&self.parts.settings.sftpd, &settings.sftpd);
        let listeners = match (old, new) {
            (Some(old), Some(new)) if (&old.listen, old.backlog) != (&new.listen, new.backlog) => Some(
                link::listen::sockets(new, &self.parts.listeners)
                    .map_err(|error| format!("{error} (if this daemon itself does, restart it)"))?,
            ),
            _ => None,
        };
        let logs = pair::logs(settings).map_err(|error| error.to_string())?;
        log::begin(&settings.log).map_err(|error| format!("The log file {error}"))?;
        Ok((listeners, logs))
    }

    /// First a receiver with the new settings, then all the rest at once.
    async fn renew(
        &mut self,
        settings: Settings,
        listeners: Option<Vec<TcpListener>>,
        logs: &Handed,
    ) -> Result<(), DaemonError> {
        let settings = Arc::new(settings);
        if let Some(sftpd) = &settings.sftpd {
            self.add(&settings, sftpd, listeners.as_deref(), logs).await?;
        }
        self.updates.leave(&self.parts.settings, &settings);
        let changed = self.parts.settings.permissions.to_string() != settings.permissions.to_string();
        self.parts.settings = Arc::clone(&settings);
        self.parts.pipeline = Pipeline::new(Arc::clone(&settings), super::validator(&settings));
        if let Some(listeners) = listeners {
            self.parts.listeners = listeners;
        }
        if let Some(sftpd) = &settings.sftpd {
            self.turn_to(sftpd).await?;
        }
        if changed {
            let heart = &mut self.heart;
            mend::all(&self.parts.pipeline, || heart.beat()).await;
        }
        self.updates.renew(&settings);
        self.tell_holdings().await
    }

    /// Open connections and the running update may finish; what does not is found at the next start.
    async fn stop(&mut self) {
        self.parts.notifier.stopping();
        self.until = Some(Instant::now() + UPDATE_GRACE);
        self.asked = false;
        // Peers are refused from now on, rather than kept waiting.
        self.parts.listeners.clear();
        let limit = *self.parts.drain_timeout.borrow() + DRAIN;
        self.receivers.drain(None, limit).await;
    }

    async fn updated(&mut self, ended: &Ended) -> Result<(), DaemonError> {
        let told = self.updates.end(ended, &self.parts.settings);
        self.tell_changed(&told).await
    }

    /// Tells everybody all of what is held, as it is now.
    async fn tell_holdings(&mut self) -> Result<(), DaemonError> {
        self.known.read(&self.parts.pipeline);
        let all = self.known.all();
        self.tell(&all).await
    }

    async fn tell_changed(&mut self, lineages: &BTreeSet<Lineage>) -> Result<(), DaemonError> {
        match self.known.changed(lineages, &self.parts.pipeline) {
            Some(all) => self.tell(&all).await,
            None => Ok(()),
        }
    }

    async fn tell(&mut self, all: &ToReceiver) -> Result<(), DaemonError> {
        let begun = Instant::now();
        self.receivers.tell_all(all).await?;
        self.known.said(begun);
        Ok(())
    }
}

async fn passed(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}
