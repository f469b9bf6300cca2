//! From an address to a WebSocket: connect, ask for the upgrade, judge the answer.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::fault::Fault;
use crate::cli::address::Address;
use crate::wire::http::AcceptKey;

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const UPGRADE_WITHIN: Duration = Duration::from_secs(5);

/// How long the server may leave unread what is sent.
const WRITE_WITHIN: Duration = Duration::from_secs(10);

/// Bounds what a server that is none can make this process hold.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;

const IS_IT_OURS: &str = "is this the http address of a headcount server?";

/// A connected socket that waits for nothing longer than it should.
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

/// Upgrades the connection, and returns what the server sent behind its answer.
///
/// # Errors
/// [`Fault::Foreign`], [`Fault::Unready`] or [`Fault::Lost`].
pub(super) fn upgrade(
    stream: &mut TcpStream,
    address: &Address,
    path: &str,
) -> Result<Vec<u8>, Fault> {
    let key = nonce()?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         User-Agent: headcount/{}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n",
        env!("CARGO_PKG_VERSION"),
    );
    stream.write_all(request.as_bytes()).map_err(lost)?;
    let until = Instant::now() + UPGRADE_WITHIN;
    let mut bytes = Vec::new();
    loop {
        read_some(stream, until, &mut bytes)?;
        if let Some(head_bytes) = judge(&bytes, &key)? {
            return Ok(bytes.split_off(head_bytes));
        }
        if bytes.len() > HEAD_BYTES_MAX {
            return Err(Fault::Foreign("its answer to the upgrade has no end".to_owned()));
        }
    }
}

/// A value for `Sec-WebSocket-Key`.
fn nonce() -> Result<String, Fault> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| Fault::Lost(error.to_string()))?;
    Ok(STANDARD.encode(random))
}

fn read_some(stream: &mut TcpStream, until: Instant, bytes: &mut Vec<u8>) -> Result<(), Fault> {
    let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    stream.set_read_timeout(Some(left)).map_err(lost)?;
    let mut chunk = [0; 4096];
    match stream.read(&mut chunk) {
        Ok(0) => Err(Fault::Lost(format!("it hung up instead of answering; {IS_IT_OURS}"))),
        Ok(got) => {
            bytes.extend_from_slice(&chunk[..got]);
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            let seconds = UPGRADE_WITHIN.as_secs();
            Err(Fault::Lost(format!("no answer within {seconds} s; {IS_IT_OURS}")))
        }
        Err(error) => Err(lost(error)),
    }
}

fn lost(error: io::Error) -> Fault {
    Fault::Lost(error.to_string())
}

/// Length of the answer that upgrades; `None` while it is not all there.
fn judge(bytes: &[u8], key: &str) -> Result<Option<usize>, Fault> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head_bytes = match response.parse(bytes) {
        Ok(httparse::Status::Partial) => return Ok(None),
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Err(_) => return Err(Fault::Foreign("its answer is not HTTP".to_owned())),
    };
    let status = response.code.unwrap_or_default();
    if status != 101 {
        let why = format!("it answered {status} {}", response.reason.unwrap_or_default());
        let why = why.trim_end().to_owned();
        return Err(if status >= 500 { Fault::Unready(why) } else { Fault::Foreign(why) });
    }
    let expected = AcceptKey::answering(key.as_bytes());
    let is_accepted = response.headers.iter().any(|header| {
        header.name.eq_ignore_ascii_case("sec-websocket-accept")
            && expected.is_some_and(|expected| header.value == expected.as_bytes())
    });
    match is_accepted {
        true => Ok(Some(head_bytes)),
        false => Err(Fault::Foreign("it upgraded somebody else's connection".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 6455 section 1.3.
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const ACCEPT: &str = "sec-WebSocket-ACCEPT: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";

    #[test]
    fn an_upgrade_is_one_only_when_it_answers_our_request() {
        let good = format!("HTTP/1.1 101 Switching Protocols\r\n{ACCEPT}\r\n");
        assert_eq!(judge(good.as_bytes(), KEY), Ok(Some(good.len())));
        assert_eq!(judge(&good.as_bytes()[..good.len() - 1], KEY), Ok(None));
        assert!(matches!(judge(good.as_bytes(), "AAAA"), Err(Fault::Foreign(_))));
        assert!(matches!(judge(b"HTTP/1.1 101 S\r\n\r\n", KEY), Err(Fault::Foreign(_))));
    }

    #[test]
    fn other_answers_say_who_is_there() {
        let foreign = |why: &str| Err(Fault::Foreign(why.to_owned()));
        for (answer, expected) in [
            ("SSH-2.0-OpenSSH\r\n", foreign("its answer is not HTTP")),
            ("HTTP/1.1 404 Not Found\r\n\r\n", foreign("it answered 404 Not Found")),
            (
                "HTTP/1.1 503 Service Unavailable\r\n\r\n",
                Err(Fault::Unready("it answered 503 Service Unavailable".to_owned())),
            ),
            ("HTTP/1.1 502\r\n\r\n", Err(Fault::Unready("it answered 502".to_owned()))),
        ] {
            assert_eq!(judge(answer.as_bytes(), KEY), expected, "{answer}");
        }
    }
}
