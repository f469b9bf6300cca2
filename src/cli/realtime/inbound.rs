//! Bytes from the server -> messages, on a thread of its own, so that whoever waits for a message
//! can wait for something else too.

use std::io::{self, ErrorKind, Read};
use std::net::TcpStream;
use std::ops::ControlFlow;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::fault::Fault;
use crate::cli::text::clipped;
use crate::error::FrameError;
use crate::wire::websocket::{Decoder, Incoming, MessageKind, MessageLimits, Role};

/// Bounds what a server can make this process hold: the connection ends.
const LIMITS: MessageLimits =
    MessageLimits { message_bytes_max: 16 * 1024 * 1024, fragments_max: 1024 };

/// Messages that wait to be looked at. When they are that many nothing more is read, and the
/// server sees a slow consumer.
const WAITING_MAX: usize = 64;

const READ_BYTES: usize = 64 * 1024;

/// What the server sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrived {
    /// Records.
    Message(Vec<u8>),
    /// A text message: the server speaks another protocol.
    Text,
    /// To be answered with a pong of the same body.
    Ping(Vec<u8>),
    Pong,
    /// Nothing follows.
    End(Fault),
}

/// Reads until the connection ends or nobody listens. `bytes` were read already.
///
/// # Errors
/// When the socket or the thread cannot be had.
pub(super) fn start(mut stream: TcpStream, bytes: Vec<u8>) -> io::Result<Receiver<Arrived>> {
    let (sender, receiver) = bounded(WAITING_MAX);
    stream.set_read_timeout(None)?;
    thread::Builder::new().name("realtime-inbound".to_owned()).spawn(move || {
        let fault = Inbound { decoder: Decoder::new(Role::Client), bytes, sender: &sender }
            .read(&mut stream);
        if let ControlFlow::Break(Some(fault)) = fault {
            // Nobody to hear of the end is no loss.
            let _ = sender.send(Arrived::End(fault));
        }
    })?;
    Ok(receiver)
}

struct Inbound<'s> {
    decoder: Decoder,
    /// What did not make a frame.
    bytes: Vec<u8>,
    sender: &'s Sender<Arrived>,
}

/// Goes on, or ends: with a fault, or because nobody listens.
type Step = ControlFlow<Option<Fault>>;

impl Inbound<'_> {
    fn read(&mut self, stream: &mut impl Read) -> Step {
        loop {
            self.decode()?;
            let held = self.bytes.len();
            self.bytes.resize(held + READ_BYTES, 0);
            let got = stream.read(&mut self.bytes[held..]);
            self.bytes.truncate(held + *got.as_ref().unwrap_or(&0));
            match got {
                Ok(0) => return ended("it closed the connection"),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return ended(&error.to_string()),
            }
        }
    }

    fn decode(&mut self) -> Step {
        let mut used = 0;
        loop {
            let decoded = match self.decoder.decode(&mut self.bytes[used..], &LIMITS) {
                Ok(decoded) => decoded,
                Err(error) => return broken(error),
            };
            if decoded.consumed == 0 {
                self.bytes.drain(..used);
                return ControlFlow::Continue(());
            }
            used += decoded.consumed;
            let arrived = match decoded.incoming {
                None => continue,
                Some(Incoming::Message { kind: MessageKind::Binary, payload }) => {
                    Arrived::Message(payload.to_vec())
                }
                Some(Incoming::Message { kind: MessageKind::Text, .. }) => Arrived::Text,
                Some(Incoming::Ping(body)) => Arrived::Ping(body.to_vec()),
                Some(Incoming::Pong(_)) => Arrived::Pong,
                Some(Incoming::Close { code, reason }) => return ended(&closed(code, reason)),
            };
            if self.sender.send(arrived).is_err() {
                return ControlFlow::Break(None);
            }
        }
    }
}

fn ended(why: &str) -> Step {
    ControlFlow::Break(Some(Fault::Lost(why.to_owned())))
}

fn broken(error: FrameError) -> Step {
    ControlFlow::Break(Some(Fault::Broken(error)))
}

fn closed(code: Option<u16>, reason: &str) -> String {
    let code = code.map_or_else(String::new, |code| code.to_string());
    match clipped(format!("{code} {reason}")).trim() {
        "" => "it closed the connection".to_owned(),
        why => format!("it closed the connection ({why})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::websocket::{Opcode, append_close, append_frame};

    /// Everything that arrives from a stream of these bytes, the first `early` of which came with
    /// the answer to the upgrade.
    fn arrivals(stream: &[u8], early: usize) -> Vec<Arrived> {
        let (sender, receiver) = bounded(WAITING_MAX);
        let decoder = Decoder::new(Role::Client);
        let mut inbound = Inbound { decoder, bytes: stream[..early].to_vec(), sender: &sender };
        let end = inbound.read(&mut &stream[early..]);
        if let ControlFlow::Break(Some(fault)) = end {
            sender.send(Arrived::End(fault)).unwrap();
        }
        receiver.try_iter().collect()
    }

    #[test]
    fn messages_arrive_in_order_wherever_the_upgrade_ended() {
        let mut stream = Vec::new();
        append_frame(&mut stream, Opcode::Binary, b"one");
        append_frame(&mut stream, Opcode::Ping, b"p");
        append_frame(&mut stream, Opcode::Pong, b"");
        append_frame(&mut stream, Opcode::Text, b"{}");
        append_frame(&mut stream, Opcode::Binary, &[7; 70_000]);
        append_close(&mut stream, 1001, "bye");
        let end = Fault::Lost("it closed the connection (1001 bye)".to_owned());
        for early in [0, 1, 7, stream.len()] {
            let expected = [
                Arrived::Message(b"one".to_vec()),
                Arrived::Ping(b"p".to_vec()),
                Arrived::Pong,
                Arrived::Text,
                Arrived::Message(vec![7; 70_000]),
                Arrived::End(end.clone()),
            ];
            assert!(arrivals(&stream, early) == expected, "{early}");
        }
    }

    #[test]
    fn a_stream_that_ends_or_breaks_says_so() {
        let lost = |why: &str| vec![Arrived::End(Fault::Lost(why.to_owned()))];
        assert_eq!(arrivals(b"", 0), lost("it closed the connection"));
        assert_eq!(arrivals(b"\x82\x05abc", 0), lost("it closed the connection"));
        assert_eq!(arrivals(b"\x88\x00", 0), lost("it closed the connection"));
        let masked = arrivals(b"\x82\x81abcde", 0);
        assert_eq!(masked, [Arrived::End(Fault::Broken(FrameError::WebSocket))]);
        let huge = arrivals(b"\x82\x7f\x00\x00\x00\x00\x02\x00\x00\x00", 0);
        assert_eq!(huge, [Arrived::End(Fault::Broken(FrameError::TooLong))]);
    }
}
