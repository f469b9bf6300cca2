//! What a handler is asked.

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::client::{ConnectionType, JsonObject, Result, metadata};
use crate::wire::foony::peer::key_text;

/// A peer that wants to be connected to this client. Cheap to clone.
///
/// ```
/// use headcount::client::{ConnectionRequest, ConnectionRequestAuthorization};
///
/// fn decide(request: ConnectionRequest) -> ConnectionRequestAuthorization {
///     println!("{} in {}", request.peer_key_string(), request.channel());
///     match request.identity_service_metadata().get("site") {
///         Some(site) if *site == 3 => ConnectionRequestAuthorization::Allow,
///         _ => ConnectionRequestAuthorization::Deny,
///     }
/// }
/// # let _ = decide;
/// ```
#[derive(Clone)]
pub struct ConnectionRequest(Arc<Content>);

struct Content {
    peer_key: Vec<u8>,
    peer_key_string: String,
    peer_metadata: Document,
    identity_service_metadata: Document,
    connection_type: ConnectionType,
    channel: String,
}

struct Document {
    text: String,
    object: Arc<JsonObject>,
}

/// What a request is made of; both metadata are JSON objects.
pub(crate) struct RequestParts {
    pub(crate) peer_key: Vec<u8>,
    pub(crate) peer_metadata: String,
    pub(crate) identity_service_metadata: String,
    pub(crate) connection_type: ConnectionType,
    pub(crate) channel: String,
}

impl Document {
    /// What is no JSON object counts as `{}`.
    fn new(text: String) -> Self {
        match serde_json::from_str(&text) {
            Ok(object) => Self { text, object: Arc::new(object) },
            Err(_) => Self { text: "{}".to_string(), object: Arc::default() },
        }
    }
}

impl ConnectionRequest {
    pub(crate) fn new(parts: RequestParts) -> Self {
        Self(Arc::new(Content {
            peer_key_string: key_text(&parts.peer_key),
            peer_key: parts.peer_key,
            peer_metadata: Document::new(parts.peer_metadata),
            identity_service_metadata: Document::new(parts.identity_service_metadata),
            connection_type: parts.connection_type,
            channel: parts.channel,
        }))
    }

    /// Bytes of the peer's key.
    pub fn peer_key(&self) -> &[u8] {
        &self.0.peer_key
    }

    /// The peer's key: `pk` and the base64 of its bytes.
    pub fn peer_key_string(&self) -> &str {
        &self.0.peer_key_string
    }

    /// What the peer says of itself; empty when it says nothing.
    ///
    /// ```
    /// use headcount::client::ConnectionRequest;
    ///
    /// fn is_till(request: &ConnectionRequest) -> bool {
    ///     request.peer_metadata().get("role").is_some_and(|role| role == "till")
    /// }
    /// # let _ = is_till;
    /// ```
    pub fn peer_metadata(&self) -> Arc<JsonObject> {
        self.0.peer_metadata.object.clone()
    }

    /// What the peer says of itself, as it wrote it.
    pub fn peer_metadata_json_str(&self) -> &str {
        &self.0.peer_metadata.text
    }

    /// What the peer says of itself, as a type of the application.
    ///
    /// ```
    /// use headcount::client::ConnectionRequest;
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Till {
    ///     floor: u8,
    /// }
    ///
    /// fn is_upstairs(request: &ConnectionRequest) -> bool {
    ///     request.peer_metadata_serde::<Till>().is_ok_and(|till| till.floor > 0)
    /// }
    /// # let _ = is_upstairs;
    /// ```
    ///
    /// # Errors
    ///
    /// [`ClientError::InvalidJson`](crate::client::ClientError::InvalidJson) when the metadata is
    /// no such type.
    pub fn peer_metadata_serde<T: DeserializeOwned>(&self) -> Result<T> {
        metadata::serde(&self.0.peer_metadata.text)
    }

    /// What the server's operator says of the peer; empty when it says nothing.
    ///
    /// ```
    /// use headcount::client::ConnectionRequest;
    ///
    /// fn is_of_site(request: &ConnectionRequest, site: u64) -> bool {
    ///     request.identity_service_metadata().get("site").is_some_and(|of| *of == site)
    /// }
    /// # let _ = is_of_site;
    /// ```
    pub fn identity_service_metadata(&self) -> Arc<JsonObject> {
        self.0.identity_service_metadata.object.clone()
    }

    /// What the server's operator says of the peer, as text.
    pub fn identity_service_metadata_json_str(&self) -> &str {
        &self.0.identity_service_metadata.text
    }

    /// What the server's operator says of the peer, as a type of the application.
    ///
    /// ```
    /// use headcount::client::ConnectionRequest;
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Identity {
    ///     site: u64,
    /// }
    ///
    /// fn site(request: &ConnectionRequest) -> Option<u64> {
    ///     request.identity_service_metadata_serde::<Identity>().ok().map(|identity| identity.site)
    /// }
    /// # let _ = site;
    /// ```
    ///
    /// # Errors
    ///
    /// [`ClientError::InvalidJson`](crate::client::ClientError::InvalidJson) when the metadata is
    /// no such type.
    pub fn identity_service_metadata_serde<T: DeserializeOwned>(&self) -> Result<T> {
        metadata::serde(&self.0.identity_service_metadata.text)
    }

    /// The type of the connection that would be made.
    ///
    /// ```
    /// use headcount::client::{ConnectionRequest, ConnectionType};
    ///
    /// fn is_by_websocket(request: &ConnectionRequest) -> bool {
    ///     request.connection_type() == ConnectionType::WebSocket
    /// }
    /// # let _ = is_by_websocket;
    /// ```
    pub fn connection_type(&self) -> ConnectionType {
        self.0.connection_type
    }

    /// The first channel that both have in common.
    pub fn channel(&self) -> &str {
        &self.0.channel
    }
}

impl fmt::Debug for ConnectionRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionRequest")
            .field("peer_key", &self.peer_key_string())
            .field("peer_metadata", &self.peer_metadata_json_str())
            .field("connection_type", &self.connection_type())
            .field("channel", &self.channel())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn request(peer_metadata: &str) -> ConnectionRequest {
        ConnectionRequest::new(RequestParts {
            peer_key: vec![7],
            peer_metadata: peer_metadata.into(),
            identity_service_metadata: r#"{"site": 3}"#.into(),
            connection_type: ConnectionType::AccessPoint,
            channel: "kitchen".into(),
        })
    }

    #[test]
    fn a_request_tells_all_that_is_known_of_the_peer() {
        fn check<T: Send + Sync + Clone>(_: &T) {}
        let request = request(r#"{ "role":"till"}"#);
        check(&request);
        assert_eq!((request.peer_key(), request.peer_key_string()), (&[7][..], "pkBw"));
        assert_eq!(request.peer_metadata()["role"], "till");
        assert_eq!(request.peer_metadata_json_str(), r#"{ "role":"till"}"#);
        let role = BTreeMap::from([("role".to_string(), "till".to_string())]);
        assert_eq!(request.peer_metadata_serde(), Ok(role));
        assert_eq!(request.identity_service_metadata()["site"], 3);
        assert_eq!(request.identity_service_metadata_json_str(), r#"{"site": 3}"#);
        let site = BTreeMap::from([("site".to_string(), 3)]);
        assert_eq!(request.identity_service_metadata_serde(), Ok(site));
        assert_eq!(request.connection_type(), ConnectionType::AccessPoint);
        assert_eq!(request.channel(), "kitchen");
    }

    #[test]
    fn metadata_that_is_no_object_counts_as_empty() {
        for text in ["", "[1]", "null", "{"] {
            let request = request(text);
            assert_eq!(request.peer_metadata_json_str(), "{}", "{text}");
            assert!(request.peer_metadata().is_empty());
        }
    }
}
