//! The CPUs of the shards: whether they may be used, how fast they are, and what else uses them.

use std::collections::BTreeSet;

use super::finding::{Advice, Check, Finding};
use super::fix;
use super::host::Host;
use super::plan::Plan;
use super::text::list;

/// Governors that keep the frequency low until there has been load for a while.
const SLOW_GOVERNORS: [&str; 3] = ["conservative", "ondemand", "powersave"];

/// CPUs that a thread can be pinned to, whatever its affinity mask: online, and of its cgroup.
fn bindable(host: &Host) -> Option<BTreeSet<usize>> {
    match (&host.online, &host.cgroup.cpuset) {
        (Some(online), Some(cpuset)) => Some(online & cpuset),
        (known, None) | (None, known) => known.clone(),
    }
}

/// Every shard has a CPU that the process may use.
pub fn shards(host: &Host, plan: &Plan) -> Finding {
    if plan.pins.is_empty() { unpinned(host, plan) } else { pinned(host, plan) }
}

fn pinned(host: &Host, plan: &Plan) -> Finding {
    let check = Check::Shards;
    let Some(bindable) = bindable(host) else {
        return check.skipped("/sys/devices/system/cpu/online cannot be read");
    };
    let pins = list(plan.pins.iter().copied());
    let missing = &plan.pins - &bindable;
    if missing.is_empty() {
        return check.ok(format!("{} pinned to CPUs {pins}", plan.shards));
    }
    let others: Vec<String> = bindable.iter().take(plan.pins.len()).map(usize::to_string).collect();
    let advice = Advice {
        needed: format!("CPUs among {}", list(bindable)),
        why: "A shard cannot be pinned to a CPU that is offline, or not of the cgroup.",
        fix: vec![fix::config("cores", "pin", format!("[{}]", others.join(", ")))],
    };
    check.error(format!("pinned to CPU {}, which cannot be used", list(missing)), advice)
}

fn unpinned(host: &Host, plan: &Plan) -> Finding {
    let check = Check::Shards;
    let Some(allowed) = &host.cpus else {
        return check.skipped("/proc/self/status does not list the allowed CPUs");
    };
    let found = format!("{} on CPUs {}", plan.shards, list(allowed.iter().copied()));
    if usize::from(plan.shards) <= allowed.len() {
        return check.ok(found);
    }
    let advice = Advice {
        needed: format!("{} at most", allowed.len()),
        why: "Shards that share a CPU wait for each other.",
        fix: vec![fix::config("cores", "shards", allowed.len())],
    };
    check.warning(found, advice)
}

/// The CPU quota of the cgroup covers the shards.
pub fn quota(host: &Host, plan: &Plan) -> Finding {
    let check = Check::CpuQuota;
    let Some(cpus) = host.cgroup.cpus else {
        return check.ok("no limit by a cgroup");
    };
    let found = format!("quota of {cpus:.2} CPUs, shards: {}", plan.shards);
    if cpus >= f64::from(plan.shards) {
        return check.ok(found);
    }
    let mut fix = Vec::new();
    if cpus >= 1.0 {
        fix.push(fix::config("cores", "shards", cpus.floor()));
    }
    let raised = plan.shards;
    let unit = format!("CPUQuota={}%", u32::from(raised) * 100);
    fix.push(fix::cgroup(host, &format!("--cpus {raised}"), &unit));
    let advice = Advice {
        needed: format!("a CPU per shard: {raised}"),
        why: "When the quota is used up, the kernel stops all shards until the next period of \
              0.1 s.",
        fix,
    };
    check.warning(found, advice)
}

/// CPUs that shards run on.
fn of_shards(host: &Host, plan: &Plan) -> BTreeSet<usize> {
    match plan.pins.is_empty() {
        true => host.cpus.clone().unwrap_or_default(),
        false => plan.pins.clone(),
    }
}

pub fn governor(host: &Host, plan: &Plan) -> Finding {
    let check = Check::Governor;
    let used = of_shards(host, plan);
    let governors = || host.governors.iter().filter(|(cpu, _)| used.contains(cpu));
    let Some((_, first)) = governors().next() else {
        return check.ok("none: the machine, or the host of the virtual one, decides");
    };
    let slow = |governor: &str| SLOW_GOVERNORS.contains(&governor);
    let Some((_, governor)) = governors().find(|(_, governor)| slow(governor)) else {
        return check.ok(first);
    };
    let cpus: Vec<usize> =
        governors().filter(|(_, governor)| slow(governor)).map(|(cpu, _)| *cpu).collect();
    let names: Vec<String> = cpus.iter().map(usize::to_string).collect();
    let names = names.join(" ");
    let advice = Advice {
        needed: "performance".to_owned(),
        why: "The frequency stays low until there has been load for a while, which delays single \
              messages.",
        fix: vec![format!(
            "for cpu in {names}; do echo performance | sudo tee \
             /sys/devices/system/cpu/cpu$cpu/cpufreq/scaling_governor; done"
        )],
    };
    check.warning(format!("{governor} on CPUs {}", list(cpus)), advice)
}

/// Interrupts of network devices on CPUs of shards, while other CPUs have none. Only for pinned
/// shards: the kernel chooses the CPUs of others.
pub fn network_irqs(host: &Host, plan: &Plan) -> Finding {
    let check = Check::NetworkIrqs;
    let Some(irqs) = &host.network_irqs else {
        return check.skipped("/proc/interrupts cannot be read");
    };
    if irqs.is_empty() {
        return check.ok("no network device with interrupts");
    }
    let used: BTreeSet<usize> = irqs.iter().flat_map(|irq| &irq.cpus).copied().collect();
    let used = list(used);
    if plan.pins.is_empty() {
        return check.ok(format!("on CPUs {used}; shards are not pinned"));
    }
    let Some(online) = &host.online else {
        return check.skipped("/sys/devices/system/cpu/online cannot be read");
    };
    let free = online - &plan.pins;
    let on_shards: Vec<_> = irqs.iter().filter(|irq| !irq.cpus.is_disjoint(&plan.pins)).collect();
    if on_shards.is_empty() {
        return check.ok(format!("on CPUs {used}, without shards"));
    }
    if free.is_empty() {
        return check.ok(format!("on CPUs {used}; every CPU has a shard"));
    }
    let free = list(free);
    let numbers: Vec<String> = on_shards.iter().map(|irq| irq.number.to_string()).collect();
    let numbers = numbers.join(" ");
    let advice = Advice {
        needed: format!("CPUs {free}"),
        why: "Apart from the shards they took 29 % off the server's CPU per delivery, and added \
              20 us to single messages (tuning/README.md).",
        fix: vec![format!(
            "for irq in {numbers}; do echo {free} | sudo tee /proc/irq/$irq/smp_affinity_list; \
             done  # stop irqbalance first"
        )],
    };
    let interfaces: BTreeSet<&str> = on_shards.iter().map(|irq| &*irq.interface).collect();
    let interfaces = interfaces.into_iter().collect::<Vec<_>>().join(", ");
    check.warning(format!("{interfaces}: {} on CPUs of shards", on_shards.len()), advice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;
    use crate::doctor::host::NetworkIrq;
    use crate::doctor::host::tests::healthy;
    use crate::doctor::plan::tests::plan;

    fn pinned_to(cpus: &[usize]) -> Plan {
        let shards = cpus.len() as u16;
        Plan { pins: cpus.iter().copied().collect(), shards, ..plan(None) }
    }

    #[test]
    fn shards_have_cpus_of_their_own() {
        let allowed =
            |cpus: &[usize]| Host { cpus: Some(cpus.iter().copied().collect()), ..healthy() };
        assert_eq!(shards(&allowed(&[0, 1]), &plan(None)).severity, Severity::Ok);
        let finding = shards(&allowed(&[2]), &plan(None));
        assert_eq!(finding.severity, Severity::Warning);
        assert_eq!(finding.fix, ["shards = 1  # [cores] of the configuration file"]);
        // Pinning replaces the affinity mask.
        assert_eq!(shards(&allowed(&[0]), &pinned_to(&[1, 2])).severity, Severity::Ok);
    }

    #[test]
    fn pinned_cpus_are_online_and_of_the_cgroup() {
        let mut host = healthy();
        assert_eq!(shards(&host, &pinned_to(&[1, 3])).severity, Severity::Ok);
        let finding = shards(&host, &pinned_to(&[1, 4]));
        assert_eq!(finding.severity, Severity::Error);
        assert!(finding.found.contains("CPU 4"), "{finding:?}");
        assert_eq!(finding.fix, ["pin = [0, 1]  # [cores] of the configuration file"]);
        host.cgroup.cpuset = Some(BTreeSet::from([1, 2]));
        assert_eq!(shards(&host, &pinned_to(&[1, 3])).needed, "CPUs among 1-2");
        host.online = None;
        assert_eq!(shards(&host, &pinned_to(&[1, 2])).severity, Severity::Ok);
        host.cgroup.cpuset = None;
        assert_eq!(shards(&host, &pinned_to(&[1, 2])).severity, Severity::Skipped);
    }

    #[test]
    fn a_quota_below_the_shards_stops_all_of_them() {
        let mut host = healthy();
        for (cpus, severity, fixes) in [
            (None, Severity::Ok, 0),
            (Some(2.0), Severity::Ok, 0),
            (Some(1.5), Severity::Warning, 2),
            (Some(0.5), Severity::Warning, 1),
        ] {
            host.cgroup.cpus = cpus;
            let finding = quota(&host, &plan(None));
            assert_eq!((finding.severity, finding.fix.len()), (severity, fixes), "{cpus:?}");
        }
        host.cgroup.cpus = Some(1.5);
        let expected = [
            "shards = 1  # [cores] of the configuration file",
            "CPUQuota=200%  # [Service] of the systemd unit",
        ];
        assert_eq!(quota(&host, &plan(None)).fix, expected);
    }

    #[test]
    fn slow_governors_of_cpus_with_shards_are_reported() {
        let governors = |names: &[&str]| {
            names.iter().enumerate().map(|(cpu, name)| (cpu, (*name).to_owned())).collect()
        };
        let mut host = Host { governors: governors(&["performance"; 4]), ..healthy() };
        assert_eq!(governor(&host, &plan(None)).severity, Severity::Ok);
        host.governors = governors(&["performance", "powersave", "powersave", "schedutil"]);
        let finding = governor(&host, &plan(None));
        assert_eq!(finding.severity, Severity::Warning);
        assert_eq!(finding.found, "powersave on CPUs 1-2");
        assert!(finding.fix[0].starts_with("for cpu in 1 2; do "), "{finding:?}");
        assert_eq!(governor(&host, &pinned_to(&[0, 3])).severity, Severity::Ok);
        host.governors.clear();
        assert_eq!(governor(&host, &plan(None)).severity, Severity::Ok);
    }

    #[test]
    fn interrupts_are_moved_where_no_shard_is() {
        let irq = |number, cpu| NetworkIrq {
            interface: "eth0".to_owned(),
            number,
            cpus: BTreeSet::from([cpu]),
        };
        let irqs = Some(vec![irq(38, 1), irq(39, 0), irq(40, 3)]);
        let host = Host { network_irqs: irqs, ..healthy() };
        let finding = network_irqs(&host, &pinned_to(&[0, 1]));
        assert_eq!(finding.severity, Severity::Warning);
        let expected = "for irq in 38 39; do echo 2-3 | sudo tee /proc/irq/$irq/smp_affinity_list; \
                        done  # stop irqbalance first";
        assert_eq!(finding.fix, [expected]);
        assert_eq!(network_irqs(&host, &pinned_to(&[2])).severity, Severity::Ok);
        assert_eq!(network_irqs(&host, &pinned_to(&[0, 1, 2, 3])).severity, Severity::Ok);
        assert_eq!(network_irqs(&host, &plan(None)).severity, Severity::Ok);
    }
}
