//! The hook as an HTTP service: a signed `POST` for each question, on a pool of threads.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use ureq::Agent;

use super::{AdmitAnswer, AdmitCtx, AdmitError, Blocking};
use crate::limits::IDENTITY_METADATA_BYTES_MAX;
use crate::server::signature::{self, SIGNATURE};

/// Version of the questions.
const VERSION: u32 = 1;

/// Longest answer in bytes; more is a failure.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Longest reason that is passed on, characters.
const REASON_CHARS_MAX: usize = 256;

/// What a client is told when the service gives no reason.
const REASON_DEFAULT: &str = "denied";

/// Threads of the pool, at most: questions in progress beyond it wait for one.
const THREADS_MAX: usize = 256;

/// Where and how questions are posted.
pub struct Webhook {
    url: String,
    secret: Vec<u8>,
    agent: Agent,
    /// Tells requests of this process from those of others.
    process: u64,
    requests: AtomicU64,
}

/// A question as it is posted.
#[derive(Serialize)]
struct Posted<'a> {
    v: u32,
    kind: crate::policy::AdmitKind,
    req_id: String,
    peer_key: Option<&'a str>,
    client_id: &'a str,
    channel: Option<&'a str>,
    /// What the client says of itself.
    metadata: &'a RawValue,
    identity: PostedIdentity<'a>,
    ip: Option<String>,
    connection_type: &'a str,
    protocol: &'a str,
}

/// What the server knows of the user by its credential.
#[derive(Serialize)]
struct PostedIdentity<'a> {
    app: &'a str,
    key: Option<&'a str>,
    identity_service_metadata: &'a RawValue,
}

/// An answer as it is received. `limits` is reserved.
#[derive(Deserialize)]
struct Received {
    allow: bool,
    reason: Option<String>,
    retry_after_ms: Option<u64>,
    identity_service_metadata: Option<Map<String, Value>>,
    ttl_s: Option<u64>,
}

impl Webhook {
    /// The service at this URL.
    pub fn new(url: &str, secret: &str, timeout: Duration) -> Self {
        let (agent, process) = (signature::agent(timeout, THREADS_MAX), signature::process_id());
        let secret = secret.as_bytes().to_vec();
        Webhook { url: url.to_owned(), secret, agent, process, requests: AtomicU64::new(0) }
    }

    /// As a hook, with as many threads as there may be questions in progress.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(self, in_flight_max: usize) -> io::Result<Blocking> {
        Blocking::new(in_flight_max.min(THREADS_MAX), move |ctx| self.ask(ctx))
    }

    fn ask(&self, ctx: &AdmitCtx) -> Result<AdmitAnswer, AdmitError> {
        let body = self.body(ctx)?;
        let signature = signature::signature(&self.secret, &body).map_err(AdmitError::failed)?;
        let request = self.agent.post(&self.url).content_type("application/json");
        let response = request.header(SIGNATURE, signature).send(&body[..]).map_err(failure)?;
        let status = response.status().as_u16();
        if status != 200 {
            return Err(AdmitError::Failed(format!("the webhook answered with status {status}")));
        }
        let mut body = response.into_body();
        let read = body.with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        parse(&read.map_err(failure)?)
    }

    fn body(&self, ctx: &AdmitCtx) -> Result<Vec<u8>, AdmitError> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let metadata = str::from_utf8(&ctx.metadata).unwrap_or_default();
        serde_json::to_vec(&Posted {
            v: VERSION,
            kind: ctx.kind,
            req_id: format!("{:016x}-{number}", self.process),
            peer_key: ctx.peer_key.as_deref(),
            client_id: &ctx.client_id,
            channel: ctx.channel.as_deref(),
            metadata: object(metadata)?,
            identity: PostedIdentity {
                app: &ctx.app,
                key: ctx.key_name.as_deref(),
                identity_service_metadata: object(ctx.identity_metadata.as_deref().unwrap_or(""))?,
            },
            ip: ctx.ip.map(|ip| ip.to_string()),
            connection_type: ctx.connection_type,
            protocol: ctx.protocol,
        })
        .map_err(AdmitError::failed)
    }
}

/// The text of an object; an empty object without text.
fn object(text: &str) -> Result<&RawValue, AdmitError> {
    serde_json::from_str(if text.is_empty() { "{}" } else { text }).map_err(AdmitError::failed)
}

fn parse(body: &[u8]) -> Result<AdmitAnswer, AdmitError> {
    let malformed = |why: &str| AdmitError::Failed(format!("the webhook's answer: {why}"));
    let received: Received =
        serde_json::from_slice(body).map_err(|error| malformed(&error.to_string()))?;
    let mut answer = match received.allow {
        true => AdmitAnswer::allow(),
        false => {
            let reason = received.reason.filter(|reason| !reason.is_empty());
            let reason = reason.map(|reason| reason.chars().take(REASON_CHARS_MAX).collect());
            AdmitAnswer::deny(reason.unwrap_or_else(|| REASON_DEFAULT.to_owned()))
        }
    };
    if let Some(metadata) = received.identity_service_metadata {
        let text = Value::Object(metadata).to_string();
        if text.len() > IDENTITY_METADATA_BYTES_MAX {
            return Err(malformed("identity_service_metadata is too long"));
        }
        answer = answer.with_identity_metadata(Arc::<str>::from(text));
    }
    if let Some(ms) = received.retry_after_ms {
        answer = answer.with_retry_after(Duration::from_millis(ms));
    }
    Ok(answer.with_ttl(Duration::from_secs(received.ttl_s.unwrap_or_default())))
}

fn failure(error: ureq::Error) -> AdmitError {
    match error {
        ureq::Error::Timeout(_) => AdmitError::TimedOut,
        error => AdmitError::Failed(format!("the webhook: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::gate::tests::ctx;
    use super::*;

    #[test]
    fn a_question_has_every_field() {
        let webhook = Webhook::new("http://x/", "s", Duration::from_secs(1));
        let body: Value = serde_json::from_slice(&webhook.body(&ctx("u")).unwrap()).unwrap();
        let keys: Vec<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            keys.join(" "),
            "v kind req_id peer_key client_id channel metadata identity ip connection_type protocol"
        );
        assert_eq!((&body["v"], &body["kind"]), (&Value::from(1), &Value::from("publish")));
    }

    #[test]
    fn answers_are_read_as_they_are_meant_or_fail() {
        let ok = AdmitAnswer::allow();
        let no = |reason: &str| AdmitAnswer::deny(reason);
        let long = format!("{{\"allow\":false,\"reason\":\"{}\"}}", "x".repeat(300));
        for (body, expected) in [
            (r#"{"allow":true}"#, ok.clone()),
            (r#"{"allow":true,"limits":{"a":1},"ttl_s":3}"#, ok.with_ttl(Duration::from_secs(3))),
            (r#"{"allow":false}"#, no("denied")),
            (r#"{"allow":false,"reason":""}"#, no("denied")),
            (
                r#"{"allow":false,"reason":"no","retry_after_ms":5}"#,
                no("no").with_retry_after(Duration::from_millis(5)),
            ),
            (
                r#"{"allow":true,"identity_service_metadata":{"b": 1}}"#,
                AdmitAnswer::allow().with_identity_metadata(r#"{"b":1}"#),
            ),
            (&long, no(&"x".repeat(256))),
        ] {
            assert_eq!(parse(body.as_bytes()), Ok(expected), "{body}");
        }
        let heavy = format!(
            r#"{{"allow":true,"identity_service_metadata":{{"a":"{}"}}}}"#,
            "x".repeat(IDENTITY_METADATA_BYTES_MAX)
        );
        for body in ["", "{}", "null", r#"{"allow":1}"#, r#"{"allow":"yes"}"#, &heavy] {
            assert!(parse(body.as_bytes()).is_err(), "{body}");
        }
    }
}
