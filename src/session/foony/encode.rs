//! What is said to Foony clients, in the form that each of them reads.

use std::sync::Arc;

use super::super::{Feed, json_state};
use crate::channel::{Change, ChangeKind, Content, Identity, Members, Message, Part, State};
use crate::ids::Clocks;
use crate::wire::foony::{self, Action, Coalescer, Delivery, Event, binary, json};
use crate::wire::websocket::{Opcode, append_frame};

/// Room for one message of usual length, made at once instead of in several steps.
const MESSAGE_BYTES_USUAL: usize = 256;

/// How events become bytes on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Records, many per WebSocket message.
    Records,
    /// Records back to back, for HTTP bodies.
    Stream,
    /// JSON objects, one per WebSocket message.
    Json,
}

impl Form {
    /// The feed of published messages in this form.
    pub fn messages(self) -> Feed {
        match self {
            Form::Records => Feed::FoonyMessages,
            Form::Stream => Feed::FoonyMessagesStream,
            Form::Json => Feed::FoonyMessagesJson,
        }
    }

    /// The feed of changes of members in this form.
    pub fn presence(self) -> Feed {
        match self {
            Form::Records => Feed::FoonyPresence,
            Form::Stream => Feed::FoonyPresenceStream,
            Form::Json => Feed::FoonyPresenceJson,
        }
    }

    fn of_feed(feed: Feed) -> Option<Form> {
        [Form::Records, Form::Stream, Form::Json]
            .into_iter()
            .find(|form| form.messages() == feed || form.presence() == feed)
    }
}

/// Appends events to an output, framed; as few WebSocket messages as the form allows.
#[derive(Debug)]
pub struct Writer<'o> {
    form: Form,
    coalescer: Coalescer,
    out: &'o mut Vec<u8>,
}

impl<'o> Writer<'o> {
    pub fn new(form: Form, out: &'o mut Vec<u8>) -> Self {
        Writer { form, coalescer: Coalescer::default(), out }
    }

    /// Bytes of the output.
    pub fn output_bytes(&self) -> usize {
        self.out.len()
    }

    pub fn event(&mut self, event: &Event<'_>) {
        match self.form {
            Form::Records => {
                self.coalescer.append(self.out, |out| binary::append_event(event, out));
            }
            Form::Stream => binary::append_event(event, self.out),
            Form::Json => {
                let mut text = Vec::new();
                json::append_event(event, &mut text);
                append_frame(self.out, Opcode::Text, &text);
            }
        }
    }
}

/// Everything that was published in a channel at once, for one feed.
pub fn messages<'m>(
    feed: Feed,
    channel: &str,
    messages: impl IntoIterator<Item = &'m Message>,
) -> Arc<[u8]> {
    let mut out = Vec::with_capacity(MESSAGE_BYTES_USUAL);
    let Some(form) = Form::of_feed(feed) else { return Arc::default() };
    let mut writer = Writer::new(form, &mut out);
    for message in messages {
        writer.event(&Event::Delivery(delivery(channel, message)));
    }
    out.into()
}

/// Everything that happened to the members of a channel at once, for one feed.
pub fn changes(feed: Feed, now: Clocks, channel: &str, changes: &[Change]) -> Arc<[u8]> {
    let mut out = Vec::new();
    let Some(form) = Form::of_feed(feed) else { return Arc::default() };
    let mut writer = Writer::new(form, &mut out);
    for change in changes.iter().filter(|change| change.kind != ChangeKind::Peer) {
        let (identity, state) = (&change.identity, &change.state);
        let member = member_of(change.kind, now.wall_ms, channel, identity, state);
        writer.event(&Event::Member(member));
    }
    out.into()
}

/// Everyone who is present, for one feed. The protocol has no other event for it than enter.
pub fn members(feed: Feed, now: Clocks, channel: &str, members: &Members) -> Arc<[u8]> {
    let mut out = Vec::new();
    let Some(form) = Form::of_feed(feed) else { return Arc::default() };
    let mut writer = Writer::new(form, &mut out);
    for present in members.iter() {
        let since_ms = now.wall_ms.saturating_sub(present.age_ms(now));
        let (identity, state) = (&present.identity, &present.state);
        let member = member_of(ChangeKind::Enter, since_ms, channel, identity, state);
        writer.event(&Event::Member(member));
    }
    out.into()
}

/// A change of a member in the words of this protocol.
pub fn member_of<'m>(
    kind: ChangeKind,
    timestamp_ms: u64,
    channel: &'m str,
    identity: &'m Identity,
    state: &'m State,
) -> foony::Member<'m> {
    let json = json_state(state);
    foony::Member {
        action: action(kind),
        timestamp_ms,
        channel: channel.into(),
        client_id: (&*identity.user).into(),
        connection_id: (&*identity.connection).into(),
        data: &json.data,
        encoding: (&*json.encoding).into(),
    }
}

/// A message as it is delivered, replayed and listed.
pub fn delivery<'m>(channel: &'m str, message: &'m Message) -> Delivery<'m> {
    Delivery {
        channel: channel.into(),
        message_id: (&*message.id).into(),
        client_id: (&*message.client_id).into(),
        timestamp_ms: message.timestamp_ms,
        serial: message.serial,
        ephemeral: message.serial == 0,
        content: match &message.content {
            Content::One(part) => foony::Content::One(wire_message(part)),
            Content::Batch(parts) => {
                foony::Content::Batch(parts.iter().map(wire_message).collect())
            }
        },
    }
}

fn wire_message(part: &Part) -> foony::Message<'_> {
    foony::Message {
        name: (&*part.name).into(),
        data: &part.data,
        encoding: (&*part.encoding).into(),
    }
}

fn action(kind: ChangeKind) -> Action {
    match kind {
        ChangeKind::Enter => Action::Enter,
        ChangeKind::Update | ChangeKind::Peer => Action::Update,
        ChangeKind::Leave => Action::Leave,
    }
}
