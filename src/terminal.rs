//! Escape sequences of terminals, and the signals that end a command.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::IsTerminal;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

/// Whether the stream is a terminal that accepts escape sequences.
pub fn takes_escapes(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && environment_allows_escapes()
}

/// `TERM=dumb`, and no `TERM`, name terminals that show escape sequences as text; a `NO_COLOR` that
/// is not empty asks for none.
pub fn environment_allows_escapes() -> bool {
    let is_unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    is_capable(env::var_os("TERM").as_deref()) && !is_unwanted
}

fn is_capable(term: Option<&OsStr>) -> bool {
    term.is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// Signals that end a command; SIGHUP only where it is not ignored: `nohup` starts commands that
/// outlive their terminal.
pub fn ending_signals() -> Vec<i32> {
    let mut signals = vec![SIGINT, SIGTERM, SIGQUIT];
    // Without `/proc` no signal counts as ignored.
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if !is_ignored(SIGHUP, &status) {
        signals.push(SIGHUP);
    }
    signals
}

/// `status`: `/proc/PID/status` (proc_pid_status(5)).
fn is_ignored(signal: i32, status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dumb_terminal_takes_no_escapes() {
        for (term, expected) in
            [(None, false), (Some(""), false), (Some("dumb"), false), (Some("xterm"), true)]
        {
            assert_eq!(is_capable(term.map(OsStr::new)), expected, "{term:?}");
        }
    }

    #[test]
    fn a_hangup_that_is_ignored_stays_ignored() {
        let status = |mask: &str| format!("Name:\theadcount\nSigIgn:\t{mask}\nSigCgt:\t0\n");
        assert!(is_ignored(SIGHUP, &status("0000000000001001")));
        assert!(!is_ignored(SIGHUP, &status("0000000000001000")));
        assert!(!is_ignored(SIGHUP, "Name:\theadcount\n"));
    }
}
