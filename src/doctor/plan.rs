//! What the server takes of a host, with its configuration and a number of connections.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::config::Config;
use crate::server;

/// Resident memory per connection, bytes: a member of a channel of its own on the sync protocol,
/// the most of those in `benches/results/memory.md`. Stored messages and documents come on top.
const CONNECTION_BYTES: u64 = 1_194;

/// Kernel memory per idle TCP socket, bytes: half of what 18,000 connections over loopback added to
/// `Slab` of /proc/meminfo, Linux 6.18. Others have seen 3 to 4 KiB (socket, file, inode, dentry).
const SOCKET_BYTES: u64 = 4_883;

/// Resident memory of a server without connections, bytes: `benches/results/memory.md`.
const SERVER_BYTES: u64 = 12 << 20;

/// Threads beside those of the shards: edge, log, signals, watchdog, and what waits for the disk.
const THREADS_BESIDE: u64 = 16;

/// Threads per shard: its executor, its worker of the store, what folds its documents, and one that
/// the kernel may start for its ring.
const THREADS_PER_SHARD: u64 = 4;

/// What is to run on the host.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Connections that are wanted.
    pub target: Option<u64>,
    pub shards: u16,
    /// CPUs of the shards; empty when they are not pinned.
    pub pins: BTreeSet<usize>,
    /// The addresses that clients, or a proxy in front, connect to.
    pub listen: Vec<SocketAddr>,
    pub connections_per_shard_max: u32,
    /// Memory of all mailboxes, bytes.
    pub mailbox_bytes: u64,
    /// Questions to an admission webhook that are in progress at once.
    pub questions: u64,
}

impl Plan {
    /// What a server with this configuration takes. `target`: connections.
    pub fn new(config: &Config, target: Option<u64>) -> Plan {
        let shards = server::shard_count(config);
        let executors = usize::from(shards) + 1;
        let hook = config.admission.webhook.as_ref();
        let questions = hook.map_or(0, |_| u64::from(config.admission.in_flight_max));
        Plan {
            target,
            shards,
            pins: config.cores.pin.iter().flatten().copied().collect(),
            listen: config.listen.all().map(|(_, address)| address).to_vec(),
            connections_per_shard_max: config.limits.connections_per_shard_max,
            mailbox_bytes: server::mailbox_bytes(executors, config.limits.mailbox_envelopes_max),
            questions: questions * executors as u64,
        }
    }

    /// Descriptors of the process with so many connections.
    pub fn descriptors(&self, connections: u64) -> u64 {
        connections.saturating_add(server::descriptors_reserved(self.shards.into()))
    }

    /// Connections that so many descriptors are enough for.
    pub fn connections(&self, descriptors: u64) -> u64 {
        descriptors.saturating_sub(server::descriptors_reserved(self.shards.into()))
    }

    /// Memory of the process and of its sockets in the kernel, bytes.
    pub fn memory_bytes(&self, connections: u64) -> u64 {
        let each = connections.saturating_mul(CONNECTION_BYTES + SOCKET_BYTES);
        each.saturating_add(SERVER_BYTES + self.mailbox_bytes)
    }

    /// Idle connections that so much memory is enough for.
    pub fn connections_in(&self, bytes: u64) -> u64 {
        bytes.saturating_sub(self.memory_bytes(0)) / (CONNECTION_BYTES + SOCKET_BYTES)
    }

    pub fn threads(&self) -> u64 {
        u64::from(self.shards) * THREADS_PER_SHARD + THREADS_BESIDE + self.questions
    }

    /// Connections that one shard has when all have the same number.
    pub fn connections_per_shard(&self, connections: u64) -> u64 {
        connections.div_ceil(u64::from(self.shards).max(1))
    }

    /// Ports that are listened on, without those that the kernel is to choose.
    pub fn ports(&self) -> BTreeSet<u16> {
        self.listen.iter().map(SocketAddr::port).filter(|port| *port != 0).collect()
    }

    /// Whether all connections come from this host: from a proxy, or a load generator.
    pub fn is_local(&self) -> bool {
        self.listen.iter().all(|address| address.ip().is_loopback())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::Shards;

    /// The default configuration on two shards.
    pub fn plan(target: Option<u64>) -> Plan {
        let mut config = Config::default();
        config.cores.shards = Shards::Count(2);
        Plan::new(&config, target)
    }

    #[test]
    fn the_configuration_says_what_is_needed() {
        let text = "
            [cores]
            pin = [1, 3]
            [listen]
            http = \"0.0.0.0:80\"
            admin = \"127.0.0.1:0\"
            [limits]
            connections_per_shard_max = 5
        ";
        let config = Config::from_toml(text, "test.toml".as_ref()).unwrap();
        let plan = Plan::new(&config, Some(7));
        assert_eq!(plan.shards, 2);
        assert_eq!(plan.pins, BTreeSet::from([1, 3]));
        assert_eq!(plan.ports(), BTreeSet::from([80, 7401]));
        assert!(!plan.is_local());
        assert_eq!(plan.connections_per_shard_max, 5);
        assert_eq!(plan.connections_per_shard(7), 4);
    }

    #[test]
    fn needs_grow_with_the_connections() {
        let plan = plan(None);
        assert!(plan.is_local());
        assert_eq!(plan.descriptors(1_000_000), 1_000_112);
        assert_eq!(plan.connections(plan.descriptors(77)), 77);
        assert_eq!(plan.connections(3), 0);
        assert_eq!(plan.memory_bytes(1_000_000) - plan.memory_bytes(0), 6_077_000_000);
        assert_eq!(plan.connections_in(plan.memory_bytes(500)), 500);
        assert_eq!(plan.connections_in(0), 0);
        // Six mailboxes of 8,192 envelopes of 88 bytes.
        assert!((4_000_000..=4_400_000).contains(&plan.mailbox_bytes), "{}", plan.mailbox_bytes);
    }

    #[test]
    fn absurd_targets_do_not_overflow() {
        let plan = plan(Some(u64::MAX));
        assert_eq!(plan.descriptors(u64::MAX), u64::MAX);
        assert_eq!(plan.memory_bytes(u64::MAX), u64::MAX);
    }
}
