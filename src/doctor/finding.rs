//! What a check has found.

use serde::{Serialize, Serializer};
use strum::{Display, EnumIter, IntoStaticStr};

/// How bad a finding is; the order is that of what to do first.
#[derive(Clone, Copy, Debug, Display, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Severity {
    Ok,
    /// The fact cannot be read here; the finding says why.
    Skipped,
    /// The server runs, and is slower, or will be refused something later.
    Warning,
    /// The server does not start, or cannot hold the connections that were asked for.
    Error,
}

/// What is checked. Names are stable: programs read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Check {
    Kernel,
    IoUring,
    Memlock,
    NrOpen,
    Nofile,
    FileMax,
    Threads,
    Connections,
    Memory,
    TcpMem,
    TcpBuffers,
    Somaxconn,
    SynBacklog,
    LocalPorts,
    Conntrack,
    Shards,
    CpuQuota,
    Governor,
    NetworkIrqs,
}

impl Check {
    pub fn name(self) -> &'static str {
        self.into()
    }

    pub(super) fn ok(self, found: impl Into<String>) -> Finding {
        Finding {
            check: self,
            severity: Severity::Ok,
            found: found.into(),
            needed: String::new(),
            why: String::new(),
            fix: Vec::new(),
        }
    }

    pub(super) fn skipped(self, why: impl Into<String>) -> Finding {
        let found = "unknown".to_owned();
        Finding { severity: Severity::Skipped, why: why.into(), ..self.ok(found) }
    }

    pub(super) fn warning(self, found: impl Into<String>, advice: Advice) -> Finding {
        self.bad(Severity::Warning, found.into(), advice)
    }

    pub(super) fn error(self, found: impl Into<String>, advice: Advice) -> Finding {
        self.bad(Severity::Error, found.into(), advice)
    }

    fn bad(self, severity: Severity, found: String, advice: Advice) -> Finding {
        let Advice { needed, why, fix } = advice;
        Finding { check: self, severity, found, needed, why: why.to_owned(), fix }
    }
}

impl Serialize for Check {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// What is to be changed.
pub(super) struct Advice {
    pub needed: String,
    /// One sentence.
    pub why: &'static str,
    /// Commands or configuration lines. What follows ` # ` says where a line belongs.
    pub fix: Vec<String>,
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub check: Check,
    pub severity: Severity,
    pub found: String,
    /// May be empty where nothing is wrong.
    pub needed: String,
    /// One sentence; empty where nothing is wrong.
    pub why: String,
    /// Commands and configuration lines, in the order in which they are applied.
    pub fix: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_programs_read() {
        assert_eq!(Check::IoUring.name(), "io_uring");
        assert_eq!(Check::NetworkIrqs.name(), "network_irqs");
        let json = serde_json::to_value(Check::SynBacklog.skipped("no file")).unwrap();
        let expected = serde_json::json!({
            "check": "syn_backlog", "severity": "skipped", "found": "unknown", "needed": "",
            "why": "no file", "fix": [],
        });
        assert_eq!(json, expected);
    }
}
