//! The socket: connected, and read by a thread of its own, so that a command can wait for the
//! server and for something else at once.

use std::io::{self, ErrorKind, Read};
use std::net::{TcpStream, ToSocketAddrs};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::fault::Fault;
use crate::cli::address::Address;

const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Longest time for which a write may block.
const WRITE_WITHIN: Duration = Duration::from_secs(10);

const READ_BYTES: usize = 64 * 1024;

/// Chunks that wait for the command. At this number no more are read, and the server sees a slow
/// consumer.
const WAITING_MAX: usize = 16;

/// Bytes as they were read; none at the end of the stream.
pub(super) type Chunk = io::Result<Vec<u8>>;

/// Connects to the first address of a host that accepts.
///
/// # Errors
/// [`Fault::Unreachable`].
pub(super) fn connect(address: &Address) -> Result<TcpStream, Fault> {
    let found = address.as_str().to_socket_addrs();
    let found = found.map_err(|_| Fault::Unreachable("host not found".to_owned()))?;
    let mut why = "the host has no address".to_owned();
    for address in found {
        match TcpStream::connect_timeout(&address, CONNECT_WITHIN).and_then(prepared) {
            Ok(stream) => return Ok(stream),
            Err(error) => why = unreachable(&error),
        }
    }
    Err(Fault::Unreachable(why))
}

fn prepared(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(WRITE_WITHIN))?;
    Ok(stream)
}

fn unreachable(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        ErrorKind::TimedOut => format!("no connection within {} s", CONNECT_WITHIN.as_secs()),
        _ => error.to_string(),
    }
}

/// Reads until the stream ends or the receiver is dropped.
pub(super) fn read(stream: &TcpStream) -> io::Result<Receiver<Chunk>> {
    let (sender, receiver) = bounded(WAITING_MAX);
    let stream = stream.try_clone()?;
    let reader = thread::Builder::new().name("realtime-inbound".to_owned());
    reader.spawn(move || read_chunks(&stream, &sender))?;
    Ok(receiver)
}

fn read_chunks(mut stream: &TcpStream, chunks: &Sender<Chunk>) {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let chunk = match stream.read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            got => got.map(|got| buffer[..got].to_vec()),
        };
        let is_last = chunk.as_ref().map_or(true, Vec::is_empty);
        if chunks.send(chunk).is_err() || is_last {
            return;
        }
    }
}
