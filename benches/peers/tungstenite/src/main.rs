//! A broadcast server on tokio and tokio-tungstenite, as one would write it: two tasks and a queue
//! per connection, a message encoded once for all subscribers, everything that waits in a queue
//! written with one flush. One thread.
//!
//! It speaks what the load generator needs of the Foony protocol's binary records (auth, sub, pub,
//! ping), so that every WebSocket server is measured with the same bytes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::error::Error;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::stream::SplitSink;
use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::LocalSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Bytes, Error as WebSocketError, Message};

const AUTH: u8 = 1;
const SUBSCRIBE: u8 = 2;
const PUBLISH: u8 = 4;
const PING: u8 = 10;
const CONNECTED: u8 = 11;
const ACK: u8 = 12;
const DELIVERY: u8 = 13;
const PONG: u8 = 16;

/// Messages that may wait for one connection; one that is further behind loses its subscription.
const QUEUED_MAX: usize = 65_536;
/// Messages of one flush.
const FLUSHED_MAX: usize = 1024;
/// The default of 128 KiB is cleared before every read: slower, and resident for every connection.
const READ_BUFFER_BYTES: usize = 4096;

#[derive(Default)]
struct Channel {
    serial: u64,
    subscribers: Vec<(u64, Sender<Bytes>)>,
}

type Channels = Rc<RefCell<HashMap<Vec<u8>, Channel>>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    LocalSet::new().run_until(accept()).await
}

async fn accept() -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("ready http={}", listener.local_addr()?);
    let channels = Channels::default();
    for number in 0.. {
        let (stream, _) = listener.accept().await?;
        let channels = channels.clone();
        tokio::task::spawn_local(async move {
            let mut connection = Connection { number, channels, entered: Vec::new() };
            // A connection that broke is one that ended.
            let _ = connection.serve(stream).await;
            connection.leave();
        });
    }
    Ok(())
}

struct Connection {
    number: u64,
    channels: Channels,
    entered: Vec<Vec<u8>>,
}

impl Connection {
    async fn serve(&mut self, stream: TcpStream) -> Result<(), Box<dyn Error>> {
        stream.set_nodelay(true)?;
        let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER_BYTES);
        let socket = tokio_tungstenite::accept_async_with_config(stream, Some(config)).await?;
        let (sink, mut source) = socket.split();
        let (sender, queue) = mpsc::channel(QUEUED_MAX);
        tokio::task::spawn_local(write(sink, queue));
        while let Some(message) = source.next().await {
            if let Message::Binary(records) = message? {
                let answers = self.carry_out(&records, &sender).ok_or("broken record")?;
                sender.send(answers.into()).await?;
            }
        }
        Ok(())
    }

    /// Does what records ask for, and gives the answers. `None`: they are broken.
    fn carry_out(&mut self, mut records: &[u8], sender: &Sender<Bytes>) -> Option<Vec<u8>> {
        let mut answers = Vec::new();
        while !records.is_empty() {
            let (&opcode, mut rest) = field(&mut records)?.split_first()?;
            match opcode {
                AUTH => append_record(&mut answers, &[CONNECTED, 1, b'c', 0x98, 0x75, 1, b's']),
                PING => append_record(&mut answers, &[PONG]),
                SUBSCRIBE => {
                    let (id, _cursor) = (number(&mut rest)?, number(&mut rest)?);
                    let name = field(&mut rest)?.to_vec();
                    let mut channels = self.channels.borrow_mut();
                    let channel = channels.entry(name.clone()).or_default();
                    channel.subscribers.push((self.number, sender.clone()));
                    self.entered.push(name);
                    append_acknowledgement(&mut answers, id, 0);
                }
                PUBLISH => {
                    let (_flags, mut rest) = rest.split_first()?;
                    let id = number(&mut rest)?;
                    append_acknowledgement(&mut answers, id, self.publish(&mut rest)?);
                }
                _ => return None,
            }
        }
        Some(answers)
    }

    /// From the channel on. Gives the serial.
    fn publish(&self, rest: &mut &[u8]) -> Option<u64> {
        let [name, mut event, mut data] = [field(rest)?, field(rest)?, field(rest)?];
        let [mut encoding, message_id] = [field(rest)?, field(rest)?];
        let (_reserved, messages) = (number(rest)?, number(rest)?);
        // SDKs publish a batch of one, beside which the other fields mean nothing.
        if messages == 1 {
            [event, data, encoding] = [field(rest)?, field(rest)?, field(rest)?];
        }
        let mut channels = self.channels.borrow_mut();
        let channel = channels.entry(name.to_vec()).or_default();
        channel.serial += 1;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut body = vec![DELIVERY, 1, 0];
        append_number(&mut body, since.as_millis() as u64);
        [name, event, data, message_id, b"p", encoding]
            .iter()
            .for_each(|bytes| append_record(&mut body, bytes));
        append_number(&mut body, channel.serial);
        let mut record = Vec::new();
        append_record(&mut record, &body);
        let record = Bytes::from(record);
        channel.subscribers.retain(|(_, queue)| queue.try_send(record.clone()).is_ok());
        Some(channel.serial)
    }

    fn leave(&mut self) {
        let mut channels = self.channels.borrow_mut();
        for name in self.entered.drain(..) {
            let Some(channel) = channels.get_mut(&name) else { continue };
            channel.subscribers.retain(|(number, _)| *number != self.number);
            if channel.subscribers.is_empty() {
                channels.remove(&name);
            }
        }
    }
}

/// Writes what comes into a queue, until every sender is gone or the connection breaks.
async fn write(
    mut sink: SplitSink<WebSocketStream<TcpStream>, Message>,
    mut queue: Receiver<Bytes>,
) -> Result<(), WebSocketError> {
    let mut waiting = Vec::new();
    while queue.recv_many(&mut waiting, FLUSHED_MAX).await > 0 {
        for message in waiting.drain(..) {
            sink.feed(Message::Binary(message)).await?;
        }
        sink.flush().await?;
    }
    Ok(())
}

fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn field<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(number(bytes)?).ok()?;
    let (field, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(field)
}

fn append_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A record, or a field: its length first.
fn append_record(out: &mut Vec<u8>, bytes: &[u8]) {
    append_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn append_acknowledgement(out: &mut Vec<u8>, id: u64, serial: u64) {
    let mut body = vec![ACK, 0];
    append_number(&mut body, id);
    append_number(&mut body, serial);
    append_record(out, &body);
}
