//! The doctor: can this host run the server, and what exactly is to be changed.
//!
//! Invariants: nothing here changes the host, and a fact that cannot be read makes its check
//! [`Severity::Skipped`], never a failure. Reading ([`Host::read`]) is separate from judging
//! ([`judge`], pure): tests judge hosts that they write down. It must never know how the server
//! does its work, only what that takes of the host ([`Plan`]).

mod cgroup;
mod cpus;
mod descriptors;
mod finding;
mod fix;
mod host;
mod memory;
mod network;
mod plan;
mod platform;
mod text;

pub use finding::{Check, Finding, Severity};
pub use host::{Host, Probe};
pub use plan::Plan;

/// One finding for every [`Check`], in their order.
pub fn judge(host: &Host, plan: &Plan) -> Vec<Finding> {
    vec![
        platform::kernel(host),
        platform::io_uring(host),
        platform::memlock(host),
        descriptors::nr_open(host, plan),
        descriptors::nofile(host, plan),
        descriptors::file_max(host, plan),
        platform::threads(host, plan),
        memory::connections(plan),
        memory::available(host, plan),
        network::tcp_mem(host, plan),
        network::tcp_buffers(host),
        network::somaxconn(host),
        network::syn_backlog(host),
        network::local_ports(host, plan),
        network::conntrack(host, plan),
        cpus::shards(host, plan),
        cpus::quota(host, plan),
        cpus::governor(host, plan),
        cpus::network_irqs(host, plan),
    ]
}

/// The most severe of the findings.
pub fn severity(findings: &[Finding]) -> Severity {
    let worst = findings.iter().map(|finding| finding.severity).max();
    worst.filter(|worst| *worst > Severity::Skipped).unwrap_or(Severity::Ok)
}

#[cfg(test)]
mod tests {
    use strum::IntoEnumIterator;

    use super::*;
    use crate::doctor::host::tests::healthy;
    use crate::doctor::plan::tests::plan;

    #[test]
    fn every_check_is_judged_once_and_in_order() {
        for target in [None, Some(1_000_000)] {
            let findings = judge(&healthy(), &plan(target));
            let checks: Vec<Check> = findings.iter().map(|finding| finding.check).collect();
            assert_eq!(checks, Check::iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_healthy_host_has_nothing_to_change() {
        for target in [None, Some(10_000)] {
            let findings = judge(&healthy(), &plan(target));
            let bad: Vec<_> = findings.iter().filter(|f| f.severity != Severity::Ok).collect();
            assert!(bad.is_empty(), "{bad:#?}");
            assert!(findings.iter().all(|finding| finding.fix.is_empty()));
            assert_eq!(severity(&findings), Severity::Ok);
        }
    }

    #[test]
    fn a_host_that_says_nothing_fails_no_check() {
        for target in [None, Some(1_000_000)] {
            for finding in judge(&Host::default(), &plan(target)) {
                assert!(finding.severity <= Severity::Skipped, "{finding:?}");
                let is_skipped = finding.severity == Severity::Skipped;
                assert_eq!(is_skipped, !finding.why.is_empty(), "{finding:?}");
            }
        }
        assert_eq!(severity(&judge(&Host::default(), &plan(None))), Severity::Ok);
    }

    #[test]
    fn whatever_is_wrong_comes_with_what_to_do() {
        let mut host = healthy();
        host.nofile = Some(text::Limit { soft: 256, hard: 1024 });
        host.somaxconn = Some(128);
        let findings = judge(&host, &plan(Some(1_000_000)));
        assert_eq!(severity(&findings), Severity::Error);
        for finding in findings.iter().filter(|finding| finding.severity > Severity::Skipped) {
            assert!(!finding.fix.is_empty() && !finding.needed.is_empty(), "{finding:?}");
            assert!(finding.why.len() < 200, "{finding:?}");
        }
    }
}
