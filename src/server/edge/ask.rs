//! Questions to the admission hook: those of shards, for sessions, and those of REST requests.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::Edge;
use crate::policy::AdmitKind;
use crate::rest::{Caller, Refusal};
use crate::server::admission::{AdmitAnswer, AdmitCtx};
use crate::session::{Framing, peer_key_of};
use crate::shard::{Envelope, Question, Verdict};
use crate::wire::foony::ErrorCode;
use crate::wire::foony::peer::key_text;

/// How peers reached the server, in the words of the presence graph.
const OVER_WEBSOCKET: &str = "WebSocket";
const OVER_TCP: &str = "AccessPoint";

/// Asks the hook, and sends the verdict to the home of the session.
pub fn ask(edge: &Rc<Edge>, question: Question) {
    let edge = Rc::clone(edge);
    glommio::spawn_local(async move {
        let (addr, number) = (question.addr, question.number);
        let answer = match &edge.gate {
            Some(gate) => gate.decide(addr.shard.index(), context(question)).await,
            None => AdmitAnswer::deny("there is no admission hook"),
        };
        let verdict = Envelope::Verdict { conn: addr.conn, number, verdict: answer.into() };
        edge.client.send(addr.shard, verdict);
    })
    .detach();
}

/// Whether a REST request may be carried out.
///
/// # Errors
/// 403 with 40300 and the reason.
pub async fn admit(
    edge: &Edge,
    caller: &Caller<'_>,
    kind: AdmitKind,
    channel: &str,
    client_id: &Arc<str>,
) -> Result<(), Refusal> {
    // What the operator does needs no permission.
    let is_asked = edge.settings().asks.contains(kind) && !matches!(caller, Caller::Operator(_));
    let Some(gate) = edge.gate.as_ref().filter(|_| is_asked) else { return Ok(()) };
    let ctx = AdmitCtx {
        kind,
        app: Arc::clone(caller.app()),
        key_name: caller.key_name().cloned(),
        client_id: Arc::clone(client_id),
        channel: Some(channel.into()),
        peer_key: None,
        metadata: Default::default(),
        identity_metadata: caller.metadata().cloned(),
        ip: None,
        connection_type: OVER_WEBSOCKET,
        protocol: "rest",
    };
    let asker = usize::from(edge.settings().router.shards());
    match Verdict::from(gate.decide(asker, ctx).await) {
        Verdict::Allowed { .. } => Ok(()),
        Verdict::Denied(denial) => Err(Refusal::new(ErrorCode::Forbidden, denial.to_string())),
    }
}

/// How long the hook may take, if there is one.
pub fn hook_timeout(edge: &Edge) -> Duration {
    edge.gate.as_ref().map_or(Duration::ZERO, |gate| gate.timeout())
}

fn context(question: Question) -> AdmitCtx {
    let Question { kind, identity, grant, peer, channel, protocol, framing, ip, .. } = question;
    let key = match &peer {
        Some(peer) => Some(peer.key),
        // A client that is a peer says so behind its greeting.
        None if protocol == "peer" => None,
        None => Some(peer_key_of(&grant.app, &identity, None)),
    };
    AdmitCtx {
        kind,
        app: Arc::clone(&grant.app),
        key_name: grant.key_name.clone(),
        client_id: Arc::clone(&identity.user),
        channel: channel.map(|channel| (&*channel.name).into()),
        peer_key: key.map(|key| key_text(&key).into()),
        metadata: peer.map(|peer| peer.metadata.clone()).unwrap_or_default(),
        identity_metadata: identity.metadata().cloned(),
        ip: ip.map(|ip: IpAddr| ip.to_canonical()),
        connection_type: match framing {
            Framing::WebSocket => OVER_WEBSOCKET,
            Framing::Stream => OVER_TCP,
        },
        protocol,
    }
}
