//! The daemon: owns deployment and updates, listens to nobody. Started as root it is one of two processes; otherwise the
//! receiver is a task in the same process, on the same line. This file only puts the parts together.

mod applier;
mod known;
mod pair;
mod receivers;
mod reload;
mod staged;
mod updates;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use certdeploy_common::daemon::exit::Exit;
use certdeploy_common::daemon::logging::LogError;
use certdeploy_common::daemon::notify::Notifier;
use certdeploy_common::daemon::shutdown::{self, Reload};
use certdeploy_common::ssh::key;

use tokio::sync::watch;

use crate::account::Account;
use crate::cli::Options;
use crate::config::{Settings, Sftpd};
use crate::dir::Dir;
use crate::link;
use crate::mend;
use crate::pass;
use crate::pipeline::Pipeline;
use crate::validate::process::Validator;
use applier::{Applier, Parts};
use staged::Waiting;

/// How long an update that is running may go on after SIGTERM.
const UPDATE_GRACE: Duration = Duration::from_secs(10);
/// How long a receiver may take to end, besides its `drain_timeout`.
const DRAIN: Duration = Duration::from_secs(2);
/// How long the end may take, besides these: an upload that has just arrived is put in place.
const END: Duration = Duration::from_secs(7);

/// How long one upload that was left may take to be put in place at the start.
const STEP: Duration = Duration::from_secs(90);

/// Why the daemon cannot start or go on.
#[derive(Debug, thiserror::Error)]
enum DaemonError {
    #[error(transparent)]
    Listen(#[from] link::listen::ListenError),
    #[error("cannot prepare `{0}`: {1}")]
    Incoming(String, io::Error),
    #[error("The log file {0}")]
    Log(LogError),
    #[error("the staging directory `{0}` was removed or replaced while the daemon ran; start the daemon again")]
    Removed(String),
    #[error("cannot start the receiver: {0}")]
    Start(io::Error),
    #[error("the receiver has ended: {0}")]
    Gone(String),
    #[error(transparent)]
    Key(#[from] key::KeyError),
}

/// Runs the daemon until SIGTERM.
pub async fn run(settings: Arc<Settings>, options: Options) -> Exit {
    tracing::debug!("Running daemon");
    let Some(sftpd) = &settings.sftpd else {
        if let Some(complaint) = &settings.no_sftpd {
            tracing::error!("{}", complaint.about(&options.config));
        }
        return Exit::Failed;
    };
    let _lock = match lock(&settings, sftpd.limits.drain_timeout).await {
        Ok(lock) => lock,
        Err(exit) => return exit,
    };
    match serve(&settings, sftpd, options).await {
        Ok(()) => Exit::Done,
        Err(error) => {
            tracing::error!("{error}");
            Exit::Failed
        }
    }
}

/// The lock on `source`; a daemon that was told to end may still be draining its connections.
async fn lock(settings: &Settings, drain_timeout: Duration) -> Result<Dir, Exit> {
    const STEP: Duration = Duration::from_millis(100);
    let source = settings.source.display();
    let limit = drain_timeout + UPDATE_GRACE;
    let deadline = tokio::time::Instant::now() + limit;
    let mut said = false;
    loop {
        if let Some(lock) = pass::lock(settings)? {
            return Ok(lock);
        }
        if !said {
            said = true;
            let seconds = limit.as_secs();
            tracing::warn!(
                "Another certdeploy-client is at work on `{source}`; this one waits {seconds} seconds for its end"
            );
        }
        if tokio::time::Instant::now() >= deadline {
            tracing::error!("CertDeployError: Another certdeploy-client is at work on `{source}`; stop it first");
            return Err(Exit::Failed);
        }
        tokio::time::sleep(STEP).await;
    }
}

/// Where uploads are examined: apart, when there are privileges to lose.
#[must_use]
pub fn validator(settings: &Settings) -> Validator {
    match account(settings) {
        Some(account) => Validator::Apart { account, timeout: settings.validate_timeout },
        None => Validator::Here,
    }
}

fn account(settings: &Settings) -> Option<Account> {
    let user = settings.sftpd.as_ref().map_or("certdeploy", |sftpd| sftpd.user.as_str());
    rustix::process::geteuid().is_root().then(|| Account::find(user))
}

async fn serve(settings: &Arc<Settings>, sftpd: &Sftpd, options: Options) -> Result<(), DaemonError> {
    let account = account(settings);
    match &account {
        Some(account) => pass::note_account(&sftpd.user, account),
        None => tracing::info!("Not started by root: one process, no privileges to separate"),
    }
    let orders = shutdown::of_daemon().map_err(DaemonError::Start)?;
    let reload = Reload::watch().map_err(DaemonError::Start)?;
    let incoming = pair::prepare(&settings.source, account.as_ref())?;
    let pipeline = Pipeline::new(Arc::clone(settings), validator(settings));
    let listeners = link::listen::sockets(sftpd, &[])?;
    let (drain_timeout, newest) = watch::channel(sftpd.limits.drain_timeout);
    let notifier = Notifier::of_environment();
    let serving = async {
        let go_on = || {
            // Until it is ready the service manager waits only so long.
            notifier.needs(STEP);
            !orders.stop.is_cancelled()
        };
        // Whatever comes while we look at what there is, is looked at later.
        let mut staged = Waiting::besides(&settings.source);
        mend::all(&pipeline, || ()).await;
        let left = pass::leftovers(settings, &pipeline, go_on).await.again;
        let put = pass::staged(settings, &pipeline, settings.settle_time, go_on).await.again;
        mend::names(&pipeline).await;
        left.into_iter().chain(put).for_each(|(what, pause)| staged.set(what, Some(pause)));
        if orders.stop.is_cancelled() {
            return Ok(());
        }
        let parts = Parts {
            options: Arc::new(options),
            settings: Arc::clone(settings),
            pipeline,
            account,
            incoming,
            listeners,
            notifier: notifier.clone(),
            reload,
            drain_timeout,
            staged,
            orders: orders.clone(),
        };
        Applier::new(parts).run(sftpd).await
    };
    let limit = || UPDATE_GRACE.max(*newest.borrow() + DRAIN) + END;
    orders.run(serving, limit).await.unwrap_or_else(|| {
        tracing::warn!("What was under way is cut off; it is taken up again at the next start");
        Ok(())
    })
}
