//! Origins of web pages, and host names of this machine. Any page in a browser on this machine can
//! connect to loopback, and the browser leaves the decision to the server (RFC 6455 section 10.2).
//! Pages of other sites are detected by their origin, and by the host name in their requests (DNS
//! rebinding).

use std::net::{IpAddr, Ipv6Addr};

/// The origin of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Not a web page, a page of this machine, or one of a trusted origin.
    #[default]
    Trusted,
    /// A web page of another site.
    Foreign,
}

/// Origins whose pages may, like any program on this machine, open anonymous sessions.
#[derive(Clone, Debug, Default)]
pub struct Origins(Vec<String>);

impl Origins {
    /// Trusted besides pages of this machine. Each in the form that browsers send,
    /// `https://app.example`; `*` trusts all origins.
    pub fn new(trusted: Vec<String>) -> Self {
        Origins(trusted)
    }

    /// Classifies a request by its `Origin` header, if any.
    pub fn judge(&self, header: Option<&str>) -> Origin {
        let is_trusted = |origin: &str| {
            let is_named = |name: &String| name == "*" || name.eq_ignore_ascii_case(origin);
            is_local(origin) || self.0.iter().any(is_named)
        };
        if header.is_none_or(is_trusted) { Origin::Trusted } else { Origin::Foreign }
    }
}

/// Whether only this machine can serve the origin. Not `null`, which is the origin of sandboxed
/// pages of any site.
fn is_local(origin: &str) -> bool {
    let Some((_, authority)) = origin.split_once("://") else { return false };
    let host = without_port(authority);
    is_local_name(host) || address(host).is_some_and(|ip| ip.to_canonical().is_loopback())
}

/// Whether a host is an IP address, a local name, or a name without a dot, which cannot be
/// registered: then DNS rebinding is impossible. `host`: the value of a `Host` header.
pub fn is_direct_host(host: &str) -> bool {
    let host = without_port(host);
    let is_single_label = !host.is_empty() && !host.contains(['.', '[']);
    is_single_label || is_local_name(host) || address(host).is_some()
}

/// Strips the port; an IPv6 address keeps its brackets.
pub fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// `localhost` and its subdomains resolve to loopback (RFC 6761 section 6.3).
fn is_local_name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

fn address(host: &str) -> Option<IpAddr> {
    let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match in_brackets {
        Some(ip) => ip.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => host.parse().ok().filter(IpAddr::is_ipv4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_of_this_machine_and_trusted_ones_are_not_foreign() {
        let origins = Origins::new(vec!["https://app.example".into()]);
        let trusted = [
            "http://localhost:5173",
            "https://LOCALHOST",
            "http://app.localhost:1",
            "http://127.0.0.1:7400",
            "http://127.9.9.9",
            "http://[::1]:3000",
            "http://[::ffff:127.0.0.1]",
            "https://app.example",
            "https://APP.example",
        ];
        for origin in trusted {
            assert_eq!(origins.judge(Some(origin)), Origin::Trusted, "{origin}");
        }
        let foreign = [
            "null",
            "",
            "file://",
            "https://evil.example",
            "https://app.example:8443",
            "http://app.example",
            "http://localhost.evil.example",
            "http://evillocalhost",
            "http://127.0.0.1.evil.example",
            "http://192.168.0.7",
            "http://[::2]",
        ];
        for origin in foreign {
            assert_eq!(origins.judge(Some(origin)), Origin::Foreign, "{origin}");
        }
        assert_eq!(origins.judge(None), Origin::Trusted, "programs have none");
        assert_eq!(Origins::new(vec!["*".into()]).judge(Some("https://x.y")), Origin::Trusted);
    }

    #[test]
    fn a_host_that_can_be_registered_is_not_direct() {
        let direct =
            ["127.0.0.1:7402", "[::1]:7402", "localhost", "10.0.0.7", "a.localhost.:80", "ops:80"];
        for host in direct {
            assert!(is_direct_host(host), "{host}");
        }
        for host in ["rebound.evil.example", "evil.example:7402", "", ":80", "[::1", "127.0.0.1.x"]
        {
            assert!(!is_direct_host(host), "{host}");
        }
    }
}
