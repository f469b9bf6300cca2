//! A client of this server, for Rust programs. Builds on any Unix, without the server.
//!
//! ```no_run
//! use headcount::client::prelude::*;
//!
//! # fn main() -> Result<()> {
//! let client = Client::connect(
//!     ClientConfig::new("ws://127.0.0.1:7400").key("app.kid:secret").join("shop"),
//! )?;
//! client.presence().set_peer_metadata_json_str(r#"{"role":"till"}"#)?;
//! let _observer = client.presence().observe(|graph| println!("{graph}"));
//!
//! let shop = client.channel("shop");
//! let _subscription = shop.subscribe(|delivery| println!("{delivery:?}"));
//! shop.publish("sold", &"apple").wait()?;
//! # Ok(())
//! # }
//! ```
//!
//! A [`Client`] has one connection, which is made again when it is lost: subscriptions go on where
//! they were, members are entered again, publishes are repeated and accepted once. Operations that
//! wait for the server return a [`Pending`], a future for any executor on which a thread can wait
//! too. Callbacks run on one thread of the client, one at a time; everything is allowed in them.
//!
//! [`protocol`] is the client's half of the wire as a state machine, for programs that bring their
//! own I/O.

#![warn(rustdoc::broken_intra_doc_links)]

mod admission;
mod callbacks;
mod channel;
mod config;
mod direct;
mod driver;
mod error;
mod graph;
mod handles;
mod member;
mod message;
mod metadata;
mod pending;
mod presence;
pub mod protocol;
mod signing;
mod state;
mod state_dir;
mod stream;

pub use admission::{
    ConnectionRequest, ConnectionRequestAuthorization, ConnectionRequestHandler, IntoOption,
};
pub use channel::{Channel, MessageStream};
pub use config::{Backoff, ClientConfig};
pub use direct::DirectMessage;
pub use error::{BoxError, ClientError, Result};
pub use graph::{
    Address, Connection, ConnectionType, GraphDiff, JsonObject, MetadataTrust, Peer, PeerCount,
    PresenceGraph, PresenceOs,
};
pub use handles::{DirectObserver, MemberObserver, PresenceObserver, StateObserver, Subscription};
pub use member::{LeaveReason, Member, MemberEvent};
pub use message::{Delivery, HistoryPage, HistoryQuery, Message, Published};
pub use pending::Pending;
pub use presence::{GraphStream, Presence};
pub use state::ClientState;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use callbacks::CallbackThread;
use channel::{ChannelContext, json};
use config::Endpoint;
use driver::{Attempts, Command, CommandQueue, Driver, Part, QUEUED_MAX};
use metadata::MetadataStore;
use presence::LocalPeer;
use serde::Serialize;
use signing::Signer;
use state::StateCell;
use state_dir::device_id;

use crate::wire::foony::peer::DEVICE_NAME_BYTES_MAX;

/// Everything that a program needs: `use headcount::client::prelude::*`.
pub mod prelude {
    pub use super::{
        Address, Backoff, BoxError, Channel, Client, ClientConfig, ClientError, ClientState,
        Connection, ConnectionRequest, ConnectionRequestAuthorization, ConnectionRequestHandler,
        ConnectionType, Delivery, DirectMessage, DirectObserver, GraphDiff, GraphStream,
        HistoryPage, HistoryQuery, IntoOption, JsonObject, LeaveReason, Member, MemberEvent,
        MemberObserver, Message, MessageStream, MetadataTrust, Peer, PeerCount, Pending, Presence,
        PresenceGraph, PresenceObserver, PresenceOs, Published, Result, StateObserver,
        Subscription,
    };
}

/// How long dropping a client waits for its connection to be closed.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// A connection to a server, made again whenever it is lost. Dropping it closes it, and waits at
/// most 1 s for that.
///
/// Not `Clone`: threads share it in an [`Arc`].
///
/// ```
/// # use headcount::client::prelude::*;
/// # let client = Client::connect_lazy(ClientConfig::new("ws://127.0.0.1:9"))?;
/// assert_eq!(client.state(), ClientState::Connecting);
/// let shop = client.channel("shop");
/// let graph = client.presence().graph();
/// assert_eq!((shop.name(), graph.remote_peers.len()), ("shop", 0));
/// # Ok::<(), ClientError>(())
/// ```
pub struct Client {
    queue: Arc<CommandQueue>,
    state: Arc<StateCell>,
    presence: Arc<Presence>,
    channels: Arc<ChannelContext>,
    callbacks: CallbackThread,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Client {
    /// Connects, and blocks until the server has greeted and the client has joined the channels of
    /// the configuration; for the [`connect_timeout`](ClientConfig::connect_timeout) at most. One
    /// attempt. Async code uses [`Client::connect_lazy`] and awaits [`Client::ready`].
    ///
    /// ```no_run
    /// # use headcount::client::prelude::*;
    /// let config = ClientConfig::new("ws://127.0.0.1:7400").key("app.kid:secret").join("shop");
    /// let client = Client::connect(config)?;
    /// assert_eq!(client.state(), ClientState::Live);
    /// # Ok::<(), ClientError>(())
    /// ```
    ///
    /// # Errors
    /// [`ClientError::Config`], [`ClientError::Io`], [`ClientError::Unreachable`],
    /// [`ClientError::Timeout`], [`ClientError::Unauthorized`]; [`ClientError::Refused`] by a
    /// channel to join.
    pub fn connect(config: ClientConfig) -> Result<Client> {
        let until = Instant::now() + config.connect_timeout;
        let left = || until.saturating_duration_since(Instant::now());
        let (client, joins) = Client::start(config, Attempts::One)?;
        client.ready().wait_timeout(left())?;
        for join in joins {
            join.wait_timeout(left())?;
        }
        Ok(client)
    }

    /// Returns at once, and connects in the background until it succeeds or the client is closed.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// // Nothing listens there yet.
    /// let client = Client::connect_lazy(ClientConfig::new("ws://127.0.0.1:9").join("shop"))?;
    /// assert_eq!(client.state(), ClientState::Connecting);
    /// assert_eq!(client.presence().graph().remote_peers.len(), 0);
    /// # Ok::<(), ClientError>(())
    /// ```
    ///
    /// # Errors
    /// [`ClientError::Config`], [`ClientError::Io`].
    pub fn connect_lazy(config: ClientConfig) -> Result<Client> {
        Ok(Client::start(config, Attempts::Unlimited)?.0)
    }

    fn start(config: ClientConfig, attempts: Attempts) -> Result<(Client, Vec<Pending<()>>)> {
        let endpoint = config.endpoint()?;
        let client = Client::prepare(&config).map_err(|error| match error.downcast() {
            Ok(error) => *error,
            Err(error) => ClientError::Io { why: error.to_string() },
        })?;
        let joins = config.joins.iter().map(|name| client.channel(name.as_str()).join());
        let joins = joins.collect();
        client.run(config, endpoint, attempts)?;
        Ok((client, joins))
    }

    fn prepare(config: &ClientConfig) -> std::result::Result<Client, BoxError> {
        let state_dir = config.state_dir.as_deref();
        let signer = config.signs_metadata.then(|| Signer::open(state_dir)).transpose()?;
        let metadata = MetadataStore::open(state_dir, signer)?;
        let device_name = config.device_name.clone().unwrap_or_else(host_name);
        if device_name.len() > DEVICE_NAME_BYTES_MAX {
            let why = format!("a device name has at most {DEVICE_NAME_BYTES_MAX} bytes");
            return Err(Box::new(ClientError::Config { why }));
        }
        let within = config.connection_request_timeout;
        let local = LocalPeer::new(device_id(state_dir)?, device_name, metadata, within);
        let queue = Arc::new(CommandQueue::new()?);
        let callbacks = CallbackThread::start("headcount-callbacks")?;
        let presence =
            Presence::new(local, config.graph_interval, callbacks.clone(), Arc::clone(&queue));
        Ok(Client {
            state: Arc::new(StateCell::new(config.client_id.clone())),
            presence: Arc::new(presence),
            channels: Arc::new(ChannelContext {
                queue: Arc::clone(&queue),
                callbacks: callbacks.clone(),
                next_handle: AtomicU64::new(1),
            }),
            queue,
            callbacks,
            thread: Mutex::new(None),
        })
    }

    fn run(&self, config: ClientConfig, endpoint: Endpoint, attempts: Attempts) -> Result<()> {
        let (queue, state) = (Arc::clone(&self.queue), Arc::clone(&self.state));
        let presence = Arc::clone(&self.presence);
        let driver = Driver::new(config, endpoint, queue, state, presence, attempts);
        let thread = driver::start(driver)?;
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(())
    }

    /// Completes when the client is live; at once if it is.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect_lazy(ClientConfig::new("ws://127.0.0.1:9"))?;
    /// use std::time::Duration;
    ///
    /// let ready = client.ready().wait_timeout(Duration::from_millis(20));
    /// assert_eq!(ready, Err(ClientError::Timeout));
    /// # Ok::<(), ClientError>(())
    /// ```
    ///
    /// # Errors
    /// The reason for which the client is closed: [`ClientError::Unauthorized`],
    /// [`ClientError::Closed`]; [`ClientError::QueueFull`].
    pub fn ready(&self) -> Pending<()> {
        match self.state() {
            ClientState::Closed { reason } => Pending::ready(Err(reason)),
            _ => self.queue.ask(Command::Ready),
        }
    }

    /// Whether the client is connected.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect_lazy(ClientConfig::new("ws://127.0.0.1:9"))?;
    /// let status = match client.state() {
    ///     ClientState::Live => "online".to_owned(),
    ///     ClientState::Closed { reason } => format!("closed: {reason}"),
    ///     _ => "connecting".to_owned(),
    /// };
    /// assert_eq!(status, "connecting");
    /// # Ok::<(), ClientError>(())
    /// ```
    pub fn state(&self) -> ClientState {
        self.state.state()
    }

    /// Calls `callback` with the state, and with each later one. While 1,024 of them wait for the
    /// callback, the latest replaces the one before it.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect_lazy(ClientConfig::new("ws://127.0.0.1:9"))?;
    /// let (sender, states) = std::sync::mpsc::channel();
    /// let observer = client.on_state(move |state| drop(sender.send(state.clone())));
    /// assert_eq!(states.recv(), Ok(ClientState::Connecting));
    /// # observer.cancel();
    /// # Ok::<(), ClientError>(())
    /// ```
    pub fn on_state(
        &self,
        callback: impl Fn(&ClientState) + Send + Sync + 'static,
    ) -> StateObserver {
        let (handle, sender) = self.callbacks.register_queue(QUEUED_MAX, callback);
        self.state.observe(sender);
        StateObserver::new(handle)
    }

    /// The name of the client for others; `None` until it is known, which is before the first
    /// greeting if the server chooses it.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// let config = ClientConfig::new("ws://127.0.0.1:9").client_id("till-1");
    /// let client = Client::connect_lazy(config)?;
    /// assert_eq!(client.client_id().as_deref(), Some("till-1"));
    /// # Ok::<(), ClientError>(())
    /// ```
    pub fn client_id(&self) -> Option<String> {
        self.state.client_id()
    }

    /// A channel of the server. Sends no request. The server checks the name with the first
    /// operation.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect_lazy(ClientConfig::new("ws://127.0.0.1:9"))?;
    /// let shop = client.channel("shop");
    /// assert_eq!(shop.name(), "shop");
    /// # Ok::<(), ClientError>(())
    /// ```
    pub fn channel(&self, name: impl Into<String>) -> Channel {
        Channel::new(name.into().into(), Arc::clone(&self.channels))
    }

    /// The presence graph; always the same.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect_lazy(ClientConfig::new("ws://127.0.0.1:9"))?;
    /// let presence = client.presence();
    /// presence.set_peer_metadata_json_str(r#"{"role":"till"}"#)?;
    /// assert_eq!(presence.graph().local_peer.peer_metadata["role"], "till");
    /// # Ok::<(), ClientError>(())
    /// ```
    pub fn presence(&self) -> Arc<Presence> {
        Arc::clone(&self.presence)
    }

    /// Sends a message to one peer. Completes when that peer's client has taken it. Messages to one
    /// peer arrive in order, at most once; they are not stored. `peer_key` is [`Peer::key`].
    ///
    /// ```no_run
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect(ClientConfig::new("ws://127.0.0.1:7400"))?;
    /// for peer in client.presence().graph().direct_peers() {
    ///     match client.send_to(peer.key(), "greet", "hello").wait() {
    ///         Err(ClientError::PeerUnavailable { .. }) => println!("{peer:?} is gone"),
    ///         sent => sent?,
    ///     }
    /// }
    /// # Ok::<(), ClientError>(())
    /// ```
    ///
    /// # Errors
    /// [`ClientError::Denied`] when the two are not connected; [`ClientError::PeerUnavailable`]
    /// when they share no channel, nobody takes it, or the connection is lost before the answer;
    /// [`ClientError::RateLimited`], [`ClientError::Refused`], [`ClientError::InvalidJson`],
    /// [`ClientError::QueueFull`], [`ClientError::Closed`].
    pub fn send_to(
        &self,
        peer_key: &str,
        name: &str,
        data: &(impl Serialize + ?Sized),
    ) -> Pending<()> {
        let (to, name) = (peer_key.to_owned(), name.to_owned());
        match json(data) {
            Ok(data) => {
                let part = Part { name, data };
                self.queue.ask(|completer| Command::Direct { to, part, completer })
            }
            Err(error) => Pending::ready(Err(error)),
        }
    }

    /// Calls `callback` with each message that a peer sends to this client. While there is no such
    /// callback, or 1,024 messages wait for it, senders get [`ClientError::PeerUnavailable`].
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect_lazy(ClientConfig::new("ws://127.0.0.1:9"))?;
    /// let observer = client.on_direct_message(|message| {
    ///     println!("{} from {}: {}", message.name, message.from_peer_key, message.data);
    /// });
    /// # observer.cancel();
    /// # Ok::<(), ClientError>(())
    /// ```
    pub fn on_direct_message(
        &self,
        callback: impl Fn(&DirectMessage) + Send + Sync + 'static,
    ) -> DirectObserver {
        let (handle, sender) = self.callbacks.register_queue(QUEUED_MAX, callback);
        self.presence.local().observe_direct(sender);
        DirectObserver::new(handle)
    }

    /// Leaves all channels and closes the connection. Later operations fail with
    /// [`ClientError::Closed`]; the graph, the getters and the state keep their last values. May be
    /// called again.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect_lazy(ClientConfig::new("ws://127.0.0.1:9"))?;
    /// client.close().wait()?;
    /// assert_eq!(client.state(), ClientState::Closed { reason: ClientError::Closed });
    /// assert_eq!(client.channel("shop").join().wait(), Err(ClientError::Closed));
    /// # Ok::<(), ClientError>(())
    /// ```
    ///
    /// # Errors
    /// None.
    pub fn close(&self) -> Pending<()> {
        if self.queue.is_closed() {
            return Pending::ready(Ok(()));
        }
        self.queue.ask_always(Command::Close)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let closed = self.close();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let own = thread.as_ref().is_some_and(|t| t.thread().id() == thread::current().id());
        if !own && !self.callbacks.is_current() {
            // After this time the thread ends by itself.
            let _ = closed.wait_timeout(CLOSE_WITHIN);
        }
        self.callbacks.close();
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("state", &self.state()).finish_non_exhaustive()
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
