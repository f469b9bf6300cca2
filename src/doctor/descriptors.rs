//! Descriptors: one per connection, limited by the process, by the kernel per process, and by the
//! kernel for all.

use super::finding::{Advice, Check, Finding};
use super::fix::{self, Scope};
use super::host::Host;
use super::plan::Plan;
use super::text::{grouped, grouped_or_unlimited};

/// Without a target, fewer connections than this are not what anybody wants.
const CONNECTIONS_MIN: u64 = 10_000;

/// Descriptors that are recommended without a target: that of `tuning/limits.conf`.
const NOFILE: u64 = 1 << 20;

/// The server raises its soft limit to the hard one, so that the hard one counts.
pub fn nofile(host: &Host, plan: &Plan) -> Finding {
    let check = Check::Nofile;
    let Some(limit) = host.nofile else {
        return check.skipped("/proc/self/limits cannot be read");
    };
    let connections = plan.connections(limit.hard);
    let found = format!(
        "{} (hard limit): {} connections",
        grouped_or_unlimited(limit.hard),
        grouped_or_unlimited(connections)
    );
    let why = "Each connection has a descriptor; connections above the limit are closed at once.";
    match plan.target {
        Some(target) if connections < target => {
            let needed = plan.descriptors(target);
            let fix = fix::limit(host, "nofile", "LimitNOFILE", needed);
            check.error(found, Advice { needed: grouped(needed), why, fix })
        }
        Some(_) => check.ok(found),
        None if connections == 0 => {
            let needed = format!("more than {}", plan.descriptors(0));
            let fix = fix::limit(host, "nofile", "LimitNOFILE", NOFILE);
            let why = "The server does not start when no connection could be accepted.";
            check.error(found, Advice { needed, why, fix })
        }
        None if connections < CONNECTIONS_MIN => {
            let fix = fix::limit(host, "nofile", "LimitNOFILE", NOFILE);
            check.warning(found, Advice { needed: grouped(NOFILE), why, fix })
        }
        None => check.ok(found),
    }
}

/// What the hard limit may be raised to.
pub fn nr_open(host: &Host, plan: &Plan) -> Finding {
    let check = Check::NrOpen;
    let Some(nr_open) = host.nr_open else {
        return check.skipped("/proc/sys/fs/nr_open cannot be read");
    };
    let found = format!("fs.nr_open = {nr_open}");
    let needed = plan.descriptors(plan.target.unwrap_or(0));
    if nr_open >= needed {
        return check.ok(found);
    }
    let advice = Advice {
        needed: needed.to_string(),
        why: "No process may have more descriptors, whatever its limits: raise it before nofile.",
        fix: vec![fix::sysctl(host, Scope::Kernel, "fs.nr_open", needed)],
    };
    check.error(found, advice)
}

/// Open files of all processes together.
pub fn file_max(host: &Host, plan: &Plan) -> Finding {
    let check = Check::FileMax;
    let Some(file_max) = host.file_max else {
        return check.skipped("/proc/sys/fs/file-max cannot be read");
    };
    let open = host.files_open.unwrap_or(0);
    let found = format!("fs.file-max = {file_max}, {} open", grouped(open));
    let needed = open.saturating_add(plan.descriptors(plan.target.unwrap_or(0)));
    if file_max >= needed {
        return check.ok(found);
    }
    let advice = Advice {
        needed: needed.to_string(),
        why: "It limits the open files of all processes together.",
        fix: vec![fix::sysctl(host, Scope::Kernel, "fs.file-max", needed)],
    };
    check.error(found, advice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;
    use crate::doctor::host::tests::healthy;
    use crate::doctor::plan::tests::plan;
    use crate::doctor::text::Limit;

    #[test]
    fn the_hard_limit_bounds_the_connections() {
        use Severity::{Error, Ok, Warning};
        for (hard, target, severity) in [
            (1_048_576, None, Ok),
            (u64::MAX, Some(1_000_000), Ok),
            (20_000, None, Ok),
            (1024, None, Warning),
            (100, None, Error),
            (20_000, Some(19_888), Ok),
            (20_000, Some(19_889), Error),
        ] {
            let host = Host { nofile: Some(Limit { soft: 256, hard }), ..healthy() };
            let finding = nofile(&host, &plan(target));
            assert_eq!(finding.severity, severity, "{hard} {target:?}");
        }
    }

    #[test]
    fn a_million_connections_have_exact_commands() {
        let host = Host { nofile: Some(Limit { soft: 20_000, hard: 20_000 }), ..healthy() };
        let finding = nofile(&host, &plan(Some(1_000_000)));
        assert_eq!(finding.needed, "1,000,112");
        let expected = [
            "sudo prlimit --pid $$ --nofile=1000112:1000112  # a shell, then serve in it",
            "LimitNOFILE=1000112  # or [Service] of the systemd unit",
        ];
        assert_eq!(finding.fix, expected);
    }

    #[test]
    fn the_kernel_bounds_processes_one_by_one_and_together() {
        let host = Host { file_max: Some(1_000_500), ..healthy() };
        for (target, severity) in [(None, Severity::Ok), (Some(2_000_000), Severity::Error)] {
            let finding = nr_open(&host, &plan(target));
            assert_eq!(finding.severity, severity, "{target:?}");
            let finding = file_max(&host, &plan(target));
            assert_eq!(finding.severity, severity, "{target:?}");
        }
        // With the 600 files that are open already.
        let finding = file_max(&host, &plan(Some(1_000_000)));
        assert_eq!((finding.severity, &*finding.needed), (Severity::Error, "1000712"));
        assert!(finding.fix[0].contains("fs.file-max = 1000712"), "{finding:?}");
    }
}
