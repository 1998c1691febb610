//! What the queue knows, for people and for machines. It changes nothing.

pub mod renewal;
pub mod status;

/// `1 error`, `2 errors`.
#[must_use]
pub fn counted(count: usize, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}
