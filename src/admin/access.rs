//! Authorization of requests on the admin address.

use subtle::ConstantTimeEq;

use super::routes::{Api, AppApi, Route, ServerApi};
use crate::auth::{
    CredentialError, Key, Keyring, MetricsAccess, Operation, is_direct_host, without_port,
};
use crate::rest::{Caller, Refusal};

/// Who can connect to the admin address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Programs on this machine only; they need no credential.
    ThisMachine,
    Network,
}

/// Whose keys the server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// Its own development key, which any user of the machine is given.
    Development,
    Configured,
}

/// How a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    Direct,
    /// A proxy says that it has forwarded it.
    Proxy,
}

/// The access rules of the admin address.
#[derive(Debug)]
pub struct Access {
    pub reach: Reach,
    pub keys: Keys,
    pub metrics: MetricsAccess,
    /// The admin token, which grants everything; `None` when none is configured.
    pub token: Option<Box<str>>,
    /// Host names that are accepted besides IP addresses and names without a dot.
    pub hosts: Vec<String>,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// 421: the `Host` is another machine's, as in a DNS rebinding attack by a web page.
    Host,
    /// 401; with the cause when a credential was sent.
    Unauthenticated(String, Option<CredentialError>),
    /// 403.
    Forbidden(String),
}

impl Access {
    /// Checks the `Host` header. Not needed where a credential is required.
    ///
    /// # Errors
    /// [`Denied::Host`].
    pub fn check_host(&self, host: Option<&str>) -> Result<(), Denied> {
        let is_known = |host: &str| {
            let named = |name: &String| name.eq_ignore_ascii_case(without_port(host));
            is_direct_host(host) || self.hosts.iter().any(named)
        };
        match self.reach {
            Reach::ThisMachine if !host.is_none_or(is_known) => Err(Denied::Host),
            _ => Ok(()),
        }
    }

    /// Checks the credential of a request. Returns the key of an application that sent it; `None`
    /// for whoever runs the server. `prefix`: of the channels that are to be listed.
    ///
    /// # Errors
    /// [`Denied::Unauthenticated`] and [`Denied::Forbidden`].
    pub fn check<'k>(
        &self,
        route: &Route,
        via: Via,
        prefix: &str,
        authorization: Option<&[u8]>,
        keyring: &'k Keyring,
        now_wall_ms: u64,
    ) -> Result<Option<&'k Key>, Denied> {
        if !self.needs_credential(route, via) || self.is_token(authorization) {
            return Ok(None);
        }
        let key_of = |app| key_of_app(app, authorization, keyring, now_wall_ms);
        let key = match route {
            Route::Api(Api::Channel { app, channel, .. }) => {
                let key = key_of(app)?;
                let allowed = key.capability().allows(channel, Operation::Admin);
                allowed.map_err(|_| not_allowed(Operation::Admin, channel)).map(|()| key)
            }
            Route::Api(Api::App { app, request: AppApi::Channels }) => {
                check_below(key_of(app)?, prefix)
            }
            Route::Api(Api::App { app, request: AppApi::UserStatus }) => {
                check_below(key_of(app)?, "")
            }
            Route::Metrics => Err(needs("/metrics needs the admin token")),
            // A token may do more than the key that asks for it.
            _ => Err(needs("this needs the admin token")),
        };
        key.map(Some)
    }

    /// Whether the sender has to show a credential. On this machine what only reads needs none.
    fn needs_credential(&self, route: &Route, via: Via) -> bool {
        let is_local = self.reach == Reach::ThisMachine && via == Via::Direct;
        match route {
            Route::Metrics => self.metrics == MetricsAccess::Token,
            Route::Api(Api::Server(ServerApi::OpenApi | ServerApi::Health)) => false,
            // It acts for anybody, which keys in the configuration are to prevent.
            Route::Api(Api::App { request: AppApi::Token, .. }) => {
                !is_local || self.token.is_some() || self.keys == Keys::Configured
            }
            Route::Api(request) if request.changes_something() => !is_local || self.token.is_some(),
            Route::Api(_) => !is_local,
            _ => false,
        }
    }

    /// Checks that no page of another site sent a request which changes something. `origin` and
    /// `host`: the headers.
    ///
    /// # Errors
    /// [`Denied::Forbidden`].
    pub fn check_origin(&self, origin: Option<&str>, host: Option<&str>) -> Result<(), Denied> {
        let Some(origin) = origin else { return Ok(()) };
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        let is_named = |authority: &str| {
            let host = without_port(authority);
            self.hosts.iter().any(|name| name.eq_ignore_ascii_case(host))
        };
        match authority.is_some_and(|authority| Some(authority) == host || is_named(authority)) {
            true => Ok(()),
            false => Err(Denied::Forbidden("a page of another site may not do this".into())),
        }
    }

    /// Whether the header is `Bearer` with the admin token.
    fn is_token(&self, authorization: Option<&[u8]>) -> bool {
        let Some(token) = &self.token else { return false };
        let shown = authorization.and_then(bearer);
        shown.is_some_and(|shown| bool::from(shown.ct_eq(token.as_bytes())))
    }
}

/// The token of a `Bearer` header.
fn bearer(header: &[u8]) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"Bearer ";
    let (scheme, token) = header.split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then(|| token.trim_ascii())
}

fn needs(what: &str) -> Denied {
    Denied::Unauthenticated(what.to_owned(), None)
}

/// An API key of the app. Tokens, which are for clients, are refused.
fn key_of_app<'k>(
    app: &str,
    authorization: Option<&[u8]>,
    keyring: &'k Keyring,
    now_wall_ms: u64,
) -> Result<&'k Key, Denied> {
    let credential = "this needs the admin token, or a key of the app that allows `admin`";
    let Some(header) = authorization else { return Err(needs(credential)) };
    if bearer(header).is_some() {
        return Err(needs(&format!("{credential}, and not another token")));
    }
    let unauthenticated =
        |refusal: Refusal| Denied::Unauthenticated(refusal.message().into(), refusal.cause());
    let caller = Caller::identify(keyring, Some(header), now_wall_ms).map_err(unauthenticated)?;
    match caller {
        Caller::Key(key) if **key.app() == *app => Ok(key),
        Caller::Key(_) => Err(Denied::Forbidden(format!("the key is not of the app {app}"))),
        _ => Err(needs(credential)),
    }
}

/// Checks that a key allows `admin` on all channels whose names begin so.
fn check_below<'k>(key: &'k Key, prefix: &str) -> Result<&'k Key, Denied> {
    match key.capability().allows_below(prefix, Operation::Admin) {
        true => Ok(key),
        false => Err(not_allowed(Operation::Admin, &format!("{prefix}*"))),
    }
}

fn not_allowed(operation: Operation, channels: &str) -> Denied {
    let operation: &str = operation.into();
    Denied::Forbidden(format!("the key does not allow `{operation}` on `{channels}`"))
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::super::routes::ChannelApi;
    use super::*;

    fn keyring() -> Keyring {
        let key = |text, capability: &str| Key::from_text(text, capability.parse().unwrap());
        let all = key("demo.all:s1", r#"{"*":["*"]}"#).unwrap();
        let admin = key("demo.admin:s2", r#"{"doc:*":["admin"]}"#).unwrap();
        let client = key("demo.client:s3", r#"{"*":["presence","history"]}"#).unwrap();
        let other = key("other.all:s4", r#"{"*":["*"]}"#).unwrap();
        Keyring::new(vec![all, admin, client, other]).unwrap()
    }

    fn access(reach: Reach, metrics: MetricsAccess) -> Access {
        let (token, hosts) = (Some("admin-token".into()), vec!["ops.example".into()]);
        Access { reach, keys: Keys::Configured, metrics, token, hosts }
    }

    fn basic(key: &str) -> String {
        format!("Basic {}", STANDARD.encode(key))
    }

    fn status(access: &Access, route: &Route, authorization: &str) -> u16 {
        let shown = Some(authorization.as_bytes()).filter(|header| !header.is_empty());
        match access.check(route, Via::Direct, "doc:", shown, &keyring(), 0) {
            Ok(_) => 200,
            Err(Denied::Host) => 421,
            Err(Denied::Unauthenticated(..)) => 401,
            Err(Denied::Forbidden(_)) => 403,
        }
    }

    fn about(channel: &str) -> Route {
        let (app, channel) = ("demo".to_owned(), channel.to_owned());
        Route::Api(Api::Channel { app, channel, request: ChannelApi::Members })
    }

    fn publish(channel: &str) -> Route {
        let (app, channel) = ("demo".to_owned(), channel.to_owned());
        Route::Api(Api::Channel { app, channel, request: ChannelApi::Publish })
    }

    #[test]
    fn a_key_reaches_as_far_as_its_capability_and_the_token_everywhere() {
        let network = access(Reach::Network, MetricsAccess::Open);
        let of_app = |request| Route::Api(Api::App { app: "demo".into(), request });
        let server = Route::Api(Api::Server(ServerApi::Connections));
        let health = Route::Api(Api::Server(ServerApi::Health));
        for (route, anybody, token, all, admin_of_doc) in [
            (of_app(AppApi::Channels), 401, 200, 200, 200),
            (of_app(AppApi::UserStatus), 401, 200, 200, 403),
            (of_app(AppApi::Token), 401, 200, 401, 401),
            (publish("doc:1"), 401, 200, 200, 200),
            (server, 401, 200, 401, 401),
            (health, 200, 200, 200, 200),
        ] {
            assert_eq!(status(&network, &route, ""), anybody, "{route:?}");
            assert_eq!(status(&network, &route, "Bearer admin-token"), token, "{route:?}");
            assert_eq!(status(&network, &route, &basic("demo.all:s1")), all, "{route:?}");
            assert_eq!(
                status(&network, &route, &basic("demo.admin:s2")),
                admin_of_doc,
                "{route:?}"
            );
        }
    }

    #[test]
    fn on_this_machine_a_token_that_is_configured_guards_what_changes_something() {
        let local = access(Reach::ThisMachine, MetricsAccess::Open);
        let open = Access { token: None, ..access(Reach::ThisMachine, MetricsAccess::Open) };
        let development = Access {
            token: None,
            keys: Keys::Development,
            ..access(Reach::ThisMachine, MetricsAccess::Open)
        };
        let drain = Route::Api(Api::Server(ServerApi::Drain));
        let token = Route::Api(Api::App { app: "demo".into(), request: AppApi::Token });
        for (route, guarded, open_to_all, of_development) in [
            (about("doc:1"), 200, 200, 200),
            (publish("doc:1"), 401, 200, 200),
            (drain, 401, 200, 200),
            (token, 401, 401, 200),
        ] {
            assert_eq!(status(&local, &route, ""), guarded, "{route:?}");
            assert_eq!(status(&local, &route, "Bearer admin-token"), 200, "{route:?}");
            assert_eq!(status(&open, &route, ""), open_to_all, "{route:?}");
            assert_eq!(status(&development, &route, ""), of_development, "{route:?}");
            let keyring = keyring();
            let proxied = development.check(&route, Via::Proxy, "", None, &keyring, 0);
            assert!(proxied.is_err(), "{route:?}");
        }
    }

    #[test]
    fn a_page_of_another_site_changes_nothing() {
        let local = access(Reach::ThisMachine, MetricsAccess::Open);
        let host = Some("127.0.0.1:7402");
        for (origin, expected) in [
            (None, true),
            (Some("http://127.0.0.1:7402"), true),
            (Some("https://ops.example"), true),
            (Some("http://127.0.0.1:8000"), false),
            (Some("https://evil.example"), false),
            (Some("null"), false),
        ] {
            assert_eq!(local.check_origin(origin, host).is_ok(), expected, "{origin:?}");
        }
        assert!(local.check_origin(Some("null"), None).is_err());
    }

    #[test]
    fn members_are_shown_to_the_network_with_a_credential_only() {
        let members = about("doc:1");
        let network = access(Reach::Network, MetricsAccess::Open);
        let cases = [
            (String::new(), 401),
            ("Bearer admin-token".into(), 200),
            ("bearer admin-token".into(), 200),
            ("Bearer admin-toke".into(), 401),
            ("Bearer ".into(), 401),
            ("nonsense".into(), 401),
            (basic("demo.all:s1"), 200),
            (basic("demo.admin:s2"), 200),
            (basic("demo.client:s3"), 403),
            (basic("other.all:s4"), 403),
            (basic("demo.all:wrong"), 401),
            (basic("demo.none:s1"), 401),
        ];
        for (authorization, expected) in cases {
            assert_eq!(status(&network, &members, &authorization), expected, "{authorization}");
        }
        let elsewhere = about("chat");
        assert_eq!(status(&network, &elsewhere, &basic("demo.admin:s2")), 403);
        let local = access(Reach::ThisMachine, MetricsAccess::Open);
        assert_eq!(status(&local, &members, ""), 200);
        let without = Access { token: None, ..access(Reach::Network, MetricsAccess::Open) };
        assert_eq!(status(&without, &members, "Bearer "), 401, "no token is not an empty one");
    }

    #[test]
    fn metrics_need_the_token_where_it_is_configured_and_health_never() {
        for reach in [Reach::ThisMachine, Reach::Network] {
            let closed = access(reach, MetricsAccess::Token);
            assert_eq!(status(&closed, &Route::Metrics, ""), 401);
            assert_eq!(status(&closed, &Route::Metrics, &basic("demo.all:s1")), 401);
            assert_eq!(status(&closed, &Route::Metrics, "Bearer admin-token"), 200);
            assert_eq!(status(&access(reach, MetricsAccess::Open), &Route::Metrics, ""), 200);
            for open in [Route::Health, Route::Ready, Route::Page] {
                assert_eq!(status(&closed, &open, ""), 200);
            }
        }
    }

    #[test]
    fn on_this_machine_a_name_that_a_web_page_chose_is_refused() {
        let local = access(Reach::ThisMachine, MetricsAccess::Open);
        for host in ["127.0.0.1:7402", "localhost:7402", "[::1]:7402", "OPS.example:80"] {
            assert_eq!(local.check_host(Some(host)), Ok(()), "{host}");
        }
        assert_eq!(local.check_host(Some("rebound.evil.example")), Err(Denied::Host));
        assert_eq!(local.check_host(None), Ok(()), "HTTP/1.0 has none, and browsers speak 1.1");
        let network = access(Reach::Network, MetricsAccess::Open);
        assert_eq!(network.check_host(Some("headcount.internal:7402")), Ok(()));
    }
}
