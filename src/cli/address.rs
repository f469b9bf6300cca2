//! Addresses of servers, and names in URL paths.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use derive_more::Display;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// An IP address or a host name, with a port.
#[derive(Clone, Debug, Display, PartialEq, Eq)]
pub(super) struct Address(String);

impl Address {
    /// Whether it names this host, without a DNS query.
    pub fn is_loopback(&self) -> bool {
        match self.0.parse::<SocketAddr>() {
            Ok(address) => address.ip().is_loopback(),
            Err(_) => self.0.rsplit_once(':').is_some_and(|(host, _)| host == "localhost"),
        }
    }

    /// The form that the standard library resolves.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.parse::<SocketAddr>().is_ok() || is_host_and_port(text) {
            return Ok(Address(text.to_owned()));
        }
        Err("write it as 127.0.0.1:PORT, [::1]:PORT or localhost:PORT")
    }
}

/// The address to reach a listening server: loopback for an unspecified address.
impl From<SocketAddr> for Address {
    fn from(mut listening: SocketAddr) -> Self {
        match listening.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => listening.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => listening.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        Address(listening.to_string())
    }
}

fn is_host_and_port(text: &str) -> bool {
    let is_host_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && host.bytes().all(is_host_byte) && port.parse::<u16>().is_ok()
    })
}

/// Everything but unreserved characters (RFC 3986 section 2.3) as `%XX`.
pub(super) fn percent_encoded(name: &str) -> String {
    const RESERVED: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(name, RESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_path_segment_each_whatever_they_contain() {
        for (name, encoded) in [
            ("doc:1", "doc%3A1"),
            ("a-b._~9", "a-b._~9"),
            ("a/b?c#d%e f", "a%2Fb%3Fc%23d%25e%20f"),
            ("ж", "%D0%B6"),
            ("\n", "%0A"),
        ] {
            assert_eq!(percent_encoded(name), encoded);
        }
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for address in ["127.0.0.1:7402", "[::1]:7402", "localhost:7402", "a-b.example:1"] {
            assert!(address.parse::<Address>().is_ok(), "{address}");
        }
        for address in
            ["", "7402", ":7402", "localhost", "localhost:x", "::1:7402", "a b:1", "u@h:1"]
        {
            assert!(address.parse::<Address>().is_err(), "{address}");
        }
    }

    #[test]
    fn this_host_is_told_from_others_without_asking() {
        for (address, expected) in [
            ("127.0.0.1:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("localhost:1", true),
            ("192.0.2.1:1", false),
            ("localhost.example:1", false),
            ("0.0.0.0:1", false),
        ] {
            assert_eq!(address.parse::<Address>().unwrap().is_loopback(), expected, "{address}");
        }
    }

    #[test]
    fn a_server_on_every_address_is_reached_on_loopback() {
        for (listening, reached) in [
            ("0.0.0.0:7400", "127.0.0.1:7400"),
            ("[::]:7400", "[::1]:7400"),
            ("192.0.2.1:7400", "192.0.2.1:7400"),
        ] {
            assert_eq!(Address::from(listening.parse::<SocketAddr>().unwrap()).as_str(), reached);
        }
    }
}
