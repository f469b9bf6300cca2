//! A client as the SDK keeps it: what it wants, what it has been told, and what it waits for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::line::Mode;
use super::link::Link;
use super::peer::Copy;

/// What a request was, until it is answered.
#[derive(Clone, Debug)]
pub enum Asked {
    /// `enter`: the client enters once this is acknowledged.
    Subscribe {
        channel: &'static str,
        cursor: u64,
        enter: bool,
    },
    Unsubscribe {
        channel: &'static str,
    },
    Publish {
        publication: usize,
    },
    Enter {
        channel: &'static str,
    },
    Leave {
        channel: &'static str,
    },
    Watch {
        channel: &'static str,
    },
    Unwatch {
        channel: &'static str,
    },
    /// `floor`: serials up to it were known when it was asked.
    History {
        channel: &'static str,
        limit: u64,
        before: u64,
        floor: u64,
    },
    /// `heal`: the SDK asked, to close a gap.
    Fetch {
        channel: &'static str,
        from: u64,
        heal: bool,
    },
    /// A peer has its copy of the members compared.
    Check {
        channel: &'static str,
    },
    /// Something that is refused.
    Nonsense,
}

impl Asked {
    pub fn is_about_membership_of(&self, name: &str) -> bool {
        match self {
            Asked::Enter { channel } => *channel == name,
            Asked::Subscribe { channel, enter, .. } => *enter && *channel == name,
            other => other.is_leave_of(name),
        }
    }

    pub fn is_leave_of(&self, name: &str) -> bool {
        match self {
            Asked::Leave { channel } | Asked::Unsubscribe { channel } => *channel == name,
            _ => false,
        }
    }
}

/// What the connection has asked of a channel's message stream, in order; the first is where it is.
#[derive(Clone, Debug)]
pub enum Segment {
    Subscribed {
        request: u64,
        cursor: u64,
        /// Acknowledged: what comes is live.
        live: bool,
        /// The serial that must come next, if that is known.
        next: Option<u64>,
        /// Up to this one messages were known before it was asked.
        known: u64,
        /// Those after this one were published after it was acknowledged.
        floor: u64,
    },
    Unsubscribed {
        request: u64,
    },
}

/// The own membership of a channel.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// State of the membership that the client wants.
    pub entered: Option<String>,
    /// The owner has acknowledged it.
    pub acked: bool,
    /// When it did.
    pub acked_ms: u64,
    /// Everybody must know since this standstill.
    pub since: Option<u64>,
    /// The connection was lost: the membership is certain until then.
    pub until_ms: Option<u64>,
    /// A connection was lost before it acknowledged a leave: who comes back may still be a member.
    pub lingers: bool,
}

impl Own {
    /// Nothing is certain any longer.
    pub fn doubt(&mut self) {
        (self.acked, self.since, self.until_ms) = (false, None, None);
    }

    pub fn give_up(&mut self) {
        self.entered = None;
        self.doubt();
    }
}

/// A channel as one client knows it.
#[derive(Clone, Debug, Default)]
pub struct PageLimit {
    pub wanted: bool,
    pub stream: VecDeque<Segment>,
    /// Everything from the baseline up to here was received.
    pub cursor: u64,
    pub baseline: Option<u64>,
    pub applied: BTreeSet<u64>,
    pub seen: BTreeSet<(String, String)>,
    pub healing: bool,
    /// Requests that begin and end watching and are not answered: `true` begins.
    pub watches: VecDeque<(u64, bool)>,
    /// The client wants to watch.
    pub is_watching: bool,
    /// The last word that was answered was to watch.
    pub watched: bool,
    /// Data by client id and connection id, as events tell.
    pub view: BTreeMap<(String, String), String>,
    /// How often this connection was told that a connection id has left.
    pub leaves: BTreeMap<String, u32>,
    pub own: Own,
    /// Of a peer.
    pub copy: Copy,
}

impl PageLimit {
    /// The SDK's cursor is of no use any longer; the next message becomes the baseline.
    pub fn discontinue(&mut self) {
        self.cursor = 0;
        self.baseline = None;
    }

    pub fn is_live(&self) -> bool {
        matches!(self.stream.front(), Some(Segment::Subscribed { live: true, .. }))
    }

    /// The last word about the stream was to subscribe.
    pub fn is_subscribed(&self) -> bool {
        matches!(self.stream.back(), Some(Segment::Subscribed { .. }))
    }
}

/// A publish that is not acknowledged.
#[derive(Clone, Debug)]
pub struct Unacked {
    pub publication: usize,
    pub message_id: String,
    /// Under which request it is under way.
    pub request: Option<u64>,
}

/// One SDK object: at most one connection at a time.
#[derive(Debug)]
pub struct Client {
    pub id: usize,
    pub app: &'static str,
    pub user: String,
    /// Authenticates with a token, not with the key.
    pub by_token: bool,
    pub mode: Mode,
    pub link: Option<Link>,
    pub connection: Option<String>,
    pub requests: u64,
    pub asked: BTreeMap<u64, Asked>,
    pub unacked: Vec<Unacked>,
    pub rooms: BTreeMap<&'static str, PageLimit>,
    /// How often each ephemeral message came.
    pub ephemeral: BTreeMap<usize, u32>,
    pub published: u64,
    pub life: u32,
    pub states: u64,
    /// Keeps the message ids of two clients of one user apart.
    pub twin: usize,
    /// It gave up a connection before it was answered. The server may take that one for the newer.
    pub shadowed: bool,
    /// Sockets of its earlier connections whose loss the server was not told. It ends them when the
    /// client is back.
    pub abandoned: Vec<usize>,
    /// It never comes back.
    pub retired: bool,
}

impl Client {
    pub fn room(&mut self, channel: &str) -> &mut PageLimit {
        self.rooms.get_mut(channel).expect("a channel of the run")
    }

    pub fn is_ready(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.ready)
    }
}
