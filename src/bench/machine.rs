//! Where a record was made: without it a number says nothing.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

/// Facts of this machine that move results. `None`: the system does not tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    pub cpu_model: Option<String>,
    /// CPUs that this process may use.
    pub cpus: usize,
    pub memory_bytes: Option<u64>,
    pub kernel: Option<String>,
    /// Frequency governor of CPU 0; virtual machines have none.
    pub governor: Option<String>,
    /// The host's default; a listener may have another one.
    pub congestion_control: Option<String>,
}

impl Machine {
    pub fn this() -> Machine {
        Machine {
            cpu_model: field("/proc/cpuinfo", "model name"),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: field("/proc/meminfo", "MemTotal").and_then(|text| kib(&text)),
            kernel: word("/proc/sys/kernel/osrelease"),
            governor: word("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            congestion_control: word("/proc/sys/net/ipv4/tcp_congestion_control"),
        }
    }
}

fn word(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// The value of the first `name : value` line.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.into_iter().find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
}

fn kib(text: &str) -> Option<u64> {
    text.strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The commit that this program was built from, as far as the folder of its binary tells:
/// `-dirty` when there were changes. `None` outside a checkout.
pub fn commit() -> Option<String> {
    let binary = std::env::current_exe().ok()?;
    let output = Command::new("git")
        .arg("-C")
        .arg(binary.parent().unwrap_or(Path::new(".")))
        .args(["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"])
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let commit = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| commit.trim().to_owned())
}
