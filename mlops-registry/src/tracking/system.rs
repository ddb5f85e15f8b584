//! What the machine is doing, under MLflow's names, for [`MetricLogger`](crate::MetricLogger). Linux only: it reads `/proc`
//! when it is asked to, and nothing runs by itself.
//!
//! ```
//! use mlops_registry::system::SystemSampler;
//! let mut sampler = SystemSampler::new();
//! for (name, value) in sampler.sample() {
//!     // logger.log(name, value, step);
//!     assert!(name.starts_with("system/") && value.is_finite());
//! }
//! ```

use std::fs;
use std::path::PathBuf;

/// Reads what the machine is doing, as a difference to the sample before where it is a rate.
#[derive(Clone, Debug)]
pub struct SystemSampler {
    proc: PathBuf,
    cpu: Option<(f64, f64)>,
    network: Option<(f64, f64)>,
}

impl Default for SystemSampler {
    fn default() -> Self {
        Self::new()
    }
}

impl SystemSampler {
    /// A sampler of this machine. The first sample of a rate is that since the machine started, or absent.
    #[must_use]
    pub fn new() -> Self {
        Self { proc: PathBuf::from("/proc"), cpu: None, network: None }
    }

    /// The values that can be read now: `system/cpu_utilization_percentage` (0 to 100, of all cores),
    /// `system/system_memory_usage_megabytes` and `…_percentage`, `system/network_receive_megabytes` and
    /// `…_transmit_megabytes` (since the sample before, the loopback device aside). What cannot be read is left out; on
    /// another system than Linux that is everything.
    pub fn sample(&mut self) -> Vec<(&'static str, f64)> {
        let mut values = Vec::new();
        let read = |name: &str| fs::read_to_string(self.proc.join(name)).unwrap_or_default();
        let (stat, memory, network) = (read("stat"), read("meminfo"), read("net/dev"));
        if let Some((busy, all)) = cpu(&stat) {
            let (busy_before, all_before) = self.cpu.replace((busy, all)).unwrap_or_default();
            if all > all_before {
                let share = (busy - busy_before).max(0.0) / (all - all_before);
                values.push(("system/cpu_utilization_percentage", 100.0 * share.min(1.0)));
            }
        }
        if let Some((used, total)) = used_memory(&memory) {
            values.push(("system/system_memory_usage_megabytes", used / 1e6));
            values.push(("system/system_memory_usage_percentage", 100.0 * used / total));
        }
        if let Some((received, sent)) = traffic(&network)
            && let Some((received_before, sent_before)) = self.network.replace((received, sent))
        {
            values.push(("system/network_receive_megabytes", (received - received_before).max(0.0) / 1e6));
            values.push(("system/network_transmit_megabytes", (sent - sent_before).max(0.0) / 1e6));
        }
        values
    }
}

/// Time that the cores were busy, and all of their time, since the start.
fn cpu(stat: &str) -> Option<(f64, f64)> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    // user, nice, system, idle, iowait, irq, softirq, steal; what follows is counted in `user` already.
    let times: Vec<f64> = line.split_whitespace().take(8).map_while(|n| n.parse().ok()).collect();
    let all: f64 = times.iter().sum();
    let idle = times.get(3)? + times.get(4).copied().unwrap_or(0.0);
    Some((all - idle, all))
}

/// Bytes in use, and all there are.
fn used_memory(meminfo: &str) -> Option<(f64, f64)> {
    let bytes = |name: &str| -> Option<f64> {
        let rest = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        Some(rest.split_whitespace().next()?.parse::<f64>().ok()? * 1_024.0)
    };
    let total = bytes("MemTotal:").filter(|total| *total > 0.0)?;
    Some((total - bytes("MemAvailable:")?, total))
}

/// Bytes received and sent by all devices but the loopback.
fn traffic(devices: &str) -> Option<(f64, f64)> {
    let rows = devices.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| name.trim() != "lo");
    let mut sums = None;
    for (_, counts) in rows {
        let counts: Vec<f64> = counts.split_whitespace().map_while(|n| n.parse().ok()).collect();
        let (received, sent) = sums.unwrap_or((0.0, 0.0));
        sums = Some((received + counts.first()?, sent + counts.get(8)?));
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_differences_and_levels_are_levels() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("net")).unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let mut sampler = SystemSampler { proc: dir.path().to_owned(), ..SystemSampler::new() };
        assert!(sampler.sample().is_empty());
        write("stat", "cpu  10 0 10 70 10 0 0 0 5 0\ncpu0 1 2 3 4\n");
        write("meminfo", "MemTotal:  2000000 kB\nMemFree: 1 kB\nMemAvailable: 1500000 kB\n");
        write(
            "net/dev",
            "Inter-| Receive\n face |bytes\n    lo: 9 0 0 0 0 0 0 0 9 0\n  eth0: 1000000 0 0 0 0 0 0 0 500000 0\n",
        );
        let first = sampler.sample();
        assert_eq!(first[0], ("system/cpu_utilization_percentage", 20.0));
        assert_eq!(first[1], ("system/system_memory_usage_megabytes", 512.0));
        assert_eq!((first[2].1, first.len()), (25.0, 3));
        write("stat", "cpu  60 0 10 110 20 0 0 0 5 0\n");
        write("net/dev", "  eth0: 3000000 0 0 0 0 0 0 0 1500000 0\n  eth1: 1000000 0 0 0 0 0 0 0 0 0\n");
        let second = sampler.sample();
        assert_eq!(second[0], ("system/cpu_utilization_percentage", 50.0));
        assert_eq!(
            second[3..],
            [("system/network_receive_megabytes", 3.0), ("system/network_transmit_megabytes", 1.0)]
        );
        write("stat", "cpu nonsense");
        write("meminfo", "MemTotal: 0 kB");
        write("net/dev", "x: 1");
        assert!(sampler.sample().is_empty());
    }
}
