//! Messages to one peer, and decisions about peers, in the words of the wire.

use std::time::{Duration, Instant};

use super::command::Part;
use super::core::{Asked, Core};
use crate::client::admission::Decision;
use crate::client::pending::Completer;
use crate::client::protocol::Outbound;
use crate::client::{ClientError, Result};
use crate::wire::foony::PeerRequest;
use crate::wire::foony::peer::{self, Direct, DirectRefused, parse_key};

impl Core {
    /// Sends a message to a peer, in a channel that is shared with it.
    pub fn send_direct(
        &mut self,
        to: &str,
        part: &Part,
        completer: Completer<()>,
        out: &mut Outbound,
    ) {
        let channel = match self.connected_in(to) {
            Ok(channel) => channel,
            Err(error) => return completer.complete(Err(error)),
        };
        let (Some(key), data) = (parse_key(to), part.data.as_bytes()) else {
            let why = "this is no peer key".to_owned();
            return completer.complete(Err(ClientError::PeerUnavailable { why }));
        };
        let name = part.name.as_str().into();
        let id = out.peer_request(|id| {
            PeerRequest::Direct(Direct { id, channel: channel.into(), to: &key, name, data })
        });
        self.asked.insert(id, Asked::Direct(completer));
    }

    /// The first channel that this client shares with a peer that it is connected to.
    fn connected_in(&self, key: &str) -> Result<&str> {
        let shared = self.joined().filter_map(|(name, channel)| {
            Some((name, channel.roster.members().find(|m| m.has_key(key))?.peer.as_ref()?, channel))
        });
        let mut last = None;
        for (name, peer, channel) in shared {
            let own_key = self.mirror.key();
            let own = channel.roster.members().filter_map(|present| present.peer.as_ref());
            let own = own.filter(|own| own.key == own_key).flat_map(|own| &own.unadmitted);
            let refused = own.filter(|unadmitted| unadmitted.key == peer.key);
            let refused = refused.chain(peer.unadmitted.iter().filter(|u| u.key == own_key)).next();
            match refused {
                None => return Ok(name),
                Some(refused) => last = Some(refused),
            }
        }
        Err(match last {
            Some(refused) => ClientError::Denied {
                reason: refused.reason.clone(),
                retry_after: refused.again.saturating_duration_since(Instant::now()),
            },
            None => ClientError::PeerUnavailable { why: "no channel is shared with it".to_owned() },
        })
    }
}

pub(super) fn direct_error(refused: &DirectRefused<'_>) -> ClientError {
    let reason = refused.reason.to_string();
    match refused.is_denied {
        true => ClientError::Denied {
            reason,
            retry_after: Duration::from_millis(refused.retry_after_ms),
        },
        false => ClientError::PeerUnavailable { why: reason },
    }
}

/// A decision in the words of the wire.
pub(super) fn wire(decision: &Decision) -> peer::Decision<'_> {
    match decision {
        Decision::Allow => peer::Decision::Allow,
        Decision::Deny { reason, retry_after } => peer::Decision::Deny {
            reason: reason.as_deref().unwrap_or("denied").into(),
            retry_after_ms: retry_after.map_or(0, |after| (after.as_millis() as u64).max(1)),
        },
    }
}
