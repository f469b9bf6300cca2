//! Deliveries read in place and only as far as the reader asks (`protocols/foony.md` section 3.2).

use super::event::{IS_BATCH, delivery_body};
use super::field::Reader;
use super::{BATCH, DELIVERIES, Records, records};
use crate::error::FrameError;
use crate::wire::foony::Delivery;

/// Bytes fields of a delivery of one message between its timestamp and its serial: channel, name,
/// data, message id, client id, encoding.
const FIELDS_OF_ONE: usize = 6;
/// The same of a batch: channel, message id, client id.
const FIELDS_OF_BATCH: usize = 3;
/// Name, data, encoding.
const FIELDS_OF_MESSAGE: usize = 3;

/// The deliveries of consecutive records. Allocates nothing. An error is the last item.
#[derive(Clone, Debug)]
pub struct Deliveries<'a> {
    records: Records<'a>,
    bundle: Reader<'a>,
    bundle_left: u64,
}

impl<'a> Deliveries<'a> {
    /// Splits the records that deliver messages off the front of a message; `None` when its first
    /// record does not.
    pub fn split_off(message: &mut &'a [u8]) -> Option<Self> {
        let all = *message;
        let mut reader = Reader::new(all);
        while let Ok([DELIVERIES | BATCH, ..]) = reader.bytes() {
            *message = reader.rest();
        }
        let own = &all[..all.len() - message.len()];
        let bundle = Reader::new(&[]);
        (!own.is_empty()).then(|| Deliveries { records: records(own), bundle, bundle_left: 0 })
    }

    /// Calls `take` with each of them, in order. A third of the cost of the iterator: a delivery
    /// of one message stays in registers.
    ///
    /// # Errors
    /// Those of the iterator, and what `take` returns.
    #[inline]
    pub fn try_each(
        mut self,
        mut take: impl FnMut(Delivered<'a>) -> Result<(), FrameError>,
    ) -> Result<(), FrameError> {
        while self.bundle_left > 0 {
            take(self.next_of_bundle()?)?;
        }
        let mut rest = self.records.rest();
        while !rest.is_empty() {
            let record = rest;
            let mut reader = Reader::new(rest);
            let bytes = reader.bytes()?;
            rest = reader.rest();
            if let [DELIVERIES, 1, flags, body @ ..] = bytes
                && flags & IS_BATCH == 0
            {
                take(Delivered { flags: *flags, body })?;
                continue;
            }
            let own = records(&record[..record.len() - rest.len()]);
            let mut others = Deliveries { records: own, bundle: Reader::new(&[]), bundle_left: 0 };
            others.try_for_each(|delivered| take(delivered?))?;
        }
        Ok(())
    }

    fn next_of_record(&mut self) -> Option<Result<Delivered<'a>, FrameError>> {
        loop {
            let bytes = match self.records.next()? {
                Ok(record) => record.bytes(),
                Err(error) => return Some(Err(error)),
            };
            match bytes {
                [DELIVERIES, 1, flags, body @ ..] if flags & IS_BATCH == 0 => {
                    return Some(Ok(Delivered { flags: *flags, body }));
                }
                [BATCH, flags, body @ ..] => {
                    return Some(Ok(Delivered { flags: flags | IS_BATCH, body }));
                }
                [DELIVERIES, bundle @ ..] => {
                    self.bundle = Reader::new(bundle);
                    match self.bundle.uvarint() {
                        Ok(0) => {}
                        Ok(count) => {
                            self.bundle_left = count;
                            return Some(self.next_of_bundle());
                        }
                        Err(error) => return Some(Err(error)),
                    }
                }
                _ => return Some(Err(FrameError::Truncated)),
            }
        }
    }

    fn next_of_bundle(&mut self) -> Result<Delivered<'a>, FrameError> {
        self.bundle_left -= 1;
        let flags = self.bundle.byte()?;
        let body = self.bundle.rest();
        skip_body(&mut self.bundle, flags)?;
        Ok(Delivered { flags, body: &body[..body.len() - self.bundle.rest().len()] })
    }
}

impl<'a> Iterator for Deliveries<'a> {
    type Item = Result<Delivered<'a>, FrameError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let next = match self.bundle_left {
            0 => self.next_of_record(),
            _ => Some(self.next_of_bundle()),
        };
        if matches!(next, Some(Err(_))) {
            (self.records, self.bundle_left) = (records(&[]), 0);
        }
        next
    }
}

/// One delivery, of which nothing was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered<'a> {
    flags: u8,
    /// From the timestamp on.
    body: &'a [u8],
}

impl<'a> Delivered<'a> {
    /// The serial; 0 when it is not numbered.
    ///
    /// # Errors
    /// [`FrameError::Truncated`], [`FrameError::Body`].
    pub fn serial(&self) -> Result<u64, FrameError> {
        let mut reader = Reader::new(self.body);
        let fields = if self.is_batch() { FIELDS_OF_BATCH } else { FIELDS_OF_ONE };
        let _timestamp = reader.uvarint()?;
        skip(&mut reader, fields)?;
        reader.uvarint()
    }

    /// The serial of a server that is known to append no fields of its own: found from behind,
    /// which costs a tenth of [`Delivered::serial`].
    ///
    /// # Errors
    /// As [`Delivered::serial`].
    #[inline]
    pub fn serial_at_end(&self) -> Result<u64, FrameError> {
        if self.is_batch() { self.serial() } else { last_uvarint(self.body) }
    }

    /// The payload; that of the first message of a batch. It is not checked to be JSON.
    ///
    /// # Errors
    /// [`FrameError::Truncated`], [`FrameError::Body`].
    pub fn data(&self) -> Result<&'a [u8], FrameError> {
        let mut reader = Reader::new(self.body);
        let _timestamp = reader.uvarint()?;
        if self.is_batch() {
            skip(&mut reader, FIELDS_OF_BATCH)?;
            let (_serial, _count) = (reader.uvarint()?, reader.uvarint()?);
        } else {
            let _channel = reader.bytes()?;
        }
        let _name = reader.bytes()?;
        reader.bytes()
    }

    /// Everything, checked.
    ///
    /// # Errors
    /// Those of [`Record::event`](super::Record::event).
    pub fn read(&self) -> Result<Delivery<'a>, FrameError> {
        delivery_body(&mut Reader::new(self.body), self.flags)
    }

    fn is_batch(&self) -> bool {
        self.flags & IS_BATCH != 0
    }
}

fn skip(reader: &mut Reader<'_>, fields: usize) -> Result<(), FrameError> {
    (0..fields).try_for_each(|_| reader.bytes().map(drop))
}

fn skip_body(reader: &mut Reader<'_>, flags: u8) -> Result<(), FrameError> {
    let _timestamp = reader.uvarint()?;
    if flags & IS_BATCH == 0 {
        skip(reader, FIELDS_OF_ONE)?;
        return reader.uvarint().map(drop);
    }
    skip(reader, FIELDS_OF_BATCH)?;
    let _serial = reader.uvarint()?;
    for _ in 0..reader.uvarint()? {
        skip(reader, FIELDS_OF_MESSAGE)?;
    }
    Ok(())
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
    use crate::wire::foony::{Content, Event, Message};

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

    fn bytes(events: &[Event<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        events.iter().for_each(|event| append_event(event, &mut bytes));
        bytes
    }

    #[test]
    fn every_form_of_a_delivery_gives_its_serial_its_payload_and_all_of_it() {
        for serial in [0, 1, 127, 128, 16_384, 1 << 40, u64::MAX >> 11] {
            for content in contents() {
                let one = delivery(serial, content.clone());
                let bundle = Event::Bundle(vec![one.clone(), one.clone()]);
                let message = bytes(&[Event::Delivery(one.clone()), bundle]);
                let mut rest = &message[..];
                let seen: Vec<_> = Deliveries::split_off(&mut rest).unwrap().collect();
                assert_eq!((seen.len(), rest.len()), (3, 0));
                let (all, mut each) = (Deliveries::split_off(&mut &message[..]), Vec::new());
                let ended = all.unwrap().try_each(|delivered| {
                    each.push(Ok(delivered));
                    Ok(())
                });
                assert_eq!((ended, &each), (Ok(()), &seen));
                for delivered in seen.into_iter().map(Result::unwrap) {
                    assert_eq!(delivered.serial(), Ok(serial));
                    assert_eq!(delivered.serial_at_end(), Ok(serial));
                    assert_eq!(delivered.data(), Ok(&b"\"a\""[..]));
                    assert_eq!(delivered.read(), Ok(one.clone()));
                }
            }
        }
    }

    #[test]
    fn deliveries_end_where_another_record_begins() {
        let [one, batch] = contents().map(|content| Event::Delivery(delivery(7, content)));
        let message = bytes(&[one.clone(), batch, Event::Pong, one]);
        let mut rest = &message[..];
        assert_eq!(Deliveries::split_off(&mut rest).map(Iterator::count), Some(2));
        assert!(Deliveries::split_off(&mut rest).is_none());
        let rest = &mut &rest[2..];
        assert_eq!(Deliveries::split_off(rest).map(Iterator::count), Some(1));
        assert!(rest.is_empty() && Deliveries::split_off(rest).is_none());
    }

    #[test]
    fn no_cut_of_a_record_is_read_past_its_end() {
        for content in contents() {
            let one = delivery(12_345, content);
            let message = bytes(&[Event::Bundle(vec![one.clone(), one])]);
            let record = records(&message).next().unwrap().unwrap().bytes();
            for cut in 1..record.len() {
                let mut message = vec![0; 0];
                super::super::append_record(&mut message, record[0], |out| {
                    out.extend_from_slice(&record[1..cut]);
                });
                let deliveries = Deliveries::split_off(&mut &message[..]).unwrap();
                assert!(deliveries.clone().last().unwrap().is_err(), "{cut}");
                assert!(deliveries.try_each(|_| Ok(())).is_err(), "{cut}");
            }
        }
        let endless = b"\x06\x0d\xff\xff\xff\xff\x0f";
        let deliveries = Deliveries::split_off(&mut &endless[..]).unwrap();
        assert!(deliveries.eq([Err(FrameError::Truncated)]));
    }
}
