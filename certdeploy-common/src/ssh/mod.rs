//! What both ends of SSH share: keys and the choice of algorithms. The only part of this crate that names russh.

pub mod decode;
pub mod key;

/// What the SSH and SFTP library's names of its own events begin with.
pub const LIBRARY: &str = "russh";
