//! Sockets: queues of new connections, buffers, ports of a proxy in front, connection tracking.

use std::ops::RangeInclusive;

use super::finding::{Advice, Check, Finding};
use super::fix::{self, Scope};
use super::host::Host;
use super::plan::Plan;
use super::text::{bytes, grouped};

/// Accept queue without refused connections in a storm: `tuning/README.md`.
const SOMAXCONN_MIN: u64 = 4096;

/// The kernel's default send buffer (Documentation/networking/ip-sysctl.rst), bytes.
const SEND_BUFFER_MIN: u64 = 16 * 1024;

/// Half of the kernel's default receive buffer, bytes: what the server reads at once.
const RECEIVE_BUFFER_MIN: u64 = 64 * 1024;

/// Pages that a connection takes of `tcp_mem` while a small message is in flight on it. Measured:
/// 0.97 with 64 unread bytes on each of 9,000 connections, none while they are idle.
const PAGES_PER_CONNECTION: u64 = 1;

/// The most ports that unprivileged programs can be given.
const PORTS_ALL: RangeInclusive<u16> = 1024..=65_535;

/// Memory of TCP: enough that all connections may have a message in flight.
pub fn tcp_mem(host: &Host, plan: &Plan) -> Finding {
    let check = Check::TcpMem;
    let Some([low, pressure, max]) = host.tcp_mem else {
        return check.skipped("/proc/sys/net/ipv4/tcp_mem cannot be read");
    };
    let pressure_bytes = bytes(pressure.saturating_mul(host.page_bytes));
    let found =
        format!("net.ipv4.tcp_mem = {low} {pressure} {max} pages, pressure at {pressure_bytes}");
    let needed = plan.target.unwrap_or(0).saturating_mul(PAGES_PER_CONNECTION);
    if pressure >= needed {
        return check.ok(found);
    }
    // The ratios that the kernel itself uses.
    let value = format!(
        "{} {} {}",
        low.max(needed / 4 * 3),
        needed,
        max.max(needed.saturating_add(needed / 2))
    );
    let advice = Advice {
        needed: format!("{} pages before pressure", grouped(needed)),
        why: "A message to all connections takes a page of each; under pressure the kernel \
              shrinks buffers, above the maximum it drops.",
        fix: vec![fix::sysctl(host, Scope::Kernel, "net.ipv4.tcp_mem", value)],
    };
    check.warning(found, advice)
}

/// The default buffers of a socket; the server sets none.
pub fn tcp_buffers(host: &Host) -> Finding {
    let check = Check::TcpBuffers;
    let (Some(receive), Some(send)) = (host.tcp_rmem, host.tcp_wmem) else {
        return check.skipped("/proc/sys/net/ipv4/tcp_rmem or tcp_wmem cannot be read");
    };
    let found = format!("receive {}, send {} by default", bytes(receive[1]), bytes(send[1]));
    let with_default = |[least, default, max]: [u64; 3], min: u64| {
        (default < min).then(|| format!("{least} {min} {}", max.max(min)))
    };
    let small = [
        ("net.ipv4.tcp_rmem", with_default(receive, RECEIVE_BUFFER_MIN)),
        ("net.ipv4.tcp_wmem", with_default(send, SEND_BUFFER_MIN)),
    ];
    let raised = small.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
    let fix: Vec<_> = raised
        .map(|(name, value)| fix::sysctl(host, Scope::NetworkNamespace, name, value))
        .collect();
    if fix.is_empty() {
        return check.ok(found);
    }
    let advice = Advice {
        needed: format!("{} and {}", bytes(RECEIVE_BUFFER_MIN), bytes(SEND_BUFFER_MIN)),
        why: "With buffers below the kernel's defaults large frames take more turns of the server.",
        fix,
    };
    check.warning(found, advice)
}

/// The accept queue.
pub fn somaxconn(host: &Host) -> Finding {
    let check = Check::Somaxconn;
    let name = "net.core.somaxconn";
    let Some(somaxconn) = host.somaxconn else {
        return check.skipped("/proc/sys/net/core/somaxconn cannot be read");
    };
    let found = format!("{name} = {somaxconn}");
    if somaxconn >= SOMAXCONN_MIN {
        return check.ok(found);
    }
    let advice = Advice {
        needed: SOMAXCONN_MIN.to_string(),
        why: "When the accept queue is full, clients that connect at the same time wait a second \
              or more.",
        fix: vec![fix::sysctl(host, Scope::NetworkNamespace, name, SOMAXCONN_MIN)],
    };
    check.warning(found, advice)
}

/// Half-open connections. With SYN cookies the kernel does not look at the limit.
pub fn syn_backlog(host: &Host) -> Finding {
    let check = Check::SynBacklog;
    let name = "net.ipv4.tcp_max_syn_backlog";
    let Some(backlog) = host.syn_backlog else {
        return check.skipped("/proc/sys/net/ipv4/tcp_max_syn_backlog cannot be read");
    };
    let found = format!("{name} = {backlog}");
    match host.syncookies {
        Some(0) if backlog < SOMAXCONN_MIN => {
            let advice = Advice {
                needed: SOMAXCONN_MIN.to_string(),
                why: "Without SYN cookies the kernel drops SYNs of a connection storm above it.",
                fix: vec![fix::sysctl(host, Scope::NetworkNamespace, name, SOMAXCONN_MIN)],
            };
            check.warning(format!("{found}, SYN cookies off"), advice)
        }
        Some(0) | None => check.ok(found),
        Some(_) => check.ok(format!("{found}, not a limit with SYN cookies")),
    }
}

/// Ports that the kernel gives outgoing connections: those of a proxy or load generator on this
/// host, and not those that the server listens on.
pub fn local_ports(host: &Host, plan: &Plan) -> Finding {
    let check = Check::LocalPorts;
    let Some(range) = &host.local_ports else {
        return check.skipped("/proc/sys/net/ipv4/ip_local_port_range cannot be read");
    };
    let usable = free_ports(range, host);
    let found = format!("{}-{}: {}", range.start(), range.end(), grouped(usable));
    let taken: Vec<u16> = plan.ports().into_iter().filter(|port| is_given(host, *port)).collect();
    let target = plan.target.filter(|_| plan.is_local()).unwrap_or(0);
    if target > usable {
        return check.warning(
            format!("{found} connections per source address"),
            Advice {
                needed: format!("{} ports, all connections are local", grouped(target)),
                why: "A proxy or load generator on this host needs a port of its own for each \
                      connection, or more source addresses.",
                fix: more_ports(host, plan, target),
            },
        );
    }
    if taken.is_empty() {
        return check.ok(format!("{found} connections of a local proxy per source address"));
    }
    let advice = Advice {
        needed: format!("ports {} reserved", joined(&taken)),
        why: "An outgoing connection may hold a port of the server before it starts.",
        fix: vec![reserve(host, plan)],
    };
    check.warning(format!("{found}, with ports of the server"), advice)
}

fn is_given(host: &Host, port: u16) -> bool {
    let is_local = host.local_ports.as_ref().is_some_and(|range| range.contains(&port));
    is_local && !host.reserved_ports.iter().any(|reserved| reserved.contains(&port))
}

fn free_ports(range: &RangeInclusive<u16>, host: &Host) -> u64 {
    let is_reserved =
        |port: &u16| host.reserved_ports.iter().any(|reserved| reserved.contains(port));
    range.clone().filter(|port| !is_reserved(port)).count() as u64
}

/// Keeps the ports of the server, and those reserved already.
fn reserve(host: &Host, plan: &Plan) -> String {
    let kept = host.reserved_ports.iter().map(|range| match range.start() == range.end() {
        true => range.start().to_string(),
        false => format!("{}-{}", range.start(), range.end()),
    });
    let own = plan.ports().into_iter().map(|port| port.to_string());
    let ports: Vec<String> = kept.chain(own).collect();
    let name = "net.ipv4.ip_local_reserved_ports";
    fix::sysctl(host, Scope::NetworkNamespace, name, ports.join(","))
}

/// All ports, and as many source addresses as that leaves to find.
fn more_ports(host: &Host, plan: &Plan, target: u64) -> Vec<String> {
    let (first, last) = (PORTS_ALL.start(), PORTS_ALL.end());
    let name = "net.ipv4.ip_local_port_range";
    let widened = fix::sysctl(host, Scope::NetworkNamespace, name, format!("{first} {last}"));
    let ports = free_ports(&PORTS_ALL, host).saturating_sub(plan.ports().len() as u64).max(1);
    let sources = target.div_ceil(ports);
    let mut fix = vec![reserve(host, plan), widened];
    if let Some(address) = plan.listen.first().filter(|_| sources > 1) {
        fix.push(format!(
            "for n in $(seq {sources}); do echo \"server headcount$n {address} source \
             127.0.$((n / 250)).$((n % 250 + 2))\"; done  # lines of a backend of HAProxy"
        ));
    }
    fix
}

fn joined(ports: &[u16]) -> String {
    ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
}

/// Entries of connection tracking, if the kernel has it loaded.
pub fn conntrack(host: &Host, plan: &Plan) -> Finding {
    let check = Check::Conntrack;
    let name = "net.netfilter.nf_conntrack_max";
    let Some(max) = host.conntrack_max else {
        return check.ok("not loaded");
    };
    let count = host.conntrack_count.unwrap_or(0);
    let found = format!("{name} = {max}, {} tracked", grouped(count));
    // What a local proxy has outside, and what it has to the server.
    let each = if plan.is_local() { 2 } else { 1 };
    let needed = plan.target.unwrap_or(0).saturating_mul(each).saturating_add(count);
    if max >= needed.saturating_add(needed / 10) {
        return check.ok(found);
    }
    let needed = needed.saturating_add(needed / 4);
    let advice = Advice {
        needed: grouped(needed),
        why: "Connection tracking drops packets of new connections when its table is full.",
        fix: vec![fix::sysctl(host, Scope::Kernel, name, needed)],
    };
    // Loaded, but no rule uses it.
    match count {
        0 => check.warning(found, advice),
        _ => check.error(found, advice),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;
    use crate::doctor::host::tests::healthy;
    use crate::doctor::plan::tests::plan;

    #[test]
    fn a_message_to_all_takes_a_page_of_each() {
        assert_eq!(tcp_mem(&healthy(), &plan(Some(400_000))).severity, Severity::Ok);
        let finding = tcp_mem(&healthy(), &plan(Some(1_000_000)));
        assert_eq!(finding.severity, Severity::Warning);
        assert!(finding.fix[0].contains("'net.ipv4.tcp_mem = 750000 1000000 1500000'"));
        // What is larger already stays.
        let host = Host { tcp_mem: Some([900_000, 999_999, 4_000_000]), ..healthy() };
        let finding = tcp_mem(&host, &plan(Some(1_000_000)));
        assert!(finding.fix[0].contains("= 900000 1000000 4000000'"), "{finding:?}");
    }

    #[test]
    fn buffers_below_the_defaults_are_raised() {
        assert_eq!(tcp_buffers(&healthy()).severity, Severity::Ok);
        let host = Host { tcp_wmem: Some([4096, 4096, 8192]), ..healthy() };
        let finding = tcp_buffers(&host);
        assert_eq!(finding.severity, Severity::Warning);
        assert_eq!(finding.fix.len(), 1);
        assert!(finding.fix[0].contains("'net.ipv4.tcp_wmem = 4096 16384 16384'"), "{finding:?}");
    }

    #[test]
    fn queues_of_new_connections_are_those_with_a_measured_effect() {
        for (value, severity) in [(128, Severity::Warning), (4096, Severity::Ok)] {
            let host = Host { somaxconn: Some(value), ..healthy() };
            assert_eq!(somaxconn(&host).severity, severity, "{value}");
        }
        for (syncookies, backlog, severity) in [
            (Some(1), 128, Severity::Ok),
            (Some(0), 128, Severity::Warning),
            (Some(0), 4096, Severity::Ok),
            (None, 128, Severity::Ok),
        ] {
            let host = Host { syncookies, syn_backlog: Some(backlog), ..healthy() };
            assert_eq!(syn_backlog(&host).severity, severity, "{syncookies:?} {backlog}");
        }
    }

    #[test]
    fn ports_of_the_server_are_not_given_away() {
        let host = Host { local_ports: Some(1024..=65_535), ..healthy() };
        let finding = local_ports(&host, &plan(None));
        assert_eq!(finding.severity, Severity::Warning);
        let expected = "'net.ipv4.ip_local_reserved_ports = 7400,7401,7402'";
        assert!(finding.fix[0].contains(expected), "{finding:?}");
        let host = Host { reserved_ports: vec![7400..=7402], ..host };
        assert_eq!(local_ports(&host, &plan(None)).severity, Severity::Ok);
    }

    #[test]
    fn a_local_proxy_has_only_so_many_ports() {
        let host = Host { reserved_ports: vec![9000..=9001, 9100..=9100], ..healthy() };
        assert_eq!(local_ports(&host, &plan(Some(28_232))).severity, Severity::Ok);
        let finding = local_ports(&host, &plan(Some(28_233)));
        assert_eq!((finding.severity, finding.fix.len()), (Severity::Warning, 2));
        assert!(finding.fix[0].contains("= 9000-9001,9100,7400,7401,7402'"), "{finding:?}");
        let finding = local_ports(&host, &plan(Some(1_000_000)));
        assert!(finding.fix[1].contains("ip_local_port_range = 1024 65535'"), "{finding:?}");
        // 64,512 ports, six of them reserved.
        assert!(finding.fix[2].starts_with("for n in $(seq 16); "), "{finding:?}");
        let mut elsewhere = plan(Some(1_000_000));
        elsewhere.listen = vec!["0.0.0.0:7400".parse().unwrap()];
        assert_eq!(local_ports(&host, &elsewhere).severity, Severity::Ok);
    }

    #[test]
    fn connection_tracking_has_room_for_all() {
        for (max, count, target, severity) in [
            (Some(262_144), 10, None, Severity::Ok),
            (Some(262_144), 10, Some(100_000), Severity::Ok),
            (Some(262_144), 10, Some(200_000), Severity::Error),
            (Some(262_144), 0, Some(200_000), Severity::Warning),
            (Some(1000), 990, None, Severity::Error),
            (None, 0, Some(1_000_000), Severity::Ok),
        ] {
            let host = Host { conntrack_max: max, conntrack_count: Some(count), ..healthy() };
            let finding = conntrack(&host, &plan(target));
            assert_eq!(finding.severity, severity, "{max:?} {count} {target:?}");
        }
    }
}
