//! What waits for the verdict of the admission hook in a shard, and what the verdict does.

mod one_shard;

use std::sync::Arc;

use enumset::{EnumSet, enum_set};
use headcount::ids::ConnId;
use headcount::policy::AdmitKind;
use headcount::session::Denial;
use headcount::shard::{Question, Verdict};
use headcount::wire::foony::{Action, Auth, Cursor, Event, Presence, Request, binary};
use headcount::wire::sync::message::presence::PresenceUpdate;
use headcount::wire::sync::message::session::Handshake;
use headcount::wire::sync::{self, Header, Layout, Message};
use headcount::wire::websocket::{Decoder, Incoming, MessageLimits, Opcode, Role};
use one_shard::{Client, Mode, OneShard, framed};

const CHANNEL: &str = "room:1";

fn allowed() -> Verdict {
    Verdict::Allowed { metadata: None }
}

fn denied(reason: &str) -> Verdict {
    Verdict::Denied(Arc::new(Denial { reason: reason.into(), retry_after_ms: None }))
}

/// The payloads of the messages that a connection was sent, which are taken off.
fn payloads(shard: &mut OneShard, conn: ConnId) -> Vec<Vec<u8>> {
    let mut unsent = shard.unsent(conn);
    shard.end_turn();
    shard.flush();
    shard.begin_turn();
    let head = unsent.windows(4).position(|window| window == b"\r\n\r\n");
    let mut rest = &mut unsent[head.map_or(0, |at| at + 4)..];
    let limits = MessageLimits { message_bytes_max: 1 << 20, fragments_max: 1 };
    let (mut decoder, mut payloads) = (Decoder::new(Role::Client), Vec::new());
    while !rest.is_empty() {
        let decoded = decoder.decode(rest, &limits).expect("frames");
        match decoded.incoming {
            Some(Incoming::Message { payload, .. }) => payloads.push(payload.to_vec()),
            Some(Incoming::Close { code, .. }) => {
                payloads.push(format!("close {code:?}").into_bytes());
            }
            _ => {}
        }
        let consumed = decoded.consumed;
        rest = &mut rest[consumed..];
    }
    payloads
}

/// What a Foony client was told, in short.
fn told(shard: &mut OneShard, client: Client) -> Vec<String> {
    let payloads = payloads(shard, client.conn);
    let told = payloads.iter().flat_map(|payload| match payload.starts_with(b"close ") {
        true => vec![String::from_utf8(payload.clone()).expect("text")],
        false => binary::records(payload)
            .map(|record| match record.expect("a record").event().expect("an event") {
                Event::Ack { id, .. } => format!("ack {id}"),
                Event::Error { id, code, message } => {
                    format!("error {id} {} {message}", code.code())
                }
                Event::Connected { .. } => "connected".into(),
                Event::Pong => "pong".into(),
                other => format!("{other:?}"),
            })
            .collect(),
    });
    told.collect()
}

/// What a sync client was told: whether its greeting succeeded, and the error.
fn acks(shard: &mut OneShard, conn: ConnId) -> Vec<(bool, Option<String>)> {
    let mut acks = Vec::new();
    for payload in payloads(shard, conn) {
        let frame = sync::parse_message(Header::Ten, &payload).expect("a frame");
        let message = sync::decode(frame.message_type, frame.body, Layout::V0_6).expect("a body");
        if let Message::HandshakeAck(ack) = message {
            acks.push((ack.success, ack.error.map(str::to_owned)));
        }
    }
    acks
}

fn question(shard: &mut OneShard, kind: AdmitKind) -> Question {
    let question = shard.question().expect("a question");
    assert_eq!(question.kind, kind);
    assert!(shard.question().is_none(), "one at a time");
    question
}

fn auth(user: &str) -> Request<'static> {
    let key = "alpha.k:sk_alpha_0123456789abcdef".into();
    Request::Auth(Auth { key, client_id: user.to_owned().into(), ..Auth::default() })
}

fn subscribe(id: u64) -> Request<'static> {
    Request::Subscribe { id, channel: CHANNEL.into(), cursor: Cursor::None }
}

fn presence(id: u64, action: Action) -> Request<'static> {
    let channel = CHANNEL.into();
    Request::Presence(Presence { id, action, channel, data: b"1", encoding: "".into() })
}

fn greeting() -> Message<'static> {
    Message::Handshake(Handshake {
        jwt_token: "",
        client_version: "test",
        wire_version: 1,
        ..Handshake::default()
    })
}

#[test]
fn a_greeting_waits_for_its_verdict_and_what_follows_waits_behind_it() {
    let mut shard = OneShard::asking(enum_set!(AdmitKind::Connect));
    let client = shard.stranger();
    shard.ask(client, &auth("ann"));
    let asked = question(&mut shard, AdmitKind::Connect);
    assert_eq!((&*asked.identity.user, &*asked.grant.app), ("ann", "alpha"));
    assert_eq!(asked.protocol, "foony");
    shard.ask(client, &Request::Ping);
    shard.ask(client, &subscribe(7));
    assert_eq!(told(&mut shard, client), [""; 0]);
    shard.pass(20_000);
    assert_eq!(told(&mut shard, client), [""; 0], "it is not closed for the want of a greeting");
    shard.decide(&asked, allowed());
    assert_eq!(told(&mut shard, client), ["connected", "pong", "ack 7"]);
    shard.decide(&asked, denied("late"));
    assert_eq!(told(&mut shard, client), [""; 0], "a question has one answer");
}

#[test]
fn requests_in_the_message_of_the_greeting_wait_as_well() {
    let mut shard = OneShard::asking(enum_set!(AdmitKind::Connect));
    let client = shard.stranger();
    let mut payload = Vec::new();
    for request in [auth("ann"), subscribe(2), Request::Ping] {
        binary::append_request(&request, &mut payload).unwrap();
    }
    shard.receive(client, &mut framed(Opcode::Binary, &payload));
    let asked = question(&mut shard, AdmitKind::Connect);
    shard.decide(&asked, allowed());
    assert_eq!(told(&mut shard, client), ["connected", "pong", "ack 2"]);
}

#[test]
fn a_denied_greeting_is_refused_with_the_reason() {
    let mut shard = OneShard::asking(enum_set!(AdmitKind::Connect));
    let client = shard.stranger();
    shard.ask(client, &auth("ann"));
    shard.ask(client, &subscribe(2));
    let asked = question(&mut shard, AdmitKind::Connect);
    shard.decide(&asked, denied("not today"));
    let told = told(&mut shard, client);
    assert_eq!(told, ["error 0 40101 not today", "close Some(1008)"]);
    assert_eq!(shard.ignored("denied"), 1);
}

#[test]
fn a_denied_sync_session_may_greet_again() {
    let mut shard = OneShard::asking(enum_set!(AdmitKind::Connect));
    let conn = shard.open();
    shard.say(conn, &greeting());
    shard.announce(conn, CHANNEL, &[1]);
    let asked = question(&mut shard, AdmitKind::Connect);
    assert_eq!(acks(&mut shard, conn), []);
    shard.decide(&asked, denied("not today"));
    assert_eq!(acks(&mut shard, conn), [(false, Some("not today".to_owned()))]);
    assert_eq!(shard.ignored("unauthenticated"), 1, "its presence came too early");
    shard.say(conn, &greeting());
    let asked = question(&mut shard, AdmitKind::Connect);
    shard.decide(&asked, allowed());
    assert_eq!(acks(&mut shard, conn), [(true, None)]);
}

#[test]
fn what_the_hook_says_of_a_user_becomes_part_of_its_identity() {
    let mut shard = OneShard::asking(enum_set!(AdmitKind::Connect | AdmitKind::Publish));
    let client = shard.stranger();
    shard.ask(client, &auth("ann"));
    let asked = question(&mut shard, AdmitKind::Connect);
    assert_eq!(asked.identity.metadata(), None);
    let metadata = Some("{\"role\":\"x\"}".into());
    shard.decide(&asked, Verdict::Allowed { metadata });
    let mut publish = shard.publish_bytes(Mode::Binary, CHANNEL, "1");
    shard.receive(client, &mut publish);
    let asked = question(&mut shard, AdmitKind::Publish);
    assert_eq!(asked.identity.metadata().map(|text| &**text), Some("{\"role\":\"x\"}"));
}

#[test]
fn requests_are_asked_about_one_after_the_other_and_answered_in_order() {
    let mut shard = OneShard::asking(enum_set!(AdmitKind::Publish));
    let client = shard.connect("ann", Mode::Binary);
    let other = shard.connect("bob", Mode::Binary);
    told(&mut shard, client);
    told(&mut shard, other);
    for number in 0..3 {
        let mut publish = shard.publish_bytes(Mode::Binary, CHANNEL, &number.to_string());
        shard.receive(client, &mut publish);
        shard.ask(client, &Request::Ping);
    }
    shard.ask(other, &Request::Ping);
    assert_eq!(told(&mut shard, other), ["pong"], "others do not wait");
    let mut heard = Vec::new();
    for verdict in [allowed(), denied("read only"), allowed()] {
        let asked = question(&mut shard, AdmitKind::Publish);
        assert_eq!(asked.channel.as_ref().map(|key| &*key.name), Some(CHANNEL));
        shard.decide(&asked, verdict);
        heard.extend(told(&mut shard, client));
    }
    let pongs = heard.iter().filter(|told| *told == "pong").count();
    heard.retain(|told| told != "pong");
    assert_eq!(heard, ["ack 1", "error 2 40300 read only", "ack 3"]);
    assert_eq!(pongs, 3);
    assert_eq!(shard.ignored("denied"), 1);
}

#[test]
fn nothing_is_asked_about_what_goes_on_or_is_given_up() {
    let mut shard = OneShard::asking(EnumSet::all());
    let client = shard.stranger();
    shard.ask(client, &auth("ann"));
    let answer = |shard: &mut OneShard, request: &Request<'_>| {
        shard.ask(client, request);
        let kind = shard.question().map(|asked| {
            shard.decide(&asked, allowed());
            asked.kind
        });
        told(shard, client);
        kind
    };
    let asked = question(&mut shard, AdmitKind::Connect);
    shard.decide(&asked, allowed());
    let history = |id| {
        let before = Cursor::None;
        Request::History { id, channel: CHANNEL.into(), limit: 1, before }
    };
    let fetch = |id| Request::Fetch { id, channel: CHANNEL.into(), from_serial: 1 };
    let watch = |id| Request::PresenceSubscribe { id, channel: CHANNEL.into() };
    let unsubscribe = |id| Request::Unsubscribe { id, channel: CHANNEL.into() };
    for (request, expected) in [
        (history(1), Some(AdmitKind::Subscribe)),
        (fetch(2), Some(AdmitKind::Subscribe)),
        (subscribe(3), Some(AdmitKind::Subscribe)),
        (history(4), None),
        (fetch(5), None),
        (watch(6), None),
        (presence(7, Action::Enter), Some(AdmitKind::Presence)),
        (presence(8, Action::Update), None),
        (presence(9, Action::Leave), None),
        (unsubscribe(10), None),
        (watch(11), Some(AdmitKind::Subscribe)),
        (subscribe(12), None),
        (presence(13, Action::Enter), Some(AdmitKind::Presence)),
    ] {
        assert_eq!(answer(&mut shard, &request), expected, "{request:?}");
    }
}

#[test]
fn a_denied_member_of_the_sync_wire_is_counted_and_stays_connected() {
    let mut shard = OneShard::asking(enum_set!(AdmitKind::Presence));
    let conn = shard.greet();
    shard.announce(conn, CHANNEL, &[1]);
    let asked = question(&mut shard, AdmitKind::Presence);
    assert_eq!(asked.protocol, "sync");
    shard.decide(&asked, denied("no"));
    assert_eq!(shard.ignored("denied"), 1);
    shard.announce(conn, CHANNEL, &[2]);
    let asked = question(&mut shard, AdmitKind::Presence);
    shard.decide(&asked, allowed());
    shard.announce(conn, CHANNEL, &[3]);
    assert!(shard.question().is_none(), "it is a member");
}

#[test]
fn a_connection_that_has_ended_needs_no_verdict() {
    let mut shard = OneShard::asking(enum_set!(AdmitKind::Connect | AdmitKind::Subscribe));
    let client = shard.stranger();
    shard.ask(client, &auth("ann"));
    let asked = question(&mut shard, AdmitKind::Connect);
    shard.end(client.conn);
    shard.decide(&asked, allowed());
    assert_eq!(told(&mut shard, client), ["connected"], "half closed, it is answered");

    let client = shard.stranger();
    shard.ask(client, &auth("bob"));
    let asked = question(&mut shard, AdmitKind::Connect);
    shard.receive(client, &mut vec![0x88; 5 << 20]);
    assert!(told(&mut shard, client).iter().any(|told| told.contains("1013")), "too much waits");
    shard.decide(&asked, allowed());
    assert_eq!(told(&mut shard, client), [""; 0]);
}

#[test]
fn a_stream_that_ends_while_its_input_waits_ends_cleanly() {
    let mut shard = OneShard::asking(EnumSet::all());
    let conn = shard.open_tcp();
    let mut bytes = Vec::new();
    sync::append_message(&greeting(), Layout::V0_6, &mut bytes).unwrap();
    for channel in ["room:1", "room:2"] {
        let update = PresenceUpdate { channel, state: &[1] };
        sync::append_message(&Message::PresenceUpdate(update), Layout::V0_6, &mut bytes).unwrap();
    }
    shard.receive_on(conn, &mut bytes);
    shard.end(conn);
    for kind in [AdmitKind::Connect, AdmitKind::Presence, AdmitKind::Presence] {
        assert_eq!(shard.disconnected("clean"), 0);
        let asked = question(&mut shard, kind);
        shard.decide(&asked, allowed());
    }
    assert_eq!((shard.disconnected("clean"), shard.disconnected("lost")), (1, 0));

    let conn = shard.open_tcp();
    shard.receive_on(conn, &mut bytes);
    shard.end(conn);
    shard.fail(conn);
    assert_eq!((shard.disconnected("clean"), shard.disconnected("lost")), (2, 0), "it is closed");
}

#[test]
fn a_drain_waits_for_verdicts() {
    let mut shard = OneShard::asking(enum_set!(AdmitKind::Publish));
    let client = shard.connect("ann", Mode::Binary);
    told(&mut shard, client);
    let mut publish = shard.publish_bytes(Mode::Binary, CHANNEL, "1");
    shard.receive(client, &mut publish);
    shard.ask(client, &Request::Ping);
    let asked = question(&mut shard, AdmitKind::Publish);
    shard.begin_drain();
    assert_eq!(told(&mut shard, client), [""; 0]);
    shard.decide(&asked, allowed());
    assert_eq!(told(&mut shard, client), ["ack 1", "close Some(1001)"], "and nothing more");
}
