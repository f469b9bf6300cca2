//! `config print`: the effective configuration as TOML.

use std::fmt::Display;

use serde::Serialize;
use toml::Value;

use super::schema::{Admin, Admission, Config, KeyEntry, Webhooks};
use super::{Anonymous, Demo};
use crate::policy::{Pattern, Policy};

/// Printed in place of secrets. Refused as a secret, so that a printed configuration cannot be used
/// with a known one.
pub(super) const REDACTED: &str = "********";

impl Config {
    /// The effective configuration as TOML: every key, with the default where the file does not set
    /// it. Secrets are printed as `********` and must be filled in before it is used.
    pub fn print(&self) -> String {
        let mut page = Page(String::new());
        page.note(format_args!("effective configuration, from {}", self.origin_text()));
        self.print_cores(&mut page);
        page.table("listen", &self.listen);
        page.table("data", &self.data);
        self.print_auth(&mut page);
        self.print_admin(&mut page);
        self.print_admission(&mut page);
        self.print_webhooks(&mut page);
        page.table("sync", &self.sync);
        self.print_documents(&mut page);
        page.table("limits", &self.limits);
        self.print_debug(&mut page);
        self.print_namespaces(&mut page);
        page.0
    }

    /// The name of the file that was read.
    pub(super) fn origin_text(&self) -> String {
        let file = self.origin.as_ref().map(|path| path.display().to_string());
        file.unwrap_or_else(|| "the built-in defaults".to_owned())
    }

    fn print_cores(&self, page: &mut Page) {
        page.line("\n[cores]");
        page.key("shards", &self.cores.shards());
        page.optional("pin", &self.cores.pin, "shards run on any allowed CPU");
        page.key("spin_us", &self.cores.spin_us);
    }

    fn print_auth(&self, page: &mut Page) {
        let (anonymous, reason) = self.anonymous();
        page.line("\n[auth]");
        page.note(reason);
        page.key("anonymous", &(anonymous == Anonymous::Allowed));
        page.key("anonymous_app", self.anonymous_app());
        page.key("origins", &self.auth.origins);
        page.key("identity_claim", &self.auth.identity_claim);
        if self.auth.key.is_empty() {
            page.note("no [[auth.key]]: the development key of the data directory is used");
        }
        for entry in &self.auth.key {
            print_key(page, entry);
        }
    }

    fn print_admin(&self, page: &mut Page) {
        let Admin { token, token_file, metrics, hosts } = &self.admin;
        page.line("\n[admin]");
        page.optional("token", &token.as_ref().map(|_| REDACTED), "no admin token");
        page.optional("token_file", token_file, "no file with an admin token");
        page.key("metrics", metrics);
        page.key("hosts", hosts);
    }

    fn print_documents(&self, page: &mut Page) {
        page.line("\n[documents]");
        page.key("durability", &self.relay().durability);
        page.key("bytes_max", &self.documents.bytes_max);
        page.key("delta_bytes_max", &self.documents.delta_bytes_max);
    }

    fn print_debug(&self, page: &mut Page) {
        let (demo, reason) = self.demo();
        page.line("\n[debug]");
        page.note(reason);
        page.key("demo", &(demo != Demo::Off));
        page.key("echo", &self.debug.echo);
    }

    fn print_webhooks(&self, page: &mut Page) {
        let Webhooks { url, secret, timeout_ms, batch_events_max, .. } = &self.webhooks;
        page.line("\n[webhooks]");
        page.optional("url", url, "nothing is posted");
        page.optional("secret", &secret.as_ref().map(|_| REDACTED), "no secret");
        page.key("timeout_ms", timeout_ms);
        page.key("batch_events_max", batch_events_max);
        page.key("batch_ms", &self.webhooks.batch_ms);
        page.key("vacated_delay_ms", &self.webhooks.vacated_delay_ms);
        page.key("spool_events_max", &self.webhooks.spool_events_max);
        page.key("spool_bytes_max", &self.webhooks.spool_bytes_max);
    }

    fn print_admission(&self, page: &mut Page) {
        let Admission { webhook, secret, kinds, timeout_ms, on_timeout, .. } = &self.admission;
        page.line("\n[admission]");
        page.optional("webhook", webhook, "nothing is asked");
        page.optional("secret", &secret.as_ref().map(|_| REDACTED), "no webhook to sign for");
        page.key("kinds", kinds);
        page.key("timeout_ms", timeout_ms);
        page.key("on_timeout", on_timeout);
        page.key("in_flight_max", &self.admission.in_flight_max);
        page.key("cache_entries_max", &self.admission.cache_entries_max);
        page.key("breaker_failures", &self.admission.breaker_failures);
        page.key("breaker_ms", &self.admission.breaker_ms);
    }

    fn print_namespaces(&self, page: &mut Page) {
        let policies = self.policies();
        for (pattern, policy) in &policies.rules {
            page.line("\n[[namespace]]");
            print_namespace(page, pattern, policy);
        }
        if let Some((all, policy)) = policies.fallback() {
            page.line("\n[[namespace]]");
            page.note("the defaults, for every other channel");
            print_namespace(page, &all, policy);
        }
    }
}

fn print_key(page: &mut Page, entry: &KeyEntry) {
    page.line("\n[[auth.key]]");
    page.key("name", &entry.name);
    page.optional("secret", &entry.secret.as_ref().map(|_| REDACTED), "no shared secret");
    page.optional("algorithm", &entry.algorithm, "determined by the key material");
    page.optional("public_key_file", &entry.public_key_file, "no public key");
    page.optional("jwks_file", &entry.jwks_file, "no JWK set");
    page.optional("issuer", &entry.issuer, "any issuer");
    page.optional("audience", &entry.audience, "tokens with an audience are refused");
    page.key("capability", &entry.capability);
    let metadata = &entry.identity_metadata;
    page.optional("identity_metadata", metadata, "nothing is said of its users");
}

fn print_namespace(page: &mut Page, pattern: &Pattern, policy: &Policy) {
    page.key("match", &pattern.to_string());
    page.keys(policy);
}

struct Page(String);

impl Page {
    fn line(&mut self, text: impl Display) {
        self.0.push_str(&format!("{text}\n"));
    }

    fn note(&mut self, text: impl Display) {
        self.line(format_args!("# {text}"));
    }

    fn table(&mut self, name: &str, keys: &impl Serialize) {
        self.line(format_args!("\n[{name}]"));
        self.keys(keys);
    }

    /// The fields of a struct without inner tables.
    fn keys(&mut self, keys: &impl Serialize) {
        match toml::to_string(keys) {
            Ok(lines) => self.0.push_str(&lines),
            Err(error) => self.note(format_args!("the keys cannot be shown: {error}")),
        }
    }

    /// `key = value` on one line, also for arrays and tables.
    fn key<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) {
        match Value::try_from(value) {
            Ok(value) => self.line(format_args!("{key} = {value}")),
            Err(error) => self.note(format_args!("{key} cannot be shown: {error}")),
        }
    }

    fn optional<T: Serialize>(&mut self, key: &str, value: &Option<T>, otherwise: &str) {
        match value {
            Some(value) => self.key(key, value),
            None => self.note(format_args!("{key} is not set: {otherwise}")),
        }
    }
}
