//! SIGTERM and SIGINT -> one token that every wait watches. Must not decide what ends how.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Takes note of SIGTERM, SIGINT and SIGHUP without ending, for as long as the guard lives: a supervisor signals all
/// processes of a service at once, and ours is told by another one when to end.
///
/// # Errors
/// The runtime has no signal driver.
pub fn ignore() -> std::io::Result<impl Sized> {
    Ok([signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?])
}

/// Watches for SIGTERM and SIGINT from now on; the token is cancelled by the first of them.
///
/// # Errors
/// The runtime has no signal driver.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let fired = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("Stopping on SIGTERM"),
            _ = interrupt.recv() => tracing::info!("Stopping on SIGINT"),
        }
        fired.cancel();
    });
    Ok(token)
}
