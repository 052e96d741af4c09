//! What the operating system says about this process, from `/proc`. On a system without it, nothing is reported.

use std::fs;

/// Clock ticks per second in `/proc`: part of Linux' user-space ABI.
const TICKS_PER_SECOND: f64 = 100.0;

/// Figures of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// User and system time.
    pub cpu_seconds: f64,
    /// Memory in RAM.
    pub resident_bytes: u64,
    /// Address space.
    pub virtual_bytes: u64,
    /// Address space allowed; without a limit the largest number, as Prometheus' own client for Go has it.
    pub virtual_max_bytes: u64,
    /// Files that are open.
    pub open_fds: u64,
    /// Files that may be open.
    pub max_fds: u64,
    /// Since the epoch.
    pub start_seconds: f64,
}

/// Reads them; `None` without `/proc`.
pub fn read() -> Option<Process> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let boot = fs::read_to_string("/proc/stat").ok()?;
    let (cpu_seconds, start_after_boot) = parse_stat(&stat)?;
    Some(Process {
        cpu_seconds,
        resident_bytes: number_after(&status, "VmRSS:")? * 1024,
        virtual_bytes: number_after(&status, "VmSize:")? * 1024,
        virtual_max_bytes: number_after(&limits, "Max address space").unwrap_or(u64::MAX),
        open_fds: fs::read_dir("/proc/self/fd").ok()?.count() as u64,
        max_fds: number_after(&limits, "Max open files")?,
        start_seconds: number_after(&boot, "btime")? as f64 + start_after_boot,
    })
}

/// CPU seconds, and seconds between boot and start.
fn parse_stat(stat: &str) -> Option<(f64, f64)> {
    // The name, in parentheses, may contain spaces; the third field comes after it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
    Some(((ticks(14)? + ticks(15)?) / TICKS_PER_SECOND, ticks(22)? / TICKS_PER_SECOND))
}

fn number_after(text: &str, label: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(label))?;
    line[label.len()..].split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a ) b) S 1 1 1 0 -1 0 0 0 0 0 250 50 0 0 20 0 1 0 1200 0 0";
        assert_eq!(parse_stat(stat), Some((3.0, 12.0)));
        assert_eq!(parse_stat("nonsense"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_has_memory_and_files() {
        let process = read().unwrap();
        assert!(process.resident_bytes > 0 && process.open_fds > 2 && process.max_fds >= process.open_fds);
    }
}
