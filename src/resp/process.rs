//! Memory and CPU use of the process, for INFO.

/// Clock ticks per second in `/proc/self/stat`; the user-space ABI of Linux defines 100.
pub(super) const TICKS_PER_SECOND: u64 = 100;
/// Name of the allocator.
pub(super) const ALLOCATOR: &str = if cfg!(feature = "mimalloc") {
    "mimalloc"
} else if cfg!(feature = "jemalloc") {
    "jemalloc"
} else {
    "system"
};

/// Memory of the process.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Memory {
    /// Allocated memory; the resident memory if the allocator does not report it.
    pub(super) used_bytes: u64,
    /// Resident memory.
    pub(super) resident_bytes: u64,
}

/// Returns the current memory use.
pub(super) fn memory() -> Memory {
    let resident_bytes = resident_bytes().unwrap_or(0);
    Memory { used_bytes: allocated_bytes().filter(|bytes| *bytes > 0).unwrap_or(resident_bytes), resident_bytes }
}

#[cfg(feature = "jemalloc")]
fn allocated_bytes() -> Option<u64> {
    use tikv_jemalloc_ctl::{epoch, stats};
    // The statistics are updated once per epoch.
    epoch::advance().ok()?;
    stats::allocated::read().ok().map(|bytes| bytes as u64)
}

#[cfg(not(feature = "jemalloc"))]
fn allocated_bytes() -> Option<u64> {
    None
}

fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// CPU time of the process since its start, in clock ticks.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CpuTimes {
    pub(super) user_ticks: u64,
    pub(super) system_ticks: u64,
}

/// Returns the CPU time; zeros if `/proc` is unavailable.
pub(super) fn cpu_times() -> CpuTimes {
    let read = || {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The second field is the name in parentheses, which may contain spaces.
        let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
        Some(CpuTimes { user_ticks: fields.next()?.parse().ok()?, system_ticks: fields.next()?.parse().ok()? })
    };
    read().unwrap_or_default()
}

/// Returns name, release and machine of the operating system.
pub(super) fn operating_system() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Linux {} {}", release.trim(), std::env::consts::ARCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_process_uses_memory() {
        let memory = memory();
        assert!(memory.resident_bytes > 1 << 20 && memory.used_bytes > 0);
        let _readable = cpu_times();
    }
}
