//! What a server says, read in place and only as far as it must be: a generator that read every
//! field would be slower than the server (`protocols/foony.md` section 3.2).

use super::super::options::Dialect;
use super::super::redis::{self, Reply};
use crate::error::FrameError;

const ACK: u8 = 12;
const DELIVERIES: u8 = 13;
const BATCH: u8 = 19;

const IS_BATCH: u8 = 2;

/// One thing that a server says; borrows from the bytes that were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said<'a> {
    Delivered(Delivered<'a>),
    /// A request was done. `serial` is 0 for all but publishes.
    Acknowledged {
        id: u64,
        serial: u64,
    },
    /// The oldest publish that was not done before is done. It has no serial.
    OldestAcknowledged,
    /// Any other record, with its length, for whoever knows how to read it.
    Other(&'a [u8]),
    /// An error that is about no request in particular.
    Refused(&'a [u8]),
}

/// A delivery, of which only the serial was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered<'a> {
    /// 0: the server does not number.
    pub serial: u64,
    body: Body<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body<'a> {
    /// From the timestamp on.
    Plain(&'a [u8]),
    /// From the first message on.
    Batch(&'a [u8]),
    /// The payload.
    Data(&'a [u8]),
}

impl<'a> Delivered<'a> {
    /// The payload; that of the first message of a batch. `None`: malformed.
    pub fn data(&self) -> Option<&'a [u8]> {
        let mut rest = match self.body {
            Body::Data(data) => return Some(data),
            Body::Batch(rest) => rest,
            Body::Plain(mut rest) => {
                let _timestamp = uvarint(&mut rest).ok()?;
                let _channel = bytes(&mut rest).ok()?;
                rest
            }
        };
        let _name = bytes(&mut rest).ok()?;
        bytes(&mut rest).ok()
    }
}

/// Calls `take` with everything that a message says, in order.
///
/// # Errors
/// A length reaches past the end, or a number has more than 64 bits.
pub fn read<'a>(
    dialect: Dialect,
    message: &'a [u8],
    take: impl FnMut(Said<'a>),
) -> Result<(), FrameError> {
    match dialect {
        Dialect::Redis => read_replies(message, take),
        Dialect::Foony | Dialect::Sync => read_records(message, take),
    }
}

fn read_replies<'a>(message: &'a [u8], mut take: impl FnMut(Said<'a>)) -> Result<(), FrameError> {
    redis::read(message, |reply| match reply {
        Reply::Message { payload } => {
            take(Said::Delivered(Delivered { serial: 0, body: Body::Data(payload) }));
        }
        Reply::Number(_) => take(Said::OldestAcknowledged),
        Reply::Error(reason) => take(Said::Refused(reason)),
        Reply::Subscribed | Reply::Other => {}
    })
}

fn read_records<'a>(
    mut message: &'a [u8],
    mut take: impl FnMut(Said<'a>),
) -> Result<(), FrameError> {
    while !message.is_empty() {
        let framed = message;
        match bytes(&mut message)? {
            [DELIVERIES, 1, flags, body @ ..] if flags & IS_BATCH == 0 => {
                let (serial, body) = (last_uvarint(body)?, Body::Plain(body));
                take(Said::Delivered(Delivered { serial, body }));
            }
            [DELIVERIES, bundle @ ..] => read_bundle(bundle, &mut take)?,
            [BATCH, _flags, rest @ ..] => take(Said::Delivered(batch(&mut { rest })?)),
            [ACK, _flags, rest @ ..] => {
                let rest = &mut { rest };
                take(Said::Acknowledged { id: uvarint(rest)?, serial: uvarint(rest)? });
            }
            _ => take(Said::Other(&framed[..framed.len() - message.len()])),
        }
    }
    Ok(())
}

fn read_bundle<'a>(mut rest: &'a [u8], take: &mut impl FnMut(Said<'a>)) -> Result<(), FrameError> {
    for _ in 0..uvarint(&mut rest)? {
        let (flags, members) = rest.split_first().ok_or(FrameError::Truncated)?;
        rest = members;
        let delivered = match flags & IS_BATCH {
            0 => plain(&mut rest)?,
            _ => batch_of_a_bundle(&mut rest)?,
        };
        take(Said::Delivered(delivered));
    }
    Ok(())
}

/// A plain member, to its end.
fn plain<'a>(rest: &mut &'a [u8]) -> Result<Delivered<'a>, FrameError> {
    let body = Body::Plain(rest);
    let _timestamp = uvarint(rest)?;
    // Channel, name, data, message id, client id, encoding.
    for _ in 0..6 {
        bytes(rest)?;
    }
    Ok(Delivered { serial: uvarint(rest)?, body })
}

/// A batch body, to its first message.
fn batch<'a>(rest: &mut &'a [u8]) -> Result<Delivered<'a>, FrameError> {
    let _timestamp = uvarint(rest)?;
    // Channel, message id, client id.
    for _ in 0..3 {
        bytes(rest)?;
    }
    let serial = uvarint(rest)?;
    let mut first = *rest;
    uvarint(&mut first)?;
    Ok(Delivered { serial, body: Body::Batch(first) })
}

fn batch_of_a_bundle<'a>(rest: &mut &'a [u8]) -> Result<Delivered<'a>, FrameError> {
    let delivered = batch(rest)?;
    // Name, data and encoding of each message.
    for _ in 0..uvarint(rest)? {
        for _ in 0..3 {
            bytes(rest)?;
        }
    }
    Ok(delivered)
}

#[inline]
fn bytes<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], FrameError> {
    let len = uvarint(rest)? as usize;
    let (bytes, after) = rest.split_at_checked(len).ok_or(FrameError::Truncated)?;
    *rest = after;
    Ok(bytes)
}

/// Nearly all lengths and counts are below 128.
#[inline(always)]
fn uvarint(rest: &mut &[u8]) -> Result<u64, FrameError> {
    if let [byte @ ..0x80, after @ ..] = rest {
        *rest = after;
        return Ok(u64::from(*byte));
    }
    long_uvarint(rest)
}

#[inline(never)]
fn long_uvarint(rest: &mut &[u8]) -> Result<u64, FrameError> {
    let mut value = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (&byte, after) = rest.split_first().ok_or(FrameError::Truncated)?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(FrameError::Body)
}

/// The number at the end of a body, found from behind: a byte before it with the high bit set
/// belongs to it, since the encoding that precedes it is ASCII or its length of 0.
#[inline]
fn last_uvarint(bytes: &[u8]) -> Result<u64, FrameError> {
    let (&last, mut rest) = bytes.split_last().ok_or(FrameError::Truncated)?;
    let mut value = u64::from(last);
    while let Some((&byte, before)) = rest.split_last()
        && byte & 0x80 != 0
    {
        value = value << 7 | u64::from(byte & 0x7f);
        rest = before;
    }
    if last & 0x80 == 0 { Ok(value) } else { Err(FrameError::Body) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::foony::binary::append_event;
    use crate::wire::foony::{Content, Delivery, Event, Message};

    fn message(data: &'static [u8]) -> Message<'static> {
        Message { name: "n".into(), data, encoding: "".into() }
    }

    fn delivery(serial: u64, content: Content<'static>) -> Delivery<'static> {
        Delivery {
            channel: "room:1".into(),
            message_id: "m-1".into(),
            client_id: "alice".into(),
            timestamp_ms: 1_763_000_000_000,
            serial,
            ephemeral: false,
            content,
        }
    }

    fn contents() -> [Content<'static>; 2] {
        let batch = Content::Batch(vec![message(b"\"a\""), message(b"\"b\"")]);
        [Content::One(message(b"\"a\"")), batch]
    }

    /// Serials and payloads of everything delivered.
    fn delivered(events: &[Event<'_>]) -> Vec<(u64, Vec<u8>)> {
        let (mut bytes, mut seen) = (Vec::new(), Vec::new());
        events.iter().for_each(|event| append_event(event, &mut bytes));
        read_records(&bytes, |said| match said {
            Said::Delivered(d) => seen.push((d.serial, d.data().unwrap().to_vec())),
            other => panic!("{other:?}"),
        })
        .unwrap();
        seen
    }

    #[test]
    fn every_form_of_a_delivery_gives_its_serial_and_payload() {
        for serial in [0, 1, 127, 128, 16_384, 1 << 40, u64::MAX >> 11] {
            for content in contents() {
                let one = delivery(serial, content.clone());
                let bundle = Event::Bundle(vec![one.clone(), one.clone()]);
                let expected = vec![(serial, b"\"a\"".to_vec()); 3];
                assert_eq!(delivered(&[Event::Delivery(one), bundle]), expected);
            }
        }
    }

    #[test]
    fn acknowledgements_and_other_records_stand_between() {
        let ack = Event::Ack { id: 300, serial: 12_345, resumed: None };
        let mut bytes = Vec::new();
        [Event::Pong, ack, Event::Pong].iter().for_each(|event| append_event(event, &mut bytes));
        let mut seen = Vec::new();
        read_records(&bytes, |said| seen.push(said)).unwrap();
        let pong = Said::Other(&[1, 16]);
        assert_eq!(seen, [pong, Said::Acknowledged { id: 300, serial: 12_345 }, pong]);
    }

    #[test]
    fn no_cut_of_a_message_is_read_past_its_end() {
        for content in contents() {
            let one = delivery(12_345, content);
            let mut bytes = Vec::new();
            append_event(&Event::Bundle(vec![one.clone(), one]), &mut bytes);
            for cut in 1..bytes.len() {
                assert!(read_records(&bytes[..cut], |_| ()).is_err(), "{cut}");
            }
        }
        assert_eq!(read_records(&[0x80; 20], |_| ()), Err(FrameError::Body));
    }

    #[test]
    fn redis_numbers_nothing_and_acknowledges_in_order() {
        let bytes = b":3\r\n*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$3\r\n\"a\"\r\n-ERR no\r\n";
        let mut seen = Vec::new();
        read(Dialect::Redis, bytes, |said| seen.push(said)).unwrap();
        let [Said::OldestAcknowledged, Said::Delivered(delivered), Said::Refused(b"ERR no")] =
            seen[..]
        else {
            panic!("{seen:?}");
        };
        assert_eq!((delivered.serial, delivered.data()), (0, Some(&b"\"a\""[..])));
    }
}
