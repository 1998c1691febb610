//! Running certbot: when ([`schedule`], on the wall clock of [`civil`]), whether now ([`waiting`]), how ([`certbot`],
//! [`output`]), what is remembered of it ([`record`]), and the loop ([`mod@run`]). It must not know of targets or pushes.

pub mod certbot;
pub mod civil;
pub mod output;
pub mod place;
pub mod record;
pub mod run;
pub mod schedule;
pub mod waiting;

pub use certbot::RenewError;
pub use run::{Renewed, once, run};
