//! What keeps members from expiring: one after the other, they say something.

use super::engine::{ClientId, Clients, Next};
use super::entry;
use super::options::Dialect;
use super::pace::Pace;

/// Time between two words of a member: well below the 30 s after which a silent one expires by
/// default.
pub const HEARTBEAT_S: f64 = 10.0;

/// The turns of one thread's members.
#[derive(Debug, Default)]
pub struct Heartbeat {
    pace: Option<Pace>,
    members: usize,
    at: usize,
}

impl Heartbeat {
    /// From `start_ns` on each member speaks once in `every_s`; never when that is 0.
    pub fn start(start_ns: u64, members: usize, every_s: f64) -> Self {
        let is_wanted = every_s > 0.0 && members > 0;
        let pace = is_wanted.then(|| Pace::new(start_ns, members as f64 / every_s, 0.0));
        Heartbeat { pace, members, at: 0 }
    }

    /// Lets those speak whose time has come. `member` gives a member's connection, unless it is
    /// gone.
    pub fn beat(
        &mut self,
        now_ns: u64,
        clients: &mut Clients,
        member: impl Fn(usize) -> Option<(ClientId, Dialect)>,
    ) -> Next {
        let Some(pace) = &mut self.pace else { return Next::WhenSomethingHappens };
        while pace.take_due(now_ns).is_some() {
            if let Some((client, dialect)) = member(self.at) {
                let _ = clients.send(client, |out| entry::beat(dialect, out));
            }
            self.at = (self.at + 1) % self.members;
        }
        Next::AtNs(pace.next_ns())
    }
}
