//! The doctor on the host that runs the tests, completions, and man pages.
#![cfg(feature = "server")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use command::{headcount, printed, refusal, run, stdout};
use tempdir::Dir;

mod command;
mod tempdir;

/// Programs read these names.
const CHECKS: [&str; 19] = [
    "kernel",
    "io_uring",
    "memlock",
    "nr_open",
    "nofile",
    "file_max",
    "threads",
    "connections",
    "memory",
    "tcp_mem",
    "tcp_buffers",
    "somaxconn",
    "syn_backlog",
    "local_ports",
    "conntrack",
    "shards",
    "cpu_quota",
    "governor",
    "network_irqs",
];

/// The report of `doctor --json`, with the exit code that it came with.
fn report(arguments: &[&str]) -> (Value, Option<i32>) {
    let output = run(&[&["doctor", "--json"][..], arguments].concat());
    assert_eq!(output.stderr, b"", "{arguments:?}");
    assert_eq!(stdout(&output).lines().count(), 1, "{arguments:?}");
    (serde_json::from_slice(&output.stdout).unwrap(), output.status.code())
}

fn findings(report: &Value) -> &[Value] {
    report["findings"].as_array().unwrap()
}

fn finding<'a>(report: &'a Value, check: &str) -> &'a Value {
    findings(report).iter().find(|finding| finding["check"] == check).unwrap()
}

/// The severity that the findings add up to.
fn worst(report: &Value) -> &'static str {
    let has = |severity| findings(report).iter().any(|finding| finding["severity"] == severity);
    ["error", "warning"].into_iter().find(|severity| has(*severity)).unwrap_or("ok")
}

#[test]
fn the_report_has_every_check_and_the_exit_code_of_the_worst() {
    for arguments in [&[][..], &["--target", "10"], &["--target", "1000000"]] {
        let (report, code) = report(arguments);
        let names: Vec<&str> =
            findings(&report).iter().map(|finding| finding["check"].as_str().unwrap()).collect();
        assert_eq!(names, CHECKS);
        let expected = match worst(&report) {
            "error" => 78,
            "warning" => 1,
            _ => 0,
        };
        assert_eq!(report["severity"], worst(&report));
        assert_eq!(code, Some(expected), "{arguments:?}: {report:#}");
        let target = arguments.get(1).map(|target| target.parse::<u64>().unwrap());
        assert_eq!(report.get("target").and_then(Value::as_u64), target);
        for finding in findings(&report) {
            let severity = finding["severity"].as_str().unwrap();
            let keys: Vec<&String> = finding.as_object().unwrap().keys().collect();
            assert_eq!(keys, ["check", "severity", "found", "needed", "why", "fix"]);
            let is_bad = ["warning", "error"].contains(&severity);
            assert!(is_bad || ["ok", "skipped"].contains(&severity), "{finding}");
            assert_eq!(!finding["fix"].as_array().unwrap().is_empty(), is_bad, "{finding}");
        }
    }
}

#[test]
fn more_connections_than_the_host_holds_come_with_the_command_that_changes_that() {
    let (report, code) = report(&["--target", "2000000000"]);
    assert_eq!((code, &report["severity"]), (Some(78), &Value::from("error")));
    let descriptors = 2_000_000_000 + 64 + 16;
    let needed = finding(&report, "nr_open")["needed"].as_str().unwrap();
    assert!(needed.parse::<u64>().unwrap() > descriptors, "{needed}");
    let fix = finding(&report, "nr_open")["fix"][0].as_str().unwrap();
    assert!(fix.contains(&format!("fs.nr_open = {needed}")), "{fix}");
    assert_eq!(finding(&report, "memory")["severity"], "error");
}

/// On a machine with the usual limits; where they are higher nothing is wrong with a million.
#[test]
fn a_million_connections_are_more_than_the_usual_limits() {
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let row = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let hard = row.split_whitespace().nth(4).unwrap();
    let (report, _) = report(&["--target", "1000000"]);
    let nofile = finding(&report, "nofile");
    match hard.parse::<u64>() {
        Ok(hard) if hard < 1_000_000 => {
            assert_eq!(nofile["severity"], "error");
            let fix = nofile["fix"].to_string();
            assert!(fix.contains("nofile=1000"), "{fix}");
        }
        _ => assert_eq!(nofile["severity"], "ok"),
    }
}

#[test]
fn the_page_says_the_same_as_the_report() {
    let arguments = ["doctor", "--target", "2000000000"];
    let page = run(&arguments);
    assert_eq!(page.status.code(), Some(78));
    assert_eq!(page.stderr, b"");
    let text = stdout(&page);
    assert!(!text.contains('\x1b'), "colours without a terminal: {text}");
    let last = text.lines().last().unwrap();
    assert!(last.ends_with("this host cannot hold 2000000000 connections"), "{last}");
    let (report, _) = report(&arguments[1..]);
    for finding in findings(&report) {
        let name = finding["check"].as_str().unwrap();
        let severity = finding["severity"].as_str().unwrap();
        let start = format!("{severity:<7}  {name:<12}  ");
        assert!(text.lines().any(|line| line.starts_with(&start)), "{start}: {text}");
    }
    // Others change with what the host does meanwhile.
    for check in ["nr_open", "nofile", "local_ports"] {
        for fix in finding(&report, check)["fix"].as_array().unwrap() {
            assert!(text.contains(fix.as_str().unwrap()), "{fix}: {text}");
        }
    }
}

#[test]
fn the_configuration_is_that_of_the_server() {
    let dir = Dir::new();
    let file = dir.path().join("headcount.toml");
    let path = file.to_str().unwrap();
    fs::write(&file, "[cores]\nshards = 128\n[limits]\nconnections_per_shard_max = 7\n").unwrap();
    let (crowded, _) = report(&["--config", path, "--target", "1000"]);
    assert_eq!(finding(&crowded, "shards")["severity"], "warning");
    assert_eq!(finding(&crowded, "connections")["severity"], "error");
    let fix = &finding(&crowded, "connections")["fix"][0];
    assert_eq!(fix, "connections_per_shard_max = 8  # [limits] of the configuration file");
    fs::write(&file, "[cores]\npin = [1023]\n").unwrap();
    let (pinned, code) = report(&["--config", path]);
    assert_eq!(finding(&pinned, "shards")["severity"], "error");
    assert_eq!(code, Some(78));
    let output = headcount(&["doctor", "--json"]).env("HEADCOUNT_CONFIG", path).output().unwrap();
    assert!(stdout(&output).contains("1023"), "{output:?}");
    fs::write(&file, "[cores]\nshards = 0\n").unwrap();
    let line = refusal(&["doctor", "--config", path], 78);
    assert!(line.contains("cores.shards"), "{line}");
}

#[test]
fn a_target_is_a_number_of_connections() {
    for target in ["0", "many", "-1"] {
        let output = run(&["doctor", "--target", target]);
        assert_eq!(output.status.code(), Some(2), "{target}: {output:?}");
    }
}

/// Every command of the help, and how it is reached.
fn commands() -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut open = vec![Vec::new()];
    while let Some(path) = open.pop() {
        let mut arguments: Vec<&str> = path.iter().map(String::as_str).collect();
        arguments.push("--help");
        let help = printed(&arguments);
        let listed = help.split_once("\nCommands:\n").map_or("", |(_, after)| after);
        let listed = listed.lines().take_while(|line| !line.is_empty());
        let names = listed.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
        for name in names.filter(|name| !name.is_empty() && *name != "help") {
            open.push([&path[..], &[name.to_owned()]].concat());
        }
        found.push(path);
    }
    assert!(found.len() > 15, "{found:?}");
    found
}

/// The words of a command that reads standard input; `None` where it is not installed.
fn piped(program: &str, arguments: &[&str], input: &str) -> Option<(bool, String)> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        println!("skipped: no {program} here");
        return None;
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    Some((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

#[test]
fn shells_complete_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = printed(&["completions", shell]);
        for command in commands() {
            for word in command {
                assert!(script.contains(&word), "{shell}: {word}");
            }
        }
    }
    let script = printed(&["completions", "bash"]);
    if let Some((is_accepted, complaints)) = piped("bash", &["-n"], &script) {
        assert!(is_accepted && complaints.is_empty(), "{complaints}");
    }
    let output = run(&["completions", "tcsh"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

/// What bash offers after some words, the last of which is being typed.
#[test]
fn bash_offers_commands_and_options() {
    let script = printed(&["completions", "bash"]);
    for (typed, offered) in [
        (&["headcount", "do"][..], "doctor"),
        (&["headcount", "doctor", "--ta"], "--target"),
        (&["headcount", "store", "ch"], "check"),
    ] {
        let words: Vec<String> = typed.iter().map(|word| format!("'{word}'")).collect();
        let last = typed.len() - 1;
        let asked = format!(
            "{script}\nCOMP_WORDS=({}); COMP_CWORD={last}\n\
             _headcount headcount '{}' '{}'\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
            words.join(" "),
            typed[last],
            typed[last - 1]
        );
        let Ok(output) = Command::new("bash").args(["--norc", "-c", &asked]).output() else {
            return println!("skipped: no bash here");
        };
        let offers = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(offers.lines().any(|offer| offer == offered), "{typed:?}: {output:?}");
    }
}

#[test]
fn every_command_has_a_man_page() {
    let dir = Dir::new();
    let pages = dir.path().join("share/man1");
    let commands = commands();
    let said = printed(&["man", pages.to_str().unwrap()]);
    assert_eq!(said, format!("{} man pages in {}\n", commands.len(), pages.display()));
    assert_eq!(fs::read_dir(&pages).unwrap().count(), commands.len());
    for command in commands {
        let name = [&["headcount".to_owned()][..], &command].concat().join("-");
        let page = fs::read_to_string(pages.join(format!("{name}.1"))).unwrap();
        assert!(page.contains(".SH NAME") && page.contains("Example: headcount"), "{name}: {page}");
        let arguments = ["-man", "-Tutf8", "-ww", "-z"];
        if let Some((is_accepted, complaints)) = piped("groff", &arguments, &page) {
            assert!(is_accepted && complaints.is_empty(), "{name}: {complaints}");
        }
    }
    let page = fs::read_to_string(pages.join("headcount-doctor.1")).unwrap();
    let (_, examples) = page.split_once("\nExample: headcount doctor ").unwrap();
    assert!(examples.contains("\n\nExample: headcount doctor"), "one paragraph: {examples}");
    let occupied = dir.path().join("file");
    fs::write(&occupied, "").unwrap();
    let line = refusal(&["man", occupied.to_str().unwrap()], 1);
    assert!(line.contains("file") && !Path::new("file/headcount.1").exists(), "{line}");
}
