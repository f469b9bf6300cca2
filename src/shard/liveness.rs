//! Signs of life: when a silent peer is pinged, when its members expire, and how a member that
//! expired is entered again.

use super::Shard;
use super::connection::{Connection, Session, Transport};
use super::membership::Departure;
use super::subscription::LapsedMembership;
use crate::ids::{ConnId, Moment, Now};
use crate::policy::{Heartbeat, Policy};
use crate::session::Principal;
use crate::wire::websocket::{self, Opcode};

/// A peer with members is pinged when a third of their time to live has passed in silence. The
/// other two thirds are for its answer.
const PINGS_PER_TTL: u64 = 3;

/// How long a connection may be silent, milliseconds; `u64::MAX` for ever.
pub(super) struct Silences {
    /// Until it is pinged.
    pub ping_ms: u64,
    /// Until it is closed.
    pub idle_ms: u64,
}

impl Shard {
    /// Pings a silent peer; returns when the connection must be looked at again.
    pub(super) fn check_liveness(&mut self, now: Now, id: ConnId) -> u64 {
        let poll_check_ms = self.poll_check_ms(id);
        let Some(connection) = self.connections.get(id) else { return u64::MAX };
        let Silences { ping_ms, idle_ms } = self.silences(connection);
        let alive_ms = connection.details.alive.ms();
        let mut next_ms = alive_ms.saturating_add(idle_ms);
        if let Some(deadline_ms) = connection.details.greeting.deadline_ms() {
            next_ms = next_ms.min(deadline_ms);
        }
        if let Some(end_ms) = connection.principal().and_then(Principal::expires_wall_ms) {
            next_ms = next_ms.min(now.mono_ms + end_ms.saturating_sub(now.wall_ms));
        }
        if let Some(check_ms) = poll_check_ms {
            next_ms = next_ms.min(check_ms);
        }
        if let Some(ended) = connection.rare().and_then(|rare| rare.ended) {
            next_ms = next_ms.min(ended.until.ms());
        }
        let ping_due_ms = alive_ms.saturating_add(ping_ms);
        match connection.flags.pinged {
            true => next_ms,
            false if ping_due_ms > now.mono_ms => next_ms.min(ping_due_ms),
            false => {
                self.ping(now, id);
                next_ms
            }
        }
    }

    /// After how much silence a peer is pinged, and after how much it is taken for dead. Foony
    /// clients have promised to ping.
    pub(super) fn silences(&self, connection: &Connection) -> Silences {
        let limits = &self.settings.limits;
        let or_never = |ms| if ms == 0 { u64::MAX } else { ms };
        let keep_alive_ms = or_never(limits.keep_alive_ms);
        let (ping_ms, idle_ms) = (or_never(limits.ping_after_ms), or_never(limits.idle_ms));
        match connection.details.session {
            Session::Foony(_) if keep_alive_ms != u64::MAX && idle_ms != u64::MAX => Silences {
                ping_ms: ping_ms.min(keep_alive_ms),
                idle_ms: idle_ms.min(2 * keep_alive_ms),
            },
            Session::Sync(_) => {
                Silences { ping_ms: ping_ms.min(self.member_ping_ms(connection)), idle_ms }
            }
            _ => Silences { ping_ms, idle_ms },
        }
    }

    /// Silence after which the peer of members that live by their transport is pinged.
    fn member_ping_ms(&self, connection: &Connection) -> u64 {
        let homes = connection.details.memberships.iter().filter_map(|m| self.homes.get(m.channel));
        let by_transport = homes.filter(|home| home.policy.heartbeat == Heartbeat::Transport);
        let shortest = by_transport.map(|home| home.policy.presence_ttl_ms / PINGS_PER_TTL).min();
        shortest.unwrap_or(u64::MAX)
    }

    /// Asks a peer for a sign of life, in the way of its transport.
    fn ping(&mut self, now: Now, id: ConnId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.flags.pinged = true;
        self.reply.clear();
        match (&connection.details.transport, &connection.details.session) {
            (Transport::WebSocket(_), _) => {
                websocket::append_frame(&mut self.reply, Opcode::Ping, &[]);
            }
            (Transport::Stream(_), Session::Sync(session)) => session.ping(now, &mut self.reply),
            _ => {}
        }
        self.send_reply(now, id);
    }

    /// Ends memberships whose connection has shown no sign of life for the channel's time to live.
    /// Returns when the next one could end. Foony members live as long as their connection does.
    pub(super) fn expire_memberships(&mut self, now: Now, id: ConnId) -> u64 {
        let mut expired = Vec::new();
        let mut next_ms = u64::MAX;
        let Some(connection) = self.connections.get(id) else { return next_ms };
        if matches!(connection.details.session, Session::Foony(_)) {
            return next_ms;
        }
        for membership in connection.details.memberships.iter() {
            let Some(home) = self.homes.get(membership.channel) else { continue };
            let due_ms = expiry_ms(connection, &home.policy, membership.announced);
            if due_ms <= now.mono_ms {
                expired.push(membership.channel);
            } else {
                next_ms = next_ms.min(due_ms);
            }
        }
        for slot in expired {
            self.counters.expired_members += 1;
            self.remember_lapsed(id, slot);
            self.quit(now, id, slot, Departure::AtOnce);
        }
        next_ms
    }

    /// Notes what to enter again when the peer turns out to be alive. A member that only its
    /// updates keep alive enters again with its next update.
    fn remember_lapsed(&mut self, id: ConnId, slot: u32) {
        let (Some(home), Some(connection)) = (self.homes.get(slot), self.connections.get_mut(id))
        else {
            return;
        };
        let Some(membership) = connection.membership_mut(slot) else { return };
        if home.policy.heartbeat != Heartbeat::Update {
            let (channel, policy) = (home.key.clone(), home.policy.clone());
            let state = membership.state.clone();
            connection.rare_mut().lapsed.push(LapsedMembership { channel, policy, state });
        }
    }

    /// Enters the members of a connection again that expired while it was silent, as far as what
    /// has just arrived is a sign of life for them.
    pub(super) fn enter_lapsed(&mut self, now: Now, id: ConnId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if !connection.has_lapsed() || !connection.is_open() {
            return;
        }
        let lapsed = connection.change_rare(|rare| std::mem::take(&mut rare.lapsed));
        for lapsed in lapsed.unwrap_or_default() {
            let Some(connection) = self.connections.get_mut(id) else { return };
            if expiry_ms(connection, &lapsed.policy, Moment::default()) > now.mono_ms {
                // Refused when the session has entered as many other channels since.
                let _ = self.announce_again(now, id, lapsed);
            } else {
                connection.rare_mut().lapsed.push(lapsed);
            }
        }
    }
}

/// When a member expires unless it shows a sign of life before. `announced`: when it last announced
/// its state.
fn expiry_ms(connection: &Connection, policy: &Policy, announced: Moment) -> u64 {
    let heartbeat_ms = match policy.heartbeat {
        Heartbeat::Transport => connection.details.alive.ms(),
        Heartbeat::AnyFrame => connection.details.heard.ms(),
        Heartbeat::Update => 0,
    };
    heartbeat_ms.max(announced.ms()) + policy.presence_ttl_ms
}
