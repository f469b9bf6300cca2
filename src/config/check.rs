//! Validation of the values beyond their types.

use std::collections::HashSet;

use derive_more::Display;
use serde::Serialize;
use toml::Value;

use super::keys::identity_metadata;
use super::print::REDACTED;
use super::schema::{
    Admin, Config, Cores, KeyAlgorithm, KeyEntry, Listen, Namespace, SecretText, Shards,
};
use crate::auth::KeyName;
use crate::limits::{IDENTITY_METADATA_BYTES_MAX, SHARDS_MAX};
use crate::policy::{Durability, Policy};

const MIB: i64 = 1024 * 1024;
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// CPUs in an affinity mask of the C library (`CPU_SETSIZE`).
const CPUS_MAX: usize = 1024;

/// Entries of `proxy_trusted`: each accepted connection is compared with all of them.
const PROXY_TRUSTED_MAX: usize = 256;

/// An invalid value.
#[derive(Debug, Display)]
#[display("`{table}.{key}`")]
pub(super) struct Problem {
    pub table: &'static str,
    /// Position in an array of tables, from 0; 0 elsewhere.
    pub index: usize,
    pub key: &'static str,
    pub why: String,
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

    /// Checks the numbers of a table.
    fn within(self, table: &impl Serialize, bounds: &[Bound]) -> Result<(), Problem> {
        let table = Value::try_from(table).map_err(|error| self.problem("", error.to_string()))?;
        for (key, min, max) in bounds {
            match table.get(key).and_then(Value::as_integer) {
                Some(value) if !(min..=max).contains(&&value) => {
                    let why = format!("{value} is out of range, use {min} to {max}");
                    return Err(self.problem(key, why));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Key, minimum and maximum.
pub(super) type Bound = (&'static str, i64, i64);

/// The bounds of the numbers in a table.
pub(super) fn bounds(table: &str) -> &'static [Bound] {
    match table {
        "cores" => &CORES_BOUNDS,
        "listen" => &LISTEN_BOUNDS,
        "admission" => &ADMISSION_BOUNDS,
        "webhooks" => &WEBHOOK_BOUNDS,
        "documents" => &DOCUMENTS_BOUNDS,
        "limits" => &LIMIT_BOUNDS,
        "namespace" => &POLICY_BOUNDS,
        _ => &[],
    }
}

/// What is wrong and what to do.
type Check = Result<(), String>;

/// Finds the first invalid value.
pub(super) fn problem(config: &Config) -> Option<Problem> {
    let checks = [cores, listen, auth, admin, admission, webhooks, documents, limits, namespaces];
    checks.into_iter().find_map(|check| check(config).err())
}

fn cores(config: &Config) -> Result<(), Problem> {
    let place = Place::table("cores");
    let Cores { shards, pin, .. } = &config.cores;
    place.within(&config.cores, &CORES_BOUNDS)?;
    if let Some(cpus) = pin {
        place.require("pin", pins(cpus, *shards))?;
    }
    Ok(())
}

const CORES_BOUNDS: [Bound; 2] = [("shards", 1, SHARDS_MAX as i64), ("spin_us", 0, 1_000_000)];

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
    Place::table("listen").within(&config.listen, &LISTEN_BOUNDS)?;
    Place::table("listen").require("proxy_trusted", trusted(&config.listen))
}

const LISTEN_BOUNDS: [Bound; 1] = [("drain_delay_ms", 0, HOUR_MS)];

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
        place.require("identity_metadata", key_metadata(entry))?;
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

fn key_metadata(entry: &KeyEntry) -> Check {
    match (&entry.identity_metadata, identity_metadata(entry)) {
        (Some(_), None) => Err("it cannot be written as JSON, use texts and numbers".to_owned()),
        (_, Some(text)) if text.len() > IDENTITY_METADATA_BYTES_MAX => {
            let bytes = text.len();
            Err(format!("{bytes} bytes of JSON, use at most {IDENTITY_METADATA_BYTES_MAX}"))
        }
        _ => Ok(()),
    }
}

fn admission(config: &Config) -> Result<(), Problem> {
    let place = Place::table("admission");
    let admission = &config.admission;
    receiver(place, "webhook", admission.webhook.as_deref(), admission.secret.as_ref())?;
    let numbers = toml::Table::from_iter([
        ("timeout_ms".to_owned(), number(admission.timeout_ms)),
        ("in_flight_max".to_owned(), number(admission.in_flight_max.into())),
        ("cache_entries_max".to_owned(), number(admission.cache_entries_max.into())),
        ("breaker_failures".to_owned(), number(admission.breaker_failures.into())),
        ("breaker_ms".to_owned(), number(admission.breaker_ms)),
    ]);
    place.within(&numbers, &ADMISSION_BOUNDS)
}

fn webhooks(config: &Config) -> Result<(), Problem> {
    let place = Place::table("webhooks");
    let webhooks = &config.webhooks;
    receiver(place, "url", webhooks.url.as_deref(), webhooks.secret.as_ref())?;
    let numbers = toml::Table::from_iter([
        ("timeout_ms".to_owned(), number(webhooks.timeout_ms)),
        ("batch_events_max".to_owned(), number(webhooks.batch_events_max.into())),
        ("batch_ms".to_owned(), number(webhooks.batch_ms)),
        ("vacated_delay_ms".to_owned(), number(webhooks.vacated_delay_ms)),
        ("spool_events_max".to_owned(), number(webhooks.spool_events_max.into())),
        ("spool_bytes_max".to_owned(), number(webhooks.spool_bytes_max)),
    ]);
    place.within(&numbers, &WEBHOOK_BOUNDS)
}

const WEBHOOK_BOUNDS: [Bound; 6] = [
    ("timeout_ms", 10, 60_000),
    ("batch_events_max", 1, 10_000),
    ("batch_ms", 0, 60_000),
    ("vacated_delay_ms", 0, HOUR_MS),
    ("spool_events_max", 1, 100_000_000),
    ("spool_bytes_max", MIB, 1024 * 1024 * MIB),
];

/// A service that signed requests are posted to. `key`: of its URL.
fn receiver(
    place: Place,
    key: &'static str,
    url: Option<&str>,
    secret: Option<&SecretText>,
) -> Result<(), Problem> {
    let checked = secret.map_or(Ok(()), |secret| secret_text(secret.expose()));
    place.require("secret", checked.map_err(str::to_owned))?;
    let Some(url) = url else { return Ok(()) };
    let is_http = url.strip_prefix("http://").is_some_and(|rest| !rest.is_empty());
    let why = format!("`{url}` is not supported, use http://HOST:PORT/PATH");
    place.require(key, is_http.then_some(()).ok_or(why))?;
    match secret {
        Some(_) => Ok(()),
        None => Err(place.problem(key, "it needs a `secret` to sign requests with")),
    }
}

fn number(value: u64) -> Value {
    Value::Integer(i64::try_from(value).unwrap_or(i64::MAX))
}

const ADMISSION_BOUNDS: [Bound; 5] = [
    ("timeout_ms", 10, 60_000),
    ("in_flight_max", 1, 1024),
    ("cache_entries_max", 0, 1_000_000),
    ("breaker_failures", 1, 1_000_000),
    ("breaker_ms", 1, HOUR_MS),
];

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
    place.within(limits, &LIMIT_BOUNDS)?;
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

const LIMIT_BOUNDS: [Bound; 26] = [
    ("request_head_bytes_max", 4096, MIB),
    ("message_bytes_max", 1024, 16 * MIB),
    ("fragments_max", 1, 65_536),
    ("send_queue_bytes_max", 16 * 1024, 1024 * MIB),
    ("channels_per_session_max", 1, 65_536),
    ("subscriptions_per_session_max", 1, 65_536),
    ("channels_per_shard_max", 1, 16_000_000),
    ("history_bytes_per_shard_max", MIB, 1024 * 1024 * MIB),
    ("members_per_channel_max", 1, 1_000_000),
    ("channel_name_bytes_max", 1, 1024),
    ("state_bytes_max", 1, 16 * MIB),
    ("publish_bytes_max", 1, 16 * MIB),
    // Clients accept sync frames of up to 16 MiB; the header and the names take the rest.
    ("presence_set_bytes_max", 1024, 15 * MIB),
    ("presence_burst_bytes_max", 1024, 1024 * MIB),
    ("updates_per_second_max", 1, 10_000_000),
    ("peer_digest_ms", 10, HOUR_MS),
    ("connections_per_shard_max", 1, 16_000_000),
    ("home_subscribers_max", 1, 16_000_000),
    ("home_overload_percent", 0, 10_000),
    ("mailbox_envelopes_max", 2, 1024 * 1024),
    ("greeting_ms", 100, HOUR_MS),
    ("auth_ms", 100, HOUR_MS),
    ("keep_alive_ms", 0, HOUR_MS),
    ("ping_after_ms", 0, DAY_MS),
    ("idle_ms", 0, DAY_MS),
    ("sweep_ms", 1, 60_000),
];

fn documents(config: &Config) -> Result<(), Problem> {
    let place = Place::table("documents");
    place.within(&config.documents, &DOCUMENTS_BOUNDS)?;
    let is_on_disk = config.documents.durability == Some(Durability::Disk);
    if is_on_disk && config.data_dir().is_none() {
        return Err(place.problem("durability", NO_DIRECTORY));
    }
    let most = config.limits.message_bytes_max as u64;
    if config.documents.delta_bytes_max > most {
        let why = format!("it does not fit into a message, `limits.message_bytes_max` is {most}");
        return Err(place.problem("delta_bytes_max", why));
    }
    Ok(())
}

const DOCUMENTS_BOUNDS: [Bound; 2] =
    [("bytes_max", 1024, 64 * 1024 * MIB), ("delta_bytes_max", 1024, 16 * MIB)];

const NO_DIRECTORY: &str = "\"disk\" needs a directory, but `data.dir` is empty (memory only)";

fn namespaces(config: &Config) -> Result<(), Problem> {
    for (index, namespace) in config.namespace.iter().enumerate() {
        let place = Place { table: "namespace", index };
        place.require("match", reachable(config, index, namespace))?;
        let policy = namespace.policy(&Policy::default());
        place.within(&policy, &POLICY_BOUNDS)?;
        if policy.durability == Durability::Disk && config.data_dir().is_none() {
            return Err(place.problem("durability", NO_DIRECTORY));
        }
        if !policy.webhook_events.is_empty() && config.webhooks.url.is_none() {
            let why = "nobody is told without a `url` in [webhooks], give one or leave this out";
            return Err(place.problem("webhook_events", why));
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

const POLICY_BOUNDS: [Bound; 11] = [
    ("presence_ttl_ms", 100, DAY_MS),
    ("presence_grace_ms", 0, HOUR_MS),
    ("presence_interval_ms", 0, 60_000),
    ("history_messages", 0, 10_000_000),
    ("history_age_s", 0, 10 * 366 * 86_400),
    ("history_bytes", 0, 64 * 1024 * MIB),
    ("presence_history_s", 0, 10 * 366 * 86_400),
    ("graph_max_peers", 1, 1_000_000),
    ("peer_metadata_max_bytes", 2, 64 * 1024),
    ("occupancy_interval_ms", 0, HOUR_MS),
    ("deny_ttl_ms", 100, DAY_MS),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;

    #[test]
    fn the_defaults_are_legal() {
        assert!(problem(&Config::default()).is_none());
    }

    #[test]
    fn every_limit_has_bounds() {
        let limits = toml::Table::try_from(Limits::default()).unwrap();
        let mut bounded: Vec<&str> = LIMIT_BOUNDS.iter().map(|bound| bound.0).collect();
        let mut keys: Vec<&str> = limits.keys().map(String::as_str).collect();
        bounded.sort_unstable();
        keys.sort_unstable();
        assert_eq!(bounded, keys);
    }
}
