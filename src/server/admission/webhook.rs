//! The hook as an HTTP service: a signed `POST` for each question, on a pool of threads.

use std::fmt::Write;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use sha2::Sha256;
use ureq::Agent;

use super::{AdmitAnswer, AdmitCtx, AdmitError, Blocking};
use crate::limits::IDENTITY_METADATA_BYTES_MAX;

/// Version of the questions.
const VERSION: u32 = 1;

/// Header with the time and the signature.
const SIGNATURE: &str = "headcount-signature";

/// Longest answer in bytes; more is a failure.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Longest reason that is passed on, characters.
const REASON_CHARS_MAX: usize = 256;

/// What a client is told when the service gives no reason.
const REASON_DEFAULT: &str = "denied";

/// Threads of the pool, at most: questions in progress beyond it wait for one.
const THREADS_MAX: usize = 256;

/// Idle connections are closed before most services close them.
const IDLE: Duration = Duration::from_secs(4);

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
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            // A proxy that the environment names is not for the operator's own service.
            .proxy(None)
            .timeout_global(Some(timeout))
            .max_idle_connections(THREADS_MAX)
            .max_idle_connections_per_host(THREADS_MAX)
            .max_idle_age(IDLE)
            .build()
            .new_agent();
        let mut random = [0; size_of::<u64>()];
        // Without randomness the clock tells processes apart.
        let process = match getrandom::fill(&mut random) {
            Ok(()) => u64::from_ne_bytes(random),
            Err(_) => unix_seconds(),
        };
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
        let signature = signature(&self.secret, unix_seconds(), &body)?;
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

/// `t=<unix seconds>,v1=<hexadecimal HMAC-SHA256 of "<t>.<body>">`.
fn signature(secret: &[u8], at_s: u64, body: &[u8]) -> Result<String, AdmitError> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).map_err(AdmitError::failed)?;
    mac.update(format!("{at_s}.").as_bytes());
    mac.update(body);
    let mut text = format!("t={at_s},v1=");
    for byte in mac.finalize().into_bytes() {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
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

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::super::gate::tests::ctx;
    use super::*;

    /// From another implementation (Python's `hmac`).
    #[test]
    fn the_signature_is_an_hmac_of_the_time_and_the_body() {
        let signed = signature("sécret".as_bytes(), 1_700_000_000, b"{\"v\":1}").unwrap();
        assert_eq!(
            signed,
            "t=1700000000,v1=c1fb279ab3c6f3d8d7aa69922907df8be2462d00b67107ccc4b190514c46c993"
        );
    }

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
