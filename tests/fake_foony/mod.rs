//! A Foony server of one thread per connection: slow, simple, and faulty on demand.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use headcount::limits::REQUEST_HEAD_BYTES_MAX;
use headcount::wire::foony::{
    Content, Delivery, ErrorCode, Event, Member, Publish, Request, binary,
};
use headcount::wire::http;
use headcount::wire::websocket::{self, Decoder, Incoming, MessageLimits, Opcode, Role};

const LIMITS: MessageLimits = MessageLimits { message_bytes_max: 1 << 20, fragments_max: 1 };

/// What the server does wrong, once in every channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    RefuseKey,
    /// Delivers it to nobody.
    SkipAt(u64),
    RepeatAt(u64),
    /// Delivers the next one before it.
    SwapAt(u64),
    /// Delivers it, and says nothing to its publisher.
    NeverAcknowledge(u64),
    /// Gives another publish's content to this serial.
    WrongContentAt(u64),
    /// Acknowledges everything and delivers nothing.
    AcknowledgesOnly,
    /// Refuses a publish that has not the form in which SDKs send it.
    RefuseOtherForms,
    /// Refuses credentials behind which a request came at once.
    RefusePipelined,
    /// Says nothing to so many connections, the first ones, for [`LATE`].
    LateFor(usize),
}

pub const LATE: Duration = Duration::from_millis(700);

/// Lives until the process ends.
pub fn start(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let rooms = Arc::new(Mutex::new(Rooms { fault, rooms: BTreeMap::new() }));
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let (stream, rooms) = (Arc::new(stream.unwrap()), rooms.clone());
            stream.set_nodelay(true).unwrap();
            std::thread::spawn(move || {
                if matches!(fault, Fault::LateFor(first) if number < first) {
                    std::thread::sleep(LATE);
                }
                // A connection that broke is one that ended.
                let _ = serve(&stream, &rooms);
                rooms.lock().unwrap().leave(&stream);
                let _ = stream.shutdown(Shutdown::Both);
            });
        }
    });
    address
}

struct Rooms {
    fault: Fault,
    rooms: BTreeMap<String, PageLimit>,
}

#[derive(Default)]
struct PageLimit {
    serial: u64,
    subscribers: Vec<Arc<TcpStream>>,
    /// Of presence.
    watchers: Vec<Arc<TcpStream>>,
    /// Delivered after the next one.
    held: Vec<u8>,
    first_data: Vec<u8>,
}

fn serve(stream: &Arc<TcpStream>, rooms: &Mutex<Rooms>) -> Option<()> {
    let mut bytes = Vec::new();
    let upgrade = loop {
        fill(stream, &mut bytes)?;
        if let http::Parsed::Upgrade(upgrade) = http::parse(&bytes, REQUEST_HEAD_BYTES_MAX).ok()? {
            break upgrade;
        }
    };
    (&**stream).write_all(&http::switching_protocols(&upgrade.key, None)).ok()?;
    let head_bytes = upgrade.head_bytes;
    drop(bytes.drain(..head_bytes));
    let mut decoder = Decoder::new(Role::Server);
    loop {
        let held = bytes.len();
        let decoded = decoder.decode(&mut bytes, &LIMITS).ok()?;
        let is_followed = decoded.consumed < held;
        if let Some(Incoming::Message { payload, .. }) = decoded.incoming {
            // Every write happens under the lock, so that messages never mix.
            let mut rooms = rooms.lock().unwrap();
            let is_followed = is_followed || binary::records(&payload).count() > 1;
            for record in binary::records(&payload) {
                let mut answer = Vec::new();
                match record.ok()?.request().ok()? {
                    Request::Auth(_) if is_followed && rooms.fault == Fault::RefusePipelined => {
                        refuse("pipelined", &mut answer);
                    }
                    request => rooms.take(stream, request, &mut answer),
                }
                send(stream, &answer)?;
            }
        } else if let Some(Incoming::Close { .. }) = decoded.incoming {
            let mut reply = Vec::new();
            websocket::append_close(&mut reply, 1000, "");
            return (&**stream).write_all(&reply).ok();
        }
        let consumed = decoded.consumed;
        bytes.drain(..consumed);
        if consumed == 0 {
            fill(stream, &mut bytes)?;
        }
    }
}

fn fill(mut stream: &TcpStream, bytes: &mut Vec<u8>) -> Option<()> {
    let mut buffer = [0; 4096];
    let got = stream.read(&mut buffer).ok().filter(|&got| got > 0)?;
    bytes.extend_from_slice(&buffer[..got]);
    Some(())
}

fn send(mut stream: &TcpStream, records: &[u8]) -> Option<()> {
    let mut message = Vec::new();
    websocket::append_frame(&mut message, Opcode::Binary, records);
    if records.is_empty() { Some(()) } else { stream.write_all(&message).ok() }
}

fn refuse(why: &'static str, answer: &mut Vec<u8>) {
    let (code, message) = (ErrorCode::BadAuth, why.into());
    binary::append_event(&Event::Error { id: 0, code, message }, answer);
}

/// A batch of one message, under an id of 22 characters.
fn is_form_of_sdk(publish: &Publish<'_>) -> bool {
    let is_batch_of_one = matches!(&publish.content, Content::Batch(all) if all.len() == 1);
    is_batch_of_one && publish.message_id.len() == 22
}

impl Rooms {
    fn take(&mut self, stream: &Arc<TcpStream>, request: Request<'_>, answer: &mut Vec<u8>) {
        match request {
            Request::Auth(_) if self.fault == Fault::RefuseKey => refuse("no such key", answer),
            Request::Publish(publish)
                if self.fault == Fault::RefuseOtherForms && !is_form_of_sdk(&publish) =>
            {
                refuse("another form", answer);
            }
            Request::Auth(auth) => {
                let (connection_id, client_id) = ("c".into(), auth.client_id);
                let event = Event::Connected { connection_id, keep_alive_ms: 15_000, client_id };
                binary::append_event(&event, answer);
            }
            Request::Subscribe { id, channel, .. } => {
                let room = self.rooms.entry(channel.into_owned()).or_default();
                room.subscribers.push(stream.clone());
                binary::append_event(&Event::Ack { id, serial: 0, resumed: None }, answer);
            }
            Request::Publish(publish) => self.publish(&publish, answer),
            Request::PresenceSubscribe { id, channel } => {
                let room = self.rooms.entry(channel.into_owned()).or_default();
                room.watchers.push(stream.clone());
                binary::append_event(&Event::Ack { id, serial: 0, resumed: None }, answer);
            }
            Request::Presence(presence) => {
                let room = self.rooms.entry(presence.channel.clone().into_owned()).or_default();
                let member = Member {
                    action: presence.action,
                    timestamp_ms: 1_763_000_000_000,
                    channel: presence.channel,
                    client_id: "p".into(),
                    connection_id: "c".into(),
                    data: presence.data,
                    encoding: presence.encoding,
                };
                let mut record = Vec::new();
                binary::append_event(&Event::Member(member), &mut record);
                for watcher in &room.watchers {
                    let _ = send(watcher, &record);
                }
                let ack = Event::Ack { id: presence.id, serial: 0, resumed: None };
                binary::append_event(&ack, answer);
            }
            Request::Ping => binary::append_event(&Event::Pong, answer),
            other => panic!("{other:?}"),
        }
    }

    fn leave(&mut self, stream: &Arc<TcpStream>) {
        for room in self.rooms.values_mut() {
            room.subscribers.retain(|other| !Arc::ptr_eq(other, stream));
            room.watchers.retain(|other| !Arc::ptr_eq(other, stream));
        }
    }

    fn publish(&mut self, publish: &Publish<'_>, answer: &mut Vec<u8>) {
        let room = self.rooms.entry(publish.channel.clone().into_owned()).or_default();
        room.serial += 1;
        let serial = room.serial;
        let Content::One(mut message) = publish.content.clone().unwrapped() else {
            panic!("a batch of several")
        };
        if serial == 1 {
            room.first_data = message.data.to_vec();
        }
        let first_data = room.first_data.clone();
        if self.fault == Fault::WrongContentAt(serial) {
            message.data = &first_data;
        }
        let delivery = Delivery {
            channel: publish.channel.clone(),
            message_id: publish.message_id.clone(),
            client_id: "p".into(),
            timestamp_ms: 1_763_000_000_000,
            serial,
            ephemeral: false,
            content: Content::One(message),
        };
        let mut record = Vec::new();
        binary::append_event(&Event::Delivery(delivery), &mut record);
        match self.fault {
            Fault::AcknowledgesOnly => {}
            Fault::SkipAt(at) if at == serial => {}
            Fault::RepeatAt(at) if at == serial => room.deliver(&[&record[..], &record].concat()),
            Fault::SwapAt(at) if at == serial => room.held = record,
            _ => {
                record.append(&mut room.held);
                room.deliver(&record);
            }
        }
        if self.fault != Fault::NeverAcknowledge(serial) {
            binary::append_event(&Event::Ack { id: publish.id, serial, resumed: None }, answer);
        }
    }
}

impl PageLimit {
    fn deliver(&self, records: &[u8]) {
        // One that left is told by its own thread.
        for stream in &self.subscribers {
            let _ = send(stream, records);
        }
    }
}
