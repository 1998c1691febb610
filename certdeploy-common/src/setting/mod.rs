//! Settings: the text of a config file -> values that are valid by construction, or complaints with their place.
//!
//! One list per section, written with [`settings!`](crate::settings), is the source of the parser, of the README's
//! reference and of the tests' table. This module must not open files and must not know a daemon's keys.

pub mod duration;
pub mod list;
pub mod loose;
pub mod mode;
pub mod number;
pub mod place;
pub mod value;
pub mod write;
pub mod yaml;

pub use list::{Default, Section, Setting};
pub use place::{Complaint, ConfigError, Located, Place, Problems};
pub use value::{Kind, Value};
