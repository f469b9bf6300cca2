//! The PROXY protocol header, which a load balancer sends before the bytes of a connection to
//! report its origin. Versions 1 and 2 of the specification of HAProxy (`doc/proxy-protocol.txt`,
//! 2020). The header is validated and its length determined; its addresses are not used yet.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::error::FrameError;
use crate::limits::PROXY_HEADER_BYTES_MAX;

/// Prefix of a version 1 line (section 2.1).
const V1_PREFIX: &[u8] = b"PROXY ";

/// Maximum length of a version 1 line, including its end (section 2.1).
const V1_BYTES_MAX: usize = 107;

/// Signature of a version 2 header (section 2.2).
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family, and length of the rest.
const V2_FIXED_BYTES: usize = V2_SIGNATURE.len() + 4;

/// Length of the header at the front of `bytes`, which must start at the start of the connection;
/// `None` if the header is incomplete. The result does not depend on how the bytes are split into
/// reads.
///
/// # Errors
/// [`FrameError::Header`] if this is not a valid header, [`FrameError::TooLong`] if it is longer
/// than [`PROXY_HEADER_BYTES_MAX`].
pub fn parse(bytes: &[u8]) -> Result<Option<usize>, FrameError> {
    if matches_prefix(bytes, V1_PREFIX) {
        parse_v1(bytes)
    } else if matches_prefix(bytes, V2_SIGNATURE) {
        parse_v2(bytes)
    } else {
        Err(FrameError::Header)
    }
}

/// Whether the bytes received so far match `prefix`.
fn matches_prefix(bytes: &[u8], prefix: &[u8]) -> bool {
    bytes.iter().zip(prefix).all(|(byte, expected)| byte == expected)
}

fn parse_v1(bytes: &[u8]) -> Result<Option<usize>, FrameError> {
    let window = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(line_bytes) = window.windows(2).position(|end| end == b"\r\n") else {
        return if bytes.len() < V1_BYTES_MAX { Ok(None) } else { Err(FrameError::Header) };
    };
    let line = str::from_utf8(&window[..line_bytes]).map_err(|_| FrameError::Header)?;
    let mut words = line.split(' ').skip(1);
    let is_valid = match words.next() {
        Some("TCP4") => are_endpoints::<Ipv4Addr>(words),
        Some("TCP6") => are_endpoints::<Ipv6Addr>(words),
        // Receivers must ignore the rest of the line.
        Some("UNKNOWN") => true,
        _ => false,
    };
    is_valid.then_some(Some(line_bytes + 2)).ok_or(FrameError::Header)
}

/// Source and destination address, then source and destination port.
fn are_endpoints<'a, A: FromStr>(mut words: impl Iterator<Item = &'a str>) -> bool {
    fn is_a<T: FromStr>(word: Option<&str>) -> bool {
        word.is_some_and(|word| word.parse::<T>().is_ok())
    }
    let addresses = is_a::<A>(words.next()) && is_a::<A>(words.next());
    addresses && is_a::<u16>(words.next()) && is_a::<u16>(words.next()) && words.next().is_none()
}

fn parse_v2(bytes: &[u8]) -> Result<Option<usize>, FrameError> {
    let Some([command, family, length @ ..]) = bytes.get(V2_SIGNATURE.len()..V2_FIXED_BYTES) else {
        return Ok(None);
    };
    let rest = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    let addresses = match (command, family) {
        // LOCAL, used by health checks: the family is ignored.
        (0x20, _) => 0,
        (0x21, 0x00) => 0,
        (0x21, 0x11 | 0x12) => 12,
        (0x21, 0x21 | 0x22) => 36,
        (0x21, 0x31 | 0x32) => 216,
        _ => return Err(FrameError::Header),
    };
    let header_bytes = V2_FIXED_BYTES + rest;
    if rest < addresses {
        return Err(FrameError::Header);
    }
    if header_bytes > PROXY_HEADER_BYTES_MAX {
        return Err(FrameError::TooLong);
    }
    Ok((bytes.len() >= header_bytes).then_some(header_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses the bytes at once and as a growing prefix. Both must agree.
    fn parse_any_split(bytes: &[u8]) -> Result<Option<usize>, FrameError> {
        let at_once = parse(bytes);
        let mut grown = (0..bytes.len()).map(|len| parse(&bytes[..len]));
        if let Some(parsed) = grown.find(|parsed| *parsed != Ok(None)) {
            assert_eq!(parsed, at_once, "the result depends on the split");
        }
        at_once
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [V2_SIGNATURE, &[command, family], &length, rest].concat()
    }

    #[test]
    fn the_length_of_every_kind_of_header_is_found_whatever_follows() {
        let longest = format!("PROXY UNKNOWN {}\r\n", "f".repeat(V1_BYTES_MAX - 16));
        let table = [
            b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 80\r\n".to_vec(),
            b"PROXY TCP6 2001:db8::1 ::1 65535 0\r\n".to_vec(),
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY UNKNOWN ffff:: what\xc3\xa9ver\r\n".to_vec(),
            longest.into_bytes(),
            v2(0x20, 0x00, b""),
            v2(0x20, 0xff, b"abc"),
            v2(0x21, 0x00, b""),
            v2(0x21, 0x00, &[7; 20]),
            v2(0x21, 0x11, &[1; 12]),
            v2(0x21, 0x11, &[1; 12 + 30]),
            v2(0x21, 0x22, &[1; 36]),
            v2(0x21, 0x31, &[1; 216]),
            v2(0x21, 0x00, &vec![0; PROXY_HEADER_BYTES_MAX - V2_FIXED_BYTES]),
        ];
        for header in table {
            let name = header.escape_ascii().to_string();
            assert_eq!(parse_any_split(&header), Ok(Some(header.len())), "{name}");
            let more = [&header[..], b"PROXY \0\r\n"].concat();
            assert_eq!(parse_any_split(&more), Ok(Some(header.len())), "{name}");
        }
    }

    #[test]
    fn invalid_headers_are_refused() {
        use FrameError::{Header, TooLong};
        let no_end = format!("PROXY UNKNOWN {}\r\n", "f".repeat(V1_BYTES_MAX - 15));
        let table = [
            (b"GET / HTTP/1.1\r\n".to_vec(), Header),
            (b"POST / HTTP/1.1\r\n".to_vec(), Header),
            (b"PROXY\tTCP4".to_vec(), Header),
            (b"PROXY \r\n".to_vec(), Header),
            (b"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n".to_vec(), Header),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n".to_vec(), Header),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n".to_vec(), Header),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n".to_vec(), Header),
            (b"PROXY TCP4 ::1 ::1 1 2\r\n".to_vec(), Header),
            (b"PROXY UNKNOWN \xff\r\n".to_vec(), Header),
            (no_end.into_bytes(), Header),
            (b"\r\n\r\nGET".to_vec(), Header),
            (v2(0x11, 0x11, &[0; 12]), Header),
            (v2(0x22, 0x11, &[0; 12]), Header),
            (v2(0x21, 0x13, &[0; 12]), Header),
            (v2(0x21, 0x11, &[0; 11]), Header),
            (v2(0x21, 0x21, &[0; 35]), Header),
            (v2(0x21, 0x31, &[0; 215]), Header),
            (v2(0x20, 0x00, &vec![0; PROXY_HEADER_BYTES_MAX]), TooLong),
        ];
        for (bytes, error) in table {
            assert_eq!(parse_any_split(&bytes), Err(error), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn valid_prefixes_are_not_refused() {
        for bytes in [&b""[..], b"P", b"PROXY ", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 ", b"\r\n\r\n\0"] {
            assert_eq!(parse(bytes), Ok(None), "{}", bytes.escape_ascii());
        }
    }
}
