//! What the tests of one half of a shard share.

use std::sync::Arc;

use enumset::EnumSet;

use super::Settings;
use super::context::ShardContext;
use super::envelope::{Effect, Envelope};
use crate::auth::{Grant, Keyring, Origins};
use crate::ids::{ChannelKey, Clocks, Router, ShardId};
use crate::limits::Limits;
use crate::policy::Policies;
use crate::relay::RelayPolicy;
use crate::session;
use crate::wire::sync::Layout;

pub(super) const APP: &str = "alpha";

/// The context of shard 0 of two, with free places in all mailboxes.
pub(super) fn context() -> ShardContext {
    context_with(RelayPolicy::off())
}

/// The same with a relay of documents.
pub(super) fn context_with(relay: RelayPolicy) -> ShardContext {
    let Ok(keyring) = Keyring::new(Vec::new()) else { panic!("a keyring without keys") };
    let settings = Settings {
        router: Router::new((1, 2), 2),
        edge: ShardId(2),
        limits: Limits::default(),
        policies: Policies::default(),
        session: session::Settings {
            keyring,
            anonymous: Some(Arc::new(Grant::anonymous(APP))),
            origins: Origins::default(),
            ten_byte_layout: Layout::V0_6,
            connection_key: (3, 4),
            peer_metadata_bytes_max: 4096,
            graph_peers_max: 10_000,
            relay,
        },
        proxied: Vec::new(),
        hint_app: APP.into(),
        serial_base: 0,
        name_key: 5,
        echo: true,
        asks: EnumSet::empty(),
        vacated_delay_ms: 3_000,
    };
    let mut cx = ShardContext::new(ShardId(0), Arc::new(settings));
    cx.now = Clocks { mono_ms: 10_000, wall_ms: 1_700_000_000_000 };
    set_room(&mut cx, 1 << 20);
    cx
}

/// Free places in every mailbox.
pub(super) fn set_room(cx: &mut ShardContext, room: usize) {
    (0..3).for_each(|peer| cx.outbox.set_room(ShardId(peer), room));
}

pub(super) fn key(cx: &ShardContext, channel: &str) -> Arc<ChannelKey> {
    Arc::new(cx.settings.router.key(&APP.into(), channel))
}

/// What was sent to other shards and to this very one.
pub(super) fn sent(cx: &mut ShardContext) -> Vec<Envelope> {
    let mut sent = Vec::new();
    for effect in cx.outbox.effects.drain(..) {
        if let Effect::Send { envelope, .. } = effect {
            sent.push(envelope);
        }
    }
    sent.extend(cx.outbox.local.drain(..));
    sent
}
