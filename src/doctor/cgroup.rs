//! The limits of the cgroups that the process is in, version 1 and 2.
//!
//! Every enclosing cgroup limits too: what counts is the narrowest of them (cgroups(7), and
//! Documentation/admin-guide/cgroup-v2.rst of the kernel).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use procfs::{FromRead, ProcessCGroups};

use super::host::Root;
use super::text::{cpu_list, cpu_max, field, number};

/// Version 1 writes "no limit" as the highest multiple of a page below 2^63.
const UNLIMITED_FROM: u64 = 1 << 60;

/// A limit of a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub max: u64,
    /// Without what the kernel takes back when it is needed.
    pub used: u64,
}

impl Room {
    pub fn left(self) -> u64 {
        self.max.saturating_sub(self.used)
    }
}

/// The narrowest limits; `None`: there is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cgroup {
    /// CPUs that may be used in every period.
    pub cpus: Option<f64>,
    /// CPUs that processes may be bound to.
    pub cpuset: Option<BTreeSet<usize>>,
    pub memory: Option<Room>,
    pub pids: Option<Room>,
}

impl Cgroup {
    pub fn read(root: &Root<'_>) -> Cgroup {
        let cgroups = root.text("proc/self/cgroup").unwrap_or_default();
        let of = |controller: &str| folders(&cgroups, controller).into_iter();
        let cpus = of("cpu").filter_map(|folder| cpus(root, &folder));
        let mut cpusets = of("cpuset").filter_map(|folder| cpuset(root, &folder));
        let memory = of("memory").filter_map(|folder| memory(root, &folder));
        let pids = of("pids").filter_map(|folder| pids(root, &folder));
        Cgroup {
            cpus: cpus.min_by(f64::total_cmp),
            cpuset: cpusets.next(),
            memory: memory.min_by_key(|room| room.left()),
            pids: pids.min_by_key(|room| room.left()),
        }
    }
}

/// The folders of the cgroup of a process and of those around it, below the root. `cgroups`:
/// /proc/PID/cgroup. Folders that a container does not see are among them.
fn folders(cgroups: &str, controller: &str) -> Vec<PathBuf> {
    let groups = ProcessCGroups::from_read(cgroups.as_bytes()).map(|groups| groups.0);
    let groups = groups.unwrap_or_default();
    let v1 = groups.iter().find(|group| group.controllers.iter().any(|name| name == controller));
    let v2 = || groups.iter().find(|group| group.controllers.is_empty());
    let Some(group) = v1.or_else(v2) else { return Vec::new() };
    let mounts = match group.controllers.len() {
        0 => vec![String::new()],
        1 => vec![controller.to_owned()],
        _ => vec![group.controllers.join(","), controller.to_owned()],
    };
    let path = Path::new(group.pathname.trim_start_matches('/'));
    let mounted = mounts.iter().map(|mount| Path::new("sys/fs/cgroup").join(mount));
    mounted.flat_map(|mount| path.ancestors().map(move |path| mount.join(path))).collect()
}

fn cpus(root: &Root<'_>, folder: &Path) -> Option<f64> {
    if let Some(text) = root.text(folder.join("cpu.max")) {
        return cpu_max(&text);
    }
    let quota = root.text(folder.join("cpu.cfs_quota_us"))?;
    let period = root.text(folder.join("cpu.cfs_period_us"))?;
    // A quota of -1 is none.
    cpu_max(&format!("{quota} {period}"))
}

/// What is in force, the sets around it included: the innermost one counts.
fn cpuset(root: &Root<'_>, folder: &Path) -> Option<BTreeSet<usize>> {
    let names = ["cpuset.cpus.effective", "cpuset.effective_cpus"];
    let cpus = names.iter().find_map(|name| cpu_list(&root.text(folder.join(name))?));
    cpus.filter(|cpus| !cpus.is_empty())
}

fn memory(root: &Root<'_>, folder: &Path) -> Option<Room> {
    let file = |name: &str| root.text(folder.join(name));
    let (max, used, reclaimable) = match file("memory.max") {
        Some(max) => (max, file("memory.current"), "inactive_file"),
        None => {
            let max = file("memory.limit_in_bytes")?;
            (max, file("memory.usage_in_bytes"), "total_inactive_file")
        }
    };
    let max = number(&max).filter(|max| *max < UNLIMITED_FROM)?;
    let used = used.as_deref().and_then(number).unwrap_or_default();
    let stat = file("memory.stat").unwrap_or_default();
    let reclaimable = field(&stat, reclaimable).and_then(number).unwrap_or_default();
    Some(Room { max, used: used.saturating_sub(reclaimable) })
}

fn pids(root: &Root<'_>, folder: &Path) -> Option<Room> {
    let max = number(&root.text(folder.join("pids.max"))?)?;
    let used = root.text(folder.join("pids.current")).as_deref().and_then(number);
    Some(Room { max, used: used.unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::host::tests::Fixture;

    #[test]
    fn the_enclosing_cgroups_are_those_of_the_controller() {
        let texts = |folders: Vec<PathBuf>| -> Vec<String> {
            folders.iter().map(|folder| folder.display().to_string()).collect()
        };
        let v2 = "0::/pod/app\n";
        let expected = ["sys/fs/cgroup/pod/app", "sys/fs/cgroup/pod", "sys/fs/cgroup/"];
        assert_eq!(texts(folders(v2, "cpu")), expected);
        let v1 = "9:name=systemd:/\n4:memory:/app\n2:cpu,cpuacct:/a:b\n0::/\n";
        let expected = ["sys/fs/cgroup/memory/app", "sys/fs/cgroup/memory/"];
        assert_eq!(texts(folders(v1, "memory")), expected);
        let expected = [
            "sys/fs/cgroup/cpu,cpuacct/a:b",
            "sys/fs/cgroup/cpu,cpuacct/",
            "sys/fs/cgroup/cpu/a:b",
            "sys/fs/cgroup/cpu/",
        ];
        assert_eq!(texts(folders(v1, "cpu")), expected);
        assert_eq!(folders("", "cpu"), Vec::<PathBuf>::new());
        assert_eq!(folders("nonsense", "cpu"), Vec::<PathBuf>::new());
    }

    #[test]
    fn the_narrowest_cgroup_counts() {
        let fixture = Fixture::new(&[
            ("proc/self/cgroup", "0::/pod/app\n"),
            ("sys/fs/cgroup/pod/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/pod/app/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/pod/cpuset.cpus.effective", "0-7\n"),
            ("sys/fs/cgroup/pod/app/cpuset.cpus.effective", "2-3\n"),
            ("sys/fs/cgroup/pod/memory.max", "1000000\n"),
            ("sys/fs/cgroup/pod/memory.current", "400000\n"),
            ("sys/fs/cgroup/pod/memory.stat", "anon 1\ninactive_file 100000\n"),
            ("sys/fs/cgroup/pod/app/memory.max", "max\n"),
            ("sys/fs/cgroup/pod/app/pids.max", "100\n"),
            ("sys/fs/cgroup/pod/app/pids.current", "7\n"),
        ]);
        let expected = Cgroup {
            cpus: Some(1.5),
            cpuset: Some(BTreeSet::from([2, 3])),
            memory: Some(Room { max: 1_000_000, used: 300_000 }),
            pids: Some(Room { max: 100, used: 7 }),
        };
        assert_eq!(Cgroup::read(&fixture.root()), expected);
    }

    #[test]
    fn version_1_has_files_of_its_own() {
        let fixture = Fixture::new(&[
            ("proc/self/cgroup", "4:memory:/x\n1:cpu:/app\n0::/\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/cpu/app/cpu.cfs_quota_us", "200000\n"),
            ("sys/fs/cgroup/cpu/app/cpu.cfs_period_us", "100000\n"),
            // A container without a cgroup namespace sees its own cgroup as the root.
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "2000000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "500000\n"),
        ]);
        let expected = Cgroup {
            cpus: Some(2.0),
            cpuset: None,
            memory: Some(Room { max: 2_000_000, used: 500_000 }),
            pids: None,
        };
        assert_eq!(Cgroup::read(&fixture.root()), expected);
    }

    #[test]
    fn no_limit_is_no_finding() {
        let fixture = Fixture::new(&[
            ("proc/self/cgroup", "4:memory:/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ]);
        assert_eq!(Cgroup::read(&fixture.root()), Cgroup::default());
        assert_eq!(Cgroup::read(&Fixture::new(&[]).root()), Cgroup::default());
    }
}
