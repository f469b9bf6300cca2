//! Bytes <=> messages: frames, masks, MessagePack, and the two dialects.

use std::hint::black_box;

use criterion::{BenchmarkId, Throughput};
use headcount::wire::foony::{Content, Delivery, Event, Message, Publish, Request, binary, json};
use headcount::wire::msgpack::{self, Reader};
use headcount::wire::sync::message::presence::PresenceUpdate;
use headcount::wire::sync::{self, Layout, Parsed, Peer, append_presence_broadcast};
use headcount::wire::websocket::{
    Decoder, MessageLimits, Opcode, Role, append_masked_frame, apply_mask,
};

use super::one_shard::json_client;
use super::{Criterion, json_text};

const LIMITS: MessageLimits = MessageLimits { message_bytes_max: 4 << 20, fragments_max: 1024 };

/// A key that leaves the payload as it is, so that a frame can be read again and again; to unmask
/// with it costs the same.
const KEY_OF_ZEROS: [u8; 4] = [0; 4];

const LAYOUTS: [(&str, Layout); 2] = [("ten", Layout::V0_6), ("five", Layout::V0_1)];

pub fn bench(criterion: &mut Criterion) {
    unmask(criterion);
    websocket_frame(criterion);
    sync_frame(criterion);
    sync_presence(criterion);
    message_pack_scan(criterion);
    foony_decode(criterion);
    foony_encode(criterion);
}

fn unmask(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("unmask");
    for bytes in [64, 1024, 64 * 1024] {
        let mut payload = vec![0x55; bytes];
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::from_parameter(bytes), |bencher| {
            bencher.iter(|| apply_mask(black_box(&mut payload), [1, 2, 3, 4], 0));
        });
    }
}

fn websocket_frame(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("websocket_frame");
    for (name, opcode) in [("binary", Opcode::Binary), ("text", Opcode::Text)] {
        for bytes in [64, 1024, 64 * 1024] {
            let mut frame = Vec::new();
            append_masked_frame(&mut frame, opcode, &vec![b'x'; bytes], KEY_OF_ZEROS);
            let mut decoder = Decoder::new(Role::Server);
            group.throughput(Throughput::Bytes(frame.len() as u64));
            group.bench_function(BenchmarkId::new(name, bytes), |bencher| {
                bencher.iter(|| {
                    let decoded = decoder.decode(black_box(&mut frame), &LIMITS);
                    black_box(decoded.expect("a frame").incoming.is_some())
                });
            });
        }
    }
}

/// Header, checksum where there is one, and the fields of a presence update.
fn sync_frame(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sync_frame");
    for (name, layout) in LAYOUTS {
        for bytes in [64, 16 * 1024] {
            let state = vec![0x55; bytes];
            let update = PresenceUpdate { channel: "room:1", state: &state };
            let update = sync::Message::PresenceUpdate(update);
            let mut frame = Vec::new();
            sync::append_message(&update, layout, &mut frame).expect("expressible");
            group.throughput(Throughput::Bytes(frame.len() as u64));
            group.bench_function(BenchmarkId::new(name, bytes), |bencher| {
                bencher.iter(|| {
                    let parsed = sync::parse(layout.header(), black_box(&frame), 1 << 20);
                    let Ok(Parsed::Frame(frame)) = parsed else { panic!("{parsed:?}") };
                    black_box(sync::decode(frame.message_type, frame.body, layout).is_ok())
                });
            });
        }
    }
}

fn sync_presence(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sync_presence_encode");
    for members in [10, 1000] {
        let users: Vec<String> = (0..members).map(|at| format!("user{at}")).collect();
        let peer = |user| Peer { user_id: user, state: &[7; 32], last_seen_ms: 300 };
        let mut out = Vec::new();
        group.throughput(Throughput::Elements(members));
        group.bench_function(BenchmarkId::from_parameter(members), |bencher| {
            bencher.iter(|| {
                out.clear();
                let peers = users.iter().map(|user| peer(user.as_str()));
                append_presence_broadcast(&mut out, "room:1", users.len(), peers);
                black_box(out.len())
            });
        });
    }
}

fn message_pack_scan(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("message_pack_scan");
    for bytes in [64, 1024, 64 * 1024] {
        let value = serde_json::from_str(&json_text(bytes)).expect("JSON");
        let mut packed = Vec::new();
        msgpack::from_json(&value, &mut packed).expect("expressible");
        group.throughput(Throughput::Bytes(packed.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(bytes), |bencher| {
            bencher.iter(|| Reader::new(black_box(&packed)).skip_value());
        });
    }
}

/// A publish, its payload checked.
fn foony_decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("foony_decode");
    for bytes in [64, 1024, 16 * 1024] {
        let data = json_text(bytes);
        let request = Request::Publish(Publish {
            id: 1000,
            channel: "room:1".into(),
            message_id: "0123456789abcdef:1000".into(),
            ephemeral: false,
            ttl_ms: 0,
            content: Content::One(message(&data)),
        });
        let (mut record, mut text) = (Vec::new(), Vec::new());
        binary::append_request(&request, &mut record).expect("expressible");
        json_client::append_request(&request, &mut text);
        group.throughput(Throughput::Bytes(record.len() as u64));
        group.bench_function(BenchmarkId::new("binary", bytes), |bencher| {
            bencher.iter(|| {
                let record = binary::records(black_box(&record)).next().expect("one");
                black_box(record.expect("a record").request().is_ok())
            });
        });
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(BenchmarkId::new("json", bytes), |bencher| {
            bencher.iter(|| black_box(json::decode_request(black_box(&text)).is_ok()));
        });
    }
}

fn foony_encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("foony_encode");
    for bytes in [64, 1024, 16 * 1024] {
        let data = json_text(bytes);
        let event = Event::Delivery(Delivery {
            channel: "room:1".into(),
            message_id: "0123456789abcdef:1000".into(),
            client_id: "ann".into(),
            timestamp_ms: 1_700_000_000_000,
            serial: 1000,
            ephemeral: false,
            content: Content::One(message(&data)),
        });
        type Append = fn(&Event<'_>, &mut Vec<u8>);
        let codecs: [(&str, Append); 2] =
            [("binary", binary::append_event), ("json", json::append_event)];
        for (name, append) in codecs {
            let mut out = Vec::new();
            append(&event, &mut out);
            group.throughput(Throughput::Bytes(out.len() as u64));
            group.bench_function(BenchmarkId::new(name, bytes), |bencher| {
                bencher.iter(|| {
                    out.clear();
                    append(black_box(&event), &mut out);
                    black_box(out.len())
                });
            });
        }
    }
}

fn message(data: &str) -> Message<'_> {
    Message { name: "n".into(), data: data.as_bytes(), encoding: "".into() }
}
