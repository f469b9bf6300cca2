//! Signs of life: when a silent peer is pinged, when its members expire, and how an expired member
//! is entered again.

use std::sync::Arc;

use super::Home;
use super::connection::{Connection, Transport};
use super::connections::ActiveConnection;
use super::membership::Departure;
use super::subscription::LapsedMembership;
use crate::ids::Timestamp;
use crate::policy::{Heartbeat, Policy};
use crate::session::{Principal, Silences};
use crate::shard::context::ShardContext;
use crate::wire::websocket::{self, Opcode};

/// A peer with members is pinged when a third of their time to live has passed in silence. The
/// other two thirds are for its answer.
const PINGS_PER_TTL: u64 = 3;

impl Home {
    /// Pings a silent peer; returns when the connection must be checked again.
    pub(super) fn check_liveness(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
    ) -> u64 {
        let now = cx.now;
        let Silences { ping_ms, idle_ms } = self.silences(cx, conn);
        let last_ms = conn.warm.last_byte.ms();
        let expires = conn.session().principal().and_then(Principal::expires_wall_ms);
        let checks_ms = [
            Some(last_ms.saturating_add(idle_ms)),
            conn.auth_deadline_ms(cx.limits()),
            expires.map(|end_ms| now.mono_ms + end_ms.saturating_sub(now.wall_ms)),
            conn.long_poll().map(|poll| poll.check_ms()),
            conn.half_closed().map(|half_closed| half_closed.until.ms()),
        ];
        let next_ms = checks_ms.into_iter().flatten().min().unwrap_or(u64::MAX);
        let ping_due_ms = last_ms.saturating_add(ping_ms);
        match conn.flags.pinged {
            true => next_ms,
            false if ping_due_ms > now.mono_ms => next_ms.min(ping_due_ms),
            false => {
                self.ping(cx, conn);
                next_ms
            }
        }
    }

    /// After how much silence a peer is pinged, and after how much it is taken for dead.
    pub(super) fn silences(&mut self, cx: &ShardContext, conn: &ActiveConnection) -> Silences {
        let mut member_ping_ms = u64::MAX;
        for membership in conn.warm.memberships.iter() {
            let policy = &self.channel(membership.channel).policy;
            if policy.heartbeat == Heartbeat::Transport {
                member_ping_ms = member_ping_ms.min(policy.presence_ttl_ms / PINGS_PER_TTL);
            }
        }
        conn.session().silences(cx.limits(), member_ping_ms)
    }

    /// Asks a peer for a sign of life, in the way of its transport.
    fn ping(&mut self, cx: &mut ShardContext, conn: &mut ActiveConnection) {
        conn.flags.pinged = true;
        self.reply.clear();
        match conn.warm.transport {
            Transport::WebSocket(_) => {
                websocket::append_frame(&mut self.reply, Opcode::Ping, &[]);
            }
            Transport::Stream => conn.session().ping(cx.now, &mut self.reply),
            _ => {}
        }
        self.send_reply(cx, conn);
    }

    /// Ends memberships whose connection has shown no sign of life for the channel's time to live.
    /// Returns when the next one could end.
    pub(super) fn expire_memberships(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
    ) -> u64 {
        let mut expired = Vec::new();
        let mut next_ms = u64::MAX;
        if !conn.session().members_expire() {
            return next_ms;
        }
        for membership in conn.warm.memberships.iter() {
            let policy = &self.channel(membership.channel).policy;
            let due_ms = expiry_ms(conn, policy, membership.announced);
            if due_ms <= cx.now.mono_ms {
                expired.push(membership.channel);
            } else {
                next_ms = next_ms.min(due_ms);
            }
        }
        for slot in expired {
            cx.counters.expired_members += 1;
            self.note_lapsed(conn, slot);
            self.leave_and_unsubscribe(cx, conn, slot, Departure::TimedOut);
        }
        next_ms
    }

    /// Notes what to enter again when the peer turns out to be alive. A member that only its
    /// updates keep alive enters again with its next update.
    fn note_lapsed(&mut self, conn: &mut ActiveConnection, slot: u32) {
        let channel = self.channel(slot);
        if channel.policy.heartbeat == Heartbeat::Update {
            return;
        }
        let (key, policy) = (Arc::clone(&channel.key), Arc::clone(&channel.policy));
        let Some(state) = conn.membership_mut(slot).map(|membership| membership.state.clone())
        else {
            return;
        };
        conn.cold_mut().lapsed.push(LapsedMembership { channel: key, policy, state });
    }

    /// Enters the members of a connection again that expired while it was silent, as far as what
    /// has just arrived is a sign of life for them.
    pub(super) fn enter_lapsed(&mut self, cx: &mut ShardContext, conn: &mut ActiveConnection) {
        if !conn.has_lapsed() || !conn.is_open() {
            return;
        }
        let lapsed = conn.take_cold(|cold| std::mem::take(&mut cold.lapsed));
        for lapsed in lapsed.unwrap_or_default() {
            if expiry_ms(conn, &lapsed.policy, Timestamp::default()) > cx.now.mono_ms {
                // Refused when the session has entered as many other channels since.
                let _ = self.announce_again(cx, conn, lapsed);
            } else {
                conn.cold_mut().lapsed.push(lapsed);
            }
        }
    }
}

/// When a member expires unless it shows a sign of life before. `announced`: when it last announced
/// its state.
fn expiry_ms(connection: &Connection, policy: &Policy, announced: Timestamp) -> u64 {
    let heartbeat_ms = match policy.heartbeat {
        Heartbeat::Transport => connection.warm.last_byte.ms(),
        Heartbeat::AnyFrame => connection.warm.last_message.ms(),
        Heartbeat::Update => 0,
    };
    heartbeat_ms.max(announced.ms()) + policy.presence_ttl_ms
}
