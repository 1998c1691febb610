//! Running certbot: when ([`schedule`]), how ([`certbot`]), and the loop ([`mod@run`]). It must not know of targets or
//! pushes.

pub mod certbot;
pub mod run;
pub mod schedule;

pub use run::{Renewed, run};
