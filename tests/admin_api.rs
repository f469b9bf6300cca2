//! The admin API as operators use it: every request of `openapi.json` against the real server.
#![cfg(feature = "server")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use foony_client::{Client, Server};
use headcount::wire::foony::{Action, Presence, Request};
use serde_json::{Value, json};
use ureq::Agent;
use ureq::http::Response;

mod command;
mod foony_client;
mod served;
mod tempdir;

const WITHIN: Duration = Duration::from_secs(5);

struct Api {
    agent: Agent,
    base: String,
    authorization: Option<String>,
}

impl Api {
    fn new(server: &Server) -> Api {
        let config = Agent::config_builder().http_status_as_error(false).proxy(None).build();
        let base = format!("http://127.0.0.1:{}", server.admin.port());
        Api { agent: config.new_agent(), base, authorization: None }
    }

    fn with(&self, authorization: &str) -> Api {
        let (agent, base) = (self.agent.clone(), self.base.clone());
        Api { agent, base, authorization: Some(authorization.to_owned()) }
    }

    fn answer(response: Result<Response<ureq::Body>, ureq::Error>) -> (u16, Value) {
        let mut response = response.expect("an answer");
        let body = response.body_mut().read_to_string().expect("a body");
        (response.status().as_u16(), serde_json::from_str(&body).unwrap_or_default())
    }

    fn get(&self, path: &str) -> (u16, Value) {
        let request = self.agent.get(format!("{}{path}", self.base));
        Api::answer(match &self.authorization {
            Some(authorization) => request.header("Authorization", authorization).call(),
            None => request.call(),
        })
    }

    fn found(&self, path: &str) -> Value {
        let (status, body) = self.get(path);
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let request = self.agent.post(format!("{}{path}", self.base));
        Api::answer(
            match &self.authorization {
                Some(authorization) => request.header("Authorization", authorization),
                None => request,
            }
            .send(body.to_string()),
        )
    }

    fn delete(&self, path: &str) -> u16 {
        Api::answer(self.agent.delete(format!("{}{path}", self.base)).call()).0
    }

    /// All items of a paged list.
    fn list(&self, path: &str, items: &str) -> Vec<Value> {
        let (mut listed, mut next) = (Vec::new(), String::new());
        loop {
            let page = self.found(&format!("{path}{next}"));
            listed.extend(page[items].as_array().expect("a list").iter().cloned());
            match page["next"].as_str() {
                Some(cursor) => next = format!("&cursor={cursor}"),
                None => return listed,
            }
        }
    }
}

fn enter(server: &Server, user: &str, channel: &'static str) -> Client {
    let mut client = Client::connect(server, user, "");
    client.ask(|id| {
        let (action, channel) = (Action::Enter, channel.into());
        Request::Presence(Presence { id, action, channel, data: b"{\"x\":1}", encoding: "".into() })
    });
    client
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < WITHIN, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn names(list: &[Value], key: &str) -> BTreeSet<String> {
    list.iter().map(|item| item[key].as_str().expect(key).to_owned()).collect()
}

#[test]
fn channels_are_listed_by_prefix_page_by_page() {
    let server = Server::start("[cores]\nshards = 2\n");
    let api = Api::new(&server);
    for n in 0..30 {
        let channel = format!("/v1/apps/demo/channels/{}:{n}/messages", ["chat", "doc"][n % 2]);
        assert_eq!(api.post(&channel, &json!({ "data": n })).0, 201);
    }
    let all = api.list("/v1/apps/demo/channels?limit=7", "channels");
    assert_eq!((all.len(), names(&all, "channel").len()), (30, 30));
    let chats = api.list("/v1/apps/demo/channels?prefix=chat%3A&limit=4", "channels");
    assert_eq!(chats.len(), 15);
    assert!(names(&chats, "channel").iter().all(|name| name.starts_with("chat:")));
    assert!(chats.iter().all(|channel| channel["serial"] == 1 && channel["members"] == 0));
    let count = api.found("/v1/apps/demo/channels?prefix=doc%3A&count=true");
    assert_eq!(count["count"], 15);
    assert!(api.list("/v1/apps/other/channels?limit=7", "channels").is_empty());
    for bad in ["limit=0", "limit=1001", "cursor=x", "count=7"] {
        assert_eq!(api.get(&format!("/v1/apps/demo/channels?{bad}")).0, 400, "{bad}");
    }
}

#[test]
fn members_are_listed_by_connection_and_by_user() {
    let server = Server::start("[cores]\nshards = 2\n");
    let api = Api::new(&server);
    let users: Vec<String> = (0..25).map(|n| format!("user-{}", n / 2)).collect();
    let _clients: Vec<Client> = users.iter().map(|user| enter(&server, user, "room:1")).collect();
    let path = "/v1/apps/demo/channels/room:1";
    let whole = api.found(&format!("{path}/members"));
    assert_eq!(whole["members"].as_array().expect("members").len(), 25);
    assert!(whole.get("next").is_none(), "all were asked for");
    let pages = api.list(&format!("{path}/members?limit=4"), "members");
    let connections = |members: &[Value]| -> Vec<String> {
        members.iter().map(|member| member["connection"].to_string()).collect()
    };
    assert_eq!(connections(&pages), connections(whole["members"].as_array().expect("members")));
    let by_user = api.found(&format!("{path}/members?by=user"));
    let by_user = by_user["users"].as_array().expect("users");
    assert_eq!(by_user.len(), 13);
    assert_eq!(by_user[0]["connections"].as_array().map(Vec::len), Some(2));
    assert_eq!(by_user[0]["newest"]["state"], json!({ "x": 1 }));
    let occupancy = api.found(path);
    assert_eq!((&occupancy["members"], &occupancy["users"]), (&json!(25), &json!(13)));
    let nothing = api.found("/v1/apps/demo/channels/room:2");
    assert_eq!((&nothing["exists"], &nothing["members"]), (&json!(false), &json!(0)));
}

#[test]
fn subscribers_are_counted_over_all_shards() {
    let server = Server::start("[cores]\nshards = 2\n[limits]\nhome_subscribers_max = 2\n");
    let api = Api::new(&server);
    let mut clients: Vec<Client> =
        (0..9).map(|n| Client::connect(&server, &format!("user-{n}"), "")).collect();
    for client in &mut clients {
        client.subscribe("room:1");
    }
    clients[0].ask(|id| Request::PresenceSubscribe { id, channel: "room:1".into() });
    let occupancy = api.found("/v1/apps/demo/channels/room:1");
    assert_eq!(occupancy["message_subscribers"], 9);
    assert_eq!(occupancy["presence_subscribers"], 1);
}

#[test]
fn a_connection_is_found_by_its_user_and_can_be_ended() {
    let server = Server::start("[cores]\nshards = 2\n");
    let api = Api::new(&server);
    let mut clients: Vec<Client> =
        (0..12).map(|n| enter(&server, &format!("user-{}", n / 2), "room:1")).collect();
    let all = api.list("/v1/connections?limit=5", "connections");
    assert_eq!((all.len(), names(&all, "connection").len()), (12, 12));
    let own = api.list("/v1/connections?user=user-3&app=demo", "connections");
    assert_eq!(own.len(), 2);
    let name = own[0]["connection"].as_str().expect("a name");
    let detail = api.found(&format!("/v1/connections/{name}"));
    assert_eq!(detail["user"], "user-3");
    assert_eq!(detail["member_of"], json!([{ "app": "demo", "channel": "room:1" }]));
    assert_eq!(detail["transport"], "websocket");

    let (status, answer) = api.post(
        "/v1/apps/demo/users/status",
        &json!({ "users": ["user-3", "nobody", "user-0", "user-3"] }),
    );
    assert_eq!(status, 200, "{answer}");
    let online: Vec<(&str, bool, u64)> = answer["users"]
        .as_array()
        .expect("users")
        .iter()
        .map(|user| {
            let text = user["user"].as_str().expect("a user");
            (text, user["online"] == true, user["connections"].as_u64().expect("a count"))
        })
        .collect();
    let expected =
        [("user-3", true, 2), ("nobody", false, 0), ("user-0", true, 2), ("user-3", true, 2)];
    assert_eq!(online, expected);

    assert_eq!(api.delete(&format!("/v1/connections/{name}")), 204);
    let is_ended = |client: &&mut Client| detail["name"] == *client.connection_id;
    let ended = clients.iter_mut().find(is_ended).expect("its client");
    assert_eq!(ended.close_code(), Some(1008));
    until("it is gone", || api.delete(&format!("/v1/connections/{name}")) == 404);
    until("its member has left", || api.found("/v1/apps/demo/channels/room:1")["members"] == 11);
    assert_eq!(server.counter("headcount_disconnects_total", "reason=\"operator\""), 1);
}

#[test]
fn publish_reaches_subscribers_and_a_token_opens_a_session() {
    let server = Server::start("[admin]\ntoken = \"the-token\"\n");
    let anybody = Api::new(&server);
    let api = anybody.with("Bearer the-token");
    assert_eq!(anybody.post("/v1/apps/demo/tokens", &json!({ "user": "ops" })).0, 401);
    let publish = "/v1/apps/demo/channels/room:1/messages";
    assert_eq!(anybody.post(publish, &json!({ "data": 1 })).0, 401, "a token is configured");
    let (status, answer) = api.post("/v1/apps/demo/tokens", &json!({ "user": "ops" }));
    assert_eq!(status, 200, "{answer}");
    assert!(answer["token"].as_str().is_some_and(|token| token.split('.').count() == 3));
    assert_eq!(api.post("/v1/apps/nobody/tokens", &json!({ "user": "ops" })).0, 404);
    assert_eq!(api.post("/v1/apps/demo/tokens", &json!({ "user": "" })).0, 400);
    let (status, answer) =
        api.post(publish, &json!({ "name": "note", "data": 7, "clientId": "ops" }));
    assert_eq!((status, &answer["serial"]), (201, &json!(1)));
    assert_eq!(api.post("/v1/apps/demo/channels/a.b/messages", &json!({ "data": 1 })).0, 400);
    assert_eq!(api.found("/v1/apps/demo/channels/room:1")["serial"], 1);
}

#[test]
fn the_server_is_described_and_drains_on_request() {
    let mut server = Server::start("[[namespace]]\nmatch = \"room:*\"\npresence_grace_ms = 7\n");
    let api = Api::new(&server);
    let about = api.found("/v1/server");
    assert_eq!(about["version"], env!("CARGO_PKG_VERSION"));
    assert!(about["apps"].as_array().is_some_and(|apps| apps.contains(&json!("demo"))));
    assert_eq!(api.found("/v1/health")["ready"], true);
    let namespaces = api.found("/v1/namespaces");
    let grace = |n: usize| namespaces["namespaces"][n]["presence_grace_ms"].clone();
    assert_eq!((grace(0), grace(1)), (json!(7), json!(5000)));
    assert_eq!(namespaces["namespaces"][1]["match"], "*");
    let shards = api.found("/v1/shards");
    assert!(shards["shards"][0]["turn_durations"]["buckets"].is_array());
    assert_eq!(api.found("/v1/openapi.json")["openapi"], "3.1.0");
    let foreign = api.agent.post(format!("{}/v1/drain", api.base));
    let foreign = Api::answer(foreign.header("Origin", "https://evil.example").send_empty());
    assert_eq!(foreign.0, 403, "a page of another site ends no server");
    assert_eq!(api.post("/v1/drain", &Value::Null).0, 202);
    until("it has ended", || server.child.try_wait().expect("a child").is_some());
}

#[test]
fn on_the_network_a_key_or_the_token_is_needed() {
    let server = Server::start_with(
        "[listen]\nhttp = \"127.0.0.1:0\"\nsync_tcp = \"127.0.0.1:0\"\nadmin = \"0.0.0.0:0\"\n\
         [admin]\ntoken = \"the-token\"\n\
         [[auth.key]]\nname = \"demo.ops\"\nsecret = \"sk_ops\"\n\
         capability = { \"*\" = [\"admin\"] }\n",
        &["--insecure-plaintext"],
    );
    let api = Api::new(&server);
    for path in ["/v1/server", "/v1/connections", "/v1/apps/demo/channels", "/v1/shards"] {
        assert_eq!(api.get(path).0, 401, "{path}");
        assert_eq!(api.with("Bearer the-token").get(path).0, 200, "{path}");
        assert_eq!(api.with("Bearer another").get(path).0, 401, "{path}");
    }
    for path in ["/v1/health", "/v1/openapi.json"] {
        assert_eq!(api.get(path).0, 200, "{path}");
    }
    assert_eq!(api.post("/v1/drain", &Value::Null).0, 401);
    // demo.ops:sk_ops
    let ops = api.with("Basic ZGVtby5vcHM6c2tfb3Bz");
    let publish = "/v1/apps/demo/channels/room:1/messages";
    assert_eq!(ops.get("/v1/apps/demo/channels").0, 200);
    assert_eq!(ops.get("/v1/connections").0, 401, "other apps have connections too");
    assert_eq!(ops.post(publish, &json!({ "data": 1 })).0, 403, "it may look, not publish");
    assert_eq!(ops.post("/v1/apps/demo/tokens", &json!({ "user": "ann" })).0, 401);
    assert_eq!(api.with("Bearer the-token").post(publish, &json!({ "data": 1 })).0, 201);
}

#[test]
fn top_shows_the_shards_once_and_ends() {
    let server = Server::start("[cores]\nshards = 2\n");
    let _client = enter(&server, "ann", "room:1");
    let admin = server.admin.to_string();
    let arguments = ["top", "--admin", &admin, "--count", "1"];
    let printed = command::printed(&[&arguments[..], &["--json"]].concat());
    let answer: Value = serde_json::from_str(&printed).expect("JSON");
    let shards = answer["shards"].as_array().expect("shards");
    let total = |key: &str| shards.iter().filter_map(|shard| shard[key].as_u64()).sum::<u64>();
    assert_eq!((shards.len(), total("connections"), total("members")), (2, 1, 1));
    let table = command::printed(&arguments);
    let firsts: Vec<&str> =
        table.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(firsts, ["SHARD", "0", "1", "all"]);
}

#[test]
fn a_trace_has_what_reaches_a_channel_and_what_leaves_it() {
    let server = Server::start("[cores]\nshards = 2\n");
    let address = format!("127.0.0.1:{}", server.admin.port());
    let mut trace = command::headcount(&["trace", "room", "--json", "--admin", &address]);
    let mut trace = trace.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(trace.stdout.take().unwrap()).lines();
    let mut next = || -> Value {
        serde_json::from_str(&lines.next().expect("a line").unwrap()).expect("JSON")
    };
    assert_eq!(next()["event"], "begun");
    let mut ann = enter(&server, "ann", "room");
    ann.subscribe("room");
    let api = Api::new(&server);
    assert_eq!(api.post("/v1/apps/demo/channels/room/messages", &json!({ "name": "n" })).0, 201);
    // Another channel.
    assert_eq!(api.post("/v1/apps/demo/channels/hall/messages", &json!({ "name": "n" })).0, 201);
    ann.ask(|id| Request::Unsubscribe { id, channel: "room".into() });
    let mut seen = Vec::new();
    while !seen.iter().any(|line: &Value| line["command"].to_string().contains("unsubscribe")) {
        seen.push(next());
    }
    trace.kill().unwrap();
    trace.wait().unwrap();
    let commands: Vec<String> = seen.iter().map(|line| line["command"].to_string()).collect();
    for expected in ["announce user=", "subscribe feed=", "attach slot=", "publish http"] {
        assert!(commands.iter().any(|text| text.contains(expected)), "{expected}: {commands:?}");
    }
    let routed = |what: &str| {
        seen.iter().any(|line| line["what"] == what && line["count"] == 1 && line["turn"].is_u64())
    };
    assert!(routed("messages"), "{seen:#?}");
    assert_eq!(commands.iter().filter(|text| text.contains("publish")).count(), 1, "{commands:?}");
}
