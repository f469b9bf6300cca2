//! Bytes that no proper client sends: HTTP heads and WebSocket frames made by hand.

use crate::DEADLINE;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// An upgrade request that a server must accept.
pub const UPGRADE: &str = "GET /sync HTTP/1.1\r\nHost: headcount\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// The `Sec-WebSocket-Accept` of [`UPGRADE`] (RFC 6455, section 1.3).
pub const UPGRADE_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The opcode byte of a final frame of that kind.
pub const FINAL_BINARY: u8 = 0x82;
pub const FINAL_TEXT: u8 = 0x81;
pub const BINARY: u8 = 0x02;
pub const CONTINUATION: u8 = 0x00;
pub const FINAL_CONTINUATION: u8 = 0x80;
pub const PING: u8 = 0x89;
pub const PONG: u8 = 0x8a;
pub const CLOSE: u8 = 0x88;

pub struct RawConnection {
    stream: TcpStream,
    received: Vec<u8>,
}

/// Status and everything else of an HTTP response.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub text: String,
}

impl RawConnection {
    pub async fn open(address: SocketAddr) -> RawConnection {
        let connect = TcpStream::connect(address);
        let stream = timeout(DEADLINE, connect).await.expect("connects in time").expect("connects");
        stream.set_nodelay(true).expect("sets TCP_NODELAY");
        RawConnection { stream, received: Vec::new() }
    }

    /// A connection after a good upgrade.
    pub async fn upgraded(address: SocketAddr) -> RawConnection {
        let mut connection = Self::open(address).await;
        connection.send(UPGRADE.as_bytes()).await;
        let head = connection.read_head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        connection
    }

    /// Its socket, which does not block.
    pub fn into_std(self) -> std::net::TcpStream {
        self.stream.into_std().expect("leaves tokio")
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("sends");
    }

    /// Says that nothing more will be sent, and goes on reading.
    pub async fn half_close(&mut self) {
        self.stream.shutdown().await.expect("half-closes");
    }

    /// Sends without minding that the server may have closed already.
    pub async fn try_send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    pub async fn send_slowly(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.send(&[*byte]).await;
            // The other side may read before the next byte is written.
            tokio::task::yield_now().await;
        }
    }

    async fn fill(&mut self) -> usize {
        let read = timeout(DEADLINE, self.stream.read_buf(&mut self.received)).await;
        let what = String::from_utf8_lossy(&self.received);
        read.unwrap_or_else(|_| panic!("nothing more came after {what:?}")).unwrap_or(0)
    }

    /// The head of a response, blank line included.
    pub async fn read_head(&mut self) -> String {
        loop {
            if let Some(at) = self.received.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = self.received.drain(..at + 4).collect();
                return String::from_utf8(head).expect("a head is ASCII");
            }
            assert_ne!(self.fill().await, 0, "ended inside the head: {:?}", self.received);
        }
    }

    /// Opcode byte and payload of the next frame from the server.
    pub async fn read_frame(&mut self) -> (u8, Vec<u8>) {
        loop {
            if let Some((header_bytes, payload_bytes)) = frame_length(&self.received)
                && self.received.len() >= header_bytes + payload_bytes
            {
                let frame: Vec<u8> = self.received.drain(..header_bytes + payload_bytes).collect();
                return (frame[0], frame[header_bytes..].to_vec());
            }
            assert_ne!(self.fill().await, 0, "ended without a Close: {:02x?}", self.received);
        }
    }

    /// Reads on to a Close frame and gives its code.
    pub async fn read_close(&mut self) -> u16 {
        loop {
            let (opcode, payload) = self.read_frame().await;
            if opcode == CLOSE {
                assert!(payload.len() >= 2, "a Close without a code");
                return u16::from_be_bytes([payload[0], payload[1]]);
            }
        }
    }

    /// The server must end this connection; what it sends before is ignored.
    pub async fn expect_end(&mut self) {
        while self.fill().await > 0 {}
    }
}

/// Sends one request head and reads the response to the end of the connection.
pub async fn request(address: SocketAddr, head: &str) -> Response {
    let mut connection = RawConnection::open(address).await;
    connection.try_send(head.as_bytes()).await;
    connection.expect_end().await;
    let text = String::from_utf8_lossy(&connection.received).into_owned();
    let status = text.split(' ').nth(1).and_then(|word| word.parse().ok());
    Response { status: status.unwrap_or_else(|| panic!("no status in {text:?}")), text }
}

/// `GET path` with `Connection: close`.
pub async fn get(address: SocketAddr, path: &str) -> Response {
    let head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    request(address, &head).await
}

/// A frame as a client must send it: masked.
pub fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = frame_header(opcode, payload.len());
    frame[1] |= 0x80;
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A frame as a client must not send it.
pub fn unmasked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = frame_header(opcode, payload.len());
    frame.extend_from_slice(payload);
    frame
}

/// The header of an unmasked frame, in the shortest form.
pub fn frame_header(opcode: u8, payload_bytes: usize) -> Vec<u8> {
    let mut header = vec![opcode];
    match payload_bytes {
        0..=125 => header.push(payload_bytes as u8),
        126..=0xffff => {
            header.push(126);
            header.extend_from_slice(&(payload_bytes as u16).to_be_bytes());
        }
        _ => {
            header.push(127);
            header.extend_from_slice(&(payload_bytes as u64).to_be_bytes());
        }
    }
    header
}

fn frame_length(bytes: &[u8]) -> Option<(usize, usize)> {
    let short = usize::from(bytes.get(1)? & 0x7f);
    match short {
        126 => Some((4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)))),
        127 => {
            let length = u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?);
            Some((10, usize::try_from(length).ok()?))
        }
        _ => Some((2, short)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masked_frame_is_that_of_the_rfc() {
        // RFC 6455, section 5.7: a masked text message "Hello".
        let expected = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(masked(FINAL_TEXT, b"Hello"), expected);
    }

    #[test]
    fn header_lengths_are_read_back() {
        for payload_bytes in [0, 125, 126, 0xffff, 0x1_0000] {
            let header = frame_header(FINAL_BINARY, payload_bytes);
            assert_eq!(frame_length(&header), Some((header.len(), payload_bytes)));
            assert_eq!(frame_length(&header[..1]), None);
        }
    }
}
