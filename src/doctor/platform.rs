//! The kernel, io_uring, and the limits without which nothing starts.

use procfs::KernelVersion;

use super::finding::{Advice, Check, Finding};
use super::fix::{self, Scope};
use super::host::{Host, Place, Probe};
use super::plan::Plan;
use super::text::{bytes, grouped};
use crate::server::MEMLOCK_BYTES_MIN;

/// The oldest kernel with every feature of the turn loop.
const KERNEL_MIN: (u8, u8) = (6, 1);

/// Locked memory that is recommended, bytes: that of `tuning/limits.conf`.
const MEMLOCK_BYTES: u64 = 8 << 20;

const KERNEL_WHY: &str = "Older kernels lack deferred task work and other parts of io_uring.";

const UPGRADE: &str = "sudo apt install linux-image-$(dpkg --print-architecture) && sudo reboot  \
                       # Debian 12 or newer";

pub fn kernel(host: &Host) -> Finding {
    let check = Check::Kernel;
    let Some(release) = &host.kernel else {
        return check.skipped("/proc/sys/kernel/osrelease cannot be read");
    };
    match KernelVersion::from_str(release) {
        Err(_) => check.skipped(format!("{release:?} is not understood as a version")),
        Ok(version) if (version.major, version.minor) >= KERNEL_MIN => check.ok(release),
        Ok(_) => check.error(release, kernel_advice(KERNEL_WHY)),
    }
}

fn kernel_advice(why: &'static str) -> Advice {
    Advice { needed: "Linux 6.1 or newer".to_owned(), why, fix: vec![UPGRADE.to_owned()] }
}

/// Whether this process may set up the ring of a shard, and who forbids it.
pub fn io_uring(host: &Host) -> Finding {
    let check = Check::IoUring;
    let errno = match host.ring {
        Probe::NotTried => return check.skipped("it was not tried"),
        Probe::Works => return check.ok("permitted, with all features"),
        Probe::Refused(errno) => errno,
    };
    let is_new = host.kernel.as_deref().and_then(|release| KernelVersion::from_str(release).ok());
    let is_new = is_new.is_some_and(|version| (version.major, version.minor) >= KERNEL_MIN);
    match errno {
        // Some container engines answer so what their filter does not know.
        libc::ENOSYS if is_new && host.is_filtered => {
            check.error("refused (ENOSYS) by a seccomp filter", seccomp(host))
        }
        libc::ENOSYS => {
            let why = "This kernel has no io_uring, or is built without CONFIG_IO_URING.";
            check.error("not in this kernel (ENOSYS)", kernel_advice(why))
        }
        libc::EINVAL => check.error("lacks features (EINVAL)", kernel_advice(KERNEL_WHY)),
        libc::EPERM | libc::EACCES => forbidden(host),
        libc::ENOMEM => check.error(
            "no memory for its queues (ENOMEM)",
            Advice {
                needed: "about 2 MiB per shard, and locked memory".to_owned(),
                why: "The queues and receive buffers of each shard are in its ring.",
                fix: memlock_fix(host),
            },
        ),
        libc::EMFILE | libc::ENFILE => check.error(
            "no descriptor is left (EMFILE)",
            Advice {
                needed: "a few descriptors per shard".to_owned(),
                why: "Each shard has a ring and an event descriptor.",
                fix: fix::limit(host, "nofile", "LimitNOFILE", 1 << 20),
            },
        ),
        errno => check.error(
            std::io::Error::from_raw_os_error(errno).to_string(),
            kernel_advice("The kernel refuses to set up a ring."),
        ),
    }
}

/// Who says EPERM: a setting of the kernel, a seccomp filter, or a security module.
fn forbidden(host: &Host) -> Finding {
    let check = Check::IoUring;
    let group = host.io_uring_group.unwrap_or(-1);
    let is_member = group >= 0 && host.groups.contains(&group);
    let allow = || fix::sysctl(host, Scope::Kernel, "kernel.io_uring_disabled", 0);
    let needed = "kernel.io_uring_disabled = 0".to_owned();
    match host.io_uring_disabled.unwrap_or(0) {
        2.. => {
            let why = "With 2 no process may use io_uring.";
            let fix = vec![allow()];
            check.error("forbidden: kernel.io_uring_disabled = 2", Advice { needed, why, fix })
        }
        1 if !host.is_admin && !is_member => {
            let why = "With 1 only processes with CAP_SYS_ADMIN and members of \
                       kernel.io_uring_group may use io_uring.";
            let own = host.groups.first().copied().unwrap_or(0);
            let fix = vec![fix::sysctl(host, Scope::Kernel, "kernel.io_uring_group", own)];
            let found =
                format!("forbidden: kernel.io_uring_disabled = 1, kernel.io_uring_group = {group}");
            let needed = format!("{needed}, or kernel.io_uring_group = {own}");
            check.error(found, Advice { needed, why, fix })
        }
        _ if host.is_filtered => {
            check.error("forbidden (EPERM) by a seccomp filter", seccomp(host))
        }
        _ => check.error(
            "forbidden (EPERM), and not by kernel.io_uring_disabled or a seccomp filter",
            Advice {
                needed: "a security module that permits it".to_owned(),
                why: "SELinux or AppArmor forbids it; the log of the kernel names the rule.",
                fix: vec!["sudo dmesg | grep -iE 'apparmor|avc:' | tail".to_owned()],
            },
        ),
    }
}

fn seccomp(host: &Host) -> Advice {
    let fix = match host.place {
        Place::Container => "docker run --security-opt seccomp=tuning/seccomp.json ...",
        Place::Machine => {
            "SystemCallFilter=io_uring_setup io_uring_enter io_uring_register  \
             # [Service] of the systemd unit"
        }
    };
    Advice {
        needed: "io_uring_setup, io_uring_enter and io_uring_register permitted".to_owned(),
        why: "Container engines and units forbid io_uring unless they are told otherwise.",
        fix: vec![fix.to_owned()],
    }
}

pub fn memlock(host: &Host) -> Finding {
    let check = Check::Memlock;
    let Some(limit) = host.memlock else {
        return check.skipped("/proc/self/limits cannot be read");
    };
    let found = bytes(limit.hard);
    if limit.hard >= MEMLOCK_BYTES_MIN {
        return check.ok(format!("{found} may be locked"));
    }
    let advice = Advice {
        needed: bytes(MEMLOCK_BYTES_MIN),
        why: "The executors of the shards do not start with less.",
        fix: memlock_fix(host),
    };
    check.error(format!("{found} may be locked"), advice)
}

fn memlock_fix(host: &Host) -> Vec<String> {
    fix::limit(host, "memlock", "LimitMEMLOCK", MEMLOCK_BYTES)
}

/// Whether the cgroup has room for the threads of the server.
pub fn threads(host: &Host, plan: &Plan) -> Finding {
    let check = Check::Threads;
    let Some(room) = host.cgroup.pids else {
        return check.ok("no limit by a cgroup");
    };
    let needed = plan.threads();
    let found = format!("{} more may be started (pids.max {})", grouped(room.left()), room.max);
    if room.left() >= needed {
        return check.ok(found);
    }
    let max = room.used + needed;
    let advice = Advice {
        needed: needed.to_string(),
        why: "Without a thread for each of its parts the server does not start.",
        fix: vec![fix::cgroup(host, &format!("--pids-limit {max}"), &format!("TasksMax={max}"))],
    };
    check.error(found, advice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;
    use crate::doctor::cgroup::Room;
    use crate::doctor::host::tests::healthy;
    use crate::doctor::plan::tests::plan;
    use crate::doctor::text::Limit;

    #[test]
    fn kernels_before_6_1_are_refused() {
        for (release, severity) in [
            ("6.1.0-18-amd64", Severity::Ok),
            ("6.18.44-fc-v669", Severity::Ok),
            ("10.0.0", Severity::Ok),
            ("6.0.19", Severity::Error),
            ("5.15.0-91-generic", Severity::Error),
            ("unheard of", Severity::Skipped),
        ] {
            let host = Host { kernel: Some(release.to_owned()), ..healthy() };
            assert_eq!(kernel(&host).severity, severity, "{release}");
        }
    }

    /// A host that refuses a ring.
    fn refusing(errno: i32) -> Host {
        Host { ring: Probe::Refused(errno), ..healthy() }
    }

    #[track_caller]
    fn blames(host: &Host, found: &str, fix: &str) {
        let finding = io_uring(host);
        assert_eq!(finding.severity, Severity::Error);
        assert!(finding.found.contains(found), "{finding:?}");
        assert!(finding.fix[0].contains(fix), "{finding:?}");
    }

    #[test]
    fn who_forbids_io_uring_is_named() {
        let forbidden = refusing(libc::EPERM);
        let host = Host { io_uring_disabled: Some(2), ..forbidden.clone() };
        blames(&host, "io_uring_disabled = 2", "kernel.io_uring_disabled = 0");
        let host = Host { io_uring_disabled: Some(1), groups: vec![33], ..forbidden.clone() };
        blames(&host, "io_uring_disabled = 1", "kernel.io_uring_group = 33");
        let filtered = Host { is_filtered: true, ..forbidden.clone() };
        blames(&filtered, "seccomp", "SystemCallFilter=");
        // The group may use it: so the filter forbids it.
        let member = Host {
            io_uring_disabled: Some(1),
            io_uring_group: Some(33),
            groups: vec![7, 33],
            ..filtered.clone()
        };
        blames(&member, "seccomp", "SystemCallFilter=");
        let container = Host { place: Place::Container, ..filtered };
        blames(&container, "seccomp", "docker run --security-opt");
        blames(&forbidden, "not by kernel.io_uring_disabled", "dmesg");
    }

    #[test]
    fn kernels_without_the_features_are_named() {
        blames(&refusing(libc::ENOSYS), "not in this kernel", "linux-image");
        blames(&refusing(libc::EINVAL), "features", "linux-image");
        let engine = Host { is_filtered: true, ..refusing(libc::ENOSYS) };
        blames(&engine, "seccomp", "SystemCallFilter=");
        blames(&refusing(libc::ENOMEM), "memory", "--memlock=8388608");
        blames(&refusing(libc::EMFILE), "descriptor", "--nofile=1048576");
        blames(&refusing(libc::EIO), "Input/output error", "linux-image");
    }

    #[test]
    fn the_hard_limit_of_locked_memory_counts() {
        for (soft, hard, severity) in [
            (64 << 10, 8 << 20, Severity::Ok),
            (64 << 10, u64::MAX, Severity::Ok),
            (64 << 10, 64 << 10, Severity::Error),
        ] {
            let host = Host { memlock: Some(Limit { soft, hard }), ..healthy() };
            assert_eq!(memlock(&host).severity, severity, "{hard}");
        }
    }

    #[test]
    fn a_cgroup_may_have_no_room_for_threads() {
        let mut host = healthy();
        host.cgroup.pids = Some(Room { max: 30, used: 20 });
        let finding = threads(&host, &plan(None));
        assert_eq!(finding.severity, Severity::Error);
        assert_eq!(finding.fix, ["TasksMax=44  # [Service] of the systemd unit"]);
        host.cgroup.pids = None;
        assert_eq!(threads(&host, &plan(None)).severity, Severity::Ok);
    }
}
