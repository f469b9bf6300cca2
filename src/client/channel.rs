//! A channel, as a program uses it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use futures_core::Stream;
use serde::Serialize;

use super::callbacks::CallbackThread;
use super::driver::{Command, CommandQueue, DeliverySink, HandleId, MemberSink, Part, QUEUED_MAX};
use super::handles::{Gate, Interest, MemberObserver, Subscription, gate};
use super::member::{Member, MemberEvent};
use super::message::{Delivery, HistoryPage, HistoryQuery, Published};
use super::pending::Pending;
use super::stream::EventQueue;
use super::{ClientError, Result};

/// A named stream of messages with a set of members. Cheap to clone; does not keep the client open.
#[derive(Clone, Debug)]
pub struct Channel {
    name: Arc<str>,
    context: Arc<ChannelContext>,
}

/// What all channels of a client share.
pub(super) struct ChannelContext {
    pub queue: Arc<CommandQueue>,
    pub callbacks: CallbackThread,
    pub next_handle: AtomicU64,
}

impl ChannelContext {
    pub fn next_handle(&self) -> HandleId {
        self.next_handle.fetch_add(1, Ordering::Relaxed)
    }
}

impl std::fmt::Debug for ChannelContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChannelContext").finish_non_exhaustive()
    }
}

impl Channel {
    pub(super) fn new(name: Arc<str>, context: Arc<ChannelContext>) -> Self {
        Channel { name, context }
    }

    /// The channel's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Publishes one message. It is sent again on the next connection if the server has not
    /// acknowledged it, and accepted once.
    ///
    /// # Errors
    /// [`ClientError::InvalidJson`], [`ClientError::Refused`], [`ClientError::QueueFull`],
    /// [`ClientError::Closed`].
    pub fn publish(&self, name: &str, data: &(impl Serialize + ?Sized)) -> Pending<Published> {
        match part(name, data) {
            Ok(part) => self.publish_parts(vec![part]),
            Err(error) => Pending::ready(Err(error)),
        }
    }

    /// Publishes several messages as one: all or none of them are accepted, under one serial.
    ///
    /// # Errors
    /// As [`Channel::publish`]; [`ClientError::Config`] without messages.
    pub fn publish_batch<N: AsRef<str>, T: Serialize>(
        &self,
        messages: impl IntoIterator<Item = (N, T)>,
    ) -> Pending<Published> {
        let parts = messages.into_iter().map(|(name, data)| part(name.as_ref(), &data));
        match parts.collect::<Result<Vec<_>>>() {
            Ok(parts) if parts.is_empty() => {
                Pending::ready(Err(ClientError::Config { why: "a batch without messages".into() }))
            }
            Ok(parts) => self.publish_parts(parts),
            Err(error) => Pending::ready(Err(error)),
        }
    }

    fn publish_parts(&self, parts: Vec<Part>) -> Pending<Published> {
        let message_id = match message_id() {
            Ok(id) => id,
            Err(error) => return Pending::ready(Err(error)),
        };
        let channel = self.name.to_string();
        self.context.queue.ask(|completer| Command::Publish {
            channel,
            message_id,
            parts,
            completer,
        })
    }

    /// Calls `callback` with each message from now on, once [`Subscription::ready`].
    ///
    /// After a lost connection it goes on where it was. What the server does not have any more is a
    /// [`Delivery::Gap`].
    pub fn subscribe(&self, callback: impl Fn(&Delivery) + Send + Sync + 'static) -> Subscription {
        self.subscribe_after(None, callback)
    }

    /// Calls `callback` with each message after a serial, then with each new one.
    pub fn subscribe_from(
        &self,
        after_serial: u64,
        callback: impl Fn(&Delivery) + Send + Sync + 'static,
    ) -> Subscription {
        self.subscribe_after(Some(after_serial), callback)
    }

    fn subscribe_after(
        &self,
        after: Option<u64>,
        callback: impl Fn(&Delivery) + Send + Sync + 'static,
    ) -> Subscription {
        let (handle, sender) = self.context.callbacks.register_queue(QUEUED_MAX, callback);
        let (interest, gate) = self.begin_messages(after, DeliverySink::Callback(sender));
        Subscription::new(handle, gate, interest)
    }

    /// The messages from now on, once [`MessageStream::ready`], as a stream.
    pub fn messages(&self) -> MessageStream {
        let (sender, events) = EventQueue::new(QUEUED_MAX);
        let (interest, gate) = self.begin_messages(None, DeliverySink::Stream(sender));
        MessageStream { events, gate, _interest: interest }
    }

    fn begin_messages(&self, after: Option<u64>, sink: DeliverySink) -> (Interest, Gate) {
        let ((ready, gate), id) = (gate(), self.context.next_handle());
        let channel = self.name.to_string();
        let end = Command::Unsubscribe { channel: channel.clone(), id };
        self.context.queue.submit(Command::Subscribe { channel, id, after, sink, ready });
        (Interest::new(&self.context.queue, end), gate)
    }

    /// A page of the past, oldest message first.
    ///
    /// # Errors
    /// [`ClientError::Refused`], [`ClientError::QueueFull`], [`ClientError::Closed`].
    pub fn history(&self, query: HistoryQuery) -> Pending<HistoryPage> {
        let channel = self.name.to_string();
        self.context.queue.ask(|completer| Command::History { channel, query, completer })
    }

    /// Becomes a member without a state: the channel's members are peers of the presence graph.
    ///
    /// # Errors
    /// [`ClientError::Refused`], [`ClientError::QueueFull`], [`ClientError::Closed`].
    pub fn join(&self) -> Pending<()> {
        self.announce(None)
    }

    /// Becomes a member with a state.
    ///
    /// # Errors
    /// As [`Channel::join`]; [`ClientError::InvalidJson`].
    pub fn enter(&self, state: &(impl Serialize + ?Sized)) -> Pending<()> {
        match json(state) {
            Ok(state) => self.announce(Some(state)),
            Err(error) => Pending::ready(Err(error)),
        }
    }

    /// Replaces the state, or becomes a member with it.
    ///
    /// # Errors
    /// As [`Channel::enter`].
    pub fn update(&self, state: &(impl Serialize + ?Sized)) -> Pending<()> {
        self.enter(state)
    }

    fn announce(&self, state: Option<String>) -> Pending<()> {
        let channel = self.name.to_string();
        self.context.queue.ask(|completer| Command::Announce { channel, state, completer })
    }

    /// Is no member any longer, however it became one.
    ///
    /// # Errors
    /// As [`Channel::join`].
    pub fn leave(&self) -> Pending<()> {
        let channel = self.name.to_string();
        self.context.queue.ask(|completer| Command::Leave { channel, completer })
    }

    /// Everyone who is present.
    ///
    /// # Errors
    /// As [`Channel::join`].
    pub fn members(&self) -> Pending<Vec<Member>> {
        let channel = self.name.to_string();
        self.context.queue.ask(|completer| Command::Members { channel, completer })
    }

    /// Calls `callback` with everyone who is present, then with each change.
    pub fn observe_members(
        &self,
        callback: impl Fn(&MemberEvent) + Send + Sync + 'static,
    ) -> MemberObserver {
        let (handle, sender) = self.context.callbacks.register_queue(QUEUED_MAX, callback);
        let ((ready, gate), id) = (gate(), self.context.next_handle());
        let channel = self.name.to_string();
        let end = Command::Unobserve { channel: channel.clone(), id };
        let sink = MemberSink(sender);
        self.context.queue.submit(Command::Observe { channel, id, sink, ready });
        MemberObserver::new(handle, gate, Interest::new(&self.context.queue, end))
    }
}

/// The messages of a channel. Ends when the client is closed.
#[derive(Debug)]
pub struct MessageStream {
    events: EventQueue<Delivery>,
    gate: Gate,
    _interest: Interest,
}

impl MessageStream {
    /// Completes when the server sends messages.
    ///
    /// # Errors
    /// [`ClientError::Refused`], [`ClientError::Closed`].
    pub fn ready(&self) -> Pending<()> {
        self.gate.pending()
    }
}

impl Stream for MessageStream {
    type Item = Delivery;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        Pin::new(&mut self.events).poll_next(cx)
    }
}

fn part(name: &str, data: &(impl Serialize + ?Sized)) -> Result<Part> {
    Ok(Part { name: name.to_owned(), data: json(data)? })
}

pub(super) fn json(data: &(impl Serialize + ?Sized)) -> Result<String> {
    serde_json::to_string(data).map_err(|error| ClientError::InvalidJson { why: error.to_string() })
}

/// An id in the form of the SDKs: milliseconds, and random hexadecimal digits.
fn message_id() -> Result<String> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| ClientError::Io { why: error.to_string() })?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(format!("{}-{:016x}", now.as_millis(), u64::from_ne_bytes(bytes)))
}
