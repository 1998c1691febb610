//! The shell around a process: its log, its end, its signals. Knows nothing of certificates.

pub mod exit;
pub mod findings;
pub mod health;
pub mod logging;
pub mod notify;
pub mod shutdown;
pub mod steady;
pub mod unit;
