//! Taking up other settings: the policies of channels, and whether sessions may go on.

use std::ops::Range;
use std::sync::Arc;

use super::Home;
use super::connection::Connection;
use crate::error::Disconnect;
use crate::shard::context::ShardContext;

impl Home {
    /// Slots of channels and connections, free ones included.
    pub fn slot_count(&self) -> u32 {
        self.channels.slot_count().max(self.connections.slot_count())
    }

    /// The channels in these slots take up the policies that are in force, and sessions end whose
    /// credentials are no longer in force.
    pub fn reload(&mut self, cx: &mut ShardContext, slots: Range<u32>) {
        for slot in slots.start..slots.end.min(self.channels.slot_count()) {
            let Some(channel) = self.channels.get_mut(slot) else { continue };
            channel.policy = Arc::clone(cx.settings.policies.for_channel(&channel.key.name));
            self.note_recount(slot);
        }
        for slot in slots.start..slots.end.min(self.connections.slot_count()) {
            let Some(id) = self.connections.tenant(slot) else { continue };
            // The time to live of its members may be another one.
            self.connections.set_check(id, cx.now.mono_ms);
            if self.connections.get(id).is_some_and(|connection| is_revoked(cx, connection)) {
                self.disconnect_by_id(cx, id, Disconnect::Revoked);
            }
        }
    }
}

/// Whether its session has a grant that is no longer in force.
pub(super) fn is_revoked(cx: &ShardContext, connection: &Connection) -> bool {
    let principal = connection.session().principal();
    principal.is_some_and(|principal| !cx.settings.session.upholds(&principal.grant))
}
