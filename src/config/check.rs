//! Validation of the values beyond their types.

use std::collections::HashSet;
use std::fmt;

use super::print::REDACTED;
use super::schema::{Admin, Config, Cores, KeyAlgorithm, KeyEntry, Listen, Namespace, Shards};
use crate::auth::KeyName;
use crate::limits::{Limits, SHARDS_MAX};
use crate::policy::{Durability, Policy};

const MIB: u64 = 1024 * 1024;
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// CPUs in an affinity mask of the C library (`CPU_SETSIZE`).
const CPUS_MAX: usize = 1024;

/// Entries of `proxy_trusted`: each accepted connection is compared with all of them.
const PROXY_TRUSTED_MAX: usize = 256;

/// An invalid value.
#[derive(Debug)]
pub(super) struct Problem {
    pub table: &'static str,
    /// Position in an array of tables, from 0; 0 elsewhere.
    pub index: usize,
    pub key: &'static str,
    pub why: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}.{}`", self.table, self.key)
    }
}

/// The table that is being checked.
#[derive(Clone, Copy)]
struct Place {
    table: &'static str,
    index: usize,
}

impl Place {
    fn table(table: &'static str) -> Self {
        Place { table, index: 0 }
    }

    fn problem(self, key: &'static str, why: impl Into<String>) -> Problem {
        Problem { table: self.table, index: self.index, key, why: why.into() }
    }

    fn require(self, key: &'static str, holds: Check) -> Result<(), Problem> {
        holds.map_err(|why| self.problem(key, why))
    }

    fn within(self, ranges: &[Bound]) -> Result<(), Problem> {
        for Bound(key, value, min, max) in ranges {
            if !(min..=max).contains(&value) {
                let why = format!("{value} is out of range, use {min} to {max}");
                return Err(self.problem(key, why));
            }
        }
        Ok(())
    }
}

/// Key, value, minimum and maximum.
struct Bound(&'static str, u64, u64, u64);

/// What is wrong and what to do.
type Check = Result<(), String>;

/// Finds the first invalid value.
pub(super) fn problem(config: &Config) -> Option<Problem> {
    let checks = [cores, listen, auth, admin, limits, namespaces];
    checks.into_iter().find_map(|check| check(config).err())
}

fn cores(config: &Config) -> Result<(), Problem> {
    let place = Place::table("cores");
    let Cores { shards, pin, spin_us } = &config.cores;
    if let Shards::Count(count) = shards {
        place.within(&[Bound("shards", (*count).into(), 1, SHARDS_MAX.into())])?;
    }
    if let Some(cpus) = pin {
        place.require("pin", pins(cpus, *shards))?;
    }
    place.within(&[Bound("spin_us", *spin_us, 0, 1_000_000)])
}

fn pins(cpus: &[usize], shards: Shards) -> Check {
    let distinct: HashSet<_> = cpus.iter().collect();
    if cpus.is_empty() || cpus.len() > usize::from(SHARDS_MAX) {
        return Err(format!("{} CPUs are listed, list 1 to {SHARDS_MAX}", cpus.len()));
    }
    if let Some(cpu) = cpus.iter().find(|cpu| **cpu >= CPUS_MAX) {
        return Err(format!("there is no CPU {cpu}, CPUs are numbered from 0"));
    }
    if distinct.len() < cpus.len() {
        return Err("a CPU is listed twice, give each shard its own".to_owned());
    }
    match shards {
        Shards::Count(count) if usize::from(count) != cpus.len() => Err(format!(
            "{} CPUs are listed for {count} shards, list one CPU per shard or leave it out",
            cpus.len()
        )),
        _ => Ok(()),
    }
}

fn listen(config: &Config) -> Result<(), Problem> {
    let all = config.listen.all();
    for (position, (key, address)) in all.iter().enumerate() {
        let twin = all[..position].iter().find(|(_, earlier)| earlier == address);
        if let Some((earlier, _)) = twin.filter(|_| address.port() != 0) {
            let why = format!("{address} is also `listen.{earlier}`, give each its own port");
            return Err(Place::table("listen").problem(key, why));
        }
    }
    let delay_ms = config.listen.drain_delay_ms;
    Place::table("listen").within(&[Bound("drain_delay_ms", delay_ms, 0, HOUR_MS)])?;
    Place::table("listen").require("proxy_trusted", trusted(&config.listen))
}

fn trusted(listen: &Listen) -> Check {
    let Listen { proxy_protocol, proxy_trusted, .. } = listen;
    match proxy_trusted.len() {
        0 if !proxy_protocol.is_empty() => {
            Err("it is empty, but only from there can listeners in `proxy_protocol` be reached; \
                 name the addresses of the load balancer"
                .to_owned())
        }
        count if count > PROXY_TRUSTED_MAX => {
            Err(format!("{count} networks are listed, list at most {PROXY_TRUSTED_MAX}"))
        }
        _ => Ok(()),
    }
}

fn auth(config: &Config) -> Result<(), Problem> {
    if let Some(app) = &config.auth.anonymous_app {
        let is_app = KeyName::parse(&format!("{app}.k")).is_ok() && !app.contains('.');
        let why = || format!("`{app}` is not an app, use the part of a key's name before the dot");
        Place::table("auth").require("anonymous_app", is_app.then_some(()).ok_or_else(why))?;
    }
    for (index, entry) in config.auth.key.iter().enumerate() {
        let place = Place { table: "auth.key", index };
        place.require("name", KeyName::parse(&entry.name).map(drop).map_err(|e| e.to_string()))?;
        if config.auth.key[..index].iter().any(|earlier| earlier.name == entry.name) {
            let why = format!("`{}` is already the name of another key, rename one", entry.name);
            return Err(place.problem("name", why));
        }
        key_material(place, entry)?;
    }
    Ok(())
}

fn admin(config: &Config) -> Result<(), Problem> {
    let place = Place::table("admin");
    let Admin { token, token_file, .. } = &config.admin;
    if token.is_some() && token_file.is_some() {
        return Err(place.problem("token_file", "there is a `token` too, leave one of them out"));
    }
    let token = token.as_ref().map_or(Ok(()), |token| secret_text(token.expose()));
    place.require("token", token.map_err(str::to_owned))
}

fn secret_text(text: &str) -> Result<(), &'static str> {
    match text {
        "" => Err("it is empty, use a random text"),
        REDACTED => Err("it is the placeholder of a redacted secret, use the secret itself"),
        _ => Ok(()),
    }
}

/// Exactly one source of key material, and an algorithm that fits it.
fn key_material(place: Place, entry: &KeyEntry) -> Result<(), Problem> {
    use KeyAlgorithm::Hs256;
    let KeyEntry { secret, public_key_file, jwks_file, algorithm, .. } = entry;
    let (key, holds) = match (secret, public_key_file, jwks_file, algorithm) {
        (Some(secret), None, None, None | Some(Hs256)) => ("secret", secret_text(secret.expose())),
        (Some(_), None, None, Some(_)) => {
            ("algorithm", Err("a secret is for HS256, leave it out or give `public_key_file`"))
        }
        (None, Some(_), None, None | Some(Hs256)) => {
            ("algorithm", Err("it is required for a public key, use \"RS256\" or \"ES256\""))
        }
        (None, None, Some(_), Some(Hs256)) => (
            "algorithm",
            Err("a JWK set is for \"RS256\" or \"ES256\", use one of them or leave it out"),
        ),
        (None, Some(_), None, Some(_)) | (None, None, Some(_), _) => ("name", Ok(())),
        _ => ("name", Err("give exactly one of `secret`, `public_key_file` and `jwks_file`")),
    };
    place.require(key, holds.map_err(str::to_owned))
}

fn limits(config: &Config) -> Result<(), Problem> {
    let place = Place::table("limits");
    let limits = &config.limits;
    place.within(&sizes(limits))?;
    place.within(&times(limits))?;
    if limits.state_bytes_max > limits.presence_set_bytes_max {
        let why = "one state must fit into `presence_set_bytes_max`, lower it or raise that";
        return Err(place.problem("state_bytes_max", why));
    }
    let both = limits.idle_ms > 0 && limits.ping_after_ms > 0;
    if both && limits.idle_ms <= limits.ping_after_ms {
        let why = "it must be above `ping_after_ms`, or peers have no time to answer a ping";
        return Err(place.problem("idle_ms", why));
    }
    Ok(())
}

fn sizes(limits: &Limits) -> [Bound; 19] {
    [
        Bound("request_head_bytes_max", limits.request_head_bytes_max as u64, 4096, MIB),
        Bound("message_bytes_max", limits.message_bytes_max as u64, 1024, 16 * MIB),
        Bound("fragments_max", limits.fragments_max.into(), 1, 65_536),
        Bound("send_queue_bytes_max", limits.send_queue_bytes_max as u64, 16 * 1024, 1024 * MIB),
        Bound("channels_per_session_max", limits.channels_per_session_max as u64, 1, 65_536),
        Bound(
            "subscriptions_per_session_max",
            limits.subscriptions_per_session_max as u64,
            1,
            65_536,
        ),
        Bound("channels_per_shard_max", limits.channels_per_shard_max as u64, 1, 16_000_000),
        Bound(
            "history_bytes_per_shard_max",
            limits.history_bytes_per_shard_max,
            MIB,
            1024 * 1024 * MIB,
        ),
        Bound("members_per_channel_max", limits.members_per_channel_max as u64, 1, 1_000_000),
        Bound("channel_name_bytes_max", limits.channel_name_bytes_max as u64, 1, 1024),
        Bound("state_bytes_max", limits.state_bytes_max as u64, 1, 16 * MIB),
        Bound("publish_bytes_max", limits.publish_bytes_max as u64, 1, 16 * MIB),
        // Clients accept sync frames of up to 16 MiB; the header and the names take the rest.
        Bound("presence_set_bytes_max", limits.presence_set_bytes_max as u64, 1024, 15 * MIB),
        Bound("presence_burst_bytes_max", limits.presence_burst_bytes_max as u64, 1024, 1024 * MIB),
        Bound("updates_per_second_max", limits.updates_per_second_max.into(), 1, 10_000_000),
        Bound("connections_per_shard_max", limits.connections_per_shard_max.into(), 1, 16_000_000),
        Bound("home_subscribers_max", limits.home_subscribers_max.into(), 1, 16_000_000),
        Bound("home_overload_percent", limits.home_overload_percent.into(), 0, 10_000),
        Bound("mailbox_envelopes_max", limits.mailbox_envelopes_max as u64, 2, 1024 * 1024),
    ]
}

fn times(limits: &Limits) -> [Bound; 6] {
    [
        Bound("greeting_ms", limits.greeting_ms, 100, HOUR_MS),
        Bound("auth_ms", limits.auth_ms, 100, HOUR_MS),
        Bound("keep_alive_ms", limits.keep_alive_ms, 0, HOUR_MS),
        Bound("ping_after_ms", limits.ping_after_ms, 0, DAY_MS),
        Bound("idle_ms", limits.idle_ms, 0, DAY_MS),
        Bound("sweep_ms", limits.sweep_ms, 1, 60_000),
    ]
}

fn namespaces(config: &Config) -> Result<(), Problem> {
    for (index, namespace) in config.namespace.iter().enumerate() {
        let place = Place { table: "namespace", index };
        place.require("match", reachable(config, index, namespace))?;
        let policy = namespace.policy(&Policy::default());
        place.within(&policy_bounds(&policy))?;
        if policy.durability == Durability::Disk && config.data_dir().is_none() {
            let why = "\"disk\" needs a directory, but `data.dir` is empty (memory only)";
            return Err(place.problem("durability", why));
        }
    }
    Ok(())
}

/// The first match applies, so a namespace after a wider one would never be used.
fn reachable(config: &Config, index: usize, namespace: &Namespace) -> Check {
    let pattern = &namespace.pattern;
    let earlier = config.namespace[..index].iter().find(|rule| rule.pattern.covers(pattern));
    match earlier {
        None => Ok(()),
        Some(wider) => Err(format!(
            "`{pattern}` is never used because `{}` before it matches first, move it up",
            wider.pattern
        )),
    }
}

fn policy_bounds(policy: &Policy) -> [Bound; 6] {
    [
        Bound("presence_ttl_ms", policy.presence_ttl_ms, 100, DAY_MS),
        Bound("presence_grace_ms", policy.presence_grace_ms, 0, HOUR_MS),
        Bound("presence_interval_ms", policy.presence_interval_ms, 0, 60_000),
        Bound("history_messages", policy.history_messages.into(), 0, 10_000_000),
        Bound("history_age_s", policy.history_age_s, 0, 10 * 366 * 86_400),
        Bound("history_bytes", policy.history_bytes, 0, 64 * 1024 * MIB),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::known::limit_keys;

    #[test]
    fn the_defaults_are_legal() {
        assert!(problem(&Config::default()).is_none());
    }

    #[test]
    fn every_limit_has_bounds() {
        let limits = Limits::default();
        let (sizes, times) = (sizes(&limits), times(&limits));
        let mut bounded: Vec<_> = sizes.iter().chain(&times).map(|bound| bound.0).collect();
        let mut keys = limit_keys().to_vec();
        bounded.sort_unstable();
        keys.sort_unstable();
        assert_eq!(bounded, keys);
    }
}
