//! [`ValidBundle`](crate::validate::ValidBundle) -> one swap. A lineage's directory holds generations; `..data` says
//! which one is current, and one rename of it changes all files at once.
//!
//! ```text
//! destination/example.com/cert.pem      -> ..data/cert.pem
//! destination/example.com/privkey.pem   -> ..data/privkey.pem
//! destination/example.com/..data        -> .gen-7
//! destination/example.com/.gen-6/            the one before, for readers and for rollback
//! destination/example.com/.gen-7/cert.pem    regular files, never changed again
//! destination/example.com/.updates.json      which generation its users were told about
//! ```

pub mod apply;
pub mod owner;
pub mod plan;
pub mod record;
pub mod rollback;
pub mod seen;
pub mod state;

pub use apply::apply;
pub use plan::{Decision, Step, decide, plan};
pub use record::Record;
pub use state::State;
