//! The settings of one run.

use std::sync::Arc;

use headcount::limits::Limits;
use headcount::policy::{AdmitKind, Deliver, Durability, Policies, Policy, SlowConsumer};
use headcount::shard::Settings;

use super::super::profile;
use super::super::rng::Rng;

pub const CHANNELS: [&str; 4] = ["ns0:a", "ns0:b", "ns1:a", "ns2:a"];

/// Time between two ticks of the channels that have one.
pub const INTERVAL_MS: u64 = 100;

/// What a run is made of, besides the settings of the server.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    /// No stalls, losses or full mailboxes: what is then demanded is stricter.
    pub calm: bool,
    pub clients: usize,
    pub sync_members: usize,
    pub steps: usize,
    /// Capacity of a mailbox: from, to.
    pub mailbox: (usize, usize),
    /// Longest payload in bytes.
    pub data_bytes: usize,
    pub grace_ms: u64,
    /// The server may close a receiver as slow.
    pub may_be_slow: bool,
}

/// Everything about a run that its seed decides before the first step.
pub fn random(rng: &mut Rng) -> (Settings, Profile) {
    let shards = *rng.pick(&[1, 2, 2, 3, 4, 4, 5, 8]);
    let calm = rng.percent(20);
    let tiny_queue = !calm && rng.percent(30);
    let profile = Profile {
        calm,
        clients: rng.between(2, 7),
        sync_members: rng.below(3),
        steps: rng.between(150, 400),
        mailbox: match (calm, rng.below(3)) {
            (true, _) => (4096, 4096),
            (false, 0) => (1, 4),
            (false, 1) => (1, 32),
            (false, _) => (64, 4096),
        },
        data_bytes: if !tiny_queue && rng.percent(15) { 12_000 } else { 60 },
        grace_ms: if rng.percent(20) { 0 } else { 800 },
        may_be_slow: tiny_queue,
    };
    let limits = Limits {
        send_queue_bytes_max: if tiny_queue { rng.between(2_000, 6_000) } else { 1 << 20 },
        home_subscribers_max: if rng.percent(40) { rng.between(0, 2) as u32 } else { 5_000 },
        greeting_ms: 2_000,
        auth_ms: 2_000,
        keep_alive_ms: 0,
        ping_after_ms: *rng.pick(&[0, 700]),
        idle_ms: 0,
        sweep_ms: *rng.pick(&[50, 200]),
        peer_digest_ms: 150,
        ..Limits::default()
    };
    let mut policies = random_policies(rng, &profile);
    let seed = rng.next();
    if seed % 5 < 2 {
        let deliver =
            if seed.is_multiple_of(3) { Deliver::BeforeDurable } else { Deliver::AfterDurable };
        for (_, policy) in &mut policies.rules {
            let policy = Arc::make_mut(policy);
            (policy.durability, policy.deliver) = (Durability::Disk, deliver);
        }
    }
    let mut settings = profile::settings(shards, seed, limits, policies);
    // A socket that fails while the Close before it waits for the hook is lost, and members of the
    // sync wire without a device return under another name. The model knows clean closes only.
    settings.asks &= AdmitKind::Subscribe | AdmitKind::Publish;
    (settings, profile)
}

fn random_policies(rng: &mut Rng, profile: &Profile) -> Policies {
    let mut policy = |presence_interval_ms, slow_consumer| {
        Arc::new(Policy {
            presence_ttl_ms: 600_000,
            presence_grace_ms: profile.grace_ms,
            presence_interval_ms,
            history_messages: *rng.pick(&[1, 3, 8, 30, 1000]),
            history_age_s: if rng.percent(15) { 2 } else { 86_400 },
            slow_consumer,
            ..Policy::default()
        })
    };
    Policies {
        rules: vec![
            ("ns0:*".parse().expect("a pattern"), policy(0, SlowConsumer::Gap)),
            ("ns1:*".parse().expect("a pattern"), policy(INTERVAL_MS, SlowConsumer::Gap)),
        ],
        default: policy(0, SlowConsumer::Close),
    }
}
