//! Signals -> tokens that every wait watches. Must not decide what ends how.

use std::future::Future;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Takes note of SIGTERM, SIGINT and SIGHUP without ending, for as long as the guard lives: a supervisor signals all
/// processes of a service at once, and ours is told by another one when to end.
///
/// # Errors
/// The runtime has no signal driver.
pub fn ignore() -> std::io::Result<impl Sized> {
    Ok([signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?])
}

/// What a process was told by signals to do about its end.
#[derive(Debug, Clone, Default)]
pub struct Orders {
    /// The first of them: finish what is under way, begin nothing.
    pub stop: CancellationToken,
    /// The second: do not wait.
    pub at_once: CancellationToken,
    /// Nobody waits any longer: what is under way is to be dropped, and that written down.
    pub cut: CancellationToken,
}

/// How long writing that down may take: a disk that stands still is not waited for longer.
const LAST: Duration = Duration::from_secs(5);

impl Orders {
    /// Runs something to its end; when nobody waits any longer it is told to [`cut`](Self::cut) what is under way, and dropped
    /// if it has not ended five seconds later. `None`: it was dropped.
    pub async fn run<T>(&self, work: impl Future<Output = T>, limit: impl FnOnce() -> Duration) -> Option<T> {
        tokio::pin!(work);
        tokio::select! {
            done = &mut work => return Some(done),
            () = self.overdue(limit) => self.cut.cancel(),
        }
        tokio::time::timeout(LAST, work).await.ok()
    }

    /// Returns when nobody waits any longer: at the second order, or `limit` after the first one.
    pub async fn overdue(&self, limit: impl FnOnce() -> Duration) {
        self.stop.cancelled().await;
        tokio::select! {
            () = self.at_once.cancelled() => {}
            () = tokio::time::sleep(limit()) => tracing::warn!("The end takes too long and is not waited for"),
        }
    }
}

/// The orders for a daemon: SIGTERM and SIGINT. SIGHUP is its [`Reload`].
///
/// # Errors
/// The runtime has no signal driver.
pub fn of_daemon() -> std::io::Result<Orders> {
    watch(false)
}

/// The orders for a command that ends by itself: SIGTERM, SIGINT, and SIGHUP from a terminal that is closed.
///
/// # Errors
/// The runtime has no signal driver.
pub fn of_command() -> std::io::Result<Orders> {
    watch(true)
}

fn watch(hangup_ends: bool) -> std::io::Result<Orders> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = if hangup_ends { Some(signal(SignalKind::hangup())?) } else { None };
    // Where our parent ignores it, nobody's end can be waited for (wait(2)).
    let children = signal(SignalKind::child())?;
    let orders = Orders::default();
    let given = orders.clone();
    tokio::spawn(async move {
        let _children = children;
        for (token, how) in [(given.stop, "Stopping"), (given.at_once, "Stopping at once")] {
            tokio::select! {
                _ = terminate.recv() => tracing::info!("{how} on SIGTERM"),
                _ = interrupt.recv() => tracing::info!("{how} on SIGINT"),
                () = received(&mut hangup) => tracing::info!("{how} on SIGHUP"),
            }
            token.cancel();
        }
    });
    Ok(orders)
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => _ = signal.recv().await,
        None => std::future::pending().await,
    }
}

/// SIGHUP to a daemon; several that come while one is answered are one.
#[derive(Debug)]
pub struct Reload(Signal);

impl Reload {
    /// Watches for it from now on.
    ///
    /// # Errors
    /// The runtime has no signal driver.
    pub fn watch() -> std::io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }

    /// Returns when it was asked for.
    pub async fn asked(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_end_is_waited_for_until_the_limit_or_the_second_order() {
        let (none, first, both) = (Orders::default(), Orders::default(), Orders::default());
        first.stop.cancel();
        both.stop.cancel();
        both.at_once.cancel();
        let took = |orders: Orders| async move {
            let start = tokio::time::Instant::now();
            let limit = || Duration::from_secs(19);
            let over = tokio::time::timeout(Duration::from_secs(100), orders.overdue(limit)).await;
            over.map(|()| start.elapsed().as_secs()).ok()
        };
        assert_eq!((took(none).await, took(first).await, took(both).await), (None, Some(19), Some(0)));
    }
    #[tokio::test(start_paused = true)]
    async fn what_is_under_way_hears_that_nobody_waits_and_may_say_a_last_word() {
        let limit = || Duration::from_secs(19);
        let orders = Orders::default();
        orders.stop.cancel();
        let cut = orders.cut.clone();
        assert_eq!(orders.run(async move { cut.cancelled().await }, limit).await, Some(()));
        let orders = Orders::default();
        orders.stop.cancel();
        assert_eq!(orders.run(std::future::pending::<()>(), limit).await, None);
        assert_eq!(Orders::default().run(async { 7 }, limit).await, Some(7));
    }
}
