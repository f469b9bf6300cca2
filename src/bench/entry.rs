//! How a client gets in, whatever it speaks: it greets, then it subscribes or enters a channel.

use super::client::{Event, Outbound, Queued};
use super::options::Dialect;
use super::redis::{self, Reply};
use crate::error::FrameError;
use crate::wire::foony::{self, Cursor, Request, binary};

/// Connections of one thread whose greeting is under way at once; below every listen backlog.
pub const GREETING_MAX: usize = 128;
/// Of the request by which a client gets in.
pub const JOIN_ID: u64 = 1;
/// Stamps of pings, which are times elsewhere.
const JOIN_PING: u64 = u64::MAX;
const HEARTBEAT_PING: u64 = u64::MAX - 1;

/// How far a client came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Greeted,
    /// The subscription is active, or the member is in.
    Joined,
    Refused {
        reason: String,
    },
}

/// Subscribes to a channel; on the sync wire, enters it with a state.
pub fn join(dialect: Dialect, channel: &str, state: &[u8], out: &mut Outbound) {
    let mut bytes = Vec::new();
    match dialect {
        Dialect::Sync => {
            let _ = out.update(channel, state);
            // Its pong comes after the update was carried out.
            let _ = out.ping(JOIN_PING);
            return;
        }
        Dialect::Foony => {
            let (id, cursor) = (JOIN_ID, Cursor::None);
            let request = Request::Subscribe { id, channel: channel.into(), cursor };
            let appended = binary::append_request(&request, &mut bytes);
            assert!(appended.is_ok(), "a fresh subscription can be said: {appended:?}");
        }
        Dialect::Redis => redis::append_subscribe(&mut bytes, channel),
    }
    let queued = out.records(&bytes);
    assert_eq!(queued, Queued::Yes, "nothing was waiting");
}

/// Says something, so that the server keeps the connection. The answer is no step.
pub fn beat(dialect: Dialect, out: &mut Outbound) -> Queued {
    let mut bytes = Vec::new();
    match dialect {
        Dialect::Sync => return out.ping(HEARTBEAT_PING),
        Dialect::Foony => {
            let appended = binary::append_request(&Request::Ping, &mut bytes);
            assert!(appended.is_ok(), "a ping can be said: {appended:?}");
        }
        Dialect::Redis => redis::append_ping(&mut bytes),
    }
    out.records(&bytes)
}

/// Calls `take` with every step that an event is. Whatever else it says is of no interest to a
/// client that only wants to get in.
///
/// # Errors
/// The server's bytes are not its protocol.
pub fn steps(
    dialect: Dialect,
    event: &Event<'_>,
    mut take: impl FnMut(Step),
) -> Result<(), FrameError> {
    match (event, dialect) {
        (Event::Open, Dialect::Redis) | (Event::Ready, _) => take(Step::Greeted),
        (Event::Refused { reason }, _) => take(Step::Refused { reason: (*reason).to_owned() }),
        (Event::Pong { stamp: JOIN_PING }, _) => take(Step::Joined),
        (Event::Records(replies), Dialect::Redis) => {
            return redis::read(replies, |reply| match reply {
                Reply::Subscribed => take(Step::Joined),
                Reply::Error(reason) => {
                    take(Step::Refused { reason: String::from_utf8_lossy(reason).into_owned() });
                }
                Reply::Message { .. } | Reply::Number(_) | Reply::Other => {}
            });
        }
        (Event::Records(records), _) => {
            for record in binary::records(records) {
                step_of(&record?.event()?).into_iter().for_each(&mut take);
            }
        }
        _ => {}
    }
    Ok(())
}

/// What a Foony server says to a client that only wants to get in.
pub fn step_of(event: &foony::Event<'_>) -> Option<Step> {
    match event {
        foony::Event::Connected { .. } => Some(Step::Greeted),
        foony::Event::Ack { id: JOIN_ID, .. } => Some(Step::Joined),
        foony::Event::Error { code, message, .. } => {
            Some(Step::Refused { reason: format!("{} {message}", code.code()) })
        }
        _ => None,
    }
}
