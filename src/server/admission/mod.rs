//! Admission: a hook decides who may connect, subscribe, be present and publish.
//!
//! The hook is a value of the embedding program ([`AdmissionHook`]), or an HTTP service
//! ([`webhook`]). It is asked by the edge executor for sessions of every protocol, which wait at
//! their homes, and for REST requests. [`gate`] bounds how often and for how long.
//!
//! | full | policy | reported to | counter |
//! |---|---|---|---|
//! | questions of one shard in progress | the others wait, within their time | - | `admission_requests{timeout}` |
//! | queue of a [`Blocking`] hook | the question fails | client: a denial, unless `on_timeout = "allow"` | `admission_requests{error}` |
//! | answers in the cache | the oldest is evicted | - | - |

mod blocking;
mod cache;
pub(super) mod gate;
pub(super) mod webhook;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

pub use crate::policy::AdmitKind;
pub use blocking::Blocking;

use crate::session::Denial;
use crate::shard::Verdict;

/// Decides who may connect, subscribe, be present and publish.
///
/// It is called on an executor that serves many other requests, so it must return at once: what
/// takes time belongs into the future, and what blocks into a [`Blocking`] hook. A hook that
/// panics, fails or gives no answer within `timeout_ms` of `[admission]` denies, unless
/// `on_timeout` says otherwise.
///
/// ```
/// use headcount::server::{AdmissionHook, AdmitAnswer, AdmitCtx, AdmitFuture, AdmitKind};
///
/// /// Only employees publish.
/// struct Employees;
///
/// impl AdmissionHook for Employees {
///     fn admit(&self, ctx: &AdmitCtx) -> AdmitFuture {
///         let is_employee = ctx.client_id.ends_with("@example.com");
///         let answer = match ctx.kind {
///             AdmitKind::Publish if !is_employee => AdmitAnswer::deny("read only"),
///             _ => AdmitAnswer::allow(),
///         };
///         Box::pin(std::future::ready(Ok(answer)))
///     }
/// }
/// ```
pub trait AdmissionHook: Send + Sync {
    /// Begins to decide. The future is polled on the thread of the call.
    fn admit(&self, ctx: &AdmitCtx) -> AdmitFuture;
}

/// The answer of a hook, later.
pub type AdmitFuture = Pin<Box<dyn Future<Output = Result<AdmitAnswer, AdmitError>>>>;

/// Who wants to do what. Of equal questions only one is asked at a time, and an answer with a time
/// to live holds for all of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct AdmitCtx {
    pub kind: AdmitKind,
    pub app: Arc<str>,
    /// The key of the credential; `None` for an anonymous session.
    pub key_name: Option<Arc<str>>,
    /// The user. Empty for a REST request with a key, which may act for any.
    pub client_id: Arc<str>,
    /// `None` for [`AdmitKind::Connect`].
    pub channel: Option<Arc<str>>,
    /// The key in the presence graph: `pk` and base64. `None` where it is not known yet, as when a
    /// client that is a peer connects.
    pub peer_key: Option<Box<str>>,
    /// What the client says of itself, the text of a JSON object; empty without a peer.
    pub metadata: Bytes,
    /// What the operator says of the user: the text of a JSON object in a claim of the token, of
    /// the key, or in the answer to [`AdmitKind::Connect`].
    pub identity_metadata: Option<Arc<str>>,
    /// The address of the client, if the server knows it: not behind a PROXY header, and not of
    /// HTTP requests.
    pub ip: Option<IpAddr>,
    /// How the client reached the server, in the words of the presence graph.
    pub connection_type: &'static str,
    /// `foony`, `peer` (Foony with the presence graph), `sync` or `rest`.
    pub protocol: &'static str,
}

/// What a hook decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmitAnswer {
    denial: Option<Arc<str>>,
    retry_after: Option<Duration>,
    identity_metadata: Option<Arc<str>>,
    ttl: Duration,
}

impl AdmitAnswer {
    /// It may be done.
    pub fn allow() -> Self {
        AdmitAnswer {
            denial: None,
            retry_after: None,
            identity_metadata: None,
            ttl: Duration::ZERO,
        }
    }

    /// It may not, for this reason, which the client is sent if its protocol has a place for it.
    pub fn deny(reason: impl Into<Arc<str>>) -> Self {
        AdmitAnswer { denial: Some(reason.into()), ..AdmitAnswer::allow() }
    }

    /// The time that this answer holds for, for equal questions; at most a day. Without one every
    /// question is asked.
    pub fn with_ttl(self, ttl: Duration) -> Self {
        AdmitAnswer { ttl, ..self }
    }

    /// When a denied client may try again.
    pub fn with_retry_after(self, retry_after: Duration) -> Self {
        AdmitAnswer { retry_after: Some(retry_after), ..self }
    }

    /// What other peers are sent of the user: the text of a JSON object of at most 4,096 bytes.
    /// Only of use in the answer to [`AdmitKind::Connect`].
    pub fn with_identity_metadata(self, json_object: impl Into<Arc<str>>) -> Self {
        AdmitAnswer { identity_metadata: Some(json_object.into()), ..self }
    }

    /// Whether it may be done.
    pub fn is_allowed(&self) -> bool {
        self.denial.is_none()
    }
}

impl From<AdmitAnswer> for Verdict {
    fn from(answer: AdmitAnswer) -> Self {
        match answer.denial {
            None => Verdict::Allowed { metadata: answer.identity_metadata },
            Some(reason) => Verdict::Denied(Arc::new(Denial {
                reason: (&*reason).into(),
                retry_after_ms: answer.retry_after.map(|after| after.as_millis() as u64),
            })),
        }
    }
}

/// Why a hook has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AdmitError {
    #[error("no answer in time")]
    TimedOut,
    #[error("{0}")]
    Failed(String),
}

impl AdmitError {
    /// It failed, for this reason.
    pub fn failed(why: impl ToString) -> Self {
        AdmitError::Failed(why.to_string())
    }
}
