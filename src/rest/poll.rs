//! `/lp/*`: long-polling, for clients without WebSockets (`protocols/foony.md` section 1.2).

use super::refusal::Refusal;
use super::reply::Reply;
use crate::ids::{ConnId, ShardId};
use crate::shard::{PollOutcome, PollSession};

/// Header with the session id: in the first response, and in every later request.
pub const SESSION_HEADER: &str = "foony-lp-session";

/// Characters of a session id: 2, 4, 4 and 8 bytes in hexadecimal.
const SESSION_CHARS: usize = 36;

/// A long-polling request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollRoute {
    Connect,
    Send,
    /// Waits for frames.
    Receive,
    Disconnect,
}

/// Parses a session id. Only its shard knows whether the session exists.
///
/// # Errors
/// 410 for what is not a session id.
pub fn parse_session(header: Option<&[u8]>, shards: u16) -> Result<PollSession, Refusal> {
    let session = header.and_then(read_session).ok_or_else(Refusal::gone)?;
    if session.shard.0 < shards { Ok(session) } else { Err(Refusal::gone()) }
}

fn read_session(text: &[u8]) -> Option<PollSession> {
    let is_ours = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != SESSION_CHARS || !text.iter().all(is_ours) {
        return None;
    }
    let text = std::str::from_utf8(text).ok()?;
    let digits = |from: usize, to: usize| u64::from_str_radix(&text[from..to], 16).ok();
    Some(PollSession {
        shard: ShardId(digits(0, 4)? as u16),
        conn: ConnId { slot: digits(4, 12)? as u32, generation: digits(12, 20)? as u32 },
        secret: digits(20, SESSION_CHARS)?,
    })
}

fn session_text(session: PollSession) -> String {
    let PollSession { shard, conn, secret } = session;
    format!("{:04x}{:08x}{:08x}{secret:016x}", shard.0, conn.slot, conn.generation)
}

/// The response to a long-polling request. A refused greeting is no HTTP error, which clients treat
/// as a network failure and retry for ever.
pub fn polled(outcome: PollOutcome) -> Reply {
    match outcome {
        PollOutcome::Connected { session, bytes } => {
            Reply::records(bytes).with_header(SESSION_HEADER, session_text(session))
        }
        PollOutcome::Refused { bytes } | PollOutcome::Frames { bytes } => Reply::records(bytes),
        PollOutcome::Accepted => Reply::empty(),
        PollOutcome::Gone => Refusal::gone().into(),
        PollOutcome::Busy => Refusal::busy().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: PollSession = PollSession {
        shard: ShardId(3),
        conn: ConnId { slot: 0x1234, generation: u32::MAX },
        secret: 0xfedc_ba98_7654_3210,
    };

    #[test]
    fn a_session_is_read_back_from_its_text() {
        let text = session_text(SESSION);
        assert_eq!(text, "000300001234fffffffffedcba9876543210");
        assert_eq!(parse_session(Some(text.as_bytes()), 4), Ok(SESSION));
    }

    #[test]
    fn what_is_no_session_is_gone() {
        let text = session_text(SESSION);
        let upper = text.to_uppercase();
        for header in [
            None,
            Some(""),
            Some("x"),
            Some(&text[1..]),
            Some(&upper),
            Some(&text.replace("0003", "+003")),
            Some(&text.replace("0003", "  03")),
            Some(&format!("{text}0")),
        ] {
            let parsed = parse_session(header.map(str::as_bytes), 4);
            assert_eq!(parsed, Err(Refusal::gone()), "{header:?}");
        }
        assert_eq!(parse_session(Some(text.as_bytes()), 3), Err(Refusal::gone()));
        assert_eq!(parse_session(Some(&[0xff; 36]), 4), Err(Refusal::gone()));
    }

    #[test]
    fn every_outcome_has_its_answer() {
        let bytes = vec![1, 2];
        let (same, records) = (bytes.clone(), bytes.clone());
        for (outcome, status, body, session) in [
            (PollOutcome::Connected { session: SESSION, bytes }, 200, Some(&same), true),
            (PollOutcome::Refused { bytes: records.clone() }, 200, Some(&same), false),
            (PollOutcome::Frames { bytes: records }, 200, Some(&same), false),
            (PollOutcome::Frames { bytes: Vec::new() }, 200, Some(&Vec::new()), false),
            (PollOutcome::Accepted, 204, Some(&Vec::new()), false),
            (PollOutcome::Gone, 410, None, false),
            (PollOutcome::Busy, 503, None, false),
        ] {
            let shown = format!("{outcome:?}");
            let reply = polled(outcome);
            assert_eq!(reply.status, status, "{shown}");
            assert!(body.is_none_or(|body| *body == reply.body), "{shown}");
            let named = reply.headers.iter().any(|(name, _)| *name == SESSION_HEADER);
            assert_eq!(named, session, "{shown}");
        }
    }
}
