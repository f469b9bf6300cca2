//! Request bodies: a limit for each, and a budget for all of them.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future;
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::Body;
use hyper::header::{CONTENT_ENCODING, HeaderValue};

use super::Edge;
use crate::rest::Refusal;

/// Bytes of request bodies in memory, over all connections. A request above it is answered 503.
const BODIES_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Time for a body to arrive. Then the request is answered 408.
const BODY_WITHIN: Duration = Duration::from_secs(30);

/// Time for the rest of a body when the server stops. Then the request is answered 503.
const BODY_WHEN_STOPPING: Duration = Duration::from_secs(5);

/// Bytes of request bodies in memory.
#[derive(Clone, Default)]
pub struct BodyBudget(Rc<Cell<usize>>);

/// A body, charged to the budget until it is dropped.
pub struct HeldBody {
    pub bytes: Vec<u8>,
    charged: usize,
    budget: BodyBudget,
}

impl HeldBody {
    fn extend(&mut self, data: &[u8], bytes_max: usize) -> Result<(), Refusal> {
        if self.charged + data.len() > bytes_max {
            return Err(Refusal::too_large());
        }
        let all = self.budget.0.get() + data.len();
        if all > BODIES_BYTES_MAX {
            return Err(Refusal::busy());
        }
        self.budget.0.set(all);
        self.charged += data.len();
        self.bytes.extend_from_slice(data);
        Ok(())
    }
}

impl Drop for HeldBody {
    fn drop(&mut self) {
        self.budget.0.set(self.budget.0.get() - self.charged);
    }
}

/// Reads a whole body.
///
/// # Errors
/// 415 for a content coding, before anything is read; 413, 408, 503 when the budget is used up or
/// the server stops, 400 when it ends early.
pub async fn read(
    edge: &Edge,
    headers: &HeaderMap,
    body: impl Body<Data = Bytes> + Unpin,
    bytes_max: usize,
) -> Result<HeldBody, Refusal> {
    check_coding(headers)?;
    let late = async {
        glommio::timer::sleep(BODY_WITHIN).await;
        Err(Refusal::too_slow())
    };
    let stopping = async {
        edge.stop.begun().await;
        glommio::timer::sleep(BODY_WHEN_STOPPING).await;
        Err(Refusal::stopping())
    };
    future::or(collect(&edge.bodies, body, bytes_max), future::or(late, stopping)).await
}

/// Bodies are not decompressed: a compressed one would be reported as malformed.
fn check_coding(headers: &HeaderMap) -> Result<(), Refusal> {
    let is_plain = |value: &HeaderValue| {
        let codings = value.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        codings
            .into_iter()
            .all(|coding| coding.is_empty() || coding.eq_ignore_ascii_case(b"identity"))
    };
    match headers.get_all(CONTENT_ENCODING).iter().all(is_plain) {
        true => Ok(()),
        false => Err(Refusal::content_coding()),
    }
}

async fn collect(
    budget: &BodyBudget,
    mut body: impl Body<Data = Bytes> + Unpin,
    bytes_max: usize,
) -> Result<HeldBody, Refusal> {
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(Refusal::too_large());
    }
    let mut held = HeldBody { bytes: Vec::new(), charged: 0, budget: budget.clone() };
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::bad("the body ended early"))?;
        if let Some(data) = frame.data_ref() {
            held.extend(data, bytes_max)?;
        }
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::stream;
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;

    fn chunks(chunks: Vec<Result<&'static [u8], &'static str>>) -> impl Body<Data = Bytes> + Unpin {
        let frames = chunks.into_iter().map(|chunk| chunk.map(Bytes::from_static).map(Frame::data));
        StreamBody::new(stream::iter(frames))
    }

    fn status(read: Result<HeldBody, Refusal>) -> u16 {
        read.err().map_or(200, |refusal| refusal.status)
    }

    #[test]
    fn a_body_is_read_to_its_limit() {
        let budget = BodyBudget::default();
        let whole = future::block_on(collect(&budget, chunks(vec![Ok(b"ab"), Ok(b"cd")]), 4));
        let held = whole.unwrap_or_else(|refusal| panic!("{refusal:?}"));
        assert_eq!((held.bytes.as_slice(), budget.0.get()), (&b"abcd"[..], 4));
        drop(held);
        let declared = Full::new(Bytes::from_static(b"abcde"));
        assert_eq!(status(future::block_on(collect(&budget, declared, 4))), 413);
        let endless = chunks(vec![Ok(b"ab"), Ok(b"cde")]);
        assert_eq!(status(future::block_on(collect(&budget, endless, 4))), 413);
        let broken = chunks(vec![Ok(b"ab"), Err("lost")]);
        assert_eq!(status(future::block_on(collect(&budget, broken, 4))), 400);
        assert_eq!(budget.0.get(), 0, "nothing is held any more");
    }

    #[test]
    fn only_the_identity_coding_is_read() {
        for (values, expected) in [
            (&[][..], 200),
            (&["identity"], 200),
            (&["Identity , identity"], 200),
            (&[""], 200),
            (&["gzip"], 415),
            (&["br"], 415),
            (&["identity, gzip"], 415),
            (&["identity", "deflate"], 415),
            (&["x"], 415),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CONTENT_ENCODING, HeaderValue::from_static(value));
            }
            let status = check_coding(&headers).err().map_or(200, |refusal| refusal.status);
            assert_eq!(status, expected, "{values:?}");
        }
    }

    #[test]
    fn all_bodies_together_have_a_budget() {
        let budget = BodyBudget::default();
        budget.0.set(BODIES_BYTES_MAX - 4);
        let read = |bytes: &'static [u8]| {
            status(future::block_on(collect(&budget, chunks(vec![Ok(bytes)]), 100)))
        };
        assert_eq!(read(b"abcd"), 200);
        assert_eq!(read(b"abcde"), 503);
        assert_eq!(budget.0.get(), BODIES_BYTES_MAX - 4);
    }
}
