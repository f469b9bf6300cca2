//! What a published state or message says about itself.

/// First bytes of a stamped state, so that other members' states are not taken for one.
const MAGIC: [u8; 4] = *b"HCb1";

/// Smallest stamped state in bytes.
pub const STAMP_BYTES: usize = 24;

const PUBLISHER_DIGITS: usize = 6;
const SEQUENCE_DIGITS: usize = 12;
const INTENDED_DIGITS: usize = 14;

/// Smallest stamped JSON string in bytes, quotes included.
pub const JSON_STAMP_BYTES: usize = 2 + PUBLISHER_DIGITS + SEQUENCE_DIGITS + INTENDED_DIGITS;

/// Travels inside a published state or message.
///
/// ```text
/// "HCb1" | u32 LE publisher | u64 LE sequence | u64 LE intended send time, ns | padding
/// ```
///
/// Or, where JSON is demanded:
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
    /// Replaces `state` by the stamp, padded to `state_bytes`.
    pub fn write(&self, state: &mut Vec<u8>, state_bytes: usize) {
        state.clear();
        state.extend_from_slice(&MAGIC);
        state.extend_from_slice(&self.publisher.to_le_bytes());
        state.extend_from_slice(&self.sequence.to_le_bytes());
        state.extend_from_slice(&self.intended_ns.to_le_bytes());
        state.resize(state_bytes.max(STAMP_BYTES), b'.');
    }

    /// The stamp at the front of a state, if there is one.
    pub fn read(state: &[u8]) -> Option<Stamp> {
        let state = state.strip_prefix(&MAGIC)?;
        let (publisher, state) = state.split_first_chunk()?;
        let (sequence, state) = state.split_first_chunk()?;
        let (intended_ns, _) = state.split_first_chunk()?;
        Some(Stamp {
            publisher: u32::from_le_bytes(*publisher),
            sequence: u64::from_le_bytes(*sequence),
            intended_ns: u64::from_le_bytes(*intended_ns),
        })
    }

    /// Replaces `payload` by a JSON string of `payload_bytes`.
    pub fn write_json(&self, payload: &mut Vec<u8>, payload_bytes: usize) {
        payload.clear();
        payload.push(b'"');
        append_hex(payload, u64::from(self.publisher), PUBLISHER_DIGITS);
        append_hex(payload, self.sequence, SEQUENCE_DIGITS);
        append_hex(payload, self.intended_ns, INTENDED_DIGITS);
        payload.resize(payload_bytes.max(JSON_STAMP_BYTES) - 1, b'.');
        payload.push(b'"');
    }

    /// The stamp of a JSON string, if it has one.
    pub fn read_json(payload: &[u8]) -> Option<Stamp> {
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

    fn stamp(sequence: u64) -> Stamp {
        Stamp { publisher: 1, sequence, intended_ns: 7 }
    }

    #[test]
    fn a_stamp_is_read_back_whatever_the_padding() {
        let written = Stamp { publisher: 3, sequence: u64::MAX, intended_ns: 1 << 40 };
        for state_bytes in [0, STAMP_BYTES, 64, 4096] {
            let mut state = b"left over".to_vec();
            written.write(&mut state, state_bytes);
            assert_eq!(state.len(), state_bytes.max(STAMP_BYTES));
            assert_eq!(Stamp::read(&state), Some(written));
        }
    }

    #[test]
    fn what_is_not_a_stamp_is_none() {
        let mut state = Vec::new();
        stamp(1).write(&mut state, 0);
        assert_eq!(Stamp::read(b""), None);
        assert_eq!(Stamp::read(&state[..STAMP_BYTES - 1]), None);
        state[0] = b'h';
        assert_eq!(Stamp::read(&state), None);
    }

    #[test]
    fn a_stamp_survives_its_payload_which_is_json() {
        let stamp = Stamp { publisher: 99, sequence: 1 << 40, intended_ns: 3_600_000_000_001 };
        for payload_bytes in [0, JSON_STAMP_BYTES, 64, 1024] {
            let mut payload = b"left over".to_vec();
            stamp.write_json(&mut payload, payload_bytes);
            assert_eq!(payload.len(), payload_bytes.max(JSON_STAMP_BYTES));
            assert_eq!(Stamp::read_json(&payload), Some(stamp));
            assert!(serde_json::from_slice::<String>(&payload).is_ok());
        }
    }

    #[test]
    fn other_json_is_no_stamp() {
        for payload in [&b""[..], b"\"", b"{}", b"\"0000000000000000000000000000000G\""] {
            assert_eq!(Stamp::read_json(payload), None);
        }
    }
}
