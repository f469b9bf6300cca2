//! One connection of a sync-wire client: what it says, and what it expects next.
//!
//! Every wait is bounded by [`DEADLINE`]. A failed expectation panics with the client's name and
//! what came instead.

use crate::generation::{Generation, Greeting, HandshakeAck, Message, Peer};
use crate::{DEADLINE, ms, token};
use futures_util::{SinkExt, StreamExt};
use socket2::SockRef;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as WsMessage;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    WebSocket,
    Tcp,
}

/// Who connects, and how.
#[derive(Clone, Debug)]
pub struct Who {
    pub name: String,
    pub token: String,
    pub lite_id: String,
    pub epoch: u64,
    pub wire_version: Option<u16>,
    pub generation: Generation,
    pub transport: Transport,
    pub path: String,
}

/// A session without a token: WebSocket, current generation, no lite id.
pub fn anonymous() -> Who {
    Who {
        name: "anonymous".into(),
        token: String::new(),
        lite_id: String::new(),
        epoch: 0,
        wire_version: None,
        generation: Generation::V06,
        transport: Transport::WebSocket,
        path: "/sync".into(),
    }
}

/// A session with a good token of the standard key.
pub fn user(name: &str) -> Who {
    Who { name: name.into(), token: token::good(name), ..anonymous() }
}

impl Who {
    pub fn lite(self, lite_id: &str) -> Who {
        Who { lite_id: lite_id.into(), epoch: 1, ..self }
    }

    pub fn speaking(self, generation: Generation) -> Who {
        Who { generation, ..self }
    }

    pub fn over(self, transport: Transport) -> Who {
        Who { transport, ..self }
    }

    pub fn at(self, path: &str) -> Who {
        Who { path: path.into(), ..self }
    }

    pub fn with_token(self, token: String) -> Who {
        Who { token, ..self }
    }

    pub fn with_wire_version(self, version: u16) -> Who {
        Who { wire_version: Some(version), ..self }
    }

    /// The bytes of this session's first frame.
    pub fn greeting(&self) -> Vec<u8> {
        self.generation.handshake(&Greeting {
            token: self.token.clone(),
            lite_id: self.lite_id.clone(),
            epoch: self.epoch,
            wire_version: self.wire_version.unwrap_or(self.generation.wire_version()),
        })
    }
}

/// What a connection brought.
#[derive(Clone, Debug, PartialEq)]
pub enum Received {
    /// One sync frame, header included.
    Frame(Vec<u8>),
    /// A WebSocket message that carries no sync frame.
    Control(WsMessage),
    /// A WebSocket Close with its code, or the end of a TCP stream between two frames.
    Closed { code: Option<u16>, reason: String },
    /// An end that was not announced.
    Lost(String),
    /// Nothing, for as long as was asked.
    Silence,
}

/// How a connection is left without a goodbye.
#[derive(Clone, Copy, Debug)]
pub enum Vanish {
    /// TCP FIN, no WebSocket Close.
    Fin,
    /// TCP RST.
    Reset,
}

enum Link {
    WebSocket(Box<WebSocketStream<TcpStream>>),
    Tcp { stream: TcpStream, received: Vec<u8> },
}

pub struct SyncClient {
    pub name: String,
    pub generation: Generation,
    link: Link,
}

impl SyncClient {
    pub async fn connect(address: SocketAddr, who: &Who) -> SyncClient {
        let connect = TcpStream::connect(address);
        let stream = timeout(DEADLINE, connect).await.expect("connects in time").expect("connects");
        Self::over(stream, address, who).await
    }

    /// Speaks over a connected socket, whose options the caller may have set.
    pub async fn over(stream: TcpStream, address: SocketAddr, who: &Who) -> SyncClient {
        stream.set_nodelay(true).expect("sets TCP_NODELAY");
        let link = match who.transport {
            Transport::Tcp => Link::Tcp { stream, received: Vec::new() },
            Transport::WebSocket => {
                let url = format!("ws://{address}{}", who.path);
                let upgrade = tokio_tungstenite::client_async(url, stream);
                let upgraded = timeout(DEADLINE, upgrade).await.expect("upgrades in time");
                Link::WebSocket(Box::new(upgraded.expect("upgrades").0))
            }
        };
        SyncClient { name: who.name.clone(), generation: who.generation, link }
    }

    /// Sends bytes: one binary WebSocket message, or one write to the stream.
    pub async fn send(&mut self, bytes: &[u8]) {
        match &mut self.link {
            Link::WebSocket(socket) => socket.send(WsMessage::binary(bytes.to_vec())).await,
            Link::Tcp { stream, .. } => stream.write_all(bytes).await.map_err(Into::into),
        }
        .unwrap_or_else(|error| panic!("{}: cannot send: {error}", self.name));
    }

    /// Sends any WebSocket message; panics over TCP.
    pub async fn send_websocket(&mut self, message: WsMessage) {
        let Link::WebSocket(socket) = &mut self.link else { panic!("not a WebSocket") };
        socket.send(message).await.expect("sends");
    }

    pub async fn update(&mut self, channel: &str, state: &[u8]) {
        let frame = self.generation.update(channel, state);
        self.send(&frame).await;
    }

    /// Announces an explicit leave of `channel`.
    pub async fn leave(&mut self, channel: &str, user: &str) {
        let frame = self.generation.leave(channel, user);
        self.send(&frame).await;
    }

    /// Says who it is and gives the answer, good or bad.
    pub async fn greet(&mut self, who: &Who) -> HandshakeAck {
        self.send(&who.greeting()).await;
        match self.next().await {
            Message::HandshakeAck(ack) => ack,
            other => panic!("{}: expected a HandshakeAck, got {other:?}", self.name),
        }
    }

    /// Pings and expects the pong as the very next message: proof that the session lives, that
    /// everything sent before was handled, and that nothing had been sent to it.
    pub async fn expect_alive(&mut self) {
        let timestamp_ms = 0x8000_0000_0000_0000 | u64::from(std::process::id());
        let frame = self.generation.ping(timestamp_ms);
        self.send(&frame).await;
        let pong = Message::Ping { timestamp_ms, is_pong: true };
        assert_eq!(self.next().await, pong, "{}: the pong", self.name);
    }

    /// Whatever comes next within `within`.
    pub async fn receive(&mut self, within: Duration) -> Received {
        let header_bytes = self.generation.header_bytes();
        let generation = self.generation;
        let next = async {
            match &mut self.link {
                Link::WebSocket(socket) => receive_websocket(socket).await,
                Link::Tcp { stream, received } => {
                    let frame_bytes = |header: &[u8]| header_bytes + generation.body_bytes(header);
                    receive_tcp(stream, received, header_bytes, frame_bytes).await
                }
            }
        };
        timeout(within, next).await.unwrap_or(Received::Silence)
    }

    /// The next sync frame as bytes. The server may ping a client that has been quiet before it.
    pub async fn next_frame(&mut self) -> Vec<u8> {
        loop {
            match self.receive(DEADLINE).await {
                Received::Frame(frame) => return frame,
                Received::Control(WsMessage::Ping(_)) => {}
                other => panic!("{}: expected a frame, got {other:?}", self.name),
            }
        }
    }

    /// The next sync frame as its generation's crate reads it.
    pub async fn next(&mut self) -> Message {
        let frame = self.next_frame().await;
        self.decode(&frame)
    }

    fn decode(&self, frame: &[u8]) -> Message {
        self.generation.decode(frame).unwrap_or_else(|| {
            panic!("{}: {:?} cannot read {frame:02x?}", self.name, self.generation)
        })
    }

    /// The next message must be the full set of `channel`.
    pub async fn expect_broadcast(&mut self, channel: &str) -> Vec<Peer> {
        match self.next().await {
            Message::Broadcast { channel: named, peers } if named == channel => peers,
            other => panic!("{}: expected a broadcast of {channel}, got {other:?}", self.name),
        }
    }

    /// The next message must be a leave of `channel`; gives the user.
    pub async fn expect_leave(&mut self, channel: &str) -> String {
        match self.next().await {
            Message::Leave { channel: named, user } if named == channel => user,
            other => panic!("{}: expected a leave of {channel}, got {other:?}", self.name),
        }
    }

    pub async fn expect_silence(&mut self, for_ms: u64) {
        match self.receive(ms(for_ms)).await {
            Received::Silence => {}
            Received::Frame(frame) => {
                panic!("{}: expected silence, got {:?}", self.name, self.decode(&frame))
            }
            other => panic!("{}: expected silence, got {other:?}", self.name),
        }
    }

    /// The next thing must be the end of the connection; gives the code of the Close frame if
    /// there was one.
    pub async fn expect_closed(&mut self) -> Option<u16> {
        match self.receive(DEADLINE).await {
            Received::Closed { code, .. } => code,
            other => panic!("{}: expected a close, got {other:?}", self.name),
        }
    }

    /// The connection must end, announced or not; frames before that are skipped.
    pub async fn expect_end(&mut self) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.receive(deadline.saturating_duration_since(Instant::now())).await {
                Received::Closed { .. } | Received::Lost(_) => return,
                Received::Silence => panic!("{}: still connected", self.name),
                Received::Frame(_) | Received::Control(_) => {}
            }
        }
    }

    /// Reads broadcasts of `channel`, and nothing else, until one satisfies `wanted`.
    pub async fn until_broadcast(
        &mut self,
        channel: &str,
        wanted: impl Fn(&[Peer]) -> bool,
    ) -> Vec<Peer> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let peers = self.expect_broadcast(channel).await;
            if wanted(&peers) {
                return peers;
            }
            assert!(Instant::now() < deadline, "{}: still {peers:?}", self.name);
        }
    }

    /// Repeats `frame` every `every_ms` for `for_ms`; gives what else came, pongs left out.
    pub async fn keep_sending(&mut self, frame: &[u8], every_ms: u64, for_ms: u64) -> Vec<Message> {
        let end = Instant::now() + ms(for_ms);
        let mut seen = Vec::new();
        while Instant::now() < end {
            self.send(frame).await;
            let pause = Instant::now() + ms(every_ms);
            loop {
                match self.receive(pause.saturating_duration_since(Instant::now())).await {
                    Received::Frame(frame) => seen.push(self.decode(&frame)),
                    Received::Silence => break,
                    other => panic!("{}: connection ended: {other:?}", self.name),
                }
            }
        }
        seen.retain(|message| !matches!(message, Message::Ping { .. }));
        seen
    }

    /// Pings every 100 ms for `for_ms`; gives what else came.
    pub async fn keep_pinging(&mut self, for_ms: u64) -> Vec<Message> {
        let ping = self.generation.ping(1);
        self.keep_sending(&ping, 100, for_ms).await
    }

    /// WebSocket Close and its answer; over TCP the end of the stream.
    pub async fn close(mut self) {
        match &mut self.link {
            Link::WebSocket(socket) => {
                socket.send(WsMessage::Close(None)).await.expect("sends a Close");
                let answered = timeout(DEADLINE, async { while socket.next().await.is_some() {} });
                answered.await.expect("the Close is answered");
            }
            Link::Tcp { stream, .. } => stream.shutdown().await.expect("shuts down"),
        }
    }

    /// Leaves without a WebSocket Close.
    pub fn vanish(self, how: Vanish) {
        let stream = match &self.link {
            Link::WebSocket(socket) => socket.get_ref(),
            Link::Tcp { stream, .. } => stream,
        };
        if matches!(how, Vanish::Reset) {
            SockRef::from(stream).set_linger(Some(Duration::ZERO)).expect("sets SO_LINGER");
        }
    }
}

async fn receive_websocket(socket: &mut WebSocketStream<TcpStream>) -> Received {
    match socket.next().await {
        Some(Ok(WsMessage::Binary(bytes))) => Received::Frame(bytes.to_vec()),
        Some(Ok(WsMessage::Close(frame))) => Received::Closed {
            code: frame.as_ref().map(|frame| frame.code.into()),
            reason: frame.map(|frame| frame.reason.to_string()).unwrap_or_default(),
        },
        Some(Ok(other)) => Received::Control(other),
        Some(Err(error)) => Received::Lost(error.to_string()),
        None => Received::Lost("end of stream".into()),
    }
}

async fn receive_tcp(
    stream: &mut TcpStream,
    received: &mut Vec<u8>,
    header_bytes: usize,
    frame_bytes: impl Fn(&[u8]) -> usize,
) -> Received {
    loop {
        if received.len() >= header_bytes {
            let length = frame_bytes(received);
            if received.len() >= length {
                return Received::Frame(received.drain(..length).collect());
            }
        }
        match stream.read_buf(received).await {
            Ok(0) if received.is_empty() => {
                return Received::Closed { code: None, reason: String::new() };
            }
            Ok(0) => return Received::Lost(format!("ended inside a frame: {received:02x?}")),
            Ok(_) => {}
            Err(error) => return Received::Lost(error.to_string()),
        }
    }
}
