//! What the kernel says about the server's process.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// Ticks of `/proc/PID/stat`: `USER_HZ`, which is 100 on every architecture we run on.
const TICK_NS: u64 = 10_000_000;
const PAGE_BYTES: u64 = 4096;
const KIB: u64 = 1024;

/// CPU time of a process at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// User and system time of the process; to 10 ms.
    stat: StatTime,
    /// Each living thread, exact. The sum of what they ran is what `stat` shows, only finer, as
    /// long as no thread ends.
    threads: BTreeMap<u32, ThreadTime>,
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

/// Fields 14 and 15 of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct StatTime {
    user_ns: u64,
    system_ns: u64,
}

impl StatTime {
    /// The fields are counted after the name, which may hold anything but ends with the last
    /// parenthesis.
    fn parse(stat: &str) -> Option<StatTime> {
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let mut ticks = || fields.next()?.parse::<u64>().ok();
        Some(StatTime { user_ns: ticks()? * TICK_NS, system_ns: ticks()? * TICK_NS })
    }
}

/// The first two fields of `/proc/PID/task/TID/schedstat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ThreadTime {
    ran_ns: u64,
    /// Ready to run while something else had the CPU.
    waited_ns: u64,
}

impl ThreadTime {
    fn parse(schedstat: &str) -> Option<ThreadTime> {
        let mut fields = schedstat.split_whitespace().map_while(|field| field.parse().ok());
        Some(ThreadTime { ran_ns: fields.next()?, waited_ns: fields.next()? })
    }
}

/// Time that the calling thread was ready to run while something else had its CPU.
pub fn this_thread_waited_ns() -> u64 {
    let schedstat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    ThreadTime::parse(&schedstat).unwrap_or_default().waited_ns
}

impl CpuTime {
    /// `None`: there is no such process, or it is not ours to look at.
    pub fn of(pid: u32) -> Option<CpuTime> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(CpuTime { stat: StatTime::parse(&stat)?, threads: threads(pid).unwrap_or_default() })
    }

    /// What was spent since an earlier moment.
    pub fn since(&self, earlier: &CpuTime) -> CpuUse {
        let is_exact = self.has_all_threads_of(earlier);
        let sum = |time: &CpuTime, of: fn(&ThreadTime) -> u64| time.threads.values().map(of).sum();
        let grew = |of| u64::saturating_sub(sum(self, of), sum(earlier, of));
        let user_ns = self.stat.user_ns.saturating_sub(earlier.stat.user_ns);
        let system_ns = self.stat.system_ns.saturating_sub(earlier.stat.system_ns);
        let stat_ns = user_ns + system_ns;
        CpuUse {
            ns: if is_exact { grew(|thread| thread.ran_ns) } else { stat_ns },
            waited_ns: is_exact.then(|| grew(|thread| thread.waited_ns)),
            user_share: (stat_ns > 0).then(|| user_ns as f64 / stat_ns as f64),
        }
    }

    fn has_all_threads_of(&self, earlier: &CpuTime) -> bool {
        let all_live = earlier.threads.keys().all(|tid| self.threads.contains_key(tid));
        all_live && !earlier.threads.is_empty()
    }
}

fn threads(pid: u32) -> Option<BTreeMap<u32, ThreadTime>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let time_of = |path: PathBuf| {
        let tid = path.file_name()?.to_str()?.parse().ok()?;
        let schedstat = fs::read_to_string(path.join("schedstat")).ok()?;
        Some((tid, ThreadTime::parse(&schedstat)?))
    };
    tasks.map(|task| time_of(task.ok()?.path())).collect()
}

/// Resident memory in bytes.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok();
    rollup.and_then(|text| rss_of_rollup(&text)).or_else(|| {
        let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
        Some(statm.split_whitespace().nth(1)?.parse::<u64>().ok()? * PAGE_BYTES)
    })
}

fn rss_of_rollup(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * KIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_any_process_name() {
        let stat = "7 (a) b (c) R 1 1 1 0 -1 4194304 100 0 0 0 12 30 0 0 20 0 1 0 100 1 1";
        let time = StatTime { user_ns: 12 * TICK_NS, system_ns: 30 * TICK_NS };
        assert_eq!(StatTime::parse(stat), Some(time));
        assert_eq!(StatTime::parse("7 (a"), None);
    }

    #[test]
    fn the_share_of_user_time_is_of_what_was_spent_in_between() {
        let time = |user_ns, system_ns| CpuTime {
            stat: StatTime { user_ns, system_ns },
            threads: BTreeMap::new(),
        };
        assert_eq!(time(110, 230).since(&time(100, 200)).user_share, Some(0.25));
        assert_eq!(time(1, 1).since(&time(1, 1)).user_share, None);
    }

    #[test]
    fn a_thread_that_ended_makes_the_coarse_clock_count() {
        let time = |user_ns, threads: &[(u32, u64)]| CpuTime {
            stat: StatTime { user_ns, system_ns: 0 },
            threads: threads
                .iter()
                .map(|&(tid, ran_ns)| (tid, ThreadTime { ran_ns, waited_ns: 2 * ran_ns }))
                .collect(),
        };
        let before = time(10, &[(1, 5), (2, 4)]);
        let (later, ended) = (time(20, &[(1, 6), (2, 9), (3, 2)]), time(20, &[(1, 6), (3, 2)]));
        let spent = |time: &CpuTime| (time.since(&before).ns, time.since(&before).waited_ns);
        assert_eq!(spent(&later), (8, Some(16)));
        assert_eq!(spent(&ended), (10, None));
        assert_eq!(time(20, &[]).since(&time(10, &[])).ns, 10);
    }

    #[test]
    fn resident_memory_is_in_kibibytes() {
        let rollup = "5590-7fff ---p 00000000 00:00 0 [rollup]\nRss:    2048 kB\nPss:  1 kB\n";
        assert_eq!(rss_of_rollup(rollup), Some(2 * 1024 * 1024));
    }

    #[test]
    fn our_own_process_can_be_read() {
        let before = CpuTime::of(std::process::id()).unwrap();
        let mut x = 1_u64;
        while CpuTime::of(std::process::id()).unwrap().since(&before).ns == 0 {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        assert!(resident_bytes(std::process::id()).unwrap() > 100 * 1024);
        assert_eq!(CpuTime::of(u32::MAX), None);
    }
}
