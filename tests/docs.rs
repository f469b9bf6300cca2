//! The documentation says what the code does: configurations in it are accepted, commands are
//! understood, links lead somewhere, and the tables of protocols have every message.
#![cfg(feature = "server")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Output, Stdio};

use headcount::error::FrameError;
use headcount::wire::foony::{
    Action, Content, Delivery, ErrorCode, Event, Malformed, Member, Message, binary, json,
};
use headcount::wire::sync::{Direction, Layout, MessageType};
use strum::VariantArray;

use command::{headcount, printed};
use markdown::{Page, page, pages, root};

mod command;
mod markdown;

/// What operators and developers of clients read.
fn guides() -> Vec<Page> {
    let mut guides = pages("docs");
    guides.extend([page("README.md"), page("tuning/README.md")]);
    guides
}

#[test]
fn the_reference_of_the_configuration_is_that_of_the_code() {
    let committed = page("docs/configuration.md").text;
    let generated = printed(&["config", "reference"]);
    if committed != generated {
        let mut both = committed.lines().zip(generated.lines());
        let differing = both.find(|(old, new)| old != new);
        panic!(
            "run `cargo run -- config reference > docs/configuration.md`: {} lines instead of {}, \
             the first other one is {differing:?}",
            committed.lines().count(),
            generated.lines().count(),
        );
    }
}

#[test]
fn configurations_are_accepted() {
    let mut count = 0;
    for page in guides() {
        for (number, block) in page.blocks().iter().enumerate() {
            if block.language != "toml" {
                continue;
            }
            let name = page.path.display().to_string().replace(['/', '.'], "-");
            let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{number}.toml"));
            fs::write(&file, &block.text).unwrap();
            let output = headcount(&["config", "check"]).arg(&file).output().unwrap();
            assert!(output.status.success(), "{}: {output:?}\n{}", page.path.display(), block.text);
            count += 1;
        }
    }
    assert!(count >= 4, "only {count} configurations");
}

#[test]
fn json_is_json() {
    let mut count = 0;
    for page in guides() {
        for block in page.blocks().iter().filter(|block| block.language == "json") {
            let parsed = serde_json::from_str::<serde_json::Value>(&block.text);
            assert!(parsed.is_ok(), "{}: {parsed:?}\n{}", page.path.display(), block.text);
            count += 1;
        }
    }
    assert!(count >= 1, "no JSON");
}

/// Lines of a shell script, those that are continued in one.
fn lines(script: &str) -> Vec<String> {
    let joined = script.replace("\\\n", " ");
    joined.lines().map(|line| line.trim_start_matches("$ ").to_owned()).collect()
}

/// Lets a shell split a line into its words. The command is only asked for its help, which it gives
/// when it knows all options before.
fn parse_only(line: &str) -> Output {
    let script = format!(
        "headcount() {{ \"$HEADCOUNT\" \"$@\" --help >/dev/null || exit 2; }}\n\
         systemctl() {{ :; }}\n{line}\n"
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).env("HEADCOUNT", env!("CARGO_BIN_EXE_headcount"));
    shell.env("KEY", "demo.main:secret").current_dir(env!("CARGO_TARGET_TMPDIR"));
    shell.stdin(Stdio::null()).output().unwrap()
}

#[test]
fn commands_in_blocks_are_understood() {
    let mut count = 0;
    for page in guides() {
        for block in page.blocks() {
            if !matches!(block.language.as_str(), "sh" | "console") {
                continue;
            }
            for line in lines(&block.text) {
                let line = line.replace("target/release/headcount", "headcount");
                let line = line.replace("cargo run --release -- ", "headcount ");
                if line.starts_with("headcount ") {
                    let output = parse_only(&line);
                    assert!(output.status.success(), "{}: {line}: {output:?}", page.path.display());
                    count += 1;
                }
            }
        }
    }
    assert!(count >= 8, "only {count} commands");
}

#[test]
fn commands_in_text_are_understood() {
    let mut count = 0;
    for page in guides() {
        for code in page.codes() {
            // Words for the reader: alternatives, and what may be left out.
            let is_pattern = code.contains(['|', '[', '"']) || code.contains("SCENARIO");
            if !code.starts_with("headcount ") || is_pattern {
                continue;
            }
            let words: Vec<&str> = code.split_whitespace().skip(1).collect();
            let words: Vec<&str> = words.into_iter().map(|word| word.trim_matches('\'')).collect();
            let output = headcount(&words).arg("--help").output().unwrap();
            assert!(output.status.success(), "{}: {code}: {output:?}", page.path.display());
            count += 1;
        }
    }
    assert!(count >= 10, "only {count} commands");
}

#[test]
fn the_check_of_commands_can_fail() {
    for line in ["headcount serve --no-such-option", "headcount nothing", "headcount watch --key"] {
        assert!(!parse_only(line).status.success(), "{line}");
    }
    assert!(parse_only("headcount join 'a b' --as alice | cat").status.success());
}

/// A path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => _ = normal.pop(),
            Component::CurDir => {}
            part => normal.push(part),
        }
    }
    normal
}

#[test]
fn links_lead_somewhere() {
    let mut all = guides();
    all.extend(pages("benches/results"));
    let mut broken = Vec::new();
    for from in &all {
        for link in from.links().into_iter().filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link.as_str(), ""));
            let folder = from.path.parent().unwrap();
            let target = match file {
                "" => from.path.clone(),
                file => normal(&folder.join(file)),
            };
            let is_there = root().join(&target).exists();
            let is_page = target.extension().is_some_and(|extension| extension == "md");
            let has_anchor = |path: &Path| {
                page(path.to_str().unwrap()).anchors().iter().any(|found| found == anchor)
            };
            if !is_there || (!anchor.is_empty() && !(is_page && has_anchor(&target))) {
                broken.push(format!("{}: {link}", from.path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_sync_message_is_in_the_table() {
    let table = page("docs/protocols.md").table("NodeDB sync protocol", "code");
    let rows: Vec<[String; 4]> =
        table.rows.iter().map(|row| [0, 1, 2, 3].map(|column| row[column].text.clone())).collect();
    let expected = MessageType::VARIANTS.iter().map(|message| {
        let name: &str = message.into();
        let direction = match message.direction() {
            Direction::ClientToServer => "C",
            Direction::ServerToClient => "S",
            Direction::Both => "CS",
        };
        let since = match message.since() {
            Layout::V0_0 => "0.0",
            Layout::V0_1 => "0.1",
            Layout::V0_4 => "0.4",
            Layout::V0_6 => "0.6",
        };
        let code = format!("0x{:02X}", message.code());
        [code, name.to_owned(), direction.to_owned(), since.to_owned()]
    });
    assert_eq!(rows, expected.collect::<Vec<_>>());
    let support = ["full", "relay", "partly", "sent", "ignored", "not sent", "as `"];
    for row in &table.rows {
        let text = &row[4].text;
        let is_known = support.iter().any(|word| text.starts_with(word.trim_end_matches('`')));
        assert!(is_known, "{text}");
    }
}

/// The types of binary records: whether clients send them.
fn record_types() -> BTreeMap<u8, bool> {
    let mut types = BTreeMap::new();
    for code in 0..=u8::MAX {
        let bytes = [1, code];
        let record = binary::records(&bytes).next().unwrap().unwrap();
        let is_event = !matches!(record.event(), Err(FrameError::UnknownType));
        match (record.is_unknown(), is_event) {
            (false, false) => _ = types.insert(code, true),
            (true, true) => _ = types.insert(code, false),
            (true, false) => {}
            (false, true) => panic!("{code} is sent by both"),
        }
    }
    types
}

#[test]
fn every_foony_record_is_in_the_tables() {
    let page = page("docs/protocols.md");
    let tables = page.tables().into_iter().filter(|table| table.heading == "Foony Realtime");
    let mut rows = BTreeMap::new();
    for table in tables {
        for (code, direction) in table.texts("code").iter().zip(table.texts("direction")) {
            let earlier = rows.insert(code.parse::<u8>().unwrap(), direction == "C");
            assert_eq!(earlier, None, "{code} twice");
        }
    }
    assert_eq!(rows, record_types());
}

/// One event of each kind that JSON has.
fn events() -> Vec<Event<'static>> {
    let content = Content::One(Message::default());
    let delivery = Delivery {
        channel: "a".into(),
        message_id: "".into(),
        client_id: "".into(),
        timestamp_ms: 1,
        serial: 1,
        ephemeral: false,
        content,
    };
    let member = Member {
        action: Action::Enter,
        timestamp_ms: 1,
        channel: "a".into(),
        client_id: "".into(),
        connection_id: "".into(),
        data: b"",
        encoding: "".into(),
    };
    let (id, channel, messages) = (1, "a", Vec::new());
    vec![
        Event::Connected { connection_id: "".into(), keep_alive_ms: 1, client_id: "".into() },
        Event::Ack { id, serial: 0, resumed: None },
        Event::Delivery(delivery),
        Event::Member(member),
        Event::Error { id, code: ErrorCode::Server, message: "".into() },
        Event::Pong,
        Event::History { id, channel: channel.into(), messages: messages.clone(), more: false },
        Event::Fetched { id, channel: channel.into(), messages, resumed: true },
    ]
}

#[test]
fn every_json_frame_is_in_the_table() {
    let mut tables = page("docs/protocols.md").tables().into_iter();
    let table = tables.find(|table| table.columns.contains(&"JSON t".to_owned())).unwrap();
    let rows: Vec<(String, String)> =
        table.texts("JSON t").into_iter().zip(table.texts("direction")).collect();
    let is_request = |name: &str| {
        let text = format!("{{\"t\":\"{name}\",\"id\":1}}");
        let decoded = json::decode_request(text.as_bytes());
        !matches!(decoded, Err(Malformed { error: FrameError::UnknownType, .. }))
    };
    let mut sent: Vec<String> = Vec::new();
    for event in events() {
        let mut text = Vec::new();
        json::append_event(&event, &mut text);
        let frame: serde_json::Value = serde_json::from_slice(&text).unwrap();
        sent.push(frame["t"].as_str().unwrap().to_owned());
    }
    for (name, direction) in &rows {
        assert_eq!(is_request(name), direction == "C", "{name}");
        assert_eq!(sent.contains(name), direction == "S", "{name}");
    }
    for name in sent {
        assert!(rows.iter().any(|(row, _)| *row == name), "{name}");
    }
    assert!(!is_request("nothing"));
}
