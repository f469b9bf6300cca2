//! `doctor`: whether this host can run the server, and what exactly is to be changed.

use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use crossterm::style::Stylize;
use serde::Serialize;

use super::config::load;
use super::failure::{CONFIG, Failure, REQUEST};
use super::output;
use super::text::{count, printable};
use crate::doctor::{self, Finding, Host, Plan, Severity};
use crate::server;
use crate::terminal;

/// Say whether this host can run the server, and what exactly to change
///
/// Reads /proc, /sys and the cgroups of the process, sets up an io_uring for a moment, and changes
/// nothing. Limits differ between accounts, shells, units and containers: run it where, and as the
/// user that, the server runs. What cannot be read is skipped.
///
/// Exit code 0 when nothing is wrong, 1 with warnings (the server runs, but slower, or clients may
/// be refused later), 78 with errors (it does not start, or cannot hold the connections of
/// --target).
#[derive(Debug, Args)]
#[command(after_help = "Lines with a # are for the place that follows it.\n\n\
                        Example: headcount doctor --target 1000000 --config headcount.toml\n\
                        Example: headcount doctor --json | jq -r '.findings[].fix[]'")]
pub(super) struct Doctor {
    /// Configuration file of the server, TOML: shards, CPUs, addresses, limits [default: none,
    /// every key has a default]
    #[arg(long, value_name = "FILE", env = "HEADCOUNT_CONFIG")]
    config: Option<PathBuf>,
    /// Connections that the host is to hold: descriptors, memory, ports and tables of the kernel
    /// are checked for so many [default: only what every server needs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    target: Option<u64>,
    /// Print one JSON object: severity (ok, warning, error), target, and findings with check,
    /// severity (also skipped), found, needed, why, fix
    #[arg(long)]
    json: bool,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Report<'a> {
    severity: Severity,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<u64>,
    findings: &'a [Finding],
}

/// Whether severities are coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Colour {
    Shown,
    None,
}

impl Doctor {
    pub fn run(self) -> Result<(), Failure> {
        let config = load(self.config.as_deref())?;
        config.check()?;
        let host = Host::read(Path::new("/"), server::try_io_uring().into());
        let findings = doctor::judge(&host, &Plan::new(&config, self.target));
        let severity = doctor::severity(&findings);
        output::print(&match self.json {
            true => {
                let report = Report { severity, target: self.target, findings: &findings };
                serde_json::to_string(&report).unwrap_or_default() + "\n"
            }
            false => page(&findings, self.target, colour()),
        })?;
        ending(severity)
    }
}

fn colour() -> Colour {
    if terminal::takes_escapes(&io::stdout()) { Colour::Shown } else { Colour::None }
}

/// The report is the message.
fn ending(severity: Severity) -> Result<(), Failure> {
    match severity {
        Severity::Ok | Severity::Skipped => Ok(()),
        Severity::Warning => Err(Failure::Reported { code: REQUEST }),
        Severity::Error => Err(Failure::Reported { code: CONFIG }),
    }
}

/// A line per check; below what is wrong, why and what to do.
fn page(findings: &[Finding], target: Option<u64>, colour: Colour) -> String {
    let width = findings.iter().map(|finding| finding.check.name().len()).max().unwrap_or(0);
    let mut page = String::new();
    for finding in findings {
        let severity = painted(finding.severity, colour);
        let name = finding.check.name();
        // Writing to a `String` cannot fail.
        let _ = writeln!(page, "{severity}  {name:<width$}  {}", headline(finding));
        let indent = " ".repeat(SEVERITY_WIDTH + 2 + width + 2);
        if finding.severity > Severity::Skipped {
            for line in std::iter::once(&finding.why).chain(&finding.fix) {
                let _ = writeln!(page, "{indent}{}", printable(line));
            }
        }
    }
    page + &summary(findings, target)
}

/// Columns of the longest severity.
const SEVERITY_WIDTH: usize = 7;

fn painted(severity: Severity, colour: Colour) -> String {
    let text = format!("{:<SEVERITY_WIDTH$}", severity.to_string());
    match (colour, severity) {
        (Colour::None, _) => text,
        (_, Severity::Ok) => text.green().to_string(),
        (_, Severity::Skipped) => text.dim().to_string(),
        (_, Severity::Warning) => text.yellow().bold().to_string(),
        (_, Severity::Error) => text.red().bold().to_string(),
    }
}

fn headline(finding: &Finding) -> String {
    let Finding { severity, found, needed, why, .. } = finding;
    let text = match severity {
        Severity::Ok => found.clone(),
        Severity::Skipped => format!("{found}: {why}"),
        Severity::Warning | Severity::Error => format!("{found} (needed: {needed})"),
    };
    printable(&text).into_owned()
}

fn summary(findings: &[Finding], target: Option<u64>) -> String {
    let of = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (errors, warnings) = (of(Severity::Error), of(Severity::Warning));
    let counts = match (errors, warnings) {
        (0, 0) => "ok".to_owned(),
        (0, warnings) => count(warnings, "warning"),
        (errors, 0) => count(errors, "error"),
        (errors, warnings) => {
            format!("{}, {}", count(errors, "error"), count(warnings, "warning"))
        }
    };
    let can = if errors == 0 { "can" } else { "cannot" };
    match target {
        Some(target) => format!("{counts}: this host {can} hold {} connections\n", target),
        None => format!("{counts}: this host {can} run the server\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Check;

    fn finding(check: Check, severity: Severity) -> Finding {
        Finding {
            check,
            severity,
            found: "found\x1b[2J".to_owned(),
            needed: "more".to_owned(),
            why: "A reason.".to_owned(),
            fix: vec!["a command".to_owned()],
        }
    }

    #[test]
    fn what_is_wrong_is_followed_by_what_to_do() {
        let findings = [
            finding(Check::Kernel, Severity::Ok),
            finding(Check::Governor, Severity::Skipped),
            finding(Check::Nofile, Severity::Error),
        ];
        let expected = "\
ok       kernel    found\\u001b[2J
skipped  governor  found\\u001b[2J: A reason.
error    nofile    found\\u001b[2J (needed: more)
                   A reason.
                   a command
1 error: this host cannot hold 1000000 connections
";
        assert_eq!(page(&findings, Some(1_000_000), Colour::None), expected);
    }

    #[test]
    fn the_last_line_counts() {
        use Severity::{Error, Ok, Skipped, Warning};
        for (severities, expected) in [
            (vec![Ok, Skipped], "ok: this host can run the server\n"),
            (vec![Warning, Warning], "2 warnings: this host can run the server\n"),
            (vec![Error, Warning], "1 error, 1 warning: this host cannot run the server\n"),
        ] {
            let findings: Vec<_> =
                severities.into_iter().map(|severity| finding(Check::Kernel, severity)).collect();
            assert_eq!(summary(&findings, None), expected);
        }
    }

    #[test]
    fn the_exit_code_is_that_of_the_worst() {
        for (severity, expected) in [
            (Severity::Ok, None),
            (Severity::Skipped, None),
            (Severity::Warning, Some(1)),
            (Severity::Error, Some(78)),
        ] {
            let code = match ending(severity) {
                Ok(()) => None,
                Err(Failure::Reported { code }) => Some(code),
                Err(failure) => panic!("{failure:?}"),
            };
            assert_eq!(code, expected, "{severity}");
        }
    }

    #[test]
    fn colours_are_for_terminals() {
        let findings = [finding(Check::Kernel, Severity::Error)];
        assert!(!page(&findings, None, Colour::None).contains('\x1b'));
    }
}
