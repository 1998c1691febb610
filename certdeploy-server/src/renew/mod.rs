//! Running certbot: when ([`schedule`]) and how ([`certbot`]). It must not know of targets or pushes.

pub mod certbot;
pub mod schedule;
