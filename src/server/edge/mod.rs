//! The edge: plain HTTP on a glommio executor of its own. It owns no channel and asks shards
//! through its mailboxes like any shard does.
//!
//! Invariant: nothing here can slow a shard down; what a slow reader misses it is told to forget.

mod http;
mod io;
mod links;

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use futures_lite::future;
use glommio::net::{TcpListener, TcpStream};

use super::clock::Clock;
use super::mesh::Mailboxes;
use super::turn::{Control, DescriptorBudget};
use super::watchdog::Health;
use crate::admin::Surface;
use crate::shard::{Parcel, Settings};
use links::Links;

/// How long a connection may take to send its request.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);

/// Pause after a failed accept, most likely for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// HTTP connections at the same time; further ones are closed at once.
const CONNECTIONS_MAX: usize = 1024;

/// What the edge's thread is started with.
pub struct EdgeParts {
    pub mailboxes: Mailboxes,
    pub admin: OwnedFd,
    pub settings: Arc<Settings>,
    pub control: Receiver<Control>,
    pub clock: Clock,
    pub budget: Arc<DescriptorBudget>,
    pub health: Arc<Health>,
    pub ready: Arc<AtomicBool>,
}

/// What every request can ask.
pub(super) struct Edge {
    links: Links,
    settings: Arc<Settings>,
    clock: Clock,
    started: Instant,
    budget: Arc<DescriptorBudget>,
    health: Arc<Health>,
    ready: Arc<AtomicBool>,
}

/// Serves until told to drain. Must run inside a glommio executor.
pub async fn run(parts: EdgeParts) {
    let edge = Rc::new(Edge {
        links: Links::new(parts.mailboxes),
        settings: parts.settings,
        clock: parts.clock,
        started: Instant::now(),
        budget: parts.budget,
        health: parts.health,
        ready: parts.ready,
    });
    // SAFETY: the descriptor is a listening socket that was made for this executor alone.
    let listener = unsafe { TcpListener::from_raw_fd(parts.admin.into_raw_fd()) };
    glommio::spawn_local(accept_admin(Rc::clone(&edge), listener)).detach();
    pump(edge, parts.control).await;
}

/// Takes envelopes whenever somebody wakes the edge.
async fn pump(edge: Rc<Edge>, control: Receiver<Control>) {
    loop {
        for parcel in edge.links.pump() {
            adopt(&edge, parcel);
        }
        if let Ok(Control::Drain) = control.try_recv() {
            return;
        }
        edge.links.woken(|| !control.is_empty()).await;
    }
}

async fn accept_admin(edge: Rc<Edge>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok(stream) => spawn_connection(&edge, Surface::Admin, stream, Vec::new()),
            Err(_) => glommio::timer::sleep(ACCEPT_PAUSE).await,
        };
    }
}

/// Serves a connection whose first request a shard has read and found to be plain HTTP.
fn adopt(edge: &Rc<Edge>, parcel: Parcel) {
    let socket: RawFd = parcel.socket;
    // SAFETY: the shard gave the descriptor up when it sent the parcel.
    let stream = unsafe { TcpStream::from_raw_fd(socket) };
    let budgeted = Budgeted(Arc::clone(&edge.budget));
    let served = serve(Rc::clone(edge), Surface::Public, stream, parcel.unread);
    if edge.links.http_connections() < CONNECTIONS_MAX {
        glommio::spawn_local(async move {
            served.await;
            drop(budgeted);
        })
        .detach();
    }
}

/// Gives a descriptor back to the budget of the shards.
struct Budgeted(Arc<DescriptorBudget>);

impl Drop for Budgeted {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::Relaxed);
    }
}

fn spawn_connection(edge: &Rc<Edge>, surface: Surface, stream: TcpStream, unread: Vec<u8>) {
    if edge.links.http_connections() < CONNECTIONS_MAX {
        glommio::spawn_local(serve(Rc::clone(edge), surface, stream, unread)).detach();
    }
}

/// Serves one connection until it ends, or its request is too late.
async fn serve(edge: Rc<Edge>, surface: Surface, stream: TcpStream, unread: Vec<u8>) {
    let _counted = edge.links.count_http_connection();
    let _ = stream.set_nodelay(true);
    let requested = Rc::new(std::cell::Cell::new(false));
    let served = http::serve(edge, surface, io::HyperIo::new(stream, unread), requested.clone());
    let too_late = async {
        glommio::timer::sleep(REQUEST_WITHIN).await;
        if requested.get() {
            future::pending::<()>().await;
        }
    };
    future::or(served, too_late).await;
}
