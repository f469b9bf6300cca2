//! Time-outs of connections: when each is looked at although nothing came from it, and what becomes
//! of those that were silent for too long.

use super::Shard;
use super::connection::{Connection, Phase, Session, Transport};
use super::timers::Timer;
use crate::error::Disconnect;
use crate::ids::{ConnId, Now};
use crate::session::Principal;
use crate::wire::http::HeadError;
use crate::wire::websocket::Opcode;

impl Shard {
    /// Looks at every connection whose check is due.
    pub(super) fn sweep(&mut self, now: Now) {
        let mut from = 0;
        while let Some(id) = self.connections.next_due(from, now.mono_ms) {
            from = id.slot + 1;
            let next_ms = self.check_connection(now, id);
            self.connections.set_check(id, next_ms);
        }
        self.spares.trim();
        self.sweeping = self.connections.len() > 0;
        if self.sweeping {
            self.timers.set(now.mono_ms + self.settings.limits.sweep_ms, Timer::Sweep);
        }
    }

    /// Applies the time-outs of one connection; returns when to look again.
    fn check_connection(&mut self, now: Now, id: ConnId) -> u64 {
        if let Some(reason) = self.overdue(now, id) {
            match self.connections.get(id).map(|connection| &connection.details.transport) {
                Some(Transport::Http) => self.refuse_head(now, id, HeadError::Timeout),
                _ => self.disconnect(now, id, reason),
            }
            return u64::MAX;
        }
        if self.connections.get(id).is_none_or(|c| c.phase == Phase::Closing) {
            return u64::MAX;
        }
        self.end_long_hold(now, id);
        let members_ms = self.expire_memberships(now, id);
        let liveness_ms = self.check_liveness(now, id);
        members_ms.min(liveness_ms)
    }

    /// Why a connection has to end now, if it has to.
    fn overdue(&self, now: Now, id: ConnId) -> Option<Disconnect> {
        let connection = self.connections.get(id).filter(|connection| connection.is_open())?;
        if connection.details.greeting.deadline_ms().is_some_and(|due_ms| due_ms <= now.mono_ms) {
            return Some(Disconnect::GreetingTimeout);
        }
        let expires = connection.principal().and_then(Principal::expires_wall_ms);
        if expires.is_some_and(|end_ms| end_ms <= now.wall_ms) {
            return Some(Disconnect::TokenExpired);
        }
        if connection.flags.polling {
            let absent = self.poll_absent_ms(id).is_some_and(|due_ms| due_ms <= now.mono_ms);
            return absent.then_some(Disconnect::Lost);
        }
        let (_, idle_ms) = self.silences(connection);
        let idle = idle_ms != 0 && connection.details.alive.ms() + idle_ms <= now.mono_ms;
        idle.then_some(Disconnect::IdleTimeout)
    }

    /// Pings a silent WebSocket peer; returns when the connection must be looked at again.
    fn check_liveness(&mut self, now: Now, id: ConnId) -> u64 {
        let poll_check_ms = self.poll_check_ms(id);
        let Some(connection) = self.connections.get(id) else { return u64::MAX };
        let (ping_after_ms, idle_ms) = self.silences(connection);
        let Some(connection) = self.connections.get_mut(id) else { return u64::MAX };
        let alive_ms = connection.details.alive.ms();
        let ping_ms = alive_ms + ping_after_ms;
        let can_ping = matches!(connection.details.transport, Transport::WebSocket(_));
        let mut next_ms = if idle_ms == 0 { u64::MAX } else { alive_ms + idle_ms };
        if let Some(deadline_ms) = connection.details.greeting.deadline_ms() {
            next_ms = next_ms.min(deadline_ms);
        }
        if let Some(end_ms) = connection.principal().and_then(Principal::expires_wall_ms) {
            next_ms = next_ms.min(now.mono_ms + end_ms.saturating_sub(now.wall_ms));
        }
        if let Some(check_ms) = poll_check_ms {
            next_ms = next_ms.min(check_ms);
        }
        if can_ping && ping_after_ms != 0 && !connection.flags.pinged {
            if ping_ms <= now.mono_ms {
                connection.flags.pinged = true;
                self.queue_frame(now, id, Opcode::Ping, &[]);
            } else {
                next_ms = next_ms.min(ping_ms);
            }
        }
        next_ms
    }

    /// After how much silence a peer is pinged, and after how much it is taken for dead,
    /// milliseconds; 0 never. Foony clients have promised to ping.
    fn silences(&self, connection: &Connection) -> (u64, u64) {
        let limits = &self.settings.limits;
        let keep_alive_ms = limits.keep_alive_ms;
        match connection.details.session {
            Session::Foony(_) if keep_alive_ms != 0 && limits.idle_ms != 0 => {
                (limits.ping_after_ms.min(keep_alive_ms), limits.idle_ms.min(2 * keep_alive_ms))
            }
            _ => (limits.ping_after_ms, limits.idle_ms),
        }
    }
}
