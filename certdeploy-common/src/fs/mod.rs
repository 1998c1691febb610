//! Files that survive a power cut, and locks that do not survive their process. Knows nothing of what is inside.

pub mod append;
pub mod atomic;
pub mod bounded;
pub mod lock;
pub mod modes;
pub mod private;
pub mod text;
