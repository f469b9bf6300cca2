//! Stub of the contract with the edge, for trying it out.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::envelope::{Answer, Asker, Command, PollAsk, PollOutcome, PollSession};
use crate::channel::{Message, Messages, Page, Position, Published, Replay};
use crate::ids::{ChannelKey, ConnId, Now, ShardId};
use crate::policy::Policy;

#[derive(Debug, Default)]
pub struct Stub {
    channels: HashMap<String, Messages>,
    sent: VecDeque<Vec<u8>>,
    connected: bool,
}

impl Stub {
    pub fn answer(
        &mut self,
        now: Now,
        key: &ChannelKey,
        command: Command,
    ) -> Option<(Asker, Answer)> {
        let messages = self.channels.entry(key.to_string()).or_default();
        let policy = Policy::default();
        match command {
            Command::Publish { asker, draft } => {
                let serial = match messages.publish(now, draft, &policy) {
                    Published::Fresh(message) => message.serial,
                    Published::Resent { serial } => serial,
                };
                Some((asker, Answer::Published { serial }))
            }
            Command::History { asker, limit, before } => {
                let serial = match before {
                    Position::Serial(serial) => serial,
                    Position::Newest | Position::MessageId(_) => 0,
                };
                let Page { messages, more } = messages.before(now, serial, limit, &policy);
                Some((asker, Answer::History { messages, more }))
            }
            Command::HistoryForward { asker, limit, after } => {
                let all: Vec<Arc<Message>> = match messages.after(now, after, &policy) {
                    Replay::Complete(all) => all,
                    Replay::AgedOut => Vec::new(),
                };
                let more = all.len() > limit;
                let messages = all.into_iter().take(limit).collect();
                Some((asker, Answer::History { messages, more }))
            }
            _ => None,
        }
    }

    pub fn poll(&mut self, shard: ShardId, ask: PollAsk) -> PollOutcome {
        let session =
            PollSession { shard, conn: ConnId { slot: 1, generation: 2 }, secret: u64::MAX };
        match ask {
            PollAsk::Connect { bytes } if bytes == b"no" => PollOutcome::Refused { bytes },
            PollAsk::Connect { bytes } => {
                self.connected = true;
                PollOutcome::Connected { session, bytes }
            }
            PollAsk::Send { session: named, .. }
            | PollAsk::Receive { session: named }
            | PollAsk::Disconnect { session: named }
                if named != session || !self.connected =>
            {
                PollOutcome::Gone
            }
            PollAsk::Send { bytes, .. } => {
                self.sent.push_back(bytes);
                PollOutcome::Accepted
            }
            PollAsk::Receive { .. } => {
                PollOutcome::Frames { bytes: self.sent.drain(..).flatten().collect() }
            }
            PollAsk::Disconnect { .. } => {
                self.connected = false;
                PollOutcome::Accepted
            }
        }
    }
}
