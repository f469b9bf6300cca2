//! Runs the real binary.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::process::{Command, Output, Stdio};

/// The command, without what the environment of the tests may say.
pub fn headcount(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
    command.args(arguments).stdin(Stdio::null());
    let variables = [
        "CLICOLOR_FORCE",
        "HEADCOUNT_ADMIN_TOKEN",
        "HEADCOUNT_CONFIG",
        "HEADCOUNT_KEY",
        "HEADCOUNT_TOKEN",
    ];
    for variable in variables {
        command.env_remove(variable);
    }
    command
}

pub fn run(arguments: &[&str]) -> Output {
    headcount(arguments).output().unwrap()
}

pub fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

/// What a command printed that did what was asked, and said nothing else.
pub fn printed(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    assert_eq!(output.stderr, b"", "{arguments:?}");
    stdout(&output).to_owned()
}

/// The one line of a command that failed with `code`, and printed nothing else.
pub fn refusal(arguments: &[&str], code: i32) -> String {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    assert_eq!(stdout(&output), "", "{arguments:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("error: "), "{arguments:?}: {stderr}");
    assert_eq!(stderr.matches('\n').count(), 1, "{arguments:?}: {stderr}");
    stderr
}
