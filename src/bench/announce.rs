//! What members of a channel say about themselves, in each dialect that has presence.

use super::client::{Outbound, Queued};
use super::entry;
use super::fanout::payload;
use super::options::Dialect;
use super::stamp::Stamp;
use crate::wire::foony::{Action, Presence, Request, binary};

/// Of updates, whose acknowledgements nobody waits for.
const UPDATE_ID: u64 = 2;

/// What a member writes with.
#[derive(Default)]
pub struct Desk {
    state: Vec<u8>,
    records: Vec<u8>,
}

impl Desk {
    /// Enters a channel with a stamped state of `state_bytes`. Answer: [`entry::Step::Joined`].
    pub fn enter(
        &mut self,
        dialect: Dialect,
        channel: &str,
        stamp: &Stamp,
        state_bytes: usize,
        out: &mut Outbound,
    ) {
        self.write_state(dialect, stamp, state_bytes);
        match dialect {
            Dialect::Foony => {
                let _ = self.present(entry::JOIN_ID, Action::Enter, channel, out);
            }
            Dialect::Sync | Dialect::Redis => entry::join(dialect, channel, &self.state, out),
        }
    }

    /// Replaces the state of a member.
    pub fn update(
        &mut self,
        dialect: Dialect,
        channel: &str,
        stamp: &Stamp,
        state_bytes: usize,
        out: &mut Outbound,
    ) -> Queued {
        self.write_state(dialect, stamp, state_bytes);
        match dialect {
            Dialect::Foony => self.present(UPDATE_ID, Action::Update, channel, out),
            Dialect::Sync | Dialect::Redis => out.update(channel, &self.state),
        }
    }

    fn write_state(&mut self, dialect: Dialect, stamp: &Stamp, state_bytes: usize) {
        match dialect {
            Dialect::Foony => payload::write(stamp, &mut self.state, state_bytes),
            Dialect::Sync | Dialect::Redis => stamp.write(&mut self.state, state_bytes),
        }
    }

    fn present(&mut self, id: u64, action: Action, channel: &str, out: &mut Outbound) -> Queued {
        let presence = Presence {
            id,
            channel: channel.into(),
            action,
            data: &self.state,
            encoding: "".into(),
        };
        self.records.clear();
        let appended = binary::append_request(&Request::Presence(presence), &mut self.records);
        assert!(appended.is_ok(), "a plain state can be said: {appended:?}");
        out.records(&self.records)
    }
}

/// Asks to be shown the members of a channel; on the sync wire one has to be a member, too. The
/// answer is [`entry::Step::Joined`].
pub fn watch(dialect: Dialect, channel: &str, out: &mut Outbound) {
    if dialect != Dialect::Foony {
        return entry::join(dialect, channel, &[], out);
    }
    let mut records = Vec::new();
    let request = Request::PresenceSubscribe { id: entry::JOIN_ID, channel: channel.into() };
    let appended = binary::append_request(&request, &mut records);
    assert!(appended.is_ok(), "a subscription can be said: {appended:?}");
    let _ = out.records(&records);
}
