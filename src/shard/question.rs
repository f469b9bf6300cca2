//! What a shard asks the admission hook of the server, and the verdict.

use std::net::IpAddr;
use std::sync::Arc;

use crate::auth::Grant;
use crate::channel::{Identity, Peer};
use crate::ids::{ChannelKey, ConnAddr};
use crate::policy::AdmitKind;
use crate::session::{Denial, Framing};

/// May a session do this? Its connection waits for the verdict.
#[derive(Debug)]
pub struct Question {
    pub addr: ConnAddr,
    /// Tells the questions of one shard apart.
    pub number: u64,
    pub kind: AdmitKind,
    pub identity: Arc<Identity>,
    pub grant: Arc<Grant>,
    /// What the client has said of itself, if it is a peer of the presence graph.
    pub peer: Option<Arc<Peer>>,
    /// `None` for [`AdmitKind::Connect`].
    pub channel: Option<Arc<ChannelKey>>,
    /// What the protocol of the session is called.
    pub protocol: &'static str,
    pub framing: Framing,
    /// Where the connection comes from. Only the shell knows, and it may not.
    pub ip: Option<IpAddr>,
}

/// The answer to a [`Question`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allowed {
        /// What the hook says of the user, the text of a JSON object.
        metadata: Option<Arc<str>>,
    },
    Denied(Arc<Denial>),
}
