//! Events of the server, opcodes 11 to 19 (`protocols/foony.md` section 3.2).

use std::borrow::Cow;

use super::field::{Reader, write_bytes, write_messages, write_text, write_uvarint};
use super::{
    ACK, BATCH, CONNECTED, DELIVERIES, ERROR, FETCHED, HISTORY_PAGE, MEMBER, PEER_DIGEST,
    PEER_DIRECT_MESSAGE, PEER_DIRECT_REFUSED, PEER_EDGE_REQUEST, PEER_GREETING, PEER_MEMBER, PONG,
    append_record, digest, peer,
};
use crate::error::FrameError;
use crate::wire::foony::{Action, Content, Delivery, ErrorCode, Event, Member, Message};

const ACK_RESUMED_KNOWN: u8 = 1;
const ACK_RESUMED: u8 = 2;
const EPHEMERAL: u8 = 1;
pub(super) const IS_BATCH: u8 = 2;
/// `more` of a history page, `resumed` of a fetch.
const PAGE_FLAG: u8 = 1;

pub(super) fn decode<'a>(reader: &mut Reader<'a>) -> Result<Event<'a>, FrameError> {
    Ok(match reader.byte()? {
        CONNECTED => Event::Connected {
            connection_id: reader.text()?,
            keep_alive_ms: reader.uvarint()?,
            client_id: reader.text()?,
        },
        ACK => ack(reader)?,
        DELIVERIES => deliveries(reader)?,
        MEMBER => Event::Member(member_body(reader)?),
        ERROR => error(reader)?,
        PONG => Event::Pong,
        HISTORY_PAGE => {
            let (more, id, channel, messages) = page(reader)?;
            Event::History { id, channel, messages, more }
        }
        FETCHED => {
            let (resumed, id, channel, messages) = page(reader)?;
            Event::Fetched { id, channel, messages, resumed }
        }
        BATCH => {
            let flags = reader.byte()?;
            Event::Delivery(batch_body(reader, flags)?)
        }
        PEER_GREETING => Event::PeerGreeting(peer::greeting(reader)?),
        PEER_MEMBER => Event::PeerMember(Box::new(peer::member(reader)?)),
        PEER_EDGE_REQUEST => Event::EdgeRequest(Box::new(peer::edge_request(reader)?)),
        PEER_DIRECT_MESSAGE => Event::DirectMessage(peer::direct_message(reader)?),
        PEER_DIGEST => Event::MembersDigest(digest::digest(reader)?),
        PEER_DIRECT_REFUSED => Event::DirectRefused(peer::direct_refused(reader)?),
        _ => return Err(FrameError::UnknownType),
    })
}

fn ack<'a>(reader: &mut Reader<'a>) -> Result<Event<'a>, FrameError> {
    let flags = reader.byte()?;
    let resumed = (flags & ACK_RESUMED_KNOWN != 0).then_some(flags & ACK_RESUMED != 0);
    Ok(Event::Ack { id: reader.uvarint()?, serial: reader.uvarint()?, resumed })
}

fn deliveries<'a>(reader: &mut Reader<'a>) -> Result<Event<'a>, FrameError> {
    let mut deliveries = reader.list(delivery)?;
    Ok(match deliveries.len() {
        1 => Event::Delivery(deliveries.swap_remove(0)),
        _ => Event::Bundle(deliveries),
    })
}

pub(super) fn member_body<'a>(reader: &mut Reader<'a>) -> Result<Member<'a>, FrameError> {
    Ok(Member {
        action: Action::from_repr(reader.byte()?).unwrap_or(Action::Enter),
        timestamp_ms: reader.uvarint()?,
        channel: reader.text()?,
        client_id: reader.text()?,
        connection_id: reader.text()?,
        data: reader.payload()?,
        encoding: reader.text()?,
    })
}

fn error<'a>(reader: &mut Reader<'a>) -> Result<Event<'a>, FrameError> {
    let (id, code) = (reader.uvarint()?, reader.uvarint()?);
    let code = ErrorCode::from_code(code).ok_or(FrameError::Body)?;
    Ok(Event::Error { id, code, message: reader.text()? })
}

/// Flag, id, channel and deliveries of a page.
type Page<'a> = (bool, u64, Cow<'a, str>, Vec<Delivery<'a>>);

fn page<'a>(reader: &mut Reader<'a>) -> Result<Page<'a>, FrameError> {
    let flag = reader.byte()? & PAGE_FLAG != 0;
    Ok((flag, reader.uvarint()?, reader.text()?, reader.list(delivery)?))
}

fn delivery<'a>(reader: &mut Reader<'a>) -> Result<Delivery<'a>, FrameError> {
    let flags = reader.byte()?;
    delivery_body(reader, flags)
}

pub(super) fn delivery_body<'a>(
    reader: &mut Reader<'a>,
    flags: u8,
) -> Result<Delivery<'a>, FrameError> {
    if flags & IS_BATCH != 0 {
        return batch_body(reader, flags);
    }
    let (timestamp_ms, channel) = (reader.uvarint()?, reader.text()?);
    let (name, data) = (reader.text()?, reader.payload()?);
    let (message_id, client_id) = (reader.text()?, reader.text()?);
    let content = Content::One(Message { name, data, encoding: reader.text()? });
    let serial = reader.uvarint()?;
    let ephemeral = flags & EPHEMERAL != 0;
    Ok(Delivery { channel, message_id, client_id, timestamp_ms, serial, ephemeral, content })
}

fn batch_body<'a>(reader: &mut Reader<'a>, flags: u8) -> Result<Delivery<'a>, FrameError> {
    Ok(Delivery {
        timestamp_ms: reader.uvarint()?,
        channel: reader.text()?,
        message_id: reader.text()?,
        client_id: reader.text()?,
        serial: reader.uvarint()?,
        content: Content::Batch(reader.messages()?),
        ephemeral: flags & EPHEMERAL != 0,
    })
}

/// Appends an event as one record.
pub fn append_event(event: &Event<'_>, out: &mut Vec<u8>) {
    match event {
        Event::Connected { connection_id, keep_alive_ms, client_id } => {
            append_record(out, CONNECTED, |out| {
                write_text(out, connection_id);
                write_uvarint(out, *keep_alive_ms);
                write_text(out, client_id);
            });
        }
        Event::Ack { id, serial, resumed } => append_record(out, ACK, |out| {
            out.push(ack_flags(*resumed));
            write_uvarint(out, *id);
            write_uvarint(out, *serial);
        }),
        Event::Delivery(delivery) => append_delivery(delivery, out),
        Event::Bundle(deliveries) => append_record(out, DELIVERIES, |out| {
            write_deliveries(out, deliveries);
        }),
        Event::Member(member) => append_record(out, MEMBER, |out| write_member_body(out, member)),
        Event::PeerGreeting(greeting) => peer::append_greeting(greeting, out),
        Event::PeerMember(member) => peer::append_member(member, out),
        Event::EdgeRequest(request) => peer::append_edge_request(request, out),
        Event::DirectMessage(message) => peer::append_direct_message(message, out),
        Event::MembersDigest(members) => digest::append_digest(members, out),
        Event::DirectRefused(refused) => peer::append_direct_refused(refused, out),
        Event::Error { id, code, message } => append_record(out, ERROR, |out| {
            write_uvarint(out, *id);
            write_uvarint(out, u64::from(code.code()));
            write_text(out, message);
        }),
        Event::Pong => append_record(out, PONG, |_| {}),
        Event::History { id, channel, messages, more } => {
            append_record(out, HISTORY_PAGE, |out| {
                write_page(out, page_flags(*more), *id, channel, messages);
            });
        }
        Event::Fetched { id, channel, messages, resumed } => {
            append_record(out, FETCHED, |out| {
                write_page(out, page_flags(*resumed), *id, channel, messages);
            });
        }
    }
}

fn ack_flags(resumed: Option<bool>) -> u8 {
    match resumed {
        None => 0,
        Some(false) => ACK_RESUMED_KNOWN,
        Some(true) => ACK_RESUMED_KNOWN | ACK_RESUMED,
    }
}

fn append_delivery(delivery: &Delivery<'_>, out: &mut Vec<u8>) {
    match &delivery.content {
        Content::One(message) => append_record(out, DELIVERIES, |out| {
            write_uvarint(out, 1);
            out.push(delivery_flags(delivery));
            write_single_body(out, delivery, message);
        }),
        Content::Batch(messages) => append_record(out, BATCH, |out| {
            out.push(delivery_flags(delivery) & !IS_BATCH);
            write_batch_body(out, delivery, messages);
        }),
    }
}

pub(super) fn write_member_body(out: &mut Vec<u8>, member: &Member<'_>) {
    out.push(member.action as u8);
    write_uvarint(out, member.timestamp_ms);
    write_text(out, &member.channel);
    write_text(out, &member.client_id);
    write_text(out, &member.connection_id);
    write_bytes(out, member.data);
    write_text(out, &member.encoding);
}

fn page_flags(flag: bool) -> u8 {
    if flag { PAGE_FLAG } else { 0 }
}

fn write_page(out: &mut Vec<u8>, flags: u8, id: u64, channel: &str, messages: &[Delivery<'_>]) {
    out.push(flags);
    write_uvarint(out, id);
    write_text(out, channel);
    write_deliveries(out, messages);
}

fn write_deliveries(out: &mut Vec<u8>, deliveries: &[Delivery<'_>]) {
    write_uvarint(out, deliveries.len() as u64);
    for delivery in deliveries {
        out.push(delivery_flags(delivery));
        match &delivery.content {
            Content::One(message) => write_single_body(out, delivery, message),
            Content::Batch(messages) => write_batch_body(out, delivery, messages),
        }
    }
}

fn delivery_flags(delivery: &Delivery<'_>) -> u8 {
    let ephemeral = if delivery.ephemeral { EPHEMERAL } else { 0 };
    let batch = if matches!(delivery.content, Content::Batch(_)) { IS_BATCH } else { 0 };
    ephemeral | batch
}

fn write_single_body(out: &mut Vec<u8>, delivery: &Delivery<'_>, message: &Message<'_>) {
    write_uvarint(out, delivery.timestamp_ms);
    write_text(out, &delivery.channel);
    write_text(out, &message.name);
    write_bytes(out, message.data);
    write_text(out, &delivery.message_id);
    write_text(out, &delivery.client_id);
    write_text(out, &message.encoding);
    write_uvarint(out, delivery.serial);
}

fn write_batch_body(out: &mut Vec<u8>, delivery: &Delivery<'_>, messages: &[Message<'_>]) {
    write_uvarint(out, delivery.timestamp_ms);
    write_text(out, &delivery.channel);
    write_text(out, &delivery.message_id);
    write_text(out, &delivery.client_id);
    write_uvarint(out, delivery.serial);
    write_messages(out, messages);
}
