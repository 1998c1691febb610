//! The harness of the proof: a [`World`] of keys, a CA, lineages as certbot lays them out, both programs as child
//! processes on loopback, and the real things around them. It must not know how the programs work inside: what it
//! knows of them is their command line, their config, their files and their log.

pub mod between;
pub mod booted;
pub mod ca;
pub mod certbot;
pub mod chance;
pub mod checked;
pub mod crowd;
pub mod document;
pub mod dropbear;
pub mod engine;
pub mod fleet;
pub mod guide;
pub mod idle;
pub mod images;
#[cfg(target_arch = "x86_64")]
pub mod inside;
pub mod key_watch;
pub mod lineage;
pub mod loop_image;
pub mod manager;
pub mod manual;
pub mod memory;
pub mod need;
pub mod network;
pub mod packaged;
pub mod pass;
pub mod pebble;
pub mod peer;
pub mod power;
pub mod process;
pub mod proftpd;
pub mod python;
pub mod readers;
pub mod reference;
pub mod scene;
pub mod sets;
pub mod sftp;
pub mod shipped;
pub mod small_disk;
pub mod ssh;
pub mod sshd;
pub mod stand_ins;
pub mod status;
pub mod swarm;
pub mod target;
pub mod trust;
pub mod wait;
pub mod wire_tap;
pub mod world;

pub use ca::Ca;
pub use lineage::Lineage;
pub use process::{Daemon, Ran};
pub use target::Target;
pub use wait::until;
pub use world::World;
