//! The contract between a pusher and a certdeploy-client, on top of SFTP version 3. Both ends read this and nothing
//! else about each other. Version 1; the peer is ours if its VERSION reply carries [`layout::EXTENSION`].
//!
//! 1. `MKDIR /.push-<id>` and one `OPEN` (create, exclusive), `WRITE`s, `CLOSE` for each file in it.
//! 2. The manifest the same way as `manifest.json.part`; its rename to `manifest.json` is the commit.
//! 3. Reading `/.push-<id>/receipt.json` answers as soon as the verdict is known.
//! 4. Reading `/.held.json` answers at once with what the client holds of each lineage.

pub mod layout;
pub mod manifest;
pub mod receipt;

pub use layout::PushId;
pub use manifest::{Claims, Manifest};
pub use receipt::{Held, Holdings, Receipt, Update, Verdict};
