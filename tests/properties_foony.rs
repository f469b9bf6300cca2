//! The Foony protocol against arbitrary input: round trips in both codecs, no panic, and the same
//! idea of JSON as serde_json.

mod json_client;

use std::borrow::Cow;

use headcount::limits::VALUE_DEPTH_MAX;
use headcount::wire::foony::{
    Action, Auth, Coalescer, Content, Cursor, Delivery, ErrorCode, Event, Member, Message,
    Presence, Publish, Request, binary, json, validate_json,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde::de::IgnoredAny;
use strum::VariantArray;

const PAYLOADS: [&str; 10] = [
    "",
    "null",
    "0",
    "-1.5e-7",
    "\"\"",
    "\"日本 \\u0000 😀\"",
    "[]",
    "{\"a\":[1,{\"b\":null}],\"a\":true}",
    "[[[[[\"deep\"]]]]]",
    " { \"spaced\" : 1 } ",
];

type Text = Cow<'static, str>;

fn text() -> impl Strategy<Value = Text> {
    prop_oneof!["[a-z:-]{0,12}", "\\PC{0,20}", "[\\x00-\\x1f\"\\\\a]{0,8}", "[ab]{120,140}"]
        .prop_map(Cow::Owned)
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..3_u64, any::<u64>(), any::<u16>().prop_map(u64::from)]
}

fn payload() -> impl Strategy<Value = &'static [u8]> {
    select(PAYLOADS.to_vec()).prop_map(str::as_bytes)
}

fn action() -> impl Strategy<Value = Action> {
    select(vec![Action::Enter, Action::Leave, Action::Update])
}

fn message() -> impl Strategy<Value = Message<'static>> {
    (text(), payload(), text()).prop_map(|(name, data, encoding)| Message { name, data, encoding })
}

fn content() -> impl Strategy<Value = Content<'static>> {
    prop_oneof![message().prop_map(Content::One), vec(message(), 1..5).prop_map(Content::Batch),]
}

fn cursor() -> impl Strategy<Value = Cursor<'static>> {
    number().prop_map(Cursor::at)
}

fn binary_request() -> impl Strategy<Value = Request<'static>> {
    let auth = (text(), text(), text(), text()).prop_map(|(token, key, client_id, resume)| {
        let resume_connection_id = resume;
        Request::Auth(Auth { token, key, client_id, resume_connection_id, ..Auth::default() })
    });
    let publish = (number(), text(), text(), any::<bool>(), content()).prop_map(
        |(id, channel, message_id, ephemeral, content)| {
            Request::Publish(Publish { id, channel, message_id, ephemeral, ttl_ms: 0, content })
        },
    );
    let presence = (number(), text(), action(), payload(), text()).prop_map(
        |(id, channel, action, data, encoding)| {
            Request::Presence(Presence { id, channel, action, data, encoding })
        },
    );
    prop_oneof![
        auth,
        publish,
        presence,
        (number(), text(), cursor()).prop_map(|(id, channel, cursor)| Request::Subscribe {
            id,
            channel,
            cursor
        }),
        (number(), text()).prop_map(|(id, channel)| Request::Unsubscribe { id, channel }),
        (number(), text()).prop_map(|(id, channel)| Request::PresenceSubscribe { id, channel }),
        (number(), text()).prop_map(|(id, channel)| Request::PresenceUnsubscribe { id, channel }),
        (number(), text(), number(), cursor()).prop_map(|(id, channel, limit, before)| {
            Request::History { id, channel, limit, before }
        }),
        (number(), text(), number()).prop_map(|(id, channel, from_serial)| Request::Fetch {
            id,
            channel,
            from_serial
        }),
        Just(Request::Ping),
    ]
}

/// What only JSON can say.
fn json_request() -> impl Strategy<Value = Request<'static>> {
    let cursor = || "[a-z0-9-]{1,20}".prop_map(|id| Cursor::MessageId(Cow::Owned(id)));
    let publish = (number(), text(), text(), 1..u64::MAX, content()).prop_map(
        |(id, channel, message_id, ttl_ms, content)| {
            Request::Publish(Publish { id, channel, message_id, ephemeral: false, ttl_ms, content })
        },
    );
    prop_oneof![
        publish,
        (text(), any::<bool>()).prop_map(|(token, coalesce)| {
            Request::Auth(Auth { token, coalesce, binary_delivery: !coalesce, ..Auth::default() })
        }),
        (number(), text(), cursor()).prop_map(|(id, channel, cursor)| Request::Subscribe {
            id,
            channel,
            cursor
        }),
        (number(), text(), number(), cursor()).prop_map(|(id, channel, limit, before)| {
            Request::History { id, channel, limit, before }
        }),
    ]
}

fn delivery() -> impl Strategy<Value = Delivery<'static>> {
    (text(), text(), text(), number(), number(), any::<bool>(), content()).prop_map(
        |(channel, message_id, client_id, timestamp_ms, serial, ephemeral, content)| Delivery {
            channel,
            message_id,
            client_id,
            timestamp_ms,
            serial,
            ephemeral,
            content,
        },
    )
}

fn member() -> impl Strategy<Value = Member<'static>> {
    (action(), number(), text(), text(), text(), payload(), text()).prop_map(
        |(action, timestamp_ms, channel, client_id, connection_id, data, encoding)| Member {
            action,
            timestamp_ms,
            channel,
            client_id,
            connection_id,
            data,
            encoding,
        },
    )
}

/// JSON names the channel of a bundle once.
fn bundle() -> impl Strategy<Value = Event<'static>> {
    (text(), vec(delivery(), 2..4)).prop_map(|(channel, deliveries)| {
        let in_channel = |delivery| Delivery { channel: channel.clone(), ..delivery };
        Event::Bundle(deliveries.into_iter().map(in_channel).collect())
    })
}

fn event() -> impl Strategy<Value = Event<'static>> {
    let page = || (number(), text(), vec(delivery(), 0..4), any::<bool>());
    prop_oneof![
        delivery().prop_map(Event::Delivery),
        bundle(),
        member().prop_map(Event::Member),
        (text(), number(), text()).prop_map(|(connection_id, keep_alive_ms, client_id)| {
            Event::Connected { connection_id, keep_alive_ms, client_id }
        }),
        (number(), number(), any::<Option<bool>>()).prop_map(|(id, serial, resumed)| Event::Ack {
            id,
            serial,
            resumed
        }),
        (number(), select(ErrorCode::VARIANTS.to_vec()), text())
            .prop_map(|(id, code, message)| Event::Error { id, code, message }),
        Just(Event::Pong),
        page().prop_map(|(id, channel, messages, more)| Event::History {
            id,
            channel,
            messages,
            more
        }),
        page().prop_map(|(id, channel, messages, resumed)| Event::Fetched {
            id,
            channel,
            messages,
            resumed
        }),
    ]
}

fn record_of(request: &Request<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    binary::append_request(request, &mut out).expect("expressible");
    out
}

fn frame_of(request: &Request<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    json_client::append_request(request, &mut out);
    out
}

/// Reads everything that could be there. What is read can be written, and reads the same again.
fn read_all(message: &[u8]) {
    for record in binary::records(message).filter_map(Result::ok) {
        if let Ok(request) = record.request() {
            let again = record_of(&request);
            let record = binary::records(&again).next().expect("a record").expect("whole");
            assert_eq!(record.request().as_ref(), Ok(&request));
        }
        if let Ok(event) = record.event() {
            let mut again = Vec::new();
            binary::append_event(&event, &mut again);
            let record = binary::records(&again).next().expect("a record").expect("whole");
            assert_eq!(record.event().as_ref(), Ok(&event));
        }
    }
    if let Ok(request) = json::decode_request(message) {
        let again = frame_of(&request);
        assert!(json::decode_request(&again).is_ok());
    }
    if let Ok(event) = json_client::decode_event(message) {
        let mut again = Vec::new();
        json::append_event(&event, &mut again);
        assert!(json_client::decode_event(&again).is_ok());
    }
}

/// Cuts the message short and changes bytes of it.
fn mutate(message: &[u8], mutations: &[(usize, u8)]) {
    read_all(message);
    for (at, byte) in mutations {
        let at = at % (message.len() + 1);
        read_all(&message[..at]);
        let mut changed = message.to_vec();
        if let Some(old) = changed.get_mut(at) {
            *old = *byte;
        }
        read_all(&changed);
        changed.insert(at, *byte);
        read_all(&changed);
    }
}

fn mutations() -> impl Strategy<Value = Vec<(usize, u8)>> {
    vec((any::<usize>(), any::<u8>()), 0..8)
}

/// Containers inside one another, ignoring what stands in strings.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// The judgement of serde_json, and of the depth limit.
fn is_payload(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let is_json = serde_json::from_str::<IgnoredAny>(text).is_ok();
    bytes.is_empty() || (is_json && depth(text) <= VALUE_DEPTH_MAX)
}

fn json_value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        select(vec!["null", "true", "false", "0", "-0", "12", "-1.25", "1e5", "2E-3", "0.5e+7"])
            .prop_map(str::to_string),
        "\\PC{0,12}".prop_map(|text| serde_json::to_string(&text).expect("text is JSON")),
        select(vec!["\"\\u00e9\\n\\/\"", "\"\\ud800\"", "\" \\\\ \""]).prop_map(str::to_string),
    ];
    leaf.prop_recursive(70, 200, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(|items| format!("[{}]", items.join(" ,\n"))),
            vec(inner, 0..3).prop_map(|items| {
                let fields: Vec<String> =
                    items.iter().map(|item| format!("\"k\\t\" : {item}")).collect();
                format!("{{\t{}\r}}", fields.join(","))
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn requests_round_trip_in_both_codecs(request in binary_request()) {
        let message = record_of(&request);
        let records: Vec<_> = binary::records(&message).collect();
        prop_assert_eq!(records.len(), 1);
        prop_assert_eq!(&records[0].expect("whole").request(), &Ok(request.clone()));
        let frame = frame_of(&request);
        prop_assert_eq!(json::decode_request(&frame), Ok(trimmed_request(request)));
    }

    #[test]
    fn what_only_json_can_say_is_refused_by_the_binary_codec(request in json_request()) {
        let frame = frame_of(&request);
        let mut out = vec![7];
        prop_assert!(binary::append_request(&request, &mut out).is_err());
        prop_assert_eq!(out, [7]);
        prop_assert_eq!(json::decode_request(&frame), Ok(trimmed_request(request)));
    }

    #[test]
    fn events_round_trip_in_both_codecs(event in event()) {
        let mut message = Vec::new();
        binary::append_event(&event, &mut message);
        let records: Vec<_> = binary::records(&message).collect();
        prop_assert_eq!(records.len(), 1);
        prop_assert_eq!(&records[0].expect("whole").event(), &Ok(event.clone()));
        let mut frame = Vec::new();
        json::append_event(&event, &mut frame);
        prop_assert!(!frame.contains(&b'\n'));
        prop_assert_eq!(json_client::decode_event(&frame), Ok(trimmed_event(event)));
    }

    #[test]
    fn many_records_in_one_message_are_read_in_order(requests in vec(binary_request(), 0..6)) {
        let message: Vec<u8> = requests.iter().flat_map(record_of).collect();
        let read: Vec<_> = binary::records(&message)
            .map(|record| record.expect("whole").request().expect("a request"))
            .collect();
        prop_assert_eq!(read, requests);
    }

    #[test]
    fn coalesced_records_are_the_records(requests in vec(binary_request(), 1..12)) {
        let (mut coalescer, mut out) = (Coalescer::default(), Vec::new());
        for request in &requests {
            coalescer.append(&mut out, |out| out.extend(record_of(request)));
        }
        let payload: Vec<u8> = requests.iter().flat_map(record_of).collect();
        prop_assert!(out.ends_with(&payload) && out.len() <= payload.len() + 4);
    }

    #[test]
    fn requests_cut_and_changed_never_panic(
        request in prop_oneof![binary_request(), json_request()],
        mutations in mutations(),
    ) {
        mutate(&frame_of(&request), &mutations);
        let mut record = Vec::new();
        if binary::append_request(&request, &mut record).is_ok() {
            mutate(&record, &mutations);
        }
    }

    #[test]
    fn events_cut_and_changed_never_panic(event in event(), mutations in mutations()) {
        let (mut record, mut frame) = (Vec::new(), Vec::new());
        binary::append_event(&event, &mut record);
        json::append_event(&event, &mut frame);
        mutate(&record, &mutations);
        mutate(&frame, &mutations);
    }

    #[test]
    fn noise_never_panics(opcode in 0..24_u8, noise in vec(any::<u8>(), 0..100)) {
        read_all(&noise);
        let record = [&[noise.len() as u8 + 1, opcode], &noise[..]].concat();
        read_all(&record);
    }

    #[test]
    fn json_is_what_serde_json_says_it_is(value in json_value(), mutations in mutations()) {
        let bytes = value.into_bytes();
        prop_assert_eq!(validate_json(&bytes).is_ok(), is_payload(&bytes));
        for (at, byte) in mutations {
            let at = at % bytes.len();
            prop_assert_eq!(validate_json(&bytes[..at]).is_ok(), is_payload(&bytes[..at]));
            let mut changed = bytes.clone();
            changed[at] = byte;
            prop_assert_eq!(validate_json(&changed).is_ok(), is_payload(&changed));
        }
    }

    #[test]
    fn nearly_json_is_what_serde_json_says_it_is(
        text in "[\\[\\]{}\",:0-9.eE+\\- \\\\tfnul/]{0,16}",
    ) {
        prop_assert_eq!(validate_json(text.as_bytes()).is_ok(), is_payload(text.as_bytes()));
    }
}

/// JSON keeps the spaces inside a payload, not those around it.
fn trim(data: &mut &'static [u8]) {
    *data = data.trim_ascii();
}

fn trim_content(content: &mut Content<'static>) {
    match content {
        Content::One(message) => trim(&mut message.data),
        Content::Batch(messages) => messages.iter_mut().for_each(|one| trim(&mut one.data)),
    }
}

fn trimmed_request(mut request: Request<'static>) -> Request<'static> {
    match &mut request {
        Request::Publish(publish) => trim_content(&mut publish.content),
        Request::Presence(presence) => trim(&mut presence.data),
        _ => {}
    }
    request
}

fn trimmed_event(mut event: Event<'static>) -> Event<'static> {
    match &mut event {
        Event::Delivery(delivery) => trim_content(&mut delivery.content),
        Event::Member(member) => trim(&mut member.data),
        Event::Bundle(messages)
        | Event::History { messages, .. }
        | Event::Fetched { messages, .. } => {
            messages.iter_mut().for_each(|delivery| trim_content(&mut delivery.content));
        }
        _ => {}
    }
    event
}
