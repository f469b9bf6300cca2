//! Where a record was made: without it a number says nothing.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use procfs::{CpuInfo, Current, Meminfo};
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
            cpu_model: CpuInfo::current().ok().and_then(|cpu| cpu.model_name(0).map(str::to_owned)),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: Meminfo::current().ok().map(|memory| memory.mem_total),
            kernel: word("/proc/sys/kernel/osrelease"),
            governor: word("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            congestion_control: word("/proc/sys/net/ipv4/tcp_congestion_control"),
        }
    }
}

fn word(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
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
