//! Requests -> masked frames to the server.

use std::io::{self, ErrorKind, Write};
use std::net::{Shutdown, TcpStream};

use super::fault::Fault;
use crate::wire::foony::Request;
use crate::wire::foony::binary::append_request;
use crate::wire::websocket::{Opcode, append_masked_frame, close_body};

const CLOSE_NORMAL: u16 = 1000;

/// What waits to be sent, and where it goes.
pub(super) struct Outbound {
    stream: TcpStream,
    records: Vec<u8>,
}

impl Outbound {
    pub fn new(stream: TcpStream) -> Self {
        Outbound { stream, records: Vec::new() }
    }

    /// Appends a request to the message that is sent next.
    pub fn append(&mut self, request: &Request<'_>) {
        let appended = append_request(request, &mut self.records);
        assert!(appended.is_ok(), "a request of the binary protocol: {request:?}");
    }

    /// Bytes that wait.
    pub fn waiting(&self) -> usize {
        self.records.len()
    }

    /// Sends what waits as one message.
    pub fn flush(&mut self) -> Result<(), Fault> {
        if self.records.is_empty() {
            return Ok(());
        }
        let records = std::mem::take(&mut self.records);
        self.send(Opcode::Binary, &records)
    }

    pub fn pong(&mut self, body: &[u8]) -> Result<(), Fault> {
        self.send(Opcode::Pong, body)
    }

    /// Says goodbye; nothing may be sent after it.
    pub fn close(&mut self) -> Result<(), Fault> {
        self.send(Opcode::Close, &close_body(CLOSE_NORMAL, "client close"))?;
        self.stream.shutdown(Shutdown::Write).map_err(|error| lost(&error))
    }

    fn send(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), Fault> {
        let mut mask = [0; 4];
        getrandom::fill(&mut mask).map_err(|error| Fault::Lost(error.to_string()))?;
        let mut frame = Vec::with_capacity(payload.len() + 14);
        append_masked_frame(&mut frame, opcode, payload, mask);
        self.stream.write_all(&frame).map_err(|error| lost(&error))
    }
}

fn lost(error: &io::Error) -> Fault {
    Fault::Lost(match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "it does not read what is sent".to_owned(),
        _ => error.to_string(),
    })
}

impl Drop for Outbound {
    /// Ends the thread that reads.
    fn drop(&mut self) {
        // A socket that is gone already needs no end.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}
