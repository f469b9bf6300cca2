//! What an operator does: start, refuse to start, look at members, stop.

use headcount_blackbox::cli::{self, JsonLines};
use headcount_blackbox::{Config, Server, Transport, cursor, join_room, ms, user};
use serde_json::{Value, json};
use std::time::Duration;

fn members_json(server: &Server, channel: &str) -> Value {
    let admin = server.admin.to_string();
    let output = cli::run(&["members", channel, "--admin", &admin, "--json"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[tokio::test]
async fn members_lists_who_is_present_with_their_states() {
    let server = Server::start();
    let _room = join_room(&server, "doc:1", &[user("alice"), user("bob")]).await;
    let answer = members_json(&server, "doc:1");
    assert_eq!(answer["app"], "demo");
    assert_eq!(answer["channel"], "doc:1");
    let members = answer["members"].as_array().expect("an array");
    let seen: Vec<_> = members.iter().map(|member| (&member["user"], &member["state"])).collect();
    let states = [json!({"cursor": 0}), json!({"cursor": 1})];
    assert_eq!(seen, [(&json!("alice"), &states[0]), (&json!("bob"), &states[1])]);
    for member in members {
        assert!(member["age_ms"].as_u64().is_some_and(|age| age < 60_000), "{member}");
        assert!(!member["connection"].is_null(), "{member}");
    }
}

#[tokio::test]
async fn members_shows_a_state_that_is_no_json_as_base64() {
    let server = Server::start();
    let mut alice = server.login(&user("alice")).await;
    alice.update("doc:1", b"\xc1\xff\x00").await;
    alice.expect_alive().await;
    let answer = members_json(&server, "doc:1");
    assert_eq!(answer["members"][0]["state_base64"], "wf8A", "{answer}");
}

#[tokio::test]
async fn members_of_a_channel_where_nobody_is_are_an_empty_list() {
    let server = Server::start();
    assert_eq!(members_json(&server, "doc:1")["members"], json!([]));
}

#[tokio::test]
async fn members_knows_apps_and_any_channel_name() {
    let server = Config::new().key("other.kid_other", "sk_other").start();
    let channel = "комната / ?#%";
    let _room = join_room(&server, channel, &[user("alice")]).await;
    assert_eq!(members_json(&server, channel)["members"][0]["user"], "alice");
    let admin = server.admin.to_string();
    let arguments = ["members", channel, "--app", "other", "--admin", &admin, "--json"];
    let output = cli::run(&arguments);
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(answer["members"], json!([]));
}

#[tokio::test]
async fn watch_prints_one_line_per_event() {
    let server = Server::start();
    let mut room = join_room(&server, "doc:1", &[user("alice")]).await;
    let admin = server.admin.to_string();
    let mut watch = JsonLines::start(&["watch", "doc:1", "--json", "--admin", &admin]);
    expect_event(&mut watch, "present", "alice", json!({"cursor": 0})).await;

    let mut bob = server.login(&user("bob")).await;
    bob.update("doc:1", &cursor(7)).await;
    expect_event(&mut watch, "enter", "bob", json!({"cursor": 7})).await;
    room[0].update("doc:1", &cursor(8)).await;
    expect_event(&mut watch, "update", "alice", json!({"cursor": 8})).await;
    bob.close().await;
    let line = watch.next().await;
    assert_eq!((&line["event"], &line["user"]), (&json!("leave"), &json!("bob")), "{line}");
}

async fn expect_event(watch: &mut JsonLines, event: &str, user: &str, state: Value) {
    let line = watch.next().await;
    let seen = (&line["event"], &line["user"], &line["state"]);
    assert_eq!(seen, (&json!(event), &json!(user), &state), "{line}");
}

#[tokio::test]
async fn a_watcher_is_no_member() {
    let server = Server::start();
    let mut room = join_room(&server, "doc:1", &[user("alice")]).await;
    let admin = server.admin.to_string();
    let mut watch = JsonLines::start(&["watch", "doc:1", "--json", "--admin", &admin]);
    expect_event(&mut watch, "present", "alice", json!({"cursor": 0})).await;
    room[0].expect_silence(100).await;
    let members = &members_json(&server, "doc:1")["members"];
    assert_eq!(members.as_array().map(Vec::len), Some(1), "{members}");
}

#[tokio::test]
async fn commands_against_no_server_fail_with_one_error_line() {
    let output = cli::run(&["members", "doc:1", "--admin", "127.0.0.1:1", "--json"]);
    assert!(!output.status.success());
    let stderr = String::from_utf8_lossy(&output.stderr);
    let errors = stderr.lines().filter(|line| line.starts_with("error:"));
    assert_eq!(errors.count(), 1, "{stderr}");
    assert!(stderr.contains("127.0.0.1:1"), "{stderr}");
}

#[test]
fn help_and_version_are_given() {
    for arguments in [&["--help"][..], &["serve", "--help"], &["members", "--help"], &["--version"]]
    {
        let output = cli::run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("headcount"), "{arguments:?}: {text}");
    }
}

#[tokio::test]
async fn sigterm_says_goodbye_to_every_session_and_exits_with_zero() {
    let mut server = Server::start();
    let mut room = join_room(&server, "doc:1", &["alice", "bob"].map(user)).await;
    let mut tcp = server.login(&user("carol").over(Transport::Tcp)).await;
    server.terminate();
    for client in &mut room {
        let code = client.expect_closed().await;
        assert!(code.is_some(), "{}: a Close frame with a code", client.name);
    }
    tcp.expect_end().await;
    drop(room);
    let status = server.exited(ms(10_000)).await;
    assert_eq!(status.code(), Some(0), "{status}");
}

#[tokio::test]
async fn sigterm_ends_a_server_whose_sessions_do_not_answer() {
    let mut server = Server::start();
    let room = join_room(&server, "doc:1", &["alice", "bob"].map(user)).await;
    server.terminate();
    let status = server.exited(ms(30_000)).await;
    assert_eq!(status.code(), Some(0), "{status}");
    drop(room);
}

#[tokio::test]
async fn a_restarted_server_is_empty_and_works() {
    let server = Server::start();
    let room = join_room(&server, "doc:1", &["alice", "bob"].map(user)).await;
    drop(room);
    let server = server.restart();
    assert_eq!(members_json(&server, "doc:1")["members"], json!([]));
    join_room(&server, "doc:1", &["alice", "bob"].map(user)).await;
}

#[tokio::test]
async fn a_server_without_a_data_directory_works() {
    let server = Config::new().set("data.dir", "\"\"").start();
    join_room(&server, "doc:1", &["alice", "bob"].map(user)).await;
}

#[test]
fn a_taken_port_is_refused_and_named() {
    for listen in ["listen.http", "listen.sync_tcp", "listen.admin"] {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = taken.local_addr().expect("bound").to_string();
        let refusal = Config::new().set(listen, &format!("\"{address}\"")).refused();
        assert!(refusal.error_line().contains(&address), "{listen}: {refusal:?}");
    }
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_name() {
    for (path, nearest) in [
        ("cores.shard", "shards"),
        ("listen.htpp", "http"),
        ("limits.state_byte_max", "state_bytes_max"),
        ("auth.anonymus", "anonymous"),
    ] {
        let refusal = Config::new().set(path, "1").refused();
        let (_, key) = path.split_once('.').expect("section.key");
        let line = refusal.error_line();
        assert!(line.contains(key) && line.contains(nearest), "{path}: {line}");
    }
}

#[test]
fn an_unknown_section_is_refused() {
    let refusal = Config::new().set("core.shards", "1").refused();
    let line = refusal.error_line();
    assert!(line.contains("cores"), "{line}");
}

#[test]
fn values_of_the_wrong_type_or_range_are_refused() {
    for (path, value) in [
        ("cores.shards", "\"many\""),
        ("cores.shards", "0"),
        ("cores.shards", "100000"),
        ("listen.http", "\"no address\""),
        ("limits.state_bytes_max", "-1"),
    ] {
        let refusal = Config::new().set(path, value).refused();
        let (_, key) = path.split_once('.').expect("section.key");
        assert!(refusal.error_line().contains(key), "{path} = {value}: {refusal:?}");
    }
}

#[test]
fn an_unsafe_bind_is_refused() {
    for listen in ["listen.http", "listen.sync_tcp"] {
        let refusal = Config::new().set(listen, "\"0.0.0.0:0\"").refused();
        let line = refusal.error_line();
        assert!(line.contains("--insecure-plaintext"), "{listen}: {line}");
    }
}

#[test]
fn a_data_directory_that_cannot_be_written_is_refused_and_named() {
    let home = tempfile::tempdir().expect("temporary directory");
    // Below a regular file, because root may write into any directory.
    let file = home.path().join("file");
    std::fs::write(&file, b"").expect("writes");
    let dir = file.join("data");
    let refusal = Config::new().set("data.dir", &format!("{dir:?}")).refused();
    assert!(refusal.error_line().contains(&dir.display().to_string()), "{refusal:?}");
}

#[test]
fn a_configuration_that_is_not_there_is_refused_and_named() {
    let output = cli::run(&["serve", "--config", "/no/such/headcount.toml"]);
    assert!(!output.status.success(), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.lines().any(|line| line.starts_with("error:")), "{stderr}");
    assert!(stderr.contains("/no/such/headcount.toml"), "{stderr}");
}

#[tokio::test]
async fn a_server_that_busy_polls_answers_after_every_pause_and_sleeps_when_nobody_speaks() {
    let server = Config::new().set("cores.spin_us", "20000").start();
    let mut alice = server.login(&user("alice")).await;
    for pause_us in [0, 30, 60, 200, 1_000, 5_000, 40_000] {
        tokio::time::sleep(Duration::from_micros(pause_us)).await;
        alice.expect_alive().await;
    }
    tokio::time::sleep(ms(100)).await;
    let before = server.cpu_time();
    tokio::time::sleep(ms(2_000)).await;
    let used = server.cpu_time() - before;
    assert!(used <= ms(400), "{used:?} in 2 s of silence");
}
