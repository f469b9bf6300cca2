//! `config print`: the effective configuration as TOML.

use std::fmt::Write;

use serde::Serialize;
use toml::{Table, Value};

use super::known::limit_keys;
use super::schema::{Admin, Config, KeyEntry, LimitsTable, Shards};
use super::{Anonymous, explain};
use crate::limits::Limits;
use crate::policy::{Pattern, Policy};

/// Printed in place of secrets. Refused as a secret, so that a printed configuration cannot be used
/// with a known one.
pub(super) const REDACTED: &str = "********";

impl Config {
    /// The effective configuration as TOML: every key, with the default where the file does not set
    /// it. Secrets are printed as `********` and must be filled in before it is used.
    pub fn print(&self) -> String {
        let mut page = Page(String::new());
        page.note(&format!("effective configuration, from {}", self.origin_text()));
        self.print_cores(&mut page);
        page.table("listen");
        for (key, address) in self.listen.all() {
            page.key(key, &address.to_string());
        }
        page.key("defer_accept", &self.listen.defer_accept);
        page.key("drain_delay_ms", &self.listen.drain_delay_ms);
        page.key("proxy_protocol", &self.listen.proxy_protocol);
        let trusted = self.listen.proxy_trusted.iter().map(ToString::to_string);
        page.key("proxy_trusted", &trusted.collect::<Vec<_>>());
        page.table("data");
        page.key("dir", &self.data.dir);
        self.print_auth(&mut page);
        self.print_admin(&mut page);
        page.table("sync");
        page.key("ten_byte_layout", &self.sync.ten_byte_layout);
        self.print_limits(&mut page);
        page.table("debug");
        page.key("echo", &self.debug.echo);
        self.print_namespaces(&mut page);
        page.0
    }

    /// The name of the file that was read.
    pub(super) fn origin_text(&self) -> String {
        let file = self.origin.as_ref().map(|path| path.display().to_string());
        file.unwrap_or_else(|| "the built-in defaults".to_owned())
    }

    fn print_cores(&self, page: &mut Page) {
        page.table("cores");
        match self.cores.shards() {
            Shards::Auto => page.key("shards", &"auto"),
            Shards::Count(count) => page.key("shards", &count),
        }
        page.optional("pin", &self.cores.pin, "shards run on any allowed CPU");
        page.key("spin_us", &self.cores.spin_us);
    }

    fn print_auth(&self, page: &mut Page) {
        let (anonymous, reason) = self.anonymous();
        page.table("auth");
        page.note(reason);
        page.key("anonymous", &(anonymous == Anonymous::Allowed));
        page.key("anonymous_app", self.anonymous_app());
        page.key("origins", &self.auth.origins);
        if self.auth.key.is_empty() {
            page.note("no [[auth.key]]: the development key of the data directory is used");
        }
        for entry in &self.auth.key {
            print_key(page, entry);
        }
    }

    fn print_admin(&self, page: &mut Page) {
        let Admin { token, token_file, metrics, hosts } = &self.admin;
        page.table("admin");
        page.optional("token", &token.as_ref().map(|_| REDACTED), "no admin token");
        page.optional("token_file", token_file, "no file with an admin token");
        page.key("metrics", metrics);
        page.key("hosts", hosts);
    }

    fn print_limits(&self, page: &mut Page) {
        page.table("limits");
        let limits = Value::try_from(LimitValues(self.limits()));
        for key in limit_keys() {
            if let Some(value) = limits.as_ref().ok().and_then(|limits| limits.get(key)) {
                page.key(key, value);
            }
        }
    }

    fn print_namespaces(&self, page: &mut Page) {
        let policies = self.policies();
        for (pattern, policy) in &policies.rules {
            page.list_table("namespace");
            print_namespace(page, pattern, policy);
        }
        let all = Pattern::Prefix("".into());
        if !policies.rules.iter().any(|(pattern, _)| *pattern == all) {
            page.list_table("namespace");
            page.note("the defaults, for every other channel");
            print_namespace(page, &all, &policies.default);
        }
    }
}

#[derive(Serialize)]
#[serde(transparent)]
struct LimitValues(#[serde(with = "LimitsTable")] Limits);

fn print_key(page: &mut Page, entry: &KeyEntry) {
    page.list_table("auth.key");
    page.key("name", &entry.name);
    page.optional("secret", &entry.secret.as_ref().map(|_| REDACTED), "no shared secret");
    page.optional("algorithm", &entry.algorithm, "determined by the key material");
    page.optional("public_key_file", &entry.public_key_file, "no public key");
    page.optional("jwks_file", &entry.jwks_file, "no JWK set");
    page.optional("issuer", &entry.issuer, "any issuer");
    page.optional("audience", &entry.audience, "tokens with an audience are refused");
    page.key("capability", &entry.capability);
}

fn print_namespace(page: &mut Page, pattern: &Pattern, policy: &Policy) {
    page.key("match", &pattern.to_string());
    for (key, value) in explain::policy_values(policy) {
        page.key(key, &value);
    }
}

struct Page(String);

impl Page {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a `String` cannot fail.
        let _ = writeln!(self.0, "{line}");
    }

    fn note(&mut self, text: &str) {
        self.line(format_args!("# {text}"));
    }

    fn table(&mut self, name: &str) {
        self.line(format_args!("\n[{name}]"));
    }

    fn list_table(&mut self, name: &str) {
        self.line(format_args!("\n[[{name}]]"));
    }

    fn key<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) {
        let mut table = Table::new();
        match Value::try_from(value) {
            Ok(value) => {
                table.insert(key.to_owned(), value);
            }
            Err(error) => self.note(&format!("{key} cannot be shown: {error}")),
        }
        self.0.push_str(&inline(table));
    }

    fn optional<T: Serialize>(&mut self, key: &str, value: &Option<T>, otherwise: &str) {
        match value {
            Some(value) => self.key(key, value),
            None => self.note(&format!("{key} is not set: {otherwise}")),
        }
    }
}

/// `key = value` on one line, also for arrays and tables.
fn inline(table: Table) -> String {
    table.into_iter().map(|(key, value)| format!("{key} = {value}\n")).collect()
}
