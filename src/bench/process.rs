//! What the kernel says about the server's process.

use std::collections::BTreeMap;

use procfs::FromRead;
use procfs::process::{Process, Schedstat};

const NS_PER_S: u64 = 1_000_000_000;

/// CPU time of a process at one moment.
#[derive(Clone, Debug, Default)]
pub struct CpuTime {
    /// Of the process, to a tick of the clock: 10 ms.
    user_ns: u64,
    system_ns: u64,
    /// Of each living thread, exact. The sum of what they ran is the time of the process, only
    /// finer, as long as no thread ends.
    threads: BTreeMap<i32, Schedstat>,
}

/// CPU time between two moments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CpuUse {
    pub ns: u64,
    /// Time that threads waited for a CPU; `None` when one has ended.
    pub waited_ns: Option<u64>,
    /// Share of the time that was spent outside the kernel, 0 to 1; `None` when there was none.
    pub user_share: Option<f64>,
}

/// Time that the calling thread was ready to run while something else had its CPU.
pub fn this_thread_waited_ns() -> u64 {
    Schedstat::from_file("/proc/thread-self/schedstat").map_or(0, |stat| stat.run_delay)
}

impl CpuTime {
    /// `None`: there is no such process, or it is not ours to look at.
    pub fn of(pid: u32) -> Option<CpuTime> {
        let process = process(pid)?;
        let stat = process.stat().ok()?;
        let ns = |ticks| ticks * NS_PER_S / procfs::ticks_per_second();
        let threads = threads(&process).unwrap_or_default();
        Some(CpuTime { user_ns: ns(stat.utime), system_ns: ns(stat.stime), threads })
    }

    /// What was spent since an earlier moment.
    pub fn since(&self, earlier: &CpuTime) -> CpuUse {
        let all_live = earlier.threads.keys().all(|tid| self.threads.contains_key(tid));
        let is_exact = all_live && !earlier.threads.is_empty();
        let sum = |time: &CpuTime, of: fn(&Schedstat) -> u64| time.threads.values().map(of).sum();
        let grew = |of: fn(&Schedstat) -> u64| u64::saturating_sub(sum(self, of), sum(earlier, of));
        let user_ns = self.user_ns.saturating_sub(earlier.user_ns);
        let both_ns = user_ns + self.system_ns.saturating_sub(earlier.system_ns);
        CpuUse {
            ns: if is_exact { grew(|thread| thread.sum_exec_runtime) } else { both_ns },
            waited_ns: is_exact.then(|| grew(|thread| thread.run_delay)),
            user_share: (both_ns > 0).then(|| user_ns as f64 / both_ns as f64),
        }
    }
}

fn process(pid: u32) -> Option<Process> {
    Process::new(i32::try_from(pid).ok()?).ok()
}

fn threads(process: &Process) -> Option<BTreeMap<i32, Schedstat>> {
    let tasks = process.tasks().ok()?.map(|task| {
        let task = task.ok()?;
        Some((task.tid, task.schedstat().ok()?))
    });
    tasks.collect()
}

/// Resident memory in bytes: exact where the kernel adds it up for us.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    let process = process(pid)?;
    let rollup = process.smaps_rollup().ok().and_then(|rollup| {
        let whole = rollup.memory_map_rollup.0.into_iter().next()?;
        whole.extension.map.get("Rss").copied()
    });
    rollup.or_else(|| Some(process.statm().ok()?.resident * procfs::page_size()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_user_time_is_of_what_was_spent_in_between() {
        let time = |user_ns, system_ns| CpuTime { user_ns, system_ns, threads: BTreeMap::new() };
        assert_eq!(time(110, 230).since(&time(100, 200)).user_share, Some(0.25));
        assert_eq!(time(1, 1).since(&time(1, 1)).user_share, None);
    }

    #[test]
    fn a_thread_that_ended_makes_the_coarse_clock_count() {
        let schedstat =
            |ran_ns| Schedstat { sum_exec_runtime: ran_ns, run_delay: 2 * ran_ns, pcount: 0 };
        let time = |user_ns, threads: &[(i32, u64)]| CpuTime {
            user_ns,
            system_ns: 0,
            threads: threads.iter().map(|&(tid, ran_ns)| (tid, schedstat(ran_ns))).collect(),
        };
        let before = time(10, &[(1, 5), (2, 4)]);
        let (later, ended) = (time(20, &[(1, 6), (2, 9), (3, 2)]), time(20, &[(1, 6), (3, 2)]));
        let spent = |time: &CpuTime| (time.since(&before).ns, time.since(&before).waited_ns);
        assert_eq!(spent(&later), (8, Some(16)));
        assert_eq!(spent(&ended), (10, None));
        assert_eq!(time(20, &[]).since(&time(10, &[])).ns, 10);
    }

    #[test]
    fn our_own_process_can_be_read() {
        let before = CpuTime::of(std::process::id()).unwrap();
        let mut x = 1_u64;
        while CpuTime::of(std::process::id()).unwrap().since(&before).ns == 0 {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        assert!(resident_bytes(std::process::id()).unwrap() > 100 * 1024);
        assert!(CpuTime::of(u32::MAX).is_none());
    }
}
