//! Certificates: the words lineage, domain, PEM file, bundle and digest as types, and the checks both ends make
//! before they trust a bundle. Pure: bytes in, facts out; no files, no clock.

pub mod bundle;
pub mod check;
pub mod domain;
pub mod keypair;
pub mod lineage;
pub mod pem;

pub use bundle::{Bundle, Digest, FileName};
pub use check::{Facts, Fault, check};
pub use domain::Domain;
pub use lineage::Lineage;
