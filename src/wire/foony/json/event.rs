//! Events of the server (`protocols/foony.md` sections 2.1 and 2.2).

use std::borrow::Cow;

use super::object::Key;
use super::write::{Fields, append_frame, append_object};
use crate::wire::foony::{Content, Delivery, Event, Member};

/// Appends an event as one frame without line feeds.
pub fn append_event(event: &Event<'_>, out: &mut Vec<u8>) {
    match event {
        Event::Connected { connection_id, keep_alive_ms, client_id } => {
            append_frame(out, "connected", |fields| {
                fields.put(Key::ConnectionId, connection_id);
                fields.put(Key::KeepAliveMs, *keep_alive_ms);
                fields.put(Key::ClientId, client_id);
            });
        }
        Event::Ack { id, serial, resumed } => append_frame(out, "ack", |fields| {
            fields.put(Key::Id, *id);
            fields.put_unless_default(Key::Seq, *serial);
            if let Some(resumed) = resumed {
                fields.put(Key::Resumed, *resumed);
            }
        }),
        Event::Delivery(delivery) => append_delivery(out, delivery),
        Event::Bundle(deliveries) => append_bundle(out, deliveries),
        Event::Member(member) => append_member(out, member),
        Event::Error { id, code, message } => append_frame(out, "err", |fields| {
            fields.put_unless_default(Key::Id, *id);
            fields.put(Key::Code, u64::from(code.code()));
            fields.put(Key::Message, message);
        }),
        Event::Pong => append_frame(out, "pong", |_| {}),
        // Sessions on JSON are never peers.
        Event::PeerGreeting(_)
        | Event::PeerMember(_)
        | Event::EdgeRequest(_)
        | Event::DirectMessage(_)
        | Event::MembersDigest(_)
        | Event::DirectRefused(_) => {}
        Event::History { id, channel, messages, more } => append_frame(out, "histRes", |fields| {
            page(fields, *id, channel, messages);
            fields.put_unless_default(Key::More, *more);
        }),
        Event::Fetched { id, channel, messages, resumed } => {
            append_frame(out, "fetchRes", |fields| {
                page(fields, *id, channel, messages);
                fields.put(Key::Resumed, *resumed);
            });
        }
    }
}

fn page(fields: &mut Fields<'_>, id: u64, channel: &str, messages: &[Delivery<'_>]) {
    fields.put(Key::Id, id);
    fields.put(Key::Channel, channel);
    fields.list(Key::Messages, messages, append_delivery);
}

fn append_delivery(out: &mut Vec<u8>, delivery: &Delivery<'_>) {
    append_frame(out, "msg", |fields| {
        fields.put(Key::Channel, &delivery.channel);
        delivery_fields(fields, delivery);
    });
}

/// All fields except type and channel.
fn delivery_fields(fields: &mut Fields<'_>, delivery: &Delivery<'_>) {
    match &delivery.content {
        Content::One(message) => fields.message(message),
        Content::Batch(messages) => {
            fields.put(Key::Name, "");
            fields.messages(messages);
        }
    }
    fields.put(Key::Timestamp, delivery.timestamp_ms);
    fields.put(Key::MessageId, &delivery.message_id);
    fields.put_unless_default(Key::ClientId, &*delivery.client_id);
    fields.put_unless_default(Key::Seq, delivery.serial);
    fields.put_unless_default(Key::Ephemeral, delivery.ephemeral);
}

fn append_bundle(out: &mut Vec<u8>, deliveries: &[Delivery<'_>]) {
    let channel = deliveries.last().map_or(Cow::Borrowed(""), |last| last.channel.clone());
    append_frame(out, "msg", |fields| {
        fields.put(Key::Channel, &channel);
        fields.put(Key::Name, "");
        fields.put(Key::Timestamp, 0);
        fields.put(Key::MessageId, "");
        fields.list(Key::Bundle, deliveries, |out, delivery| {
            append_object(out, |fields| delivery_fields(fields, delivery));
        });
    });
}

fn append_member(out: &mut Vec<u8>, member: &Member<'_>) {
    append_frame(out, "presEvt", |fields| {
        fields.put(Key::Channel, &member.channel);
        fields.put(Key::Action, member.action);
        fields.put(Key::ClientId, &member.client_id);
        fields.put(Key::ConnectionId, &member.connection_id);
        fields.payload(member.data);
        fields.put_unless_default(Key::Encoding, &*member.encoding);
        fields.put(Key::Timestamp, member.timestamp_ms);
    });
}
