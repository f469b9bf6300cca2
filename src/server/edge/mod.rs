//! The edge: plain HTTP on a glommio executor of its own, for operators (admin) and applications
//! (REST, long-polling). It owns no channel and no session, and calls shards through mailboxes.
//!
//! Invariant: no HTTP client can slow a shard down. A watcher that reads too slowly loses events
//! and is sent `reset` and a snapshot.
//!
//! | full | policy | reported to | counter |
//! |---|---|---|---|
//! | mailbox edge -> shard, call | refuse; nothing was done | client: 503 | `http_responses{503}` |
//! | mailbox edge -> shard, end of a watch or of an abandoned session | queue, in order | - | - |
//! | bytes of request bodies, each or all together | refuse | client: 413 or 503 | `http_responses{..}` |
//! | connections | close | - | `http_refused` |
//! | walks of the admin API over all shards | wait, at most one for each connection | - | - |
//! | events of one watcher | drop all, send a snapshot | client: `reset` | - |

mod api;
mod ask;
mod body;
mod client;
mod connections;
mod http;
mod io;
mod members_at;
mod pages;
mod poll;
mod rest;
mod stop;
mod trace;
mod upgrade;
mod watch;

use std::cell::{Cell, RefCell};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use futures_lite::future;
use glommio::net::{TcpListener, TcpStream};
use glommio::sync::Semaphore;

use super::admission::gate::{Gate, GateParts};
use super::clock::Clock;
use super::embed::Handle;
use super::lifecycle::{Lifecycle, Phase};
use super::line_queue::LineQueue;
use super::mesh::Mailboxes;
use super::refusals::RefusalLog;
use super::reload::Reloadable;
use super::start::Addresses;
use super::turn::{Control, DescriptorBudget};
use super::watchdog::Health;
use super::webhooks::Tallies;
use crate::admin::Surface;
use crate::auth::{CredentialError, Refusals};
use crate::counters::Counters;
use crate::ids::{ChannelKey, ShardId};
use crate::shard::{Handoff, Settings};
use crate::store::Store;
use body::BodyBudget;
use client::{Arrived, EdgeClient, Unavailable};
use connections::{Connections, CountGuard, IdleTimer};
use stop::Stop;
use upgrade::UpgradeRequest;

/// Pause after a failed accept: most likely no descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Time for connections to end when the server stops. Requests in progress are answered; a client
/// that reads too slowly is disconnected.
const FINISH_WITHIN: Duration = Duration::from_secs(10);

/// Interval at which their number is checked.
const FINISH_EVERY: Duration = Duration::from_millis(10);

/// The admin listener is closed when it has had no connection for so long: those in its accept
/// queue would be reset.
const ACCEPT_REST: Duration = Duration::from_millis(5);

/// Walks over the tables of all shards at the same time; others wait. With more, their questions
/// would lengthen the turns of a shard.
const WALKS_MAX: u64 = 2;

/// What the edge shares with the other threads of the process.
pub struct Shared {
    pub reloadable: RefCell<Arc<Reloadable>>,
    pub clock: Clock,
    pub budget: Arc<DescriptorBudget>,
    pub refusal_log: Arc<RefusalLog>,
    pub health: Arc<Health>,
    pub lifecycle: Arc<Lifecycle>,
    pub addresses: Addresses,
    /// Begins the drain.
    pub handle: Handle,
    pub log: LineQueue,
    pub webhooks: Arc<Tallies>,
    pub store: Option<Arc<Store>>,
}

/// State that all requests share.
pub(super) struct Edge {
    client: EdgeClient,
    connections: Connections,
    bodies: BodyBudget,
    shared: Shared,
    started: Instant,
    /// Refused credentials of HTTP requests; shards count those of sessions.
    refusals: RefCell<Refusals>,
    stop: Stop,
    next_shard: Cell<u16>,
    /// So far. Streams of the admin API end with the next line after one: whoever reads them shows
    /// its credential again.
    reloads: Cell<u64>,
    /// Permits for walks over the tables of all shards.
    walks: Semaphore,
    /// What asks the admission hook; `None` without one.
    gate: Option<Rc<Gate>>,
}

impl Edge {
    /// What is in force now. A request that has begun goes on with what it has.
    fn reloadable(&self) -> Arc<Reloadable> {
        Arc::clone(&self.shared.reloadable.borrow())
    }

    fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.shared.reloadable.borrow().settings)
    }

    /// The key of a channel, and the shard that owns it.
    fn locate(&self, app: &Arc<str>, channel: &str) -> (Arc<ChannelKey>, ShardId) {
        let router = self.settings().router;
        let key = Arc::new(router.key(app, channel));
        let owner = router.shard_of(key.hash);
        (key, owner)
    }

    /// The counters of all shards, in their order.
    async fn counters(&self) -> Result<Vec<Counters>, Unavailable> {
        let mut counters = Vec::new();
        for shard in 0..self.settings().router.shards() {
            counters.push(self.client.counters(ShardId(shard)).await?);
        }
        Ok(counters)
    }

    /// Why the server is not ready; `None` when it is.
    fn why_not_ready(&self) -> Option<&'static str> {
        let silent = self.shared.health.silent.load(Ordering::Relaxed);
        match (self.shared.lifecycle.phase(), silent) {
            (Phase::Ready, 0) => None,
            (Phase::Ready, _) => Some("an executor is stalled"),
            (Phase::Starting, _) => Some("starting"),
            (Phase::Leaving | Phase::Stopping, _) => Some("draining"),
        }
    }

    /// Counts and logs a refused credential.
    fn count_refusal(&self, cause: CredentialError) {
        self.refusals.borrow_mut().count(cause);
        self.shared.refusal_log.add(cause, 1);
    }

    /// A shard by round robin, for requests that any of them can serve.
    fn next_shard(&self) -> ShardId {
        let shard = self.next_shard.get();
        self.next_shard.set((shard + 1) % self.settings().router.shards());
        ShardId(shard)
    }
}

/// Serves until the server drains. Must run inside a glommio executor. `admin`: a listening socket.
pub async fn run(
    mailboxes: Mailboxes,
    admin: OwnedFd,
    control: Receiver<Control>,
    gate: Option<GateParts>,
    shared: Shared,
) {
    let askers = usize::from(shared.reloadable.borrow().settings.router.shards()) + 1;
    let edge = Rc::new(Edge {
        gate: gate.map(|gate| Gate::new(gate, askers)),
        client: EdgeClient::new(mailboxes),
        connections: Connections::default(),
        bodies: BodyBudget::default(),
        shared,
        started: Instant::now(),
        refusals: RefCell::default(),
        stop: Stop::new(),
        next_shard: Cell::new(0),
        reloads: Cell::new(0),
        walks: Semaphore::new(WALKS_MAX),
    });
    // SAFETY: the descriptor is a listening socket that was made for this executor alone.
    let listener = unsafe { TcpListener::from_raw_fd(admin.into_raw_fd()) };
    glommio::spawn_local(accept_admin(Rc::clone(&edge), listener)).detach();
    pump(&edge, &control).await;
    finish(&edge, &control).await;
}

/// Takes envelopes whenever the edge is woken, until it is to drain.
async fn pump(edge: &Rc<Edge>, control: &Receiver<Control>) {
    loop {
        adopt_all(edge);
        match control.try_recv() {
            Ok(Control::Reload(new)) => {
                *edge.shared.reloadable.borrow_mut() = Arc::clone(&new);
                new.note_taken();
                edge.reloads.set(edge.reloads.get() + 1);
            }
            Ok(Control::Drain | Control::End) => return,
            Err(_) => {}
        }
        edge.client.woken(|| !control.is_empty()).await;
    }
}

/// Answers the requests in progress, and closes every connection.
async fn finish(edge: &Rc<Edge>, control: &Receiver<Control>) {
    edge.stop.begin();
    // Connections that shards sent before the edge stopped.
    adopt_all(edge);
    let deadline = Instant::now() + FINISH_WITHIN;
    let finished = async {
        while edge.connections.open() > 0 && Instant::now() < deadline {
            glommio::timer::sleep(FINISH_EVERY).await;
        }
    };
    future::or(finished, pump(edge, control)).await;
}

async fn accept_admin(edge: Rc<Edge>, listener: TcpListener) {
    let rest = async {
        edge.stop.begun().await;
        glommio::timer::sleep(ACCEPT_REST).await;
        None
    };
    let mut rest = pin!(rest);
    loop {
        let accepted = async { Some(listener.accept().await) };
        match future::or(accepted, &mut rest).await {
            Some(Ok(stream)) => {
                if let Some(counted) = edge.connections.admit(Surface::Admin) {
                    let edge = Rc::clone(&edge);
                    let served = serve(edge, Surface::Admin, stream, Vec::new(), counted);
                    glommio::spawn_local(async move { drop(served.await) }).detach();
                }
            }
            Some(Err(_)) => glommio::timer::sleep(ACCEPT_PAUSE).await,
            None => return,
        };
    }
}

/// Takes envelopes, serves the connections that arrive with them and asks their questions.
fn adopt_all(edge: &Rc<Edge>) {
    let Arrived { handoffs, questions } = edge.client.pump();
    handoffs.into_iter().for_each(|handoff| adopt(edge, handoff));
    questions.into_iter().for_each(|question| ask::ask(edge, question));
}

/// Serves a connection whose first request is plain HTTP, as a shard has found.
fn adopt(edge: &Rc<Edge>, handoff: Handoff) {
    // SAFETY: the handoff owns the descriptor and gives it up here.
    let stream = unsafe { TcpStream::from_raw_fd(handoff.socket.into_raw_fd()) };
    let permit = DescriptorPermit(Arc::clone(&edge.shared.budget));
    let Some(counted) = edge.connections.admit(Surface::Public) else { return };
    let served = serve(Rc::clone(edge), Surface::Public, stream, handoff.unread, counted);
    let edge = Rc::clone(edge);
    glommio::spawn_local(async move {
        if let Some(connection) = served.await {
            upgrade::hand_off(&edge, connection);
        }
        drop(permit);
    })
    .detach();
}

/// A descriptor of the shards' budget, returned when dropped.
struct DescriptorPermit(Arc<DescriptorBudget>);

impl Drop for DescriptorPermit {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves one connection until it ends, has been idle for too long, or asks for a WebSocket.
async fn serve(
    edge: Rc<Edge>,
    surface: Surface,
    stream: TcpStream,
    unread: Vec<u8>,
    _counted: CountGuard,
) -> Option<UpgradeRequest> {
    let _ = stream.set_nodelay(true);
    let idle_timer = Rc::new(IdleTimer::new());
    let io = io::HyperIo::new(stream, unread, Rc::clone(&idle_timer));
    let timeout = async {
        idle_timer.expired().await;
        None
    };
    future::or(http::serve(edge, surface, io, Rc::clone(&idle_timer)), timeout).await
}
