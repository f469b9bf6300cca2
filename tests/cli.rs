//! The real binary as an operator runs it: what it prints, and how it ends.
#![cfg(feature = "server")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;

use command::{headcount, printed, refusal, run, stdout};

mod command;

/// `EX_CONFIG` of sysexits.h.
const CONFIG: i32 = 78;

/// A configuration file of its own for each test.
fn file(test: &str, text: &str) -> String {
    let path: PathBuf = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-{test}.toml"));
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn config_check_says_what_would_be_served() {
    let text = "
        [cores]
        shards = 3
        [listen]
        http = \"127.0.0.1:9400\"
        [[auth.key]]
        name = \"shop.main\"
        secret = \"sk_secret\"
        [[namespace]]
        match = \"chat:*\"
        [[namespace]]
        match = \"*\"
    ";
    let output = printed(&["config", "check", &file("check", text)]);
    let lines: Vec<&str> = output.lines().map(str::trim).collect();
    assert_eq!(lines[0], "ok");
    for line in [
        "shards      3",
        "http        127.0.0.1:9400",
        "admin       127.0.0.1:7402",
        "keys        shop.main",
        "namespaces  2",
    ] {
        assert!(lines.contains(&line), "{line}: {output}");
    }
    assert!(output.contains("anonymous   refused (default: keys are configured)"), "{output}");
    assert!(!output.contains("sk_secret"), "{output}");
}

#[test]
fn config_check_without_a_file_checks_the_defaults() {
    let output = printed(&["config", "check"]);
    assert!(output.starts_with("ok\n") && output.contains("127.0.0.1:7400"), "{output}");
}

#[test]
fn config_check_takes_the_file_that_serve_would_take() {
    let file = file("environment", "[cores]\nshards = 7\n");
    let output = headcount(&["config", "check"]).env("HEADCOUNT_CONFIG", file).output().unwrap();
    assert!(stdout(&output).contains("shards      7"), "{output:?}");
}

#[test]
fn config_check_refuses_what_serve_would_refuse() {
    for (test, text, named) in [
        ("unknown", "[cores]\nshard = 1\n", "shards"),
        ("range", "[cores]\nshards = 0\n", "line 2"),
        ("syntax", "[cores\n", "line 1"),
        ("exposed", "[listen]\nhttp = \"0.0.0.0:7400\"\n", "--insecure-plaintext"),
        (
            "key-file",
            "[[auth.key]]\nname = \"a.b\"\nalgorithm = \"RS256\"\npublic_key_file = \"no.pem\"\n",
            "no.pem",
        ),
    ] {
        let file = file(test, text);
        let line = refusal(&["config", "check", &file], CONFIG);
        assert!(line.contains(named), "{test}: {line}");
        if test != "key-file" {
            assert_eq!(refusal(&["serve", "--config", &file], CONFIG), line, "{test}");
        }
    }
    let line = refusal(&["config", "check", "/no/such/headcount.toml"], CONFIG);
    assert!(line.contains("/no/such/headcount.toml"), "{line}");
}

#[test]
fn config_check_knows_servers_that_accept_plaintext() {
    let text = "[listen]\nhttp = \"0.0.0.0:7400\"\n[[auth.key]]\nname = \"a.b\"\nsecret = \"s\"\n";
    let file = file("plaintext", text);
    refusal(&["config", "check", &file], CONFIG);
    printed(&["config", "check", &file, "--insecure-plaintext"]);
}

#[test]
fn config_print_gives_a_configuration_that_is_accepted() {
    let page = printed(&["config", "print", &file("print", "[cores]\nshards = 2\n")]);
    assert!(page.contains("shards = 2") && page.contains("dir = \"headcount-data\""), "{page}");
    printed(&["config", "check", &file("printed", &page)]);
}

#[test]
fn config_explain_says_where_settings_come_from() {
    let text = "[[namespace]]\nmatch = \"chat:*\"\npresence_grace_ms = 7\n";
    let file = file("explain", text);
    let inside = printed(&["config", "explain", "chat:a", "--config", &file]);
    assert!(inside.contains("presence_grace_ms = 7"), "{inside}");
    assert!(inside.contains(&file), "{inside}");
    let outside = printed(&["config", "explain", "doc:1", "--config", &file]);
    assert!(outside.contains("no namespace matches"), "{outside}");
}

#[test]
fn wrong_usage_ends_with_2() {
    for arguments in [
        &[][..],
        &["member"],
        &["members"],
        &["members", ""],
        &["members", "doc:1", "--admin", "nowhere"],
        &["serve", "--http", "7400"],
        &["serve", "--shards", "many"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert_eq!(stdout(&output), "", "{arguments:?}");
    }
}

#[test]
fn without_a_server_the_error_says_what_to_do() {
    // Bound, and closed when dropped: no server listens on the port.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for command in ["members", "watch"] {
        let line = refusal(&[command, "doc:1", "--admin", &address], 1);
        let expected = format!(
            "error: no server at {address}: connection refused: start one with `headcount serve` \
             or name its address with --admin\n"
        );
        assert_eq!(line, expected);
    }
}

#[test]
fn a_proxy_of_the_environment_is_not_asked() {
    let (address, requests) = answering(&[ok(r#"{"members":[]}"#)]);
    let mut command = headcount(&["members", "doc:1", "--admin", &address]);
    let output = command.env("HTTP_PROXY", "http://127.0.0.1:1").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(requests.recv().unwrap(), "GET /v1/apps/demo/channels/doc%3A1/members HTTP/1.1");
}

/// A server that answers one connection after the other with these bytes, and the request lines
/// it was sent.
fn answering(answers: &[String]) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, requests) = mpsc::channel();
    let answers = answers.to_vec();
    thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            sender.send(lines.next().unwrap().unwrap()).unwrap();
            while !lines.next().unwrap().unwrap().is_empty() {}
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    (address, requests)
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// A chunked stream, one chunk per piece, without its end.
fn stream(pieces: &[&str]) -> String {
    let chunk = |piece: &&str| format!("{:x}\r\n{piece}\r\n", piece.len());
    let chunks: String = pieces.iter().map(chunk).collect();
    format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunks}")
}

const MEMBERS: &str = concat!(
    r#"{"app":"other","channel":"a/b","members":[{"user":"bo\u001bb","#,
    r#""connection":"0.1.2","state":{"x":1},"age_ms":1200,"lingering":false}]}"#
);

#[test]
fn members_prints_a_table_or_json() {
    let (address, requests) = answering(&[ok(MEMBERS), ok(MEMBERS)]);
    let arguments = ["members", "a/b", "--app", "other", "--admin", &address];
    let table = "USER       STATE     AGE   CONNECTION\n\
                 bo\\u001bb  {\"x\": 1}  1.2s  0.1.2\n\
                 1 member in a/b (app other)\n";
    assert_eq!(printed(&arguments), table);
    assert_eq!(requests.recv().unwrap(), "GET /v1/apps/other/channels/a%2Fb/members HTTP/1.1");
    let json = printed(&[&arguments[..], &["--json"]].concat());
    assert_eq!(json, format!("{MEMBERS}\n"));
}

#[test]
fn an_answer_that_is_no_member_list_is_an_error() {
    let refused = "HTTP/1.1 404 Not Found\r\ncontent-length: 11\r\n\r\nno\x1b such\r\nx";
    for (answer, named) in [
        (refused.to_owned(), "404 Not Found: no\\u001b such;"),
        (ok("<html>"), "not a list of members"),
        ("SSH-2.0-OpenSSH\r\n".to_owned(), "cannot ask"),
    ] {
        let (address, _requests) = answering(&[answer]);
        let line = refusal(&["members", "doc:1", "--admin", &address], 1);
        assert!(line.contains(named) && line.contains(&address), "{line}");
    }
}

const PRESENT: &str =
    r#"{"event":"present","user":"alice","connection":"0.1.2","state":{"x":1},"age_ms":5}"#;
const LEAVE: &str = concat!(
    r#"{"event":"leave","at_ms":3661000,"user":"alice","#,
    r#""connection":"0.1.2","state":{"x":1},"age_ms":0}"#
);
const READY: &str = r#"{"event":"ready","members":1}"#;

#[test]
fn watch_prints_lines_until_the_server_goes_away() {
    let (cut, rest) = LEAVE.split_at(20);
    let pieces = [PRESENT, "\n", READY, "\n\n\r\n", cut, rest, "\n", "{\"event\":\"ent"];
    let (address, _requests) = answering(&[stream(&pieces), stream(&pieces)]);
    let json = run(&["watch", "doc:1", "--admin", &address, "--json"]);
    assert_eq!(stdout(&json), format!("{PRESENT}\n{LEAVE}\n"));
    let text = run(&["watch", "doc:1", "--admin", &address]);
    let expected = "--:--:-- present alice {\"x\": 1} (age 0.0s, connection 0.1.2)\n1 member\n\
                    01:01:01 leave   alice {\"x\": 1} (age 0.0s, connection 0.1.2)\n";
    assert_eq!(stdout(&text), expected);
    for output in [json, text] {
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.starts_with(&format!("error: lost the server at {address}: ")), "{stderr}");
        assert_eq!(stderr.matches('\n').count(), 1, "{stderr}");
    }
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let long = vec!["{\"event\":\"reset\"}\n"; 100_000];
    let (address, _requests) = answering(&[stream(&long)]);
    let mut command = headcount(&["watch", "doc:1", "--admin", &address, "--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.stderr, b"");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_token_is_printed_alone_and_the_key_ring_accepts_it() {
    use headcount::auth::{Capability, Key, Keyring};

    let secret = "demo.kid_main:sk_main_secret";
    let text = printed(&["token", "alice", "--key", secret, "--ttl-s", "60"]);
    let key = Key::from_text(secret, Capability::all()).expect("a key");
    let ring = Keyring::new(vec![key]).expect("a key ring");
    let now_ms = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("a time after 1970")
        .as_millis() as u64;
    let identity = ring.verify_token(text.trim_end(), now_ms).expect("a good token");
    assert_eq!((&*identity.user, &*identity.grant.app), ("alice", "demo"));
    assert!(identity.expires_at_wall_ms.is_some_and(|end| end <= now_ms + 61_000));
}

#[test]
fn a_token_that_no_server_would_accept_is_not_made() {
    let cases: [&[&str]; 3] = [
        &["token", "", "--key", "demo.k:s"],
        &["token", "alice", "--key", "nonsense"],
        &["token", "alice", "--key", "demo.k:s", "--capability", "{\"*\":[\"fly\"]}"],
    ];
    for case in cases {
        refusal(case, 1);
    }
}
