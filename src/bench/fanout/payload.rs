//! A stamp inside a published message, whose payload must be JSON.

use super::super::stamp::Stamp;

const QUOTE: u8 = b'"';
const PUBLISHER_DIGITS: usize = 6;
const SEQUENCE_DIGITS: usize = 12;
const INTENDED_DIGITS: usize = 14;

/// Smallest payload in bytes: the stamp and its quotes.
pub const PAYLOAD_BYTES_MIN: usize = 2 + PUBLISHER_DIGITS + SEQUENCE_DIGITS + INTENDED_DIGITS;

/// Replaces `payload` by a JSON string of `payload_bytes` bytes, quotes included.
///
/// ```text
/// '"' | 6 hex digits publisher | 12 sequence | 14 intended send time, ns | padding | '"'
/// ```
pub fn write(stamp: &Stamp, payload: &mut Vec<u8>, payload_bytes: usize) {
    payload.clear();
    payload.push(QUOTE);
    append_hex(payload, u64::from(stamp.publisher), PUBLISHER_DIGITS);
    append_hex(payload, stamp.sequence, SEQUENCE_DIGITS);
    append_hex(payload, stamp.intended_ns, INTENDED_DIGITS);
    payload.resize(payload_bytes.max(PAYLOAD_BYTES_MIN) - 1, b'.');
    payload.push(QUOTE);
}

/// The stamp of a payload, if it has one.
pub fn read(payload: &[u8]) -> Option<Stamp> {
    let digits = payload.strip_prefix(&[QUOTE])?;
    let (publisher, digits) = digits.split_at_checked(PUBLISHER_DIGITS)?;
    let (sequence, digits) = digits.split_at_checked(SEQUENCE_DIGITS)?;
    let (intended, _) = digits.split_at_checked(INTENDED_DIGITS)?;
    Some(Stamp {
        publisher: u32::try_from(hex(publisher)?).ok()?,
        sequence: hex(sequence)?,
        intended_ns: hex(intended)?,
    })
}

fn append_hex(out: &mut Vec<u8>, value: u64, digits: usize) {
    out.extend(
        (0..digits).rev().map(|digit| b"0123456789abcdef"[(value >> (4 * digit)) as usize & 15]),
    );
}

fn hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value, &digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_survives_its_payload_which_is_json() {
        let stamp = Stamp { publisher: 99, sequence: 1 << 40, intended_ns: 3_600_000_000_001 };
        for payload_bytes in [0, PAYLOAD_BYTES_MIN, 64, 1024] {
            let mut payload = b"left over".to_vec();
            write(&stamp, &mut payload, payload_bytes);
            assert_eq!(payload.len(), payload_bytes.max(PAYLOAD_BYTES_MIN));
            assert_eq!(read(&payload), Some(stamp));
            assert!(serde_json::from_slice::<String>(&payload).is_ok());
        }
    }

    #[test]
    fn what_is_not_a_stamp_is_none() {
        for payload in [&b""[..], b"\"", b"{}", b"\"0000000000000000000000000000000G\""] {
            assert_eq!(read(payload), None);
        }
    }
}
