//! Removes what a namespace no longer retains.

use super::StoreError;
use super::engine::{Batch, Engine};
use super::format::{self, ChannelRows, Head};
use crate::channel::{DEDUP_PUBLISHES_MAX, DEDUP_WINDOW_MS};
use crate::policy::Policy;

/// Messages removed at once from one channel.
const REMOVED_MAX: usize = 1024;

/// Messages by which a log may be too long before it is looked at: the larger of this and an eighth
/// of what the policy retains.
const SLACK_MESSAGES: u64 = 64;

/// What a policy retains of a log at some time.
#[derive(Clone, Copy, Debug)]
pub struct Retained {
    /// Messages with serials below it are too many.
    pub first: u64,
    /// Messages that were accepted before it are too old, milliseconds since the Unix epoch.
    pub since_ms: u64,
    bytes: u64,
    /// A publish with a serial below it, or accepted before that time, is not recognized when it is
    /// repeated.
    recognized_first: u64,
    recognized_since_ms: u64,
}

impl Retained {
    pub fn new(policy: &Policy, head: u64, now_ms: u64) -> Self {
        let messages = policy.stored_messages_max() as u64;
        Retained {
            first: (head + 1).saturating_sub(messages),
            since_ms: now_ms.saturating_sub(policy.history_age_s.saturating_mul(1000)),
            bytes: policy.history_bytes,
            recognized_first: (head + 1).saturating_sub(DEDUP_PUBLISHES_MAX as u64),
            recognized_since_ms: now_ms.saturating_sub(DEDUP_WINDOW_MS),
        }
    }

    /// Whether readers still get it.
    pub fn is_readable(&self, serial: u64, timestamp_ms: u64) -> bool {
        serial >= self.first && timestamp_ms >= self.since_ms
    }

    /// Whether a repetition of the publish is recognized.
    pub fn is_recognized(&self, serial: u64, timestamp_ms: u64) -> bool {
        serial >= self.recognized_first && timestamp_ms >= self.recognized_since_ms
    }
}

/// When a log is to be looked at again: with this head, or with more bytes than it may have.
pub fn next_trim(policy: &Policy, head: u64) -> u64 {
    head + SLACK_MESSAGES.max(policy.stored_messages_max() as u64 / 8)
}

/// Whether a log has by a quarter more bytes than the policy retains.
pub fn has_too_many_bytes(policy: &Policy, head: &Head) -> bool {
    head.bytes > policy.history_bytes.saturating_add(policy.history_bytes / 4)
}

/// Removes the oldest messages that are neither readable nor recognized, as many as may be at once.
///
/// # Errors
/// The log is damaged, or cannot be read.
pub fn trim(
    engine: &Engine,
    batch: &mut Batch<'_>,
    rows: &ChannelRows,
    head: &mut Head,
    retained: &Retained,
) -> Result<(), StoreError> {
    let (from, to) = (rows.message_key(head.first), rows.message_key(head.head));
    for row in engine.range(&from, &to).take(REMOVED_MAX) {
        let (key, row) = row?;
        let serial = format::serial_of(&key).unwrap_or_default();
        let publish = format::decode_publish(&row)
            .map_err(|error| StoreError::message(rows, serial, error))?;
        let at_ms = publish.timestamp_ms;
        let is_kept = retained.is_readable(serial, at_ms) && head.bytes <= retained.bytes;
        let is_recognized = !publish.message_id.is_empty() && retained.is_recognized(serial, at_ms);
        if is_kept || is_recognized || serial == head.head && retained.is_readable(serial, at_ms) {
            break;
        }
        batch.remove(&key);
        head.first = serial + 1;
        head.bytes = head.bytes.saturating_sub(row.len() as u64);
    }
    Ok(())
}
