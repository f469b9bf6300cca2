//! Text of /proc, /sys and cgroup files, parsed; numbers, written.
//!
//! Every file is read by the lines that are needed: kernels of sandboxes leave others out, which
//! whole-file parsers refuse.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

/// CPUs are numbered below this; more are not believed.
const CPUS_MAX: usize = 65_536;

/// A resource limit of the process; `u64::MAX` is unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub soft: u64,
    pub hard: u64,
}

/// A line of /proc/interrupts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interrupt {
    pub number: u32,
    /// Of all CPUs.
    pub count: u64,
    /// What the driver calls it, last on the line.
    pub action: String,
}

/// Numbers separated by white space; `None` when one is none, or there is none.
pub fn numbers(text: &str) -> Option<Vec<u64>> {
    let numbers: Option<Vec<u64>> = text.split_whitespace().map(|word| word.parse().ok()).collect();
    numbers.filter(|numbers| !numbers.is_empty())
}

/// The first number of a file such as /proc/sys/fs/file-nr.
pub fn number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

/// Three numbers: /proc/sys/net/ipv4/tcp_mem and its like.
pub fn triple(text: &str) -> Option<[u64; 3]> {
    numbers(text)?.try_into().ok()
}

/// The value after `name` and a colon or white space, of /proc/self/status, /proc/meminfo, or
/// memory.stat of a cgroup.
pub fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let value = line.strip_prefix(name)?;
        value.starts_with([':', ' ', '\t']).then(|| value.trim_start_matches(':').trim())
    })
}

/// A value of /proc/meminfo, which has KiB, in bytes.
pub fn kib_field(text: &str, name: &str) -> Option<u64> {
    number(field(text, name)?)?.checked_mul(1024)
}

/// A row of /proc/self/limits, such as `Max open files`.
pub fn limit(limits: &str, name: &str) -> Option<Limit> {
    let mut values = field(limits, name)?.split_whitespace().map(|word| match word {
        "unlimited" => Some(u64::MAX),
        word => word.parse().ok(),
    });
    Some(Limit { soft: values.next()??, hard: values.next()?? })
}

/// A list of CPUs as the kernel writes it, `0-3,8`.
pub fn cpu_list(text: &str) -> Option<BTreeSet<usize>> {
    let mut cpus = BTreeSet::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let range = range::<usize>(part)?;
        if *range.end() >= CPUS_MAX {
            return None;
        }
        cpus.extend(range);
    }
    Some(cpus)
}

/// Ports as /proc/sys/net/ipv4/ip_local_reserved_ports lists them; an empty line reserves none.
pub fn port_list(text: &str) -> Option<Vec<RangeInclusive<u16>>> {
    text.trim().split(',').filter(|part| !part.is_empty()).map(range).collect()
}

/// `7` or `3-5`.
fn range<T: std::str::FromStr + Copy>(text: &str) -> Option<RangeInclusive<T>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
}

/// The numbered interrupts of /proc/interrupts.
pub fn interrupts(text: &str) -> Vec<Interrupt> {
    let mut lines = text.lines();
    let cpus = lines.next().map_or(0, |header| header.split_whitespace().count());
    lines.filter_map(|line| interrupt(line, cpus)).collect()
}

fn interrupt(line: &str, cpus: usize) -> Option<Interrupt> {
    let (number, rest) = line.split_once(':')?;
    let mut words = rest.split_whitespace();
    let counts: Option<Vec<u64>> =
        words.by_ref().take(cpus).map(|word| word.parse().ok()).collect();
    let action = words.last().unwrap_or_default().to_owned();
    Some(Interrupt { number: number.trim().parse().ok()?, count: counts?.iter().sum(), action })
}

/// `cpu.max` of a cgroup v2, `QUOTA PERIOD` in microseconds, as a number of CPUs; `None` without a
/// quota.
pub fn cpu_max(text: &str) -> Option<f64> {
    match numbers(text)?[..] {
        [quota, period] if period > 0 => Some(quota as f64 / period as f64),
        _ => None,
    }
}

/// `1,000,112`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of something that may have no limit.
pub fn grouped_or_unlimited(number: u64) -> String {
    if number == u64::MAX { "unlimited".to_owned() } else { grouped(number) }
}

/// `512 KiB`, `1.5 GiB`; `unlimited` for `u64::MAX`.
pub fn bytes(bytes: u64) -> String {
    const KIB: u64 = 1024;
    let (unit, name) = match bytes {
        u64::MAX => return "unlimited".to_owned(),
        0..KIB => return format!("{bytes} B"),
        KIB..0x10_0000 => (KIB, "KiB"),
        0x10_0000..0x4000_0000 => (KIB.pow(2), "MiB"),
        _ => (KIB.pow(3), "GiB"),
    };
    let tenths = (u128::from(bytes) * 10 / u128::from(unit)) as u64;
    match tenths % 10 {
        0 => format!("{} {name}", tenths / 10),
        tenth => format!("{}.{tenth} {name}", tenths / 10),
    }
}

/// CPUs as the kernel lists them.
pub fn list(cpus: impl IntoIterator<Item = usize>) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for cpu in cpus {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => ranges.push((cpu, cpu)),
        }
    }
    let write = |(first, last): &(usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    ranges.iter().map(write).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_the_kernel_writes_them() {
        for (text, expected) in [
            ("4096\n", Some(vec![4096])),
            ("287898\t383867\t575796\n", Some(vec![287_898, 383_867, 575_796])),
            ("", None),
            ("max 100000", None),
            ("-1", None),
        ] {
            assert_eq!(numbers(text), expected, "{text:?}");
        }
        assert_eq!(number("607\t0\t2466170\n"), Some(607));
        assert_eq!(number("max"), None);
        assert_eq!(triple("4096 16384 4194304"), Some([4096, 16_384, 4_194_304]));
        assert_eq!(triple("32768 60999"), None);
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let status = "Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\nCpus_allowed_list:\t0-1\n";
        for (name, expected) in [
            ("Seccomp", Some("2")),
            ("Seccomp_filters", Some("1")),
            ("Cpus_allowed_list", Some("0-1")),
            ("Cpus_allowed", None),
            ("Groups", None),
        ] {
            assert_eq!(field(status, name), expected, "{name}");
        }
        assert_eq!(field("inactive_file 4096\n", "inactive_file"), Some("4096"));
        let meminfo = "MemTotal:       24683888 kB\nMemAvailable:   23682048 kB\n";
        assert_eq!(kib_field(meminfo, "MemAvailable"), Some(23_682_048 * 1024));
        assert_eq!(kib_field(meminfo, "MemFree"), None);
    }

    #[test]
    fn limits_may_be_unlimited() {
        let limits = "\
Limit                     Soft Limit           Hard Limit           Units
Max open files            1024                 1048576              files
Max locked memory         8388608              unlimited            bytes
Max nice priority         0                    0
";
        let expected = Some(Limit { soft: 1024, hard: 1_048_576 });
        assert_eq!(limit(limits, "Max open files"), expected);
        let expected = Some(Limit { soft: 8_388_608, hard: u64::MAX });
        assert_eq!(limit(limits, "Max locked memory"), expected);
        assert_eq!(limit(limits, "Max msgqueue size"), None);
        assert_eq!(limit("Max open files  many few files", "Max open files"), None);
    }

    #[test]
    fn cpu_lists_have_ranges() {
        for (text, expected) in [
            ("0-1\n", Some(vec![0, 1])),
            ("7", Some(vec![7])),
            ("0-2,8,10-11\n", Some(vec![0, 1, 2, 8, 10, 11])),
            ("", Some(vec![])),
            ("x", None),
            ("0-4294967295", None),
        ] {
            let cpus = expected.map(|cpus| cpus.into_iter().collect());
            assert_eq!(cpu_list(text), cpus, "{text:?}");
        }
        assert_eq!(list([0, 1, 2, 8, 10, 11]), "0-2,8,10-11");
        assert_eq!(list([]), "");
    }

    #[test]
    fn reserved_ports_may_be_none() {
        assert_eq!(port_list("\n"), Some(vec![]));
        assert_eq!(port_list("7400-7402,8080\n"), Some(vec![7400..=7402, 8080..=8080]));
        assert_eq!(port_list("70000"), None);
    }

    #[test]
    fn interrupts_are_summed_over_the_cpus() {
        let text = "\
           CPU0       CPU1
 38:          0       1861 PCI-MSIX-0000:00:03.0   1-edge      virtio2-input.0
 39:       1607          3 PCI-MSIX-0000:00:03.0   2-edge      virtio2-output.0
LOC:      52175      55959   Local timer interrupts
ERR:          0
 40:   nonsense
";
        let interrupt =
            |number, count, action: &str| Interrupt { number, count, action: action.to_owned() };
        let expected =
            [interrupt(38, 1861, "virtio2-input.0"), interrupt(39, 1610, "virtio2-output.0")];
        assert_eq!(interrupts(text), expected);
        assert_eq!(interrupts(""), []);
    }

    #[test]
    fn quotas_are_numbers_of_cpus() {
        for (text, expected) in [
            ("150000 100000\n", Some(1.5)),
            ("max 100000\n", None),
            ("100000 0\n", None),
            ("nonsense", None),
        ] {
            assert_eq!(cpu_max(text), expected, "{text:?}");
        }
    }

    #[test]
    fn numbers_are_written_for_people() {
        for (number, text) in
            [(0, "0"), (999, "999"), (1000, "1,000"), (1_000_112, "1,000,112"), (12_345, "12,345")]
        {
            assert_eq!(grouped(number), text);
        }
        for (number, text) in [
            (512, "512 B"),
            (64 << 10, "64 KiB"),
            (8 << 20, "8 MiB"),
            (1_610_612_736, "1.5 GiB"),
            (u64::MAX - 1, "17179869183.9 GiB"),
            (u64::MAX, "unlimited"),
        ] {
            assert_eq!(bytes(number), text);
        }
    }
}
