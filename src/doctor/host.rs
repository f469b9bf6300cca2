//! Facts of the host, read once.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::Path;

use super::cgroup::Cgroup;
use super::text::{self, Interrupt, Limit, field, number};

/// `CAP_SYS_ADMIN` of capabilities(7), as a bit of the masks in /proc/PID/status.
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// `SECCOMP_MODE_FILTER` of seccomp(2).
const SECCOMP_FILTER: u64 = 2;

/// `PROC_PID_INIT_INO` of include/linux/proc_ns.h in the kernel.
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

/// What came of setting up a ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Probe {
    #[default]
    NotTried,
    Works,
    /// The error number of the kernel.
    Refused(i32),
}

impl From<io::Result<()>> for Probe {
    fn from(tried: io::Result<()>) -> Self {
        match tried {
            Ok(()) => Probe::Works,
            Err(error) => Probe::Refused(error.raw_os_error().unwrap_or_default()),
        }
    }
}

/// Where commands have to be run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    #[default]
    Machine,
    Container,
}

/// A network device's interrupt that has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkIrq {
    pub interface: String,
    pub number: u32,
    /// CPUs that handle it.
    pub cpus: BTreeSet<usize>,
}

/// Facts of a host and of this process; `None`: not known.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Host {
    pub place: Place,
    /// Release of the kernel, `6.1.0-18-amd64`.
    pub kernel: Option<String>,
    pub ring: Probe,
    pub io_uring_disabled: Option<u64>,
    /// Group that may use io_uring when it is disabled for others; -1 is none.
    pub io_uring_group: Option<i64>,
    pub groups: Vec<i64>,
    pub is_admin: bool,
    /// A seccomp filter is in force.
    pub is_filtered: bool,
    /// CPUs of the affinity mask.
    pub cpus: Option<BTreeSet<usize>>,
    pub online: Option<BTreeSet<usize>>,
    pub nofile: Option<Limit>,
    /// Bytes.
    pub memlock: Option<Limit>,
    pub nr_open: Option<u64>,
    pub file_max: Option<u64>,
    /// Of all processes.
    pub files_open: Option<u64>,
    pub cgroup: Cgroup,
    /// Bytes that processes can use without swapping.
    pub memory_available: Option<u64>,
    pub page_bytes: u64,
    /// Low, pressure, maximum, in pages.
    pub tcp_mem: Option<[u64; 3]>,
    /// Least, default, largest receive buffer of a socket, bytes.
    pub tcp_rmem: Option<[u64; 3]>,
    pub tcp_wmem: Option<[u64; 3]>,
    pub somaxconn: Option<u64>,
    pub syn_backlog: Option<u64>,
    pub syncookies: Option<u64>,
    pub local_ports: Option<RangeInclusive<u16>>,
    pub reserved_ports: Vec<RangeInclusive<u16>>,
    /// `None` also where connection tracking is not loaded.
    pub conntrack_max: Option<u64>,
    pub conntrack_count: Option<u64>,
    /// Frequency governors of CPUs that have one.
    pub governors: Vec<(usize, String)>,
    pub network_irqs: Option<Vec<NetworkIrq>>,
}

/// The folder that has `proc` and `sys`.
pub struct Root<'a>(pub &'a Path);

impl Root<'_> {
    /// `None` for what does not exist or may not be read.
    pub fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        fs::read_to_string(self.0.join(path)).ok()
    }

    fn setting(&self, name: &str) -> Option<u64> {
        number(&self.text(Path::new("proc/sys").join(name))?)
    }

    fn triple(&self, name: &str) -> Option<[u64; 3]> {
        text::triple(&self.text(Path::new("proc/sys").join(name))?)
    }

    /// Names in a folder, in order; none where it cannot be read.
    fn names(&self, folder: impl AsRef<Path>) -> Vec<String> {
        let entries = fs::read_dir(self.0.join(folder)).into_iter().flatten().flatten();
        let mut names: Vec<_> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }
}

impl Host {
    /// Reads below `root`, which is `/` except in tests.
    pub fn read(root: &Path, ring: Probe) -> Host {
        let root = &Root(root);
        let status = root.text("proc/self/status").unwrap_or_default();
        let limits = root.text("proc/self/limits").unwrap_or_default();
        let meminfo = root.text("proc/meminfo").unwrap_or_default();
        let reserved = root.text("proc/sys/net/ipv4/ip_local_reserved_ports");
        Host {
            place: place(root),
            kernel: root.text("proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()),
            ring,
            io_uring_disabled: root.setting("kernel/io_uring_disabled"),
            io_uring_group: root
                .text("proc/sys/kernel/io_uring_group")
                .and_then(|text| text.trim().parse().ok()),
            groups: groups(&status),
            is_admin: capabilities(&status) & CAP_SYS_ADMIN != 0,
            is_filtered: field(&status, "Seccomp").and_then(number) == Some(SECCOMP_FILTER),
            cpus: field(&status, "Cpus_allowed_list").and_then(text::cpu_list),
            online: root
                .text("sys/devices/system/cpu/online")
                .and_then(|text| text::cpu_list(&text)),
            nofile: text::limit(&limits, "Max open files"),
            memlock: text::limit(&limits, "Max locked memory"),
            nr_open: root.setting("fs/nr_open"),
            file_max: root.setting("fs/file-max"),
            files_open: root.setting("fs/file-nr"),
            cgroup: Cgroup::read(root),
            memory_available: text::kib_field(&meminfo, "MemAvailable"),
            page_bytes: procfs::page_size(),
            tcp_mem: root.triple("net/ipv4/tcp_mem"),
            tcp_rmem: root.triple("net/ipv4/tcp_rmem"),
            tcp_wmem: root.triple("net/ipv4/tcp_wmem"),
            somaxconn: root.setting("net/core/somaxconn"),
            syn_backlog: root.setting("net/ipv4/tcp_max_syn_backlog"),
            syncookies: root.setting("net/ipv4/tcp_syncookies"),
            local_ports: local_ports(root),
            reserved_ports: reserved.as_deref().and_then(text::port_list).unwrap_or_default(),
            conntrack_max: root.setting("net/netfilter/nf_conntrack_max"),
            conntrack_count: root.setting("net/netfilter/nf_conntrack_count"),
            governors: governors(root),
            network_irqs: network_irqs(root),
        }
    }
}

/// Containers have a PID namespace of their own. Files that engines leave do not tell: virtual
/// machines are made from images of containers.
fn place(root: &Root<'_>) -> Place {
    match fs::read_link(root.0.join("proc/self/ns/pid")) {
        Ok(namespace) if namespace.as_os_str() != INITIAL_PID_NAMESPACE => Place::Container,
        _ => Place::Machine,
    }
}

/// The effective group and the supplementary ones.
fn groups(status: &str) -> Vec<i64> {
    let own = field(status, "Gid").and_then(|ids| ids.split_whitespace().nth(1));
    let others = field(status, "Groups").unwrap_or_default().split_whitespace();
    own.into_iter().chain(others).filter_map(|group| group.parse().ok()).collect()
}

fn capabilities(status: &str) -> u64 {
    let mask = field(status, "CapEff").and_then(|mask| u64::from_str_radix(mask, 16).ok());
    mask.unwrap_or_default()
}

fn local_ports(root: &Root<'_>) -> Option<RangeInclusive<u16>> {
    let text = root.text("proc/sys/net/ipv4/ip_local_port_range")?;
    let [first, last] = text::numbers(&text)?.try_into().ok()?;
    Some(first.try_into().ok()?..=last.try_into().ok()?)
}

fn governors(root: &Root<'_>) -> Vec<(usize, String)> {
    let folder = Path::new("sys/devices/system/cpu");
    let cpus = root.names(folder).into_iter().filter_map(|name| {
        let cpu: usize = name.strip_prefix("cpu")?.parse().ok()?;
        let governor = root.text(folder.join(name).join("cpufreq/scaling_governor"))?;
        Some((cpu, governor.trim().to_owned()))
    });
    let mut governors: Vec<_> = cpus.collect();
    governors.sort();
    governors
}

fn network_irqs(root: &Root<'_>) -> Option<Vec<NetworkIrq>> {
    let interrupts = text::interrupts(&root.text("proc/interrupts")?);
    let mut found = Vec::new();
    for interface in root.names("sys/class/net") {
        let (numbers, names) = device(root, &interface);
        let of_device = |interrupt: &&Interrupt| {
            numbers.contains(&interrupt.number)
                || names.iter().any(|name| is_named_after(&interrupt.action, name))
        };
        for interrupt in interrupts.iter().filter(of_device).filter(|i| i.count > 0) {
            let (interface, number) = (interface.clone(), interrupt.number);
            found.push(NetworkIrq { interface, number, cpus: affinity(root, number) });
        }
    }
    Some(found)
}

/// The interrupts of an interface, and how its driver may name them. A virtio device's ones are
/// those of the bus device around it. Interfaces without a device have none.
fn device(root: &Root<'_>, interface: &str) -> (Vec<u32>, Vec<String>) {
    let folder = Path::new("sys/class/net").join(interface).join("device");
    let Ok(device) = root.0.join(&folder).canonicalize() else { return Default::default() };
    let lists = ["msi_irqs", "../msi_irqs"].map(|list| root.names(folder.join(list)));
    let listed = lists.iter().find(|names| !names.is_empty()).into_iter().flatten();
    let numbers = listed.filter_map(|name| name.parse().ok()).collect();
    let device = device.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    (numbers, device.into_iter().chain([interface.to_owned()]).collect())
}

/// `eth0`, `eth0-rx-1`, `virtio2-input.0`, but not `eth01`.
fn is_named_after(action: &str, name: &str) -> bool {
    let rest = action.strip_prefix(name);
    rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_alphanumeric()))
}

fn affinity(root: &Root<'_>, interrupt: u32) -> BTreeSet<usize> {
    let folder = Path::new("proc/irq").join(interrupt.to_string());
    let lists = ["effective_affinity_list", "smp_affinity_list"];
    let read = |name: &&str| text::cpu_list(&root.text(folder.join(name))?);
    let mut known = lists.iter().filter_map(read).filter(|cpus| !cpus.is_empty());
    known.next().unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;
    use crate::doctor::cgroup::Room;

    /// A folder that a host is read from.
    pub struct Fixture(TempDir);

    impl Fixture {
        pub fn new(files: &[(&str, &str)]) -> Fixture {
            let folder = TempDir::new().unwrap();
            for (path, text) in files {
                let path = folder.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Fixture(folder)
        }

        pub fn root(&self) -> Root<'_> {
            Root(self.0.path())
        }

        fn host(&self) -> Host {
            Host::read(self.0.path(), Probe::Works)
        }
    }

    /// A host with nothing to complain about.
    pub fn healthy() -> Host {
        Host {
            place: Place::Machine,
            kernel: Some("6.18.44-fc".to_owned()),
            ring: Probe::Works,
            io_uring_disabled: Some(0),
            io_uring_group: Some(-1),
            groups: vec![1000],
            is_admin: false,
            is_filtered: false,
            cpus: Some((0..4).collect()),
            online: Some((0..4).collect()),
            nofile: Some(Limit { soft: 1024, hard: 1_048_576 }),
            memlock: Some(Limit { soft: 8 << 20, hard: 8 << 20 }),
            nr_open: Some(1_048_576),
            file_max: Some(2_000_000),
            files_open: Some(600),
            cgroup: Cgroup { pids: Some(Room { max: 10_000, used: 20 }), ..Cgroup::default() },
            memory_available: Some(16 << 30),
            page_bytes: 4096,
            tcp_mem: Some([300_000, 400_000, 600_000]),
            tcp_rmem: Some([4096, 131_072, 33_554_432]),
            tcp_wmem: Some([4096, 16_384, 4_194_304]),
            somaxconn: Some(4096),
            syn_backlog: Some(2048),
            syncookies: Some(1),
            local_ports: Some(32_768..=60_999),
            reserved_ports: Vec::new(),
            conntrack_max: Some(262_144),
            conntrack_count: Some(10),
            governors: vec![(0, "performance".to_owned())],
            network_irqs: Some(Vec::new()),
        }
    }

    const STATUS: &str = "\
Name:\theadcount
Uid:\t1000\t1000\t1000\t1000
Gid:\t1000\t1001\t1000\t1000
Groups:\t27 100
CapEff:\t0000000000200000
Seccomp:\t2
Seccomp_filters:\t1
Cpus_allowed_list:\t0,2-3
";

    const INTERRUPTS: &str = "\
           CPU0       CPU1
 36:          0      46552 PCI-MSIX-0000:00:02.0   1-edge      virtio1-req.0
 37:          0          0 PCI-MSIX-0000:00:03.0   0-edge      virtio2-config
 38:          0       1861 PCI-MSIX-0000:00:03.0   1-edge      virtio2-input.0
 50:          7          0 PCI-MSI 512000-edge      eth1-rx-0
 51:          9          0 PCI-MSI 512001-edge      eth10-rx-0
 52:          3          0 PCI-MSI 512002-edge      mlx5_comp0@pci:0000:01:00.0
";

    #[test]
    fn facts_of_the_process_and_the_kernel_are_read() {
        let fixture = Fixture::new(&[
            ("proc/self/status", STATUS),
            ("proc/self/limits", "Max open files            1024    4096    files\n"),
            ("proc/meminfo", "MemTotal:  2000 kB\nMemAvailable:   1000 kB\n"),
            ("proc/sys/kernel/osrelease", "6.1.0-18-amd64\n"),
            ("proc/sys/kernel/io_uring_group", "-1\n"),
            ("proc/sys/fs/file-nr", "607\t0\t2466170\n"),
            ("proc/sys/net/ipv4/tcp_mem", "1\t2\t3\n"),
            ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
            ("proc/sys/net/ipv4/ip_local_reserved_ports", "7400-7402\n"),
            ("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave\n"),
            ("sys/devices/system/cpu/cpufreq/policy0", ""),
            ("sys/devices/system/cpu/online", "0-3\n"),
            ("proc/self/ns/net", ""),
        ]);
        let namespace = fixture.0.path().join("proc/self/ns/pid");
        symlink("pid:[4026532000]", &namespace).unwrap();
        let expected = Host {
            place: Place::Container,
            kernel: Some("6.1.0-18-amd64".to_owned()),
            ring: Probe::Works,
            io_uring_group: Some(-1),
            groups: vec![1001, 27, 100],
            is_admin: true,
            is_filtered: true,
            cpus: Some(BTreeSet::from([0, 2, 3])),
            online: Some((0..4).collect()),
            nofile: Some(Limit { soft: 1024, hard: 4096 }),
            files_open: Some(607),
            memory_available: Some(1000 * 1024),
            page_bytes: procfs::page_size(),
            tcp_mem: Some([1, 2, 3]),
            local_ports: Some(32_768..=60_999),
            reserved_ports: vec![7400..=7402],
            governors: vec![(1, "powersave".to_owned())],
            ..Host::default()
        };
        assert_eq!(fixture.host(), expected);
        fs::remove_file(&namespace).unwrap();
        symlink(INITIAL_PID_NAMESPACE, &namespace).unwrap();
        assert_eq!(fixture.host().place, Place::Machine);
    }

    #[test]
    fn an_empty_folder_is_a_host_that_says_nothing() {
        let silent =
            Host { ring: Probe::Works, page_bytes: procfs::page_size(), ..Host::default() };
        assert_eq!(Fixture::new(&[]).host(), silent);
    }

    #[test]
    fn interrupts_of_network_devices_are_told_from_others() {
        let fixture = Fixture::new(&[
            ("proc/interrupts", INTERRUPTS),
            ("proc/irq/38/smp_affinity_list", "0-1\n"),
            ("proc/irq/38/effective_affinity_list", "1\n"),
            ("proc/irq/50/smp_affinity_list", "0\n"),
            ("sys/devices/pci/msi_irqs/37", ""),
            ("sys/devices/pci/msi_irqs/38", ""),
            ("sys/devices/pci/virtio2/net", ""),
            ("sys/devices/one/eth1-device/x", ""),
            ("sys/devices/mlx/msi_irqs/52", ""),
            ("sys/class/net/lo/mtu", "65536\n"),
        ]);
        for (interface, device) in
            [("eth0", "pci/virtio2"), ("eth1", "one/eth1-device"), ("mlx0", "mlx")]
        {
            let folder = fixture.0.path().join("sys/class/net").join(interface);
            fs::create_dir_all(&folder).unwrap();
            let device = fixture.0.path().join("sys/devices").join(device);
            symlink(device, folder.join("device")).unwrap();
        }
        let irq = |interface: &str, number, cpus: &[usize]| NetworkIrq {
            interface: interface.to_owned(),
            number,
            cpus: cpus.iter().copied().collect(),
        };
        let expected = vec![irq("eth0", 38, &[1]), irq("eth1", 50, &[0]), irq("mlx0", 52, &[])];
        assert_eq!(fixture.host().network_irqs, Some(expected));
    }

    #[test]
    fn this_host_can_be_read() {
        let host = Host::read(Path::new("/"), Probe::NotTried);
        assert!(host.kernel.is_some() && host.nofile.is_some(), "{host:?}");
    }
}
