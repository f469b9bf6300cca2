//! The edge: plain HTTP on a glommio executor of its own, for operators and for applications (REST,
//! long-polling). It owns no channel and no session, and asks shards through its mailboxes like any
//! shard does.
//!
//! Invariant: nothing here can slow a shard down; what a slow reader misses it is told to forget.
//!
//! | full | what happens | who is told | counter |
//! |---|---|---|---|
//! | mailbox edge -> shard, question | refused, nothing was done | client: 503 | `http_responses{503}` |
//! | mailbox edge -> shard, end of a watch or of an unclaimed session | waits here, in order | nobody | - |
//! | bytes of request bodies, one or all together | refused | client: 413 or 503 | `http_responses{..}` |
//! | connections | closed at once | nobody | `http_refused` |
//! | events for one watcher | it starts over with the present set | reader: `reset` | - |

mod body;
mod connections;
mod http;
mod io;
mod links;
mod poll;
mod rest;
mod stop;
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

use super::clock::Clock;
use super::lifecycle::Lifecycle;
use super::line_queue::LineQueue;
use super::mesh::Mailboxes;
use super::refusals::RefusalLog;
use super::turn::{Control, DescriptorBudget};
use super::watchdog::Health;
use crate::admin::{Access, Surface};
use crate::auth::{CredentialError, Refusals};
use crate::ids::{ChannelKey, ShardId};
use crate::shard::{Handoff, Settings};
use body::BodyBudget;
use connections::{Activity, Connections, Counted};
use links::Links;
use stop::Stop;
use upgrade::HandOver;

/// Pause after a failed accept, most likely for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long connections may take to end when the server stops. Requests that have begun are
/// answered before; a reader that is slower is cut off.
const FINISH_WITHIN: Duration = Duration::from_secs(10);

/// How often it is looked whether they have ended.
const FINISH_EVERY: Duration = Duration::from_millis(10);

/// How long the admin listener must be quiet before it is closed: what the kernel has accepted
/// would be reset with it.
const ACCEPT_REST: Duration = Duration::from_millis(5);

/// What the edge's thread is started with.
pub struct EdgeParts {
    pub mailboxes: Mailboxes,
    pub admin: OwnedFd,
    pub settings: Arc<Settings>,
    pub control: Receiver<Control>,
    pub clock: Clock,
    pub budget: Arc<DescriptorBudget>,
    pub refusal_log: Arc<RefusalLog>,
    pub health: Arc<Health>,
    pub lifecycle: Arc<Lifecycle>,
    pub access: Access,
    pub log: LineQueue,
}

/// What every request can ask.
pub(super) struct Edge {
    links: Links,
    connections: Connections,
    bodies: BodyBudget,
    settings: Arc<Settings>,
    clock: Clock,
    started: Instant,
    budget: Arc<DescriptorBudget>,
    /// Of requests that the edge answers by itself; those of sessions are with the shards.
    refusals: RefCell<Refusals>,
    refusal_log: Arc<RefusalLog>,
    health: Arc<Health>,
    lifecycle: Arc<Lifecycle>,
    access: Access,
    stop: Stop,
    log: LineQueue,
    next_shard: Cell<u16>,
}

impl Edge {
    /// A channel and its owner.
    fn locate(&self, app: &Arc<str>, channel: &str) -> (Arc<ChannelKey>, ShardId) {
        let key = Arc::new(self.settings.router.key(app, channel));
        let owner = self.settings.router.shard_of(&key);
        (key, owner)
    }

    /// A credential that came over plain HTTP was refused.
    fn count_refusal(&self, cause: CredentialError) {
        self.refusals.borrow_mut().count(cause);
        self.refusal_log.add(cause, 1);
    }

    /// Shards by turns, for what any of them can do.
    fn next_shard(&self) -> ShardId {
        let shard = self.next_shard.get();
        self.next_shard.set((shard + 1) % self.settings.router.shards());
        ShardId(shard)
    }
}

/// Serves until told to drain. Must run inside a glommio executor.
pub async fn run(parts: EdgeParts) {
    let edge = Rc::new(Edge {
        links: Links::new(parts.mailboxes),
        connections: Connections::default(),
        bodies: BodyBudget::default(),
        settings: parts.settings,
        clock: parts.clock,
        started: Instant::now(),
        budget: parts.budget,
        refusals: RefCell::default(),
        refusal_log: parts.refusal_log,
        health: parts.health,
        lifecycle: parts.lifecycle,
        access: parts.access,
        stop: Stop::new(),
        log: parts.log,
        next_shard: Cell::new(0),
    });
    // SAFETY: the descriptor is a listening socket that was made for this executor alone.
    let listener = unsafe { TcpListener::from_raw_fd(parts.admin.into_raw_fd()) };
    glommio::spawn_local(accept_admin(Rc::clone(&edge), listener)).detach();
    pump(&edge, &parts.control).await;
    finish(&edge, &parts.control).await;
}

/// Takes envelopes whenever the edge is woken, until it is told something else.
async fn pump(edge: &Rc<Edge>, control: &Receiver<Control>) {
    loop {
        adopt_all(edge);
        if control.try_recv().is_ok() {
            return;
        }
        edge.links.woken(|| !control.is_empty()).await;
    }
}

/// Answers the requests that have begun, and closes every connection.
async fn finish(edge: &Rc<Edge>, control: &Receiver<Control>) {
    edge.stop.begin();
    // What shards sent while the edge was told to stop.
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

/// Moves envelopes, and serves the connections that arrived.
fn adopt_all(edge: &Rc<Edge>) {
    for handoff in edge.links.pump() {
        adopt(edge, handoff);
    }
}

/// Serves a connection whose first request a shard has read and found to be plain HTTP.
fn adopt(edge: &Rc<Edge>, handoff: Handoff) {
    // SAFETY: the handoff owns the descriptor and gives it up here.
    let stream = unsafe { TcpStream::from_raw_fd(handoff.socket.into_raw_fd()) };
    let budgeted = Budgeted(Arc::clone(&edge.budget));
    let Some(counted) = edge.connections.admit(Surface::Public) else { return };
    let served = serve(Rc::clone(edge), Surface::Public, stream, handoff.unread, counted);
    let edge = Rc::clone(edge);
    glommio::spawn_local(async move {
        if let Some(connection) = served.await {
            upgrade::hand_over(&edge, connection);
        }
        drop(budgeted);
    })
    .detach();
}

/// Gives a descriptor back to the budget of the shards.
struct Budgeted(Arc<DescriptorBudget>);

impl Drop for Budgeted {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves one connection until it ends, has been quiet for too long, or is for a shard.
async fn serve(
    edge: Rc<Edge>,
    surface: Surface,
    stream: TcpStream,
    unread: Vec<u8>,
    _counted: Counted,
) -> Option<HandOver> {
    let _ = stream.set_nodelay(true);
    let activity = Rc::new(Activity::begin());
    let io = io::HyperIo::new(stream, unread, Rc::clone(&activity));
    let quiet = async {
        activity.idle().await;
        None
    };
    future::or(http::serve(edge, surface, io, Rc::clone(&activity)), quiet).await
}
