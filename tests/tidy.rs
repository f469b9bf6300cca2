//! The house rules that a program can check.

use std::fs;
use std::path::{Path, PathBuf};

const LINE_COLUMNS_MAX: usize = 100;
const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 700;

/// What each layer may not mention: data flows wire -> session -> channel -> shard -> server.
const LAYERS: [(&str, &[&str]); 13] = [
    ("src/ids.rs", &["crate::"]),
    ("src/wire", &["session", "channel", "shard", "server", "admin", "config", "cli", "auth"]),
    (
        "src/client",
        &[
            "auth", "channel", "session", "shard", "server", "rest", "admin", "config", "cli",
            "bench",
        ],
    ),
    ("src/auth", &["wire", "session", "channel", "shard", "server", "admin", "config", "cli"]),
    ("src/channel", &["wire", "session", "shard", "server", "admin", "config", "cli"]),
    (
        "src/relay",
        &["session", "channel", "shard", "store", "server", "admin", "config", "cli", "client"],
    ),
    ("src/session", &["shard", "server", "admin", "config", "cli"]),
    ("src/shard", &["server", "admin", "config", "cli"]),
    ("src/store", &["session", "server", "admin", "rest", "cli", "client", "bench"]),
    ("src/admin", &["server", "config", "cli"]),
    ("src/rest", &["server", "admin", "config", "cli"]),
    ("src/config", &["server", "shard", "session", "admin", "cli"]),
    ("src/doctor", &["wire", "session", "channel", "shard", "store", "admin", "rest", "cli"]),
];

/// Code that reads clocks: not the core, and not the client's half of the protocols.
const SHELLS: &[&str] = &[
    "src/server",
    "src/store",
    "src/bench",
    "src/cli",
    "src/client/callbacks",
    "src/client/channel.rs",
    "src/client/driver",
    "src/client/graph",
    "src/client/member.rs",
    "src/client/mod.rs",
    "src/client/presence.rs",
    "src/client/signing.rs",
];

/// Code that only the named folders may contain.
const CONFINED: [(&str, &[&str]); 6] = [
    ("glommio::", &["src/server"]),
    ("unsafe {", &["src/server"]),
    ("unsafe fn", &["src/server"]),
    ("Instant::now", SHELLS),
    ("SystemTime::now", SHELLS),
    ("thread::spawn", &["src/server", "src/bench", "src/cli"]),
];

/// Files on the path of an event from a home to its subscribers. Objects are referred to by number
/// there, and belong to one thread.
const FAN_OUT: [&str; 5] = [
    "src/shard/home/deliver.rs",
    "src/shard/home/outgoing.rs",
    "src/shard/home/send_queue.rs",
    "src/shard/home/snapshot_sweep.rs",
    "src/shard/home/sweeps.rs",
];
const NOT_PER_DELIVERY: [&str; 7] =
    ["router", "find_key", ".find(&", "HashMap", "Mutex", "RwLock", "RefCell"];

/// Code that is not allowed outside tests, with the replacement.
const BANNED: [(&str, &str); 11] = [
    (".unwrap()", "return an error, or `assert!` with the value"),
    (".expect(", "return an error, or `assert!` with the value"),
    ("todo!(", "finish it"),
    ("unimplemented!(", "finish it"),
    ("dbg!(", "remove it"),
    ("print!(", "write, and handle or ignore the error: it panics when standard output is gone"),
    ("println!(", "write, and handle or ignore the error: it panics when a stream is gone"),
    ("from_env_lossy(", "`EnvFilter` prints what it ignores, and panics when that fails"),
    (".parse_lossy(", "`EnvFilter` prints what it ignores, and panics when that fails"),
    ("ratatui::restore", "it prints what fails, and panics on a terminal that is gone"),
    ("ratatui::try_init", "its panic hook prints what fails"),
];

struct Source {
    path: PathBuf,
    /// Lines before the file's inline tests.
    code: Vec<String>,
    all: Vec<String>,
}

fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(read(root, &path));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!found.is_empty(), "no sources in {folder}");
    found
}

fn read(root: &Path, path: &Path) -> Source {
    let text = fs::read_to_string(path).expect("a readable source");
    let all: Vec<String> = text.lines().map(str::to_string).collect();
    let tests_at = all.iter().position(|line| line.starts_with("#[cfg(test)]"));
    let code = all[..tests_at.unwrap_or(all.len())].to_vec();
    Source { path: path.strip_prefix(root).expect("a path below the root").into(), code, all }
}

/// The line without its comment.
fn without_comment(line: &str) -> &str {
    line.split("//").next().unwrap_or(line)
}

fn report(rule: &str, findings: Vec<String>) {
    assert!(findings.is_empty(), "{rule}:\n  {}", findings.join("\n  "));
}

fn code_lines(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    source.code.iter().enumerate().map(|(at, line)| (at + 1, without_comment(line)))
}

#[test]
fn layers_do_not_look_up() {
    let mut findings = Vec::new();
    for source in sources("src") {
        let layer = LAYERS.iter().find(|(layer, _)| source.path.starts_with(layer));
        let Some((_, forbidden)) = layer else { continue };
        for (at, line) in code_lines(&source) {
            let looks_up = forbidden.iter().any(|module| {
                let module = module.trim_end_matches("::");
                line.contains(&format!("crate::{module}::"))
                    || line.contains(&format!("crate::{module};"))
                    || (module == "crate" && line.contains("use crate::"))
            });
            if looks_up {
                findings.push(format!("{}:{at}: {}", source.path.display(), line.trim()));
            }
        }
    }
    report("a layer knows only those below it", findings);
}

/// What the feature `client` may not bring in: it builds on any Unix, and quickly.
#[test]
fn the_client_builds_without_the_server() {
    let cargo = std::process::Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--edges", "normal", "--prefix", "none"])
        .args(["--no-default-features", "--features", "client"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo");
    let tree = String::from_utf8(cargo.stdout).expect("names");
    let crates: Vec<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(crates.contains(&"httparse"), "{crates:?}");
    let server =
        ["glommio", "io-uring", "hyper", "clap", "jsonwebtoken", "mio", "ratatui", "tracing"];
    let found = server.into_iter().filter(|name| crates.contains(name)).map(str::to_owned);
    report("crates of the server in the client", found.collect());
}

#[test]
fn dangerous_things_stay_where_they_belong() {
    let mut findings = Vec::new();
    for source in sources("src") {
        for (at, line) in code_lines(&source) {
            for (thing, places) in CONFINED {
                if line.contains(thing) && !places.iter().any(|p| source.path.starts_with(p)) {
                    findings.push(format!("{}:{at}: `{thing}`", source.path.display()));
                }
            }
        }
    }
    report("only the shell may do this", findings);
}

#[test]
fn fan_out_neither_locks_nor_looks_names_up() {
    let mut fan_out = sources("src");
    fan_out.retain(|source| FAN_OUT.iter().any(|file| source.path == Path::new(file)));
    assert_eq!(fan_out.len(), FAN_OUT.len(), "{FAN_OUT:?} are where it happens");
    let mut findings = Vec::new();
    for source in &fan_out {
        for (at, line) in code_lines(source) {
            for thing in NOT_PER_DELIVERY.iter().filter(|thing| line.contains(**thing)) {
                findings.push(format!("{}:{at}: `{thing}`", source.path.display()));
            }
        }
    }
    report("locks, and hashes of names, have no place in fan-out", findings);
}

#[test]
fn every_unsafe_says_why_it_is_safe() {
    let mut findings = Vec::new();
    for source in sources("src") {
        for (at, line) in source.all.iter().enumerate() {
            if !without_comment(line).contains("unsafe {") {
                continue;
            }
            let before = &source.all[at.saturating_sub(6)..=at];
            if !before.iter().any(|line| line.contains("// SAFETY:")) {
                findings.push(format!("{}:{}", source.path.display(), at + 1));
            }
        }
    }
    report("unsafe without `// SAFETY:`", findings);
}

#[test]
fn nothing_panics_on_what_others_control() {
    let mut findings = Vec::new();
    for source in sources("src") {
        for (at, line) in code_lines(&source) {
            for (thing, instead) in BANNED {
                if line.contains(thing) {
                    let path = source.path.display();
                    findings.push(format!("{path}:{at}: `{thing}`: {instead}"));
                }
            }
        }
    }
    report("banned outside tests", findings);
}

#[test]
fn lines_fit() {
    let mut findings = Vec::new();
    for source in sources("src").into_iter().chain(sources("tests")).chain(sources("benches")) {
        for (at, line) in source.all.iter().enumerate() {
            let columns = line.chars().count();
            // A row of a table in a doc comment cannot be broken.
            if columns > LINE_COLUMNS_MAX && !line.starts_with("//! |") {
                findings.push(format!("{}:{}: {columns}", source.path.display(), at + 1));
            }
        }
    }
    report("lines of more than 100 columns", findings);
}

#[test]
fn functions_and_files_are_short() {
    let mut findings = Vec::new();
    for source in sources("src") {
        let lines = source.code.len();
        if lines > FILE_LINES_MAX {
            findings.push(format!("{}: {lines} lines", source.path.display()));
        }
        for (name, at, lines) in functions(&source.code) {
            if lines > FUNCTION_LINES_MAX {
                findings.push(format!("{}:{at}: {name}: {lines}", source.path.display()));
            }
        }
    }
    report("functions over 70 lines or files over 700", findings);
}

/// Name, first line and length of each function, by indentation as rustfmt leaves it.
fn functions(code: &[String]) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for (at, line) in code.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let Some(name) = function_name(line.trim_start()) else { continue };
        let end = format!("{}}}", " ".repeat(indent));
        let length = code[at..].iter().position(|line| *line == end);
        found.push((name, at + 1, length.map_or(1, |length| length + 1)));
    }
    found
}

fn function_name(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "fn")?;
    let is_signature = words[..at].iter().all(|word| {
        word.starts_with("pub")
            || ["const", "async", "unsafe", "in"].contains(word)
            || word.ends_with(')')
    });
    let name = words.get(at + 1)?.split(['(', '<']).next()?;
    is_signature.then(|| name.to_string())
}

#[test]
fn the_checks_can_fail() {
    let code: Vec<String> = std::iter::once("    pub(super) fn long() {".to_string())
        .chain(std::iter::repeat_n("        1;".to_string(), 80))
        .chain(std::iter::once("    }".to_string()))
        .collect();
    assert_eq!(functions(&code), [("long".to_string(), 1, 82)]);
    assert_eq!(without_comment("a // .unwrap()"), "a ");
}
