//! What both daemons share: the vocabulary, the wire contract and the shell around a process. It decides nothing and
//! never names a daemon.

pub mod cert;
pub mod daemon;
pub mod fs;
pub mod setting;
pub mod ssh;
pub mod wire;
