//! What `certdeploy-server status --json` says, as far as tests ask.

use certdeploy_common::cert::{Bundle, FileName};
use serde_json::Value;

use crate::Lineage;

/// The line of a lineage at a target.
#[must_use]
pub fn line<'a>(status: &'a Value, target: &str, lineage: &str) -> Option<&'a Value> {
    let lines = status.get("deliveries")?.as_array()?;
    lines.iter().find(|line| line["target"] == target && line["lineage"] == lineage)
}

/// Whether `target` has acknowledged what was issued last, that is, the two files that a target wants by default.
#[must_use]
pub fn acknowledged(status: &Value, target: &str, lineage: &Lineage) -> bool {
    let mut bundle = Bundle::default();
    for name in [FileName::Fullchain, FileName::Privkey] {
        bundle.insert(name, lineage.issued.file(name).as_bytes().to_vec().into());
    }
    let line = line(status, target, &lineage.name);
    line.is_some_and(|line| line["state"] == "delivered" && line["digest"] == bundle.digest().as_str())
}
