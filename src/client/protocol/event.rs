//! What a connection hands to its program; borrows from the bytes that were read.

use crate::wire::foony;
use crate::wire::foony::binary::Deliveries;
use crate::wire::sync::{self, Present};

/// What happened, in the order in which the server sent it.
///
/// ```
/// use headcount::client::protocol::{Credential, Event, Outbound, Resume};
///
/// fn handle(event: Event<'_>, out: &mut Outbound, resume: &mut Resume, credential: &Credential) {
///     match event {
///         Event::Open => out.auth(resume.auth(credential)),
///         Event::Greeted(greeted) => resume.adopt(&greeted),
///         event => println!("{event:?}"),
///     }
/// }
/// # let _ = handle;
/// ```
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// The WebSocket is open. The program greets: [`Outbound::auth`](super::Outbound::auth) or
    /// [`Outbound::handshake`](super::Outbound::handshake). Requests may follow at once; the server
    /// answers them after the greeting.
    Open,
    /// The server accepts the credentials.
    Greeted(Greeted<'a>),
    /// Messages of one or several channels, until something else came.
    Messages(Deliveries<'a>),
    /// Anything else that a Foony server sends: answers, members, pongs, errors about no request.
    Foony(foony::Event<'a>),
    /// The members of a channel, on the sync wire.
    Presence(Presence<'a>),
    /// Anything else on the sync wire.
    Sync(sync::Message<'a>),
}

/// The server's first message.
///
/// ```
/// use headcount::client::protocol::{Greeted, Resume};
///
/// let greeted = Greeted { connection_id: "c-1", client_id: "till-1", keep_alive_ms: 15_000 };
/// let mut resume = Resume::default();
/// resume.adopt(&greeted);
/// assert_eq!(resume.client_id, "till-1");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeted<'a> {
    /// To be shown when the session is resumed; on the sync wire, the session's id.
    pub connection_id: &'a str,
    /// Empty on the sync wire.
    pub client_id: &'a str,
    /// How often the connection pings, in milliseconds; 0: never.
    pub keep_alive_ms: u64,
}

/// The full set of members of a channel.
///
/// ```
/// use headcount::client::protocol::Event;
///
/// fn handle(event: Event<'_>) {
///     if let Event::Presence(presence) = event {
///         println!("{:?} in {} bytes", presence.present, presence.frame_bytes);
///     }
/// }
/// # let _ = handle;
/// ```
#[derive(Clone, Debug)]
pub struct Presence<'a> {
    /// With [`Look::Beginnings`](super::Look::Beginnings), of a large set only the first members
    /// can be read.
    pub present: Present<'a>,
    /// Length of the whole frame on the sync wire, in bytes.
    pub frame_bytes: usize,
}
