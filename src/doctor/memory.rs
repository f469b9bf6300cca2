//! Memory of the server and of its sockets, and the connections that its configuration allows.

use super::finding::{Advice, Check, Finding};
use super::fix;
use super::host::Host;
use super::plan::Plan;
use super::text::{bytes, grouped};

/// Whether the configuration allows the connections.
pub fn connections(plan: &Plan) -> Finding {
    let check = Check::Connections;
    let per_shard = u64::from(plan.connections_per_shard_max);
    let all = per_shard * u64::from(plan.shards);
    let found = format!("{} at most, {} per shard", grouped(all), grouped(per_shard));
    match plan.target {
        Some(target) if target > all => {
            let needed = plan.connections_per_shard(target);
            let advice = Advice {
                needed: format!("{} per shard", grouped(needed)),
                why: "Shards refuse connections above limits.connections_per_shard_max.",
                fix: vec![fix::config("limits", "connections_per_shard_max", needed)],
            };
            check.error(found, advice)
        }
        _ => check.ok(found),
    }
}

/// What the host, and the cgroup of the process, have left.
pub fn available(host: &Host, plan: &Plan) -> Finding {
    let check = Check::Memory;
    let cgroup = host.cgroup.memory.map(|room| room.left());
    let Some(available) = host.memory_available.into_iter().chain(cgroup).min() else {
        return check.skipped("neither /proc/meminfo nor a cgroup tells the available memory");
    };
    let is_cgroup = cgroup == Some(available);
    let holder = if is_cgroup { " by its cgroup" } else { "" };
    let room = plan.connections_in(available);
    let found =
        format!("{} available{holder}: {} idle connections", bytes(available), grouped(room));
    let connections = plan.target.unwrap_or(0);
    let needed = plan.memory_bytes(connections);
    if available >= needed {
        return check.ok(found);
    }
    let lower = fix::config(
        "limits",
        "connections_per_shard_max",
        (room / u64::from(plan.shards).max(1)).max(1),
    );
    let used = host.cgroup.memory.map_or(0, |room| room.used);
    let max = used.saturating_add(needed);
    let raise = || fix::cgroup(host, &format!("--memory {max}"), &format!("MemoryMax={max}"));
    let advice = Advice {
        needed: bytes(needed),
        why: "An idle member takes 1.2 KB of the server and 4.9 KB of the kernel; stored \
              messages come on top.",
        fix: if is_cgroup { vec![raise(), lower] } else { vec![lower] },
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

    #[test]
    fn the_configuration_bounds_the_connections() {
        let mut plan = plan(Some(1_000_000));
        assert_eq!(connections(&plan).severity, Severity::Ok);
        plan.connections_per_shard_max = 100_000;
        let finding = connections(&plan);
        assert_eq!(finding.severity, Severity::Error);
        let line = "connections_per_shard_max = 500000  # [limits] of the configuration file";
        assert_eq!(finding.fix, [line]);
        plan.target = None;
        assert_eq!(connections(&plan).severity, Severity::Ok);
    }

    #[test]
    fn a_million_connections_need_six_gigabytes() {
        let million = plan(Some(1_000_000));
        let host = Host { memory_available: Some(6 << 30), ..healthy() };
        assert_eq!(available(&host, &million).severity, Severity::Ok);
        let host = Host { memory_available: Some(4 << 30), ..healthy() };
        let finding = available(&host, &million);
        assert_eq!(finding.severity, Severity::Error);
        assert_eq!(finding.needed, "5.6 GiB");
        assert!(finding.fix[0].starts_with("connections_per_shard_max = 35"), "{finding:?}");
        assert_eq!(available(&host, &plan(None)).severity, Severity::Ok);
    }

    #[test]
    fn the_cgroup_counts_where_it_has_less() {
        let mut host = healthy();
        host.cgroup.memory = Some(Room { max: 1 << 30, used: 1 << 20 });
        let finding = available(&host, &plan(Some(1_000_000)));
        assert_eq!(finding.severity, Severity::Error);
        assert!(finding.found.contains("by its cgroup"), "{finding:?}");
        assert!(finding.fix[0].starts_with("MemoryMax="), "{finding:?}");
        host.cgroup.memory = Some(Room { max: 4 << 20, used: 1 << 20 });
        assert_eq!(available(&host, &plan(None)).severity, Severity::Error);
    }
}
