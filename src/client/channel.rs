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
///
/// ```no_run
/// # use headcount::client::prelude::*;
/// # let client = Client::connect(ClientConfig::new("ws://127.0.0.1:7400"))?;
/// let shop = client.channel("shop");
/// let subscription = shop.subscribe(|delivery| println!("{delivery:?}"));
/// subscription.ready().wait()?;
/// shop.enter(&"open").wait()?;
/// shop.publish("sold", &"apple").wait()?;
/// # Ok::<(), ClientError>(())
/// ```
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
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect_lazy(ClientConfig::new("ws://127.0.0.1:9"))?;
    /// assert_eq!(client.channel("shop").name(), "shop");
    /// # Ok::<(), ClientError>(())
    /// ```
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Publishes one message: an event name, and any data as JSON. The client sends it again on the
    /// next connection if the server has not acknowledged it, and the server accepts it once.
    /// Messages of one client keep their order.
    ///
    /// ```no_run
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect(ClientConfig::new("ws://127.0.0.1:7400"))?;
    /// let shop = client.channel("shop");
    /// let published = shop.publish("sold", &["apple", "pear"]).wait()?;
    /// println!("accepted as number {}", published.serial);
    /// # Ok::<(), ClientError>(())
    /// ```
    ///
    /// # Errors
    /// [`ClientError::InvalidJson`], [`ClientError::RateLimited`], [`ClientError::Refused`],
    /// [`ClientError::QueueFull`], [`ClientError::Io`] without random bytes for its id,
    /// [`ClientError::Closed`].
    pub fn publish(&self, name: &str, data: &(impl Serialize + ?Sized)) -> Pending<Published> {
        match part(name, data) {
            Ok(part) => self.publish_parts(vec![part]),
            Err(error) => Pending::ready(Err(error)),
        }
    }

    /// Publishes several messages as one: all or none of them are accepted, under one serial.
    ///
    /// ```no_run
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect(ClientConfig::new("ws://127.0.0.1:7400"))?;
    /// let shop = client.channel("shop");
    /// let batch = shop.publish_batch([("sold", "apple"), ("sold", "pear")]).wait()?;
    /// println!("both have serial {}", batch.serial);
    /// # Ok::<(), ClientError>(())
    /// ```
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
    /// [`Delivery::Gap`]. So are the oldest deliveries when more than 1,024 wait for the callback.
    ///
    /// ```no_run
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect(ClientConfig::new("ws://127.0.0.1:7400"))?;
    /// let subscription = client.channel("shop").subscribe(|delivery| match delivery {
    ///     Delivery::Message(message) => println!("{}: {}", message.name, message.data),
    ///     Delivery::Gap { from, to } => println!("serials {from} to {to} are lost"),
    ///     _ => {}
    /// });
    /// subscription.ready().wait()?;
    /// # Ok::<(), ClientError>(())
    /// ```
    pub fn subscribe(&self, callback: impl Fn(&Delivery) + Send + Sync + 'static) -> Subscription {
        self.subscribe_after(None, callback)
    }

    /// Calls `callback` with each message after a serial, then with each new one. What the server
    /// does not have any more is a [`Delivery::Gap`].
    ///
    /// ```no_run
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect(ClientConfig::new("ws://127.0.0.1:7400"))?;
    /// # fn load() -> u64 { 41 }
    /// let last_seen: u64 = load();
    /// let subscription = client.channel("shop").subscribe_from(last_seen, |delivery| {
    ///     println!("{delivery:?}");
    /// });
    /// # drop(subscription);
    /// # Ok::<(), ClientError>(())
    /// ```
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

    /// The messages from now on, once [`MessageStream::ready`], as a stream for any executor. Of
    /// more than 1,024 that wait, the oldest become a [`Delivery::Gap`].
    ///
    /// ```no_run
    /// use futures_lite::StreamExt;
    /// use headcount::client::prelude::*;
    ///
    /// # async fn print(client: Client) -> Result<()> {
    /// let mut messages = client.channel("shop").messages();
    /// messages.ready().await?;
    /// while let Some(delivery) = messages.next().await {
    ///     println!("{delivery:?}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
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
    /// ```no_run
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect(ClientConfig::new("ws://127.0.0.1:7400"))?;
    /// let page = client.channel("shop").history(HistoryQuery::default().limit(20)).wait()?;
    /// page.messages.iter().for_each(|message| println!("{}", message.data));
    /// if let Some(older) = page.next {
    ///     let page = client.channel("shop").history(older).wait()?;
    /// #   let _ = page;
    /// }
    /// # Ok::<(), ClientError>(())
    /// ```
    ///
    /// # Errors
    /// [`ClientError::Refused`], [`ClientError::QueueFull`], [`ClientError::Closed`].
    pub fn history(&self, query: HistoryQuery) -> Pending<HistoryPage> {
        let channel = self.name.to_string();
        self.context.queue.ask(|completer| Command::History { channel, query, completer })
    }

    /// Becomes a member without a state: the channel's members are peers of the presence graph.
    /// After a lost connection the client becomes a member again. Completes when the members of the
    /// channel are in the graph.
    ///
    /// ```no_run
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect(ClientConfig::new("ws://127.0.0.1:7400"))?;
    /// client.channel("shop").join().wait()?;
    /// // Whoever was in the channel is in the graph.
    /// println!("{}", client.presence().graph());
    /// # Ok::<(), ClientError>(())
    /// ```
    ///
    /// # Errors
    /// [`ClientError::RateLimited`], [`ClientError::Refused`], [`ClientError::QueueFull`],
    /// [`ClientError::Closed`].
    pub fn join(&self) -> Pending<()> {
        self.announce(None)
    }

    /// Becomes a member with a state: any JSON, which members and observers of the channel see.
    /// After a lost connection the client enters again with the newest state.
    ///
    /// ```no_run
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect(ClientConfig::new("ws://127.0.0.1:7400"))?;
    /// # use serde_json::json;
    /// client.channel("shop").enter(&json!({"till": 3, "open": true})).wait()?;
    /// # Ok::<(), ClientError>(())
    /// ```
    ///
    /// # Errors
    /// As [`Channel::join`]; [`ClientError::InvalidJson`].
    pub fn enter(&self, state: &(impl Serialize + ?Sized)) -> Pending<()> {
        match json(state) {
            Ok(state) => self.announce(Some(state)),
            Err(error) => Pending::ready(Err(error)),
        }
    }

    /// Replaces the state, or becomes a member with it. A refused state leaves the member with the
    /// last one that was accepted.
    ///
    /// ```no_run
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect(ClientConfig::new("ws://127.0.0.1:7400"))?;
    /// let shop = client.channel("shop");
    /// shop.enter(&"open").wait()?;
    /// shop.update(&"closed").wait()?;
    /// # Ok::<(), ClientError>(())
    /// ```
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

    /// Ends the membership, whether [`Channel::join`], [`Channel::enter`] or [`Channel::update`]
    /// began it. Subscriptions go on.
    ///
    /// ```no_run
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect(ClientConfig::new("ws://127.0.0.1:7400"))?;
    /// let shop = client.channel("shop");
    /// shop.join().wait()?;
    /// shop.leave().wait()?;
    /// # Ok::<(), ClientError>(())
    /// ```
    ///
    /// # Errors
    /// As [`Channel::join`].
    pub fn leave(&self) -> Pending<()> {
        let channel = self.name.to_string();
        self.context.queue.ask(|completer| Command::Leave { channel, completer })
    }

    /// Everyone who is present, this client too if it is a member.
    ///
    /// ```no_run
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect(ClientConfig::new("ws://127.0.0.1:7400"))?;
    /// for member in client.channel("shop").members().wait()? {
    ///     println!("{} {:?}", member.client_id, member.state);
    /// }
    /// # Ok::<(), ClientError>(())
    /// ```
    ///
    /// # Errors
    /// As [`Channel::join`].
    pub fn members(&self) -> Pending<Vec<Member>> {
        let channel = self.name.to_string();
        self.context.queue.ask(|completer| Command::Members { channel, completer })
    }

    /// Calls `callback` with everyone who is present, then with each change. It does not make this
    /// client a member. After a lost connection, or when more than 1,024 events wait for the
    /// callback, it begins again with everyone who is present.
    ///
    /// ```no_run
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect(ClientConfig::new("ws://127.0.0.1:7400"))?;
    /// let observer = client.channel("shop").observe_members(|event| match event {
    ///     MemberEvent::Present(members) => println!("{} are here", members.len()),
    ///     MemberEvent::Enter(member) => println!("{} comes", member.client_id),
    ///     MemberEvent::Leave { member, .. } => println!("{} goes", member.client_id),
    ///     _ => {}
    /// });
    /// observer.ready().wait()?;
    /// # Ok::<(), ClientError>(())
    /// ```
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
///
/// ```no_run
/// use futures_lite::StreamExt;
/// use headcount::client::prelude::*;
///
/// # async fn first(client: Client) -> Option<Delivery> {
/// let mut messages = client.channel("shop").messages();
/// messages.ready().await.ok()?;
/// let first = messages.next().await;
/// # first
/// # }
/// ```
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
