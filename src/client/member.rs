//! Members of channels.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::graph::JsonObject;
use crate::wire::foony::binary::member_hash;
use crate::wire::foony::peer::{Transport, UnadmittedPeer, key_text};
use crate::wire::foony::{self, PeerMember};

/// Longer waits are as good as this one, and would overflow clocks.
const RETRY_MS_MAX: u64 = 7 * 24 * 3600 * 1000;

/// A member of a channel: a session that announces itself there.
///
/// ```
/// use headcount::client::Member;
///
/// fn mood(member: &Member) -> &str {
///     let state = member.state.as_ref();
///     state.and_then(|state| state["mood"].as_str()).unwrap_or("unknown")
/// }
/// # let _ = mood;
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Member {
    /// The name of the client.
    pub client_id: String,
    /// Tells the sessions of one client apart.
    pub connection_id: String,
    /// `None` if it announced none.
    pub state: Option<Value>,
    /// Its key in the presence graph, if the server says it.
    pub peer_key_string: Option<String>,
}

/// What happened to the members of a channel.
///
/// ```
/// use headcount::client::MemberEvent;
///
/// fn show(event: &MemberEvent) -> String {
///     match event {
///         MemberEvent::Present(members) => format!("{} are here", members.len()),
///         MemberEvent::Enter(member) => format!("{} comes", member.client_id),
///         MemberEvent::Leave { member, .. } => format!("{} goes", member.client_id),
///         _ => String::new(),
///     }
/// }
/// assert_eq!(show(&MemberEvent::Present(Vec::new())), "0 are here");
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum MemberEvent {
    /// Everyone who is present: the first event, and again when changes may have been missed.
    Present(Vec<Member>),
    /// A new member.
    Enter(Member),
    /// A member with another state.
    Update(Member),
    /// A member that is gone, with its last state.
    Leave {
        /// The member as it was.
        member: Member,
        /// Why it is gone.
        reason: LeaveReason,
    },
}

/// Why a member is gone.
///
/// ```
/// use headcount::client::LeaveReason;
///
/// fn may_return(reason: LeaveReason) -> bool {
///     matches!(reason, LeaveReason::Lost | LeaveReason::TimedOut)
/// }
/// assert!(!may_return(LeaveReason::Left));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeaveReason {
    /// It left, or closed its connection.
    Left,
    /// Its connection was lost, and it did not return in time.
    Lost,
    /// It gave no sign of life.
    TimedOut,
    /// The server or another session removed it.
    Removed,
    /// The server did not say, or said what this client does not know.
    Unknown,
}

impl LeaveReason {
    pub(super) fn of_code(code: u8) -> Self {
        match code {
            1 => LeaveReason::Left,
            2 => LeaveReason::Lost,
            3 => LeaveReason::TimedOut,
            4 => LeaveReason::Removed,
            _ => LeaveReason::Unknown,
        }
    }
}

/// A member, and the peer that it is a connection of.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Present {
    pub member: Member,
    pub peer: Option<MemberPeer>,
}

/// What a server with the graph extension says of a member.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct MemberPeer {
    pub key: Vec<u8>,
    /// Of all that follows, and of the member.
    pub hash: u128,
    pub is_lost: bool,
    pub transport: Transport,
    pub device_name: String,
    pub os: String,
    pub sdk_version: String,
    pub metadata: Arc<JsonObject>,
    /// Version of the metadata, if the peer with this key has signed it.
    pub signed_version: Option<u64>,
    pub identity_metadata: Arc<JsonObject>,
    /// Peers in the channel that it has not admitted.
    pub unadmitted: Vec<Unadmitted>,
}

/// A peer that another one has not admitted.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Unadmitted {
    pub key: Vec<u8>,
    pub reason: String,
    /// When the other one is asked again.
    pub again: Instant,
}

impl Present {
    /// A member of a server without the graph extension.
    pub fn plain(member: &foony::Member<'_>) -> Self {
        let state = serde_json::from_slice(member.data).ok();
        let member = Member {
            client_id: member.client_id.clone().into_owned(),
            connection_id: member.connection_id.clone().into_owned(),
            state,
            peer_key_string: None,
        };
        Present { member, peer: None }
    }

    /// Whether it is a connection of the peer with this key.
    pub fn has_key(&self, key: &str) -> bool {
        self.member.peer_key_string.as_deref() == Some(key)
    }

    /// `known`: what is known of this member. Metadata is not parsed twice, nor verified.
    pub fn of_peer(peer: &PeerMember<'_>, known: Option<&MemberPeer>) -> Self {
        let hash = member_hash(peer);
        let known = known.filter(|known| known.hash == hash);
        let mut present = Present::plain(&peer.member);
        present.member.peer_key_string = Some(key_text(peer.key));
        present.peer = Some(MemberPeer {
            key: peer.key.to_vec(),
            hash,
            is_lost: peer.is_lost,
            transport: peer.transport,
            device_name: peer.device_name.clone().into_owned(),
            os: peer.os.clone().into_owned(),
            sdk_version: peer.sdk_version.clone().into_owned(),
            metadata: match known {
                Some(known) => Arc::clone(&known.metadata),
                None => object(peer.metadata),
            },
            signed_version: match known {
                Some(known) => known.signed_version,
                None => signed_version(peer),
            },
            identity_metadata: object(peer.identity_metadata),
            unadmitted: peer.unadmitted.iter().map(Unadmitted::of).collect(),
        });
        present
    }
}

impl Unadmitted {
    fn of(peer: &UnadmittedPeer<'_>) -> Self {
        let reason = if peer.is_denied { &*peer.reason } else { "the peer has not decided yet" };
        let retry_after = Duration::from_millis(peer.retry_after_ms.min(RETRY_MS_MAX));
        Unadmitted {
            key: peer.key.to_vec(),
            reason: reason.to_owned(),
            again: Instant::now() + retry_after,
        }
    }
}

/// The version of the metadata, if the peer has signed it.
fn signed_version(peer: &PeerMember<'_>) -> Option<u64> {
    let signature = peer.signature?;
    signature.is_valid(peer.key, peer.metadata).then_some(signature.version)
}

/// What is no object counts as an empty one.
fn object(json: &[u8]) -> Arc<JsonObject> {
    Arc::new(serde_json::from_slice(json).unwrap_or_default())
}
