//! How a client is made.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{BoxError, ClientError, Result};
use crate::client::protocol::Credential;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const GRAPH_INTERVAL: Duration = Duration::from_millis(50);
const CONNECTION_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECTION_REQUEST_TIMEOUTS: (Duration, Duration) =
    (Duration::from_millis(100), Duration::from_secs(60));

/// Where a client connects to, as whom, and how.
///
/// Nothing is checked before [`Client::connect`](super::Client::connect).
///
/// ```
/// use headcount::client::prelude::*;
///
/// let config = ClientConfig::new("ws://127.0.0.1:8080")
///     .key("app.kid:secret")
///     .client_id("till-1")
///     .join("shop");
/// assert!(!format!("{config:?}").contains("secret"));
/// ```
#[derive(Clone)]
pub struct ClientConfig {
    pub(super) url: String,
    pub(super) credential: CredentialSource,
    pub(super) client_id: Option<String>,
    pub(super) device_name: Option<String>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) connect_timeout: Duration,
    pub(super) backoff: Backoff,
    pub(super) graph_interval: Duration,
    pub(super) connection_request_timeout: Duration,
    pub(super) joins: Vec<String>,
    pub(super) signs_metadata: bool,
}

/// How long to wait between two attempts to connect: a random part of a time that doubles from
/// `first` to `max`.
///
/// ```
/// use std::time::Duration;
///
/// use headcount::client::prelude::*;
///
/// let backoff = Backoff { first: Duration::from_millis(500), max: Duration::from_secs(60) };
/// let config = ClientConfig::new("ws://127.0.0.1:7400").backoff(backoff);
/// # let _ = config;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Longest wait before the second attempt.
    pub first: Duration,
    /// Longest wait before any attempt.
    pub max: Duration,
}

type TokenProvider = dyn Fn() -> std::result::Result<String, BoxError> + Send + Sync;

/// Where the credential comes from.
#[derive(Clone)]
pub(super) enum CredentialSource {
    Fixed(Credential),
    /// Asked before each connection.
    Provider(Arc<TokenProvider>),
}

impl ClientConfig {
    /// A client of the server at this URL: `ws://HOST[:PORT][/PATH]`; without a port, 80. Others,
    /// such as `wss://`, are a [`ClientError::Config`] when the client is made. Without a
    /// credential it connects anonymously.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// let client = Client::connect_lazy(ClientConfig::new("ws://127.0.0.1:9/realtime"))?;
    /// let wrong = Client::connect_lazy(ClientConfig::new("http://127.0.0.1:9"));
    /// assert!(matches!(wrong, Err(ClientError::Config { .. })));
    /// # drop(client);
    /// # Ok::<(), ClientError>(())
    /// ```
    pub fn new(url: impl Into<String>) -> Self {
        ClientConfig {
            url: url.into(),
            credential: CredentialSource::Fixed(Credential::Key(String::new())),
            client_id: None,
            device_name: None,
            state_dir: None,
            connect_timeout: CONNECT_TIMEOUT,
            backoff: Backoff { first: Duration::from_millis(100), max: Duration::from_secs(30) },
            graph_interval: GRAPH_INTERVAL,
            connection_request_timeout: CONNECTION_REQUEST_TIMEOUT,
            joins: Vec::new(),
            signs_metadata: false,
        }
    }

    /// Connects with an API key, `app.kid:secret`. Of several credentials the last one is used.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// let config = ClientConfig::new("ws://127.0.0.1:7400").key("app.kid:secret");
    /// # let _ = config;
    /// ```
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.credential = CredentialSource::Fixed(Credential::Key(key.into()));
        self
    }

    /// Connects with a JWT. The client id is its subject. A client whose token expires is closed;
    /// see [`token_provider`](Self::token_provider).
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// # let jwt = "header.claims.signature";
    /// let config = ClientConfig::new("ws://127.0.0.1:7400").token(jwt);
    /// # let _ = config;
    /// ```
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.credential = CredentialSource::Fixed(Credential::Token(token.into()));
        self
    }

    /// Calls `provider`, on a thread of its own, for a new JWT before each connection. After an
    /// error, or when the server does not accept the JWT, the client tries again later.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// let config = ClientConfig::new("ws://127.0.0.1:7400")
    ///     .token_provider(|| Ok(std::fs::read_to_string("/run/secrets/headcount-jwt")?));
    /// # let _ = config;
    /// ```
    pub fn token_provider(
        mut self,
        provider: impl Fn() -> std::result::Result<String, BoxError> + Send + Sync + 'static,
    ) -> Self {
        self.credential = CredentialSource::Provider(Arc::new(provider));
        self
    }

    /// Connects without a credential, where the server allows it. This is the default.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// let config = ClientConfig::new("ws://127.0.0.1:7400").anonymous();
    /// # let _ = config;
    /// ```
    pub fn anonymous(mut self) -> Self {
        self.credential = CredentialSource::Fixed(Credential::Key(String::new()));
        self
    }

    /// The name of the client for others. By default the server chooses one. With a JWT its subject
    /// is the name.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// let config = ClientConfig::new("ws://127.0.0.1:7400").client_id("till-1");
    /// # let _ = config;
    /// ```
    pub fn client_id(mut self, id: impl Into<String>) -> Self {
        self.client_id = Some(id.into());
        self
    }

    /// The name of the device in the presence graph. By default that of the host.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// let config = ClientConfig::new("ws://127.0.0.1:9").device_name("till at the door");
    /// let client = Client::connect_lazy(config)?;
    /// assert_eq!(client.presence().graph().local_peer.device_name, "till at the door");
    /// # Ok::<(), ClientError>(())
    /// ```
    pub fn device_name(mut self, name: impl Into<String>) -> Self {
        self.device_name = Some(name.into());
        self
    }

    /// Keeps the peer metadata and the identity of this device in a directory, which is made with
    /// mode 0700, its files with 0600. By default nothing is kept. A directory that cannot be used
    /// is a [`ClientError::Io`] when the client is made.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// # let dir = std::env::temp_dir().join(format!("headcount-doc-{}", std::process::id()));
    /// let config = ClientConfig::new("ws://127.0.0.1:9").state_dir(&dir);
    /// Client::connect_lazy(config.clone())?.presence().set_peer_metadata_json_str(r#"{"n":1}"#)?;
    ///
    /// let after_restart = Client::connect_lazy(config)?;
    /// assert_eq!(after_restart.presence().peer_metadata_json_str(), r#"{"n":1}"#);
    /// # drop(std::fs::remove_dir_all(&dir));
    /// # Ok::<(), ClientError>(())
    /// ```
    pub fn state_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(path.into());
        self
    }

    /// Longest time from the call of [`Client::connect`](super::Client::connect) to its return. By
    /// default 10 s.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # use headcount::client::prelude::*;
    /// # let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    /// # let url = format!("ws://{}", silent.local_addr().expect("an address"));
    /// let config = ClientConfig::new(url).connect_timeout(Duration::from_millis(50));
    /// let connected = Client::connect(config).map(drop);
    /// assert_eq!(connected, Err(ClientError::Timeout));
    /// ```
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Waits between attempts to connect. By default 100 ms, doubling to 30 s; of each wait a
    /// random part.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// # use std::time::Duration;
    /// let backoff = Backoff { first: Duration::from_millis(500), max: Duration::from_secs(60) };
    /// let config = ClientConfig::new("ws://127.0.0.1:7400").backoff(backoff);
    /// # let _ = config;
    /// ```
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Least time between two calls of one graph observer while the client is live; zero calls it
    /// for every change. By default 50 ms.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// use std::time::Duration;
    ///
    /// let twice_a_second = Duration::from_millis(500);
    /// let config = ClientConfig::new("ws://127.0.0.1:7400").graph_interval(twice_a_second);
    /// # let _ = config;
    /// ```
    pub fn graph_interval(mut self, interval: Duration) -> Self {
        self.graph_interval = interval;
        self
    }

    /// How long a connection request handler may take before the server denies the request. By
    /// default 10 s; shorter times than 100 ms count as 100 ms, longer ones than 60 s as 60 s.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// use std::time::Duration;
    ///
    /// let config = ClientConfig::new("ws://127.0.0.1:7400")
    ///     .connection_request_timeout(Duration::from_secs(2));
    /// # let _ = config;
    /// ```
    pub fn connection_request_timeout(mut self, timeout: Duration) -> Self {
        let (least, most) = CONNECTION_REQUEST_TIMEOUTS;
        self.connection_request_timeout = timeout.clamp(least, most);
        self
    }

    /// Joins a channel on every connection: its members are the peers of the presence graph. May be
    /// called several times. [`Client::connect`](super::Client::connect) waits for it.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// let config = ClientConfig::new("ws://127.0.0.1:7400").join("shop").join("office");
    /// # let _ = config;
    /// ```
    pub fn join(mut self, channel: impl Into<String>) -> Self {
        self.joins.push(channel.into());
        self
    }

    /// Signs the peer metadata, with an Ed25519 key that is kept in the state directory; without
    /// one, for the life of the client. The public key becomes the key of this peer. Others see
    /// with [`Peer::metadata_trust`](crate::client::Peer::metadata_trust) that the metadata is what
    /// this client has signed last. A server without the presence graph does not greet such a
    /// client.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// let config = ClientConfig::new("ws://127.0.0.1:7400")
    ///     .state_dir("/var/lib/till")
    ///     .sign_metadata();
    /// # let _ = config;
    /// ```
    pub fn sign_metadata(mut self) -> Self {
        self.signs_metadata = true;
        self
    }

    /// The address of the server.
    ///
    /// # Errors
    /// [`ClientError::Config`].
    pub(super) fn endpoint(&self) -> Result<Endpoint> {
        let wrong = |why: &str| ClientError::Config { why: format!("{}: {why}", self.url) };
        let rest = match self.url.split_once("://") {
            Some(("ws", rest)) => rest,
            Some(("wss", _)) => return Err(wrong("TLS is not supported: use ws://")),
            _ => return Err(wrong("write it as ws://HOST:PORT")),
        };
        let split = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(split);
        if authority.is_empty() || authority.contains(['@', '#', ' ']) {
            return Err(wrong("it names no host"));
        }
        let has_port = authority.rsplit_once(':').is_some_and(|(host, port)| {
            port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']'))
        });
        let host = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        let path = match path {
            path if path.starts_with('/') => path.to_owned(),
            query => format!("/{query}"),
        };
        if path.bytes().any(|byte| byte <= b' ' || byte == 0x7f || byte == b'#') {
            return Err(wrong("its path is not that of a URL"));
        }
        Ok(Endpoint { host, path })
    }
}

/// A server, and where on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// With its port.
    pub host: String,
    pub path: String,
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig")
            .field("url", &self.url)
            .field("credential", &self.credential)
            .field("client_id", &self.client_id)
            .field("device_name", &self.device_name)
            .field("state_dir", &self.state_dir)
            .field("joins", &self.joins)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for CredentialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CredentialSource::Fixed(credential) => credential.fmt(f),
            CredentialSource::Provider(_) => f.write_str("Provider(..)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_host_a_port_and_a_path() {
        let cases = [
            ("ws://localhost:8080", Some(("localhost:8080", "/"))),
            ("ws://localhost", Some(("localhost:80", "/"))),
            ("ws://[::1]:9/a/b?x=1", Some(("[::1]:9", "/a/b?x=1"))),
            ("ws://[::1]", Some(("[::1]:80", "/"))),
            ("ws://host?channel=a", Some(("host:80", "/?channel=a"))),
            ("wss://localhost:8080", None),
            ("http://localhost", None),
            ("localhost:8080", None),
            ("ws://", None),
            ("ws://user@host", None),
            ("ws://host/a b", None),
            ("ws://host/a\r\nX: y", None),
        ];
        for (url, expected) in cases {
            let endpoint = ClientConfig::new(url).endpoint().ok();
            let found = endpoint.as_ref().map(|e| (e.host.as_str(), e.path.as_str()));
            assert_eq!(found, expected, "{url}");
        }
    }

    #[test]
    fn debug_shows_no_secrets() {
        for config in [
            ClientConfig::new("ws://a").key("app.k:hush"),
            ClientConfig::new("ws://a").token("hush"),
            ClientConfig::new("ws://a").token_provider(|| Ok("hush".to_owned())),
        ] {
            assert!(!format!("{config:?}").contains("hush"), "{config:?}");
        }
    }
}
