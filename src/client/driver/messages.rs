//! The messages of one channel: subscriptions, the position in the channel, what was missed.

use super::command::HandleId;
use super::sinks::DeliverySink;
use crate::client::handles::Opener;
use crate::client::message::{Delivery, Message};
use crate::client::{ClientError, Result};

/// Deliveries that are held while earlier ones are fetched.
const HELD_MAX: usize = 16 * 1024;

/// The messages of one delivery, which share a serial. Never empty.
pub(super) type Group = Vec<Message>;

/// The subscriptions of this client to one channel. The server has one of them.
#[derive(Default)]
pub(super) struct Messages {
    subscriptions: Vec<Subscription>,
    /// The last serial seen; 0 in a channel known to have none; `None` while nothing is known.
    pub cursor: Option<u64>,
    /// The newest serial was asked for, and refused.
    is_headless: bool,
    pub phase: Phase,
    /// The messages after the cursor are being fetched.
    is_fetching: bool,
    /// Messages that came meanwhile.
    held: Vec<Group>,
}

/// Whether the server sends the messages of a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    Idle,
    Asked,
    Live,
}

struct Subscription {
    id: HandleId,
    sink: DeliverySink,
    /// Set until the server has answered.
    ready: Option<Opener>,
    /// Set while it is sent what came before it.
    replay: Option<Replay>,
}

/// What one subscription has still to be sent.
struct Replay {
    after: u64,
    held: Vec<Group>,
}

/// What the driver has to ask the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fetch {
    Nothing,
    /// The messages after a serial, for all subscriptions.
    After(u64),
    /// The messages after a serial, for one of them.
    For(HandleId, u64),
}

impl Messages {
    pub fn is_wanted(&self) -> bool {
        !self.subscriptions.is_empty()
    }

    /// The connection is lost: what was held comes again.
    pub fn disconnect(&mut self) {
        self.phase = Phase::Idle;
        self.is_fetching = false;
        self.is_headless = false;
        self.held.clear();
        for subscription in &mut self.subscriptions {
            if let Some(replay) = &mut subscription.replay {
                replay.held.clear();
            }
        }
    }

    /// Adds a subscription; its messages begin after `after`, or with the next one.
    pub fn add(
        &mut self,
        id: HandleId,
        after: Option<u64>,
        sink: DeliverySink,
        ready: Opener,
    ) -> Fetch {
        let mut subscription = Subscription { id, sink, ready: Some(ready), replay: None };
        if self.is_anchored() {
            subscription.become_ready(&Ok(()));
        }
        let mut fetch = Fetch::Nothing;
        match after {
            Some(after) if self.is_wanted() || self.phase != Phase::Idle => {
                subscription.replay = Some(Replay { after, held: Vec::new() });
                fetch = Fetch::For(id, after);
            }
            Some(after) => self.cursor = Some(after),
            None if self.phase == Phase::Idle && !self.is_wanted() => self.cursor = None,
            None => {}
        }
        self.subscriptions.push(subscription);
        fetch
    }

    pub fn remove(&mut self, id: HandleId) {
        self.subscriptions.retain(|subscription| subscription.id != id);
    }

    /// The server has answered the request to subscribe. Returns what to fetch again.
    pub fn subscribed(&mut self) -> Vec<Fetch> {
        self.phase = Phase::Live;
        self.become_ready();
        let replays = self.subscriptions.iter().filter_map(|subscription| {
            let replay = subscription.replay.as_ref()?;
            Some(Fetch::For(subscription.id, replay.after))
        });
        replays.collect()
    }

    /// The server has refused to send the messages of this channel.
    pub fn refused(&mut self, error: &ClientError) {
        self.phase = Phase::Idle;
        self.subscriptions.iter_mut().for_each(|s| s.become_ready(&Err(error.clone())));
        self.subscriptions.clear();
    }

    /// The messages after the cursor have been asked for.
    pub fn begin_fetch(&mut self) {
        self.is_fetching = true;
    }

    /// The newest serial of the channel when the subscription began; 0 if it has none.
    pub fn note_head(&mut self, serial: u64) {
        self.cursor.get_or_insert(serial);
        self.become_ready();
    }

    /// The server does not say the newest serial: the first message that comes does.
    pub fn head_refused(&mut self) {
        self.is_headless = true;
        self.become_ready();
    }

    /// Nothing from here on is lost with the connection.
    fn is_anchored(&self) -> bool {
        self.phase == Phase::Live && (self.cursor.is_some() || self.is_headless)
    }

    fn become_ready(&mut self) {
        if self.is_anchored() {
            self.subscriptions.iter_mut().for_each(|s| s.become_ready(&Ok(())));
        }
    }

    /// One delivery of the server.
    pub fn handle(&mut self, group: Group) -> Fetch {
        let (Some(serial), Some(cursor)) = (serial_of(&group), self.cursor) else {
            self.cursor = serial_of(&group).or(self.cursor);
            self.become_ready();
            self.deliver(&group);
            return Fetch::Nothing;
        };
        if serial <= cursor {
            return Fetch::Nothing;
        }
        if self.is_fetching || serial > cursor + 1 {
            let was_fetching = std::mem::replace(&mut self.is_fetching, true);
            hold(&mut self.held, group);
            return if was_fetching { Fetch::Nothing } else { Fetch::After(cursor) };
        }
        self.cursor = Some(serial);
        self.deliver(&group);
        Fetch::Nothing
    }

    /// The answer to a fetch for all: the messages after the cursor, or those of them that are
    /// kept. What is not becomes a gap.
    pub fn fetched(&mut self, groups: Vec<Group>) -> Fetch {
        let before = self.cursor;
        groups.into_iter().for_each(|group| self.deliver_next(group));
        let held_at = self.held.first().and_then(serial_of);
        if let (Some(held), Some(cursor)) = (held_at, self.cursor)
            && held > cursor + 1
            && self.cursor > before
        {
            return Fetch::After(cursor);
        }
        self.is_fetching = false;
        let held = std::mem::take(&mut self.held);
        held.into_iter().for_each(|group| self.deliver_next(group));
        Fetch::Nothing
    }

    /// The answer to a fetch for one subscription.
    pub fn fetched_for(&mut self, id: HandleId, groups: Vec<Group>) -> Fetch {
        let cursor = self.cursor.unwrap_or_default();
        let found = self.subscriptions.iter_mut().find(|s| s.id == id);
        let Some(Subscription { sink, replay: replay_slot, .. }) = found else {
            return Fetch::Nothing;
        };
        let Some(mut replay) = replay_slot.take() else { return Fetch::Nothing };
        let before = replay.after;
        groups.iter().for_each(|group| replay.pass(sink, group));
        let held_at = replay.held.first().and_then(serial_of);
        let head = held_at.map_or(cursor, |serial| serial - 1);
        if replay.after < head && replay.after > before {
            let after = replay.after;
            *replay_slot = Some(replay);
            return Fetch::For(id, after);
        }
        replay.skip_to(sink, head);
        let held = std::mem::take(&mut replay.held);
        held.iter().for_each(|group| replay.pass(sink, group));
        Fetch::Nothing
    }

    /// Delivers what follows the cursor, and a gap where something is missing before it.
    fn deliver_next(&mut self, group: Group) {
        let Some(serial) = serial_of(&group) else { return self.deliver(&group) };
        let cursor = self.cursor.unwrap_or_default();
        if serial <= cursor {
            return;
        }
        if serial > cursor + 1 {
            let gap = Delivery::Gap { from: cursor + 1, to: serial - 1 };
            let live = self.subscriptions.iter().filter(|s| s.replay.is_none());
            live.for_each(|subscription| subscription.sink.send(gap.clone()));
        }
        self.cursor = Some(serial);
        self.deliver(&group);
    }

    fn deliver(&mut self, group: &Group) {
        for subscription in &mut self.subscriptions {
            match &mut subscription.replay {
                Some(replay) => hold(&mut replay.held, group.clone()),
                None => send(&subscription.sink, group),
            }
        }
    }
}

impl Replay {
    /// Sends what follows, and a gap where something is missing before it.
    fn pass(&mut self, sink: &DeliverySink, group: &Group) {
        let Some(serial) = serial_of(group) else { return send(sink, group) };
        if serial > self.after {
            self.skip_to(sink, serial - 1);
            self.after = serial;
            send(sink, group);
        }
    }

    fn skip_to(&mut self, sink: &DeliverySink, serial: u64) {
        if self.after < serial {
            sink.send(Delivery::Gap { from: self.after + 1, to: serial });
            self.after = serial;
        }
    }
}

impl Subscription {
    fn become_ready(&mut self, result: &Result<()>) {
        if let Some(ready) = self.ready.take() {
            ready.complete(result.clone());
        }
    }
}

fn serial_of(group: &Group) -> Option<u64> {
    group.first()?.serial
}

fn send(sink: &DeliverySink, group: &Group) {
    group.iter().for_each(|message| sink.send(Delivery::Message(message.clone())));
}

/// Beyond [`HELD_MAX`] the oldest are lost; the jump of the serials shows it.
fn hold(held: &mut Vec<Group>, group: Group) {
    if held.len() == HELD_MAX {
        held.remove(0);
    }
    held.push(group);
}
