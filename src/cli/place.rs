//! Which channel on which server.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

/// The channel a command is about, and where to ask.
#[derive(Clone, Debug, Args)]
pub(super) struct Place {
    /// Name of the channel, for example doc:1
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub channel: String,
    /// App the channel belongs to
    #[arg(long, default_value = "demo", value_parser = NonEmptyStringValueParser::new())]
    pub app: String,
    /// Admin address of the server, HOST:PORT
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7402")]
    pub admin: AdminAddress,
}

impl Place {
    /// Path of one question about the channel (`members` or `watch`).
    pub fn path(&self, question: &str) -> String {
        let (app, channel) = (percent_encoded(&self.app), percent_encoded(&self.channel));
        format!("/v1/apps/{app}/channels/{channel}/{question}")
    }
}

/// Everything but unreserved characters (RFC 3986 section 2.3) as `%XX`.
fn percent_encoded(name: &str) -> String {
    use std::fmt::Write;
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a `String` cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// An IP address or a host name, with a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AdminAddress(String);

impl FromStr for AdminAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.parse::<SocketAddr>().is_ok() || is_host_and_port(text) {
            return Ok(AdminAddress(text.to_owned()));
        }
        Err("write it as 127.0.0.1:7402, [::1]:7402 or localhost:7402")
    }
}

fn is_host_and_port(text: &str) -> bool {
    let is_host_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && host.bytes().all(is_host_byte) && port.parse::<u16>().is_ok()
    })
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
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
    fn admin_addresses_have_a_host_and_a_port() {
        for address in ["127.0.0.1:7402", "[::1]:7402", "localhost:7402", "a-b.example:1"] {
            assert!(address.parse::<AdminAddress>().is_ok(), "{address}");
        }
        for address in
            ["", "7402", ":7402", "localhost", "localhost:x", "::1:7402", "a b:1", "u@h:1"]
        {
            assert!(address.parse::<AdminAddress>().is_err(), "{address}");
        }
    }
}
