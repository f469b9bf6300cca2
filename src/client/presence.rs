//! The presence graph, as a program uses it.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use futures_core::Stream;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::admission::{
    AdmissionHandlers, ConnectionRequest, ConnectionRequestAuthorization, IntoOption,
};
use super::callbacks::{CallbackThread, QueueSender};
use super::channel::json;
use super::direct::DirectMessage;
use super::driver::{Command, CommandQueue};
use super::graph::{
    Age, GraphDiff, JsonObject, MetadataTrust, Peer, PeerCount, PresenceGraph, PresenceOs,
};
use super::handles::PresenceObserver;
use super::metadata::MetadataStore;
use super::pending::Pending;
use super::stream::{EventQueue, EventSender};
use super::{ClientError, Result};

/// Peers above which the graph is put together only when its observers are to be called.
const LARGE_GRAPH_PEERS: usize = 64;

/// The presence graph: who shares channels with this client, and what each says of itself.
///
/// It is a copy that the client keeps up to date, and can be read at any time.
///
/// ```
/// # use headcount::client::prelude::*;
/// # let client = Client::connect_lazy(ClientConfig::new("ws://127.0.0.1:9"))?;
/// let presence = client.presence();
/// presence.set_peer_metadata_json_str(r#"{"role":"till"}"#)?;
/// let observer = presence.observe(|graph| println!("{graph}"));
/// for peer in presence.graph().direct_peers() {
///     println!("{} {:?}", peer.device_name, peer.peer_metadata.get("role"));
/// }
/// # observer.cancel();
/// # Ok::<(), ClientError>(())
/// ```
pub struct Presence {
    local: Arc<LocalPeer>,
    shared: Mutex<Shared>,
    callbacks: CallbackThread,
    queue: Arc<CommandQueue>,
    handlers: AdmissionHandlers,
}

struct Shared {
    graph: Arc<PresenceGraph>,
    /// Counts the graphs that differ from the one before.
    version: u64,
    /// Least time between two calls of an observer while the graph is kept up to date.
    interval: Duration,
    /// When the graph was read that the observers got last.
    observed: Option<Instant>,
    /// Since when the graph has not been kept up to date; `None` while it is.
    stale_since: Option<SystemTime>,
    observers: Vec<Observer>,
    streams: Vec<EventSender<Arc<PresenceGraph>>>,
    is_closed: bool,
}

struct Observer {
    sender: QueueSender<Arc<PresenceGraph>>,
    /// The version that it got last.
    version: u64,
}

/// What this client says of itself.
pub(super) struct LocalPeer {
    device: [u8; 16],
    device_name: String,
    metadata: MetadataStore,
    /// How long a connection request handler may take.
    decide_within: Duration,
    /// How many handlers there have been.
    handlers: AtomicU64,
    has_handler: AtomicBool,
    direct: Mutex<Vec<QueueSender<DirectMessage>>>,
}

impl LocalPeer {
    pub fn new(
        device: [u8; 16],
        device_name: String,
        metadata: MetadataStore,
        decide_within: Duration,
    ) -> Self {
        LocalPeer {
            device,
            device_name,
            metadata,
            decide_within,
            handlers: AtomicU64::new(0),
            has_handler: AtomicBool::new(false),
            direct: Mutex::default(),
        }
    }

    /// Another handler decides from here on, or none.
    fn set_handler(&self, is_there: bool) {
        self.handlers.fetch_add(1, Ordering::Relaxed);
        self.has_handler.store(is_there, Ordering::Release);
    }

    /// How long a decision may take, milliseconds; 0 when everyone is admitted.
    pub fn asks_ms(&self) -> u64 {
        match self.has_handler.load(Ordering::Acquire) {
            true => self.decide_within.as_millis() as u64,
            false => 0,
        }
    }

    /// Tells the handlers of this client apart.
    pub fn handler(&self) -> u64 {
        self.handlers.load(Ordering::Relaxed)
    }

    pub fn observe_direct(&self, observer: QueueSender<DirectMessage>) {
        lock(&self.direct).push(observer);
    }

    /// Queues a direct message for every observer; true if there is one that takes it.
    pub fn take_direct(&self, message: &DirectMessage) -> bool {
        let mut observers = lock(&self.direct);
        observers.retain(|observer| !observer.is_gone());
        let taken = observers.iter().filter(|o| o.try_send(message.clone()).is_ok());
        taken.count() > 0
    }

    pub fn device(&self) -> [u8; 16] {
        self.device
    }

    pub fn device_name(&self) -> &str {
        &self.device_name
    }

    pub fn metadata(&self) -> &MetadataStore {
        &self.metadata
    }

    /// The peer as others see it, without connections. `key`: empty while it is not known.
    pub fn peer(&self, key: &[u8]) -> Peer {
        let mut peer = Peer::new(key);
        peer.device_name.clone_from(&self.device_name);
        peer.os = Some(PresenceOs::local());
        peer.is_compatible = Some(true);
        peer.ditto_sdk_version = Some(env!("CARGO_PKG_VERSION").to_owned());
        peer.peer_metadata = self.metadata.object();
        if self.metadata.is_signed() {
            peer.set_metadata_trust(MetadataTrust::Verified);
        }
        peer
    }
}

impl Presence {
    pub(super) fn new(
        local: LocalPeer,
        interval: Duration,
        callbacks: CallbackThread,
        queue: Arc<CommandQueue>,
    ) -> Self {
        let now = SystemTime::now();
        let graph = Arc::new(PresenceGraph::new(local.peer(&[]), Vec::new(), now));
        let shared = Shared {
            graph,
            version: 0,
            interval,
            observed: None,
            stale_since: Some(now),
            observers: Vec::new(),
            streams: Vec::new(),
            is_closed: false,
        };
        let (local, shared) = (Arc::new(local), Mutex::new(shared));
        let handlers = AdmissionHandlers::new("headcount-admission");
        Presence { local, shared, callbacks, queue, handlers }
    }

    pub(super) fn local(&self) -> Arc<LocalPeer> {
        Arc::clone(&self.local)
    }

    /// A new graph, of the time `at`. `is_live`: it is kept up to date from here on.
    pub(super) fn publish(&self, mut graph: PresenceGraph, at: Instant, is_live: bool) {
        let mut shared = self.lock();
        shared.stale_since = match is_live {
            true => None,
            false => shared.stale_since.or_else(|| Some(SystemTime::now())),
        };
        graph.set_age(shared.age());
        shared.publish(&self.local, graph, at);
    }

    /// How long nothing is to be done: neither a graph to be published, of which something may
    /// have changed, nor an observer to be called. `None`: until something changes.
    pub(super) fn wait(&self, is_changed: bool) -> Option<Duration> {
        let shared = self.lock();
        if is_changed && shared.graph.remote_peers.len() <= LARGE_GRAPH_PEERS {
            return Some(Duration::ZERO);
        }
        let is_behind = is_changed || shared.is_behind();
        is_behind.then(|| shared.observers_wait(Instant::now()))
    }

    /// Gives the observers the graph as it is.
    pub(super) fn call_observers(&self) {
        self.lock().call_observers(Instant::now());
    }

    /// Nothing is published any more.
    pub(super) fn close(&self) {
        let mut shared = self.lock();
        shared.is_closed = true;
        shared.observers.clear();
        shared.streams.clear();
    }

    /// A copy of the graph; takes time in proportion to its peers. Never blocks on the network;
    /// also before the first connection, and after the client was closed.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect_lazy(ClientConfig::new("ws://127.0.0.1:9"))?;
    /// let graph = client.presence().graph();
    /// assert!(!graph.local_peer.is_connected_to_ditto_cloud);
    /// println!("{graph}");
    /// # Ok::<(), ClientError>(())
    /// ```
    pub fn graph(&self) -> PresenceGraph {
        self.graph_arc().read()
    }

    /// The graph, shared instead of copied.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect_lazy(ClientConfig::new("ws://127.0.0.1:9"))?;
    /// let graph = client.presence().graph_arc();
    /// assert_eq!(graph.remote_peers.len(), 0);
    /// # Ok::<(), ClientError>(())
    /// ```
    pub fn graph_arc(&self) -> Arc<PresenceGraph> {
        Arc::clone(&self.lock().graph)
    }

    /// Calls `callback` with the graph, and with a new one after each change; the latest, when
    /// several come within the client's graph interval. A closed client calls it once.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect_lazy(ClientConfig::new("ws://127.0.0.1:9"))?;
    /// let observer = client.presence().observe(|graph| {
    ///     println!("{} of {} peers", graph.direct_peers().count(), graph.remote_peers.len());
    /// });
    /// # observer.cancel();
    /// # Ok::<(), ClientError>(())
    /// ```
    pub fn observe(
        self: &Arc<Self>,
        callback: impl Fn(&PresenceGraph) + Send + Sync + 'static,
    ) -> PresenceObserver {
        self.observe_latest(move |graph: &Arc<PresenceGraph>| callback(graph))
    }

    /// As [`Presence::observe`], but not after the client was closed.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect_lazy(ClientConfig::new("ws://127.0.0.1:9"))?;
    /// let observer = client.presence().register_observer(|graph| println!("{graph}"))?;
    /// # observer.cancel();
    /// client.close().wait()?;
    /// let late = client.presence().register_observer(|graph| println!("{graph}"));
    /// assert!(matches!(late, Err(ClientError::Closed)));
    /// # Ok::<(), ClientError>(())
    /// ```
    ///
    /// # Errors
    /// [`ClientError::Closed`].
    pub fn register_observer(
        self: &Arc<Self>,
        callback: impl Fn(&PresenceGraph) + Send + Sync + 'static,
    ) -> Result<PresenceObserver> {
        let is_closed = self.lock().is_closed;
        match is_closed {
            true => Err(ClientError::Closed),
            false => Ok(self.observe(callback)),
        }
    }

    /// Calls `callback` with what changed; at first, with everything. Applied in order, the
    /// differences give the graph.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect_lazy(ClientConfig::new("ws://127.0.0.1:9"))?;
    /// let observer = client.presence().observe_diff(|diff| {
    ///     diff.joined.iter().for_each(|peer| println!("+ {}", peer.key()));
    ///     diff.left.iter().for_each(|peer| println!("- {}", peer.key()));
    /// });
    /// # observer.cancel();
    /// # Ok::<(), ClientError>(())
    /// ```
    pub fn observe_diff(
        self: &Arc<Self>,
        callback: impl Fn(&GraphDiff) + Send + Sync + 'static,
    ) -> PresenceObserver {
        let last = Mutex::new(None::<Arc<PresenceGraph>>);
        self.observe_latest(move |graph: &Arc<PresenceGraph>| {
            let earlier = lock(&last).replace(Arc::clone(graph));
            if let Some(diff) = GraphDiff::between(earlier.as_ref(), Arc::clone(graph)) {
                callback(&diff);
            }
        })
    }

    /// Calls `callback` with the number of peers that this client is connected to, at once, and
    /// again whenever it falls below `min` or reaches it.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect_lazy(ClientConfig::new("ws://127.0.0.1:9"))?;
    /// let (sender, counts) = std::sync::mpsc::channel();
    /// let observer = client.presence().expect_peers(2, move |count| drop(sender.send(*count)));
    /// let first = counts.recv().expect("one call at once");
    /// assert_eq!((first.min, first.direct, first.met), (2, 0, false));
    /// # observer.cancel();
    /// # Ok::<(), ClientError>(())
    /// ```
    pub fn expect_peers(
        self: &Arc<Self>,
        min: usize,
        callback: impl Fn(&PeerCount) + Send + Sync + 'static,
    ) -> PresenceObserver {
        let last = Mutex::new(None::<bool>);
        self.observe_latest(move |graph: &Arc<PresenceGraph>| {
            let count = PeerCount::of(graph, min);
            if lock(&last).replace(count.met) != Some(count.met) {
                callback(&count);
            }
        })
    }

    fn observe_latest(
        &self,
        callback: impl Fn(&Arc<PresenceGraph>) + Send + Sync + 'static,
    ) -> PresenceObserver {
        let (handle, sender) = self.callbacks.register_queue(1, callback);
        let mut shared = self.lock();
        sender.replace(Arc::clone(&shared.graph));
        if !shared.is_closed {
            let version = shared.version;
            shared.observers.push(Observer { sender, version });
        }
        PresenceObserver::new(handle)
    }

    /// The graph, and each later one; when the program is slow, only the latest. Ends when the
    /// client is closed.
    ///
    /// ```
    /// use futures_lite::{StreamExt, future::block_on};
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect_lazy(ClientConfig::new("ws://127.0.0.1:9"))?;
    ///
    /// let mut graphs = client.presence().graph_stream();
    /// let graph = block_on(graphs.next()).expect("the current graph at once");
    /// assert_eq!(graph.remote_peers.len(), 0);
    /// # Ok::<(), ClientError>(())
    /// ```
    pub fn graph_stream(&self) -> GraphStream {
        let (sender, events) = EventQueue::latest();
        let mut shared = self.lock();
        sender.replace(Arc::clone(&shared.graph));
        if !shared.is_closed {
            shared.streams.push(sender);
        }
        GraphStream { events }
    }

    /// Replaces what this client says of itself: a JSON object of at most 4,096 bytes and 64
    /// levels. It does not wait for the server, which gets the newest value, also on a later
    /// connection. A closed client ignores it.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect_lazy(ClientConfig::new("ws://127.0.0.1:9"))?;
    /// # use serde_json::json;
    /// let presence = client.presence();
    /// presence.set_peer_metadata(&json!({"role": "till", "floor": 2}))?;
    /// assert_eq!(presence.set_peer_metadata(&[1, 2]), Err(ClientError::NotAMap));
    /// assert_eq!(presence.peer_metadata()["floor"], 2);
    /// # Ok::<(), ClientError>(())
    /// ```
    ///
    /// # Errors
    /// [`ClientError::SizeLimitExceeded`], [`ClientError::DepthLimitExceeded`],
    /// [`ClientError::InvalidJson`], [`ClientError::NotAMap`]; nothing has changed then.
    /// [`ClientError::Io`] if it cannot be kept in the state directory.
    pub fn set_peer_metadata(&self, metadata: &(impl Serialize + ?Sized)) -> Result<()> {
        self.set_peer_metadata_json_str(&json(metadata)?)
    }

    /// As [`Presence::set_peer_metadata`], from JSON text, which is kept as it is.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect_lazy(ClientConfig::new("ws://127.0.0.1:9"))?;
    /// let presence = client.presence();
    /// presence.set_peer_metadata_json_str(r#"{ "role": "till" }"#)?;
    /// assert_eq!(presence.peer_metadata_json_str(), r#"{ "role": "till" }"#);
    /// # Ok::<(), ClientError>(())
    /// ```
    ///
    /// # Errors
    /// As there.
    pub fn set_peer_metadata_json_str(&self, text: &str) -> Result<()> {
        if self.lock().is_closed {
            return Ok(());
        }
        self.local.metadata.set_text(text)?;
        let at = Instant::now();
        let mut shared = self.lock();
        let graph = (*shared.graph).clone();
        shared.publish(&self.local, graph, at);
        drop(shared);
        self.queue.submit(Command::PeerChanged);
        Ok(())
    }

    /// Completes when the server has the newest metadata.
    ///
    /// ```no_run
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect(ClientConfig::new("ws://127.0.0.1:7400"))?;
    /// client.presence().set_peer_metadata_json_str(r#"{"role":"till"}"#)?;
    /// client.presence().peer_metadata_synced().wait()?;
    /// # Ok::<(), ClientError>(())
    /// ```
    ///
    /// # Errors
    /// [`ClientError::Refused`] or [`ClientError::RateLimited`] when the server refused it;
    /// [`ClientError::QueueFull`], [`ClientError::Closed`].
    pub fn peer_metadata_synced(&self) -> Pending<()> {
        self.queue.ask(Command::PeerSynced)
    }

    /// What this client says of itself; empty until it is set.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect_lazy(ClientConfig::new("ws://127.0.0.1:9"))?;
    /// assert!(client.presence().peer_metadata().is_empty());
    /// client.presence().set_peer_metadata_json_str(r#"{"role":"till"}"#)?;
    /// assert_eq!(client.presence().peer_metadata()["role"], "till");
    /// # Ok::<(), ClientError>(())
    /// ```
    pub fn peer_metadata(&self) -> Arc<JsonObject> {
        self.local.metadata.object()
    }

    /// The metadata as it was set; `{}` before.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect_lazy(ClientConfig::new("ws://127.0.0.1:9"))?;
    /// assert_eq!(client.presence().peer_metadata_json_str(), "{}");
    /// # Ok::<(), ClientError>(())
    /// ```
    pub fn peer_metadata_json_str(&self) -> String {
        self.local.metadata.text().to_string()
    }

    /// The metadata as a type of the program.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect_lazy(ClientConfig::new("ws://127.0.0.1:9"))?;
    /// #[derive(serde::Deserialize)]
    /// struct Till {
    ///     role: String,
    /// }
    ///
    /// client.presence().set_peer_metadata_json_str(r#"{"role":"till"}"#)?;
    /// let till: Till = client.presence().peer_metadata_serde()?;
    /// assert_eq!(till.role, "till");
    /// # Ok::<(), ClientError>(())
    /// ```
    ///
    /// # Errors
    /// [`ClientError::InvalidJson`] when it is no such type.
    pub fn peer_metadata_serde<T: DeserializeOwned>(&self) -> Result<T> {
        self.local.metadata.serde()
    }

    /// Decides who may connect to this client; `None` allows everyone. The handler may block: 8 run
    /// at a time, and 64 requests wait; more are denied for 1 s.
    ///
    /// A request without an answer within the
    /// [`connection_request_timeout`](super::ClientConfig::connection_request_timeout) is denied,
    /// and so is one whose handler panics. Peers that are connected already stay so.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect_lazy(ClientConfig::new("ws://127.0.0.1:9"))?;
    /// let presence = client.presence();
    /// presence.set_connection_request_handler(|request: ConnectionRequest| {
    ///     match request.peer_metadata().get("role") {
    ///         Some(role) if role == "till" => ConnectionRequestAuthorization::Allow,
    ///         _ => ConnectionRequestAuthorization::Deny,
    ///     }
    /// });
    /// presence.set_connection_request_handler(None);
    /// # Ok::<(), ClientError>(())
    /// ```
    pub fn set_connection_request_handler(&self, handler: impl IntoOption) {
        let handler = handler.into_option();
        let is_there = handler.is_some();
        self.handlers.set(handler);
        self.local.set_handler(is_there);
        self.queue.submit(Command::PeerChanged);
    }

    /// As [`Presence::set_connection_request_handler`], with futures, which run side by side, 1,024
    /// at a time. One thread of the client polls them, outside of any runtime.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect_lazy(ClientConfig::new("ws://127.0.0.1:9"))?;
    /// # async fn is_known(key: String) -> bool { !key.is_empty() }
    /// client.presence().set_connection_request_handler_async(|request| async move {
    ///     match is_known(request.peer_key_string().to_owned()).await {
    ///         true => ConnectionRequestAuthorization::Allow,
    ///         false => ConnectionRequestAuthorization::Deny,
    ///     }
    /// });
    /// # Ok::<(), ClientError>(())
    /// ```
    pub fn set_connection_request_handler_async<Fut>(
        &self,
        handler: impl Fn(ConnectionRequest) -> Fut + Send + Sync + 'static,
    ) where
        Fut: Future<Output = ConnectionRequestAuthorization> + Send + 'static,
    {
        self.handlers.set_async(handler);
        self.local.set_handler(true);
        self.queue.submit(Command::PeerChanged);
    }

    /// The server asks whether a peer may connect.
    pub(super) fn decide(&self, connection: u64, request: u64, about: ConnectionRequest) {
        let queue = Arc::clone(&self.queue);
        self.handlers.submit(about, move |authorization| {
            let decision = authorization.into_decision();
            queue.submit(Command::Decide { connection, request, decision });
        });
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        lock(&self.shared)
    }
}

impl Shared {
    fn age(&self) -> Age {
        self.stale_since.map_or(Age::Live, Age::Since)
    }

    /// A new graph, of the time `at`. The metadata may have changed since then.
    fn publish(&mut self, local: &LocalPeer, mut graph: PresenceGraph, at: Instant) {
        graph.local_peer.peer_metadata = local.metadata.object();
        let graph = Arc::new(graph);
        let is_same = *self.graph == *graph;
        self.graph = Arc::clone(&graph);
        if !is_same {
            self.version += 1;
            self.streams.retain(|stream| !stream.is_gone());
            self.streams.iter().for_each(|stream| stream.replace(Arc::clone(&graph)));
        }
        if self.observers_wait(at).is_zero() {
            self.call_observers(at);
        }
    }

    /// Until the observers may be called again. A graph that is not kept up to date changes only
    /// when the program says so, and nobody is there to wait.
    fn observers_wait(&self, now: Instant) -> Duration {
        match (self.stale_since, self.observed) {
            (None, Some(observed)) => {
                self.interval.saturating_sub(now.saturating_duration_since(observed))
            }
            _ => Duration::ZERO,
        }
    }

    /// Whether an observer lacks the latest graph.
    fn is_behind(&self) -> bool {
        self.observers.iter().any(|observer| observer.version != self.version)
    }

    /// `at`: when the graph was read.
    fn call_observers(&mut self, at: Instant) {
        self.observers.retain(|observer| !observer.sender.is_gone());
        for observer in &mut self.observers {
            if observer.version != self.version {
                observer.version = self.version;
                observer.sender.replace(Arc::clone(&self.graph));
            }
        }
        self.observed = Some(at);
    }
}

/// The graph as a stream: the current one first, then the latest after each change. Ends when the
/// client is closed.
///
/// ```
/// use futures_lite::{StreamExt, future::block_on};
/// # use headcount::client::prelude::*;
/// # let client = Client::connect_lazy(ClientConfig::new("ws://127.0.0.1:9"))?;
///
/// let mut graphs = client.presence().graph_stream();
/// assert!(block_on(graphs.next()).is_some());
/// client.close().wait()?;
/// while let Some(graph) = block_on(graphs.next()) {
///     println!("{graph}");
/// }
/// # Ok::<(), ClientError>(())
/// ```
#[derive(Debug)]
pub struct GraphStream {
    events: EventQueue<Arc<PresenceGraph>>,
}

impl Stream for GraphStream {
    type Item = Arc<PresenceGraph>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.events).poll_next(cx)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Presence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Presence").field("graph", &self.graph_arc()).finish_non_exhaustive()
    }
}
