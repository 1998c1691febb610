//! What the queue knows, for people and for machines. It changes nothing.

pub mod renewal;
pub mod status;
