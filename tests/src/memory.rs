//! How much memory and how many descriptors a process has, as the kernel counts them.

/// A line of `/proc/PROCESS/status` in kB, like `VmHWM:`; 0 when there is none.
#[must_use]
pub fn status(process: u32, name: &str) -> u64 {
    field(&format!("/proc/{process}/status"), name)
}

/// A line of `/proc/PROCESS/smaps_rollup` in kB, like `Pss:`; 0 when there is none.
#[must_use]
pub fn rollup(process: u32, name: &str) -> u64 {
    field(&format!("/proc/{process}/smaps_rollup"), name)
}

fn field(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or_default()
}

/// How many descriptors it has open.
#[must_use]
pub fn descriptors(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).map_or(0, Iterator::count)
}
