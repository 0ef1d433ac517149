//! What this process has used so far.

use std::error::Error;

/// CPU time and memory of a process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// User and system time, in seconds.
    pub(crate) cpu_s: f64,
    /// Largest resident set so far, in 10⁶ bytes.
    pub(crate) peak_mb: f64,
}

#[cfg(unix)]
pub(crate) fn usage() -> Result<Usage, Box<dyn Error>> {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeValLike;

    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let cpu_us = (usage.user_time() + usage.system_time()).num_microseconds();
    let unit = if cfg!(target_vendor = "apple") { 1.0 } else { 1_024.0 };
    Ok(Usage { cpu_s: cpu_us as f64 / 1e6, peak_mb: usage.max_rss() as f64 * unit / 1e6 })
}

#[cfg(not(unix))]
pub(crate) fn usage() -> Result<Usage, Box<dyn Error>> {
    Err("CPU time is measured with getrusage, which this system does not have".into())
}
