//! One connection from its greeting to its end.

use std::io::{self, ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, never, select};

use super::fault::Fault;
use super::socket::{Chunk, connect, read};
use crate::cli::address::Address;
use crate::client::protocol::{
    Closed, Connection, Credential, Dialect, Event, Outbound, Resume, Upgrade,
};

/// How long the server may take to close a connection that cannot be written to any more.
const CLOSE_FRAME_WITHIN: Duration = Duration::from_secs(1);

/// How long the server may take to answer our close.
const CLOSE_WITHIN: Duration = Duration::from_millis(500);

/// Timeout of a wait without a deadline.
const LONG: Duration = Duration::from_secs(3600);

/// Pending bytes below which more items of the command are taken before sending.
const UNSENT_BYTES: usize = 32 * 1024;

/// An open connection.
pub(in crate::cli) struct Session {
    connection: Connection,
    stream: TcpStream,
    chunks: Receiver<Chunk>,
    /// Received bytes that the connection has not consumed.
    unread: Vec<u8>,
    began: Instant,
    /// Why nothing can be sent. Bytes that arrived before are still handled.
    unsendable: Option<Fault>,
}

/// The first input.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cli) enum Next<T> {
    /// Bytes from the server, whose events were handed over.
    Bytes,
    Other(T),
    OtherEnded,
}

impl Session {
    /// Connects, upgrades and greets as the session that `resume` names.
    pub(super) fn open(
        address: &Address,
        path: &str,
        credential: &Credential,
        resume: &mut Resume,
    ) -> Result<Self, Fault> {
        let stream = connect(address)?;
        let (mut nonce, mut seed) = ([0; 16], [0; 8]);
        let filled = getrandom::fill(&mut nonce).and_then(|()| getrandom::fill(&mut seed));
        filled.map_err(|error| Fault::Lost(error.to_string()))?;
        let upgrade = Upgrade::new(address.as_str(), path, nonce);
        let seed = u64::from_ne_bytes(seed);
        let mut session = Session {
            connection: Connection::websocket(0, Dialect::Foony, &upgrade, seed),
            chunks: read(&stream).map_err(|error| lost(&error))?,
            stream,
            unread: Vec::new(),
            began: Instant::now(),
            unsendable: None,
        };
        let mut is_greeted = false;
        while !is_greeted {
            session.next(&never::<()>(), |out, event| {
                match event {
                    Event::Open => out.auth(resume.auth(credential)),
                    Event::Greeted(greeted) => {
                        resume.adopt(&greeted);
                        is_greeted = true;
                    }
                    // Nothing was asked for.
                    _ => {}
                }
                Ok::<(), Fault>(())
            })?;
        }
        Ok(session)
    }

    /// Where requests are made. They are sent by [`Session::next`].
    pub fn out(&mut self) -> &mut Outbound {
        &mut self.connection.out
    }

    /// Sends pending requests, and waits for the server or for `other`, whichever is first.
    ///
    /// # Errors
    /// The connection is over, the server is silent, or what `on_event` returns.
    pub fn next<T, E: From<Fault> + From<Closed>>(
        &mut self,
        other: &Receiver<T>,
        on_event: impl FnMut(&mut Outbound, Event<'_>) -> Result<(), E>,
    ) -> Result<Next<T>, E> {
        if self.connection.out.pending_bytes() < UNSENT_BYTES
            && let Ok(item) = other.try_recv()
        {
            return Ok(Next::Other(item));
        }
        loop {
            self.flush();
            if let Some(fault) = self.unsendable.clone() {
                // The server's close frame says more than the error of the write.
                let chunk = self.chunks.recv_timeout(CLOSE_FRAME_WITHIN).map_err(|_| fault)?;
                return self.take(chunk, on_event);
            }
            let now_ms = self.now_ms();
            let timeout_ms = self.connection.poll_timeout(now_ms);
            let wait = timeout_ms.map(|at_ms| Duration::from_millis(at_ms.saturating_sub(now_ms)));
            select! {
                recv(self.chunks) -> chunk => {
                    return self.take(chunk.unwrap_or_else(|_| Ok(Vec::new())), on_event);
                }
                recv(other) -> item => return Ok(item.map_or(Next::OtherEnded, Next::Other)),
                default(wait.unwrap_or(LONG)) => {
                    self.connection.handle_timeout(self.now_ms())?;
                }
            }
        }
    }

    /// Closes the connection, and waits for the server to do so.
    pub fn close(mut self) {
        self.connection.close(self.now_ms(), "client close");
        self.flush();
        if self.unsendable.is_some() || self.stream.shutdown(Shutdown::Write).is_err() {
            return;
        }
        let until = Instant::now() + CLOSE_WITHIN;
        while self.chunks.recv_deadline(until).is_ok_and(|chunk| chunk.is_ok()) {}
    }

    fn take<T, E: From<Fault> + From<Closed>>(
        &mut self,
        chunk: Chunk,
        on_event: impl FnMut(&mut Outbound, Event<'_>) -> Result<(), E>,
    ) -> Result<Next<T>, E> {
        let bytes = chunk.map_err(|error| lost(&error))?;
        if bytes.is_empty() {
            return Err(self.connection.handle_end(&self.unread))?;
        }
        self.unread.extend(bytes);
        let now_ms = self.now_ms();
        let used = self.connection.handle_bytes(now_ms, &mut self.unread, on_event)?;
        self.unread.drain(..used);
        Ok(Next::Bytes)
    }

    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    fn flush(&mut self) {
        if self.unsendable.is_none() {
            let pending = self.connection.out.pending();
            self.unsendable = self.stream.write_all(pending).map_err(|error| lost(&error)).err();
        }
        let pending_bytes = self.connection.out.pending_bytes();
        self.connection.out.written(pending_bytes);
    }
}

fn lost(error: &io::Error) -> Fault {
    Fault::Lost(match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "it does not read what is sent".to_owned(),
        _ => error.to_string(),
    })
}

impl Drop for Session {
    /// Ends the thread that reads.
    fn drop(&mut self) {
        // Fails for a socket that is already closed.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}
