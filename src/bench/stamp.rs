//! What a published state or message says about itself.

const PUBLISHER_DIGITS: usize = 6;
const SEQUENCE_DIGITS: usize = 12;
const INTENDED_DIGITS: usize = 14;

/// Smallest stamp in bytes.
pub const STAMP_BYTES: usize = 2 + PUBLISHER_DIGITS + SEQUENCE_DIGITS + INTENDED_DIGITS;

/// Travels inside a published state or message, as JSON, which some protocols demand.
///
/// ```text
/// '"' | 6 hex digits publisher | 12 sequence | 14 intended send time, ns | padding | '"'
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Index among the publishers of the run.
    pub publisher: u32,
    /// From 1; 0 announces the publisher.
    pub sequence: u64,
    /// When the state should have been sent, by the run's clock. A sender that is late does not
    /// make it later, so waiting anywhere counts as latency (no coordinated omission).
    pub intended_ns: u64,
}

impl Stamp {
    /// Replaces `payload` by the stamp, padded to `payload_bytes`.
    pub fn write(&self, payload: &mut Vec<u8>, payload_bytes: usize) {
        payload.clear();
        payload.push(b'"');
        append_hex(payload, u64::from(self.publisher), PUBLISHER_DIGITS);
        append_hex(payload, self.sequence, SEQUENCE_DIGITS);
        append_hex(payload, self.intended_ns, INTENDED_DIGITS);
        payload.resize(payload_bytes.max(STAMP_BYTES) - 1, b'.');
        payload.push(b'"');
    }

    /// The stamp that a payload is, if it is one.
    pub fn read(payload: &[u8]) -> Option<Stamp> {
        let digits = payload.strip_prefix(b"\"")?;
        let (publisher, digits) = digits.split_at_checked(PUBLISHER_DIGITS)?;
        let (sequence, digits) = digits.split_at_checked(SEQUENCE_DIGITS)?;
        let (intended, _) = digits.split_at_checked(INTENDED_DIGITS)?;
        Some(Stamp {
            publisher: u32::try_from(hex(publisher)?).ok()?,
            sequence: hex(sequence)?,
            intended_ns: hex(intended)?,
        })
    }
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
    fn a_stamp_is_read_back_whatever_the_padding() {
        let stamp = Stamp { publisher: 99, sequence: 1 << 40, intended_ns: 3_600_000_000_001 };
        for payload_bytes in [0, STAMP_BYTES, 64, 1024] {
            let mut payload = b"left over".to_vec();
            stamp.write(&mut payload, payload_bytes);
            assert_eq!(payload.len(), payload_bytes.max(STAMP_BYTES));
            assert_eq!(Stamp::read(&payload), Some(stamp));
            assert!(serde_json::from_slice::<String>(&payload).is_ok());
        }
    }

    #[test]
    fn what_is_not_a_stamp_is_none() {
        for payload in [&b""[..], b"\"", b"{}", b"\"0000000000000000000000000000000G\""] {
            assert_eq!(Stamp::read(payload), None);
        }
    }
}
