//! Names of this machine, and origins of web pages. Every page that somebody on this machine visits
//! can connect to loopback, and its browser leaves the decision to the server (RFC 6455 section
//! 10.2). Pages that others serve are recognised by their origin, and by the name they know this
//! machine by (DNS rebinding).

use std::net::{IpAddr, Ipv6Addr};

/// Where a session comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// No web page, a page of this machine, or one that the operator trusts.
    #[default]
    Trusted,
    /// A web page of another site.
    Foreign,
}

/// Origins of web pages that may do without a credential what any program on this machine may.
#[derive(Clone, Debug, Default)]
pub struct Origins(Vec<String>);

impl Origins {
    /// Besides pages of this machine. Each as browsers write it, `https://app.example`; `*` trusts
    /// all of them.
    pub fn new(trusted: Vec<String>) -> Self {
        Origins(trusted)
    }

    /// Judges the `Origin` header of a request, or that there is none.
    pub fn judge(&self, header: Option<&str>) -> Origin {
        let is_trusted = |origin: &str| {
            let is_named = |name: &String| name == "*" || name.eq_ignore_ascii_case(origin);
            is_local(origin) || self.0.iter().any(is_named)
        };
        if header.is_none_or(is_trusted) { Origin::Trusted } else { Origin::Foreign }
    }
}

/// Is it an origin that only this machine can serve? `null`, which sandboxed pages of any site
/// have, is not.
fn is_local(origin: &str) -> bool {
    let Some((_, authority)) = origin.split_once("://") else { return false };
    let host = without_port(authority);
    is_local_name(host) || address(host).is_some_and(|ip| ip.to_canonical().is_loopback())
}

/// Is it an address, a local name, or a name without a dot, which nobody can register? Then no web
/// page of another site has this machine under that name. `host`: the value of a `Host` header.
pub fn is_direct_host(host: &str) -> bool {
    let host = without_port(host);
    let is_single_label = !host.is_empty() && !host.contains(['.', '[']);
    is_single_label || is_local_name(host) || address(host).is_some()
}

/// Without the port; an IPv6 address keeps its brackets.
pub fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// `localhost` and the names below it never leave the machine (RFC 6761 section 6.3).
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
