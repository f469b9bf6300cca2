//! The little of RESP, the protocol of Redis, that publishers and subscribers speak: what the load
//! generator needs of it.
//!
//! ```text
//! request = "*" count CRLF ("$" length CRLF bytes CRLF) *
//! reply   = "+" text CRLF | "-" text CRLF | ":" number CRLF | "*" count CRLF element *
//! element = "$" length CRLF bytes CRLF | ":" number CRLF
//! ```

use std::io::Write;

use headcount::bench::peer::{Protocol, Reply};
use headcount::error::FrameError;

/// Of a line with a length, a number or an error.
const LINE_BYTES_MAX: usize = 4096;
const ELEMENTS_MAX: usize = 3;
const BULK_BYTES_MAX: usize = 512 * 1024 * 1024;

/// The protocol.
#[derive(Clone, Copy, Debug)]
pub struct Resp;

impl Protocol for Resp {
    fn read<'a>(
        &self,
        bytes: &'a [u8],
        take: &mut dyn FnMut(Reply<'a>),
    ) -> Result<usize, FrameError> {
        let mut rest = bytes;
        while let Some(reply) = next(&mut rest)? {
            take(reply);
        }
        Ok(bytes.len() - rest.len())
    }

    fn append_subscribe(&self, channel: &str, out: &mut Vec<u8>) {
        append_request(out, &[b"SUBSCRIBE", channel.as_bytes()]);
    }

    fn append_publish(&self, channel: &str, payload: &[u8], out: &mut Vec<u8>) {
        append_request(out, &[b"PUBLISH", channel.as_bytes(), payload]);
    }

    fn append_ping(&self, out: &mut Vec<u8>) {
        append_request(out, &[b"PING"]);
    }
}

fn append_request(out: &mut Vec<u8>, words: &[&[u8]]) {
    // Writing to memory cannot fail.
    let _ = write!(out, "*{}\r\n", words.len());
    for word in words {
        let _ = write!(out, "${}\r\n", word.len());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// Takes a reply off the front. `None`, and nothing taken, when it is not all there.
fn next<'a>(bytes: &mut &'a [u8]) -> Result<Option<Reply<'a>>, FrameError> {
    let mut rest = *bytes;
    let Some(line) = line(&mut rest)? else { return Ok(None) };
    let (kind, text) = line.split_first().ok_or(FrameError::Body)?;
    let reply = match kind {
        b'*' => match array(number(text)?, &mut rest)? {
            Some(reply) => reply,
            None => return Ok(None),
        },
        b':' => number(text).map(|_receivers| Reply::Published)?,
        b'-' => Reply::Refused(std::str::from_utf8(text).map_err(|_| FrameError::Utf8)?),
        b'+' => Reply::Other,
        _ => return Err(FrameError::Body),
    };
    *bytes = rest;
    Ok(Some(reply))
}

fn array<'a>(count: u64, rest: &mut &'a [u8]) -> Result<Option<Reply<'a>>, FrameError> {
    let mut elements: [&[u8]; ELEMENTS_MAX] = [b""; ELEMENTS_MAX];
    let count = usize::try_from(count).map_err(|_| FrameError::Body)?;
    for element in elements.get_mut(..count).ok_or(FrameError::Body)? {
        match take_element(rest)? {
            Some(bytes) => *element = bytes,
            None => return Ok(None),
        }
    }
    Ok(Some(match elements {
        [b"message", _, payload] => Reply::Message(payload),
        [b"subscribe", ..] => Reply::Subscribed,
        _ => Reply::Other,
    }))
}

fn take_element<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, FrameError> {
    let Some(line) = line(rest)? else { return Ok(None) };
    match line.split_first().ok_or(FrameError::Body)? {
        (b':', digits) => Ok(Some(digits)),
        (b'$', digits) => {
            let length = usize::try_from(number(digits)?).map_err(|_| FrameError::Body)?;
            if length > BULK_BYTES_MAX {
                return Err(FrameError::TooLong);
            }
            let Some((bulk, after)) = rest.split_at_checked(length) else { return Ok(None) };
            let Some((end, after)) = after.split_at_checked(2) else { return Ok(None) };
            *rest = after;
            if end == b"\r\n" { Ok(Some(bulk)) } else { Err(FrameError::Body) }
        }
        _ => Err(FrameError::Body),
    }
}

/// Takes a line, without its end.
#[inline]
fn line<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, FrameError> {
    let Some(at) = rest.iter().take(LINE_BYTES_MAX).position(|&byte| byte == b'\n') else {
        return if rest.len() < LINE_BYTES_MAX { Ok(None) } else { Err(FrameError::TooLong) };
    };
    let line = rest[..at].strip_suffix(b"\r").ok_or(FrameError::Body)?;
    *rest = &rest[at + 1..];
    Ok(Some(line))
}

#[inline]
fn number(digits: &[u8]) -> Result<u64, FrameError> {
    if digits.is_empty() || digits.len() > 18 {
        return Err(FrameError::Body);
    }
    digits.iter().try_fold(0, |value, &digit| match digit {
        b'0'..=b'9' => Ok(value * 10 + u64::from(digit - b'0')),
        _ => Err(FrameError::Body),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &[u8] = b"*3\r\n$9\r\nsubscribe\r\n$4\r\nroom\r\n:1\r\n\
        *3\r\n$7\r\nmessage\r\n$4\r\nroom\r\n$6\r\na\r\nb\r\n\r\n:1000\r\n+OK\r\n-ERR no\r\n\
        *2\r\n$4\r\npong\r\n$0\r\n\r\n";

    fn all(bytes: &[u8]) -> Vec<Reply<'_>> {
        let mut replies = Vec::new();
        Resp.read(bytes, &mut |reply| replies.push(reply)).unwrap();
        replies
    }

    fn whole(bytes: &[u8]) -> Result<usize, FrameError> {
        Resp.read(bytes, &mut |_| ())
    }

    #[test]
    fn replies_are_read_in_order() {
        let expected = [
            Reply::Subscribed,
            Reply::Message(b"a\r\nb\r\n"),
            Reply::Published,
            Reply::Other,
            Reply::Refused("ERR no"),
            Reply::Other,
        ];
        assert_eq!(all(SAID), expected);
    }

    #[test]
    fn every_cut_gives_the_whole_replies_before_it() {
        for cut in 0..=SAID.len() {
            let used = whole(&SAID[..cut]).unwrap();
            assert!(used <= cut);
            let (mut before, after) = (all(&SAID[..used]), all(&SAID[used..]));
            assert_eq!(all(&SAID[..cut]), before);
            before.extend(after);
            assert_eq!(before, all(SAID), "{cut}");
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        let table: [&[u8]; 7] = [
            b"hello\r\n",
            b"\r\n",
            b":x\r\n",
            b":\r\n",
            b"*9\r\n",
            b"*1\r\n$1\r\nabc\r\n",
            b"*1\r\n+OK\r\n",
        ];
        for bytes in table {
            assert_eq!(whole(bytes), Err(FrameError::Body), "{bytes:?}");
        }
        assert_eq!(whole(&[b'+'; LINE_BYTES_MAX]), Err(FrameError::TooLong));
    }

    #[test]
    fn requests_are_arrays_of_words() {
        let mut out = Vec::new();
        Resp.append_subscribe("room", &mut out);
        Resp.append_publish("room", b"\"hi\"", &mut out);
        Resp.append_ping(&mut out);
        let expected = b"*2\r\n$9\r\nSUBSCRIBE\r\n$4\r\nroom\r\n\
            *3\r\n$7\r\nPUBLISH\r\n$4\r\nroom\r\n$4\r\n\"hi\"\r\n*1\r\n$4\r\nPING\r\n";
        assert_eq!(out, expected);
    }
}
