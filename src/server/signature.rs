//! Signed requests to services of the operator: the admission hook and webhooks.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hmac::digest::InvalidLength;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use ureq::Agent;

/// Header with the time and the signature.
pub const SIGNATURE: &str = "headcount-signature";

/// Idle connections are closed before most services close them.
const IDLE: Duration = Duration::from_secs(4);

/// Posts to a service of the operator. Responses are answers whatever their status.
pub fn agent(timeout: Duration, connections_max: usize) -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        // A proxy that the environment names is not for the operator's own service.
        .proxy(None)
        .timeout_global(Some(timeout))
        .max_idle_connections(connections_max)
        .max_idle_connections_per_host(connections_max)
        .max_idle_age(IDLE)
        .build()
        .new_agent()
}

/// `t=<unix seconds>,v1=<hexadecimal HMAC-SHA256 of "<t>.<body>">`, of now.
///
/// # Errors
/// None: keys of any length are valid.
pub fn signature(secret: &[u8], body: &[u8]) -> Result<String, InvalidLength> {
    signature_at(secret, unix_seconds(), body)
}

fn signature_at(secret: &[u8], at_s: u64, body: &[u8]) -> Result<String, InvalidLength> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret)?;
    mac.update(format!("{at_s}.").as_bytes());
    mac.update(body);
    let mut text = format!("t={at_s},v1=");
    for byte in mac.finalize().into_bytes() {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

/// A name for this process, so that its requests are told from those of others.
pub fn process_id() -> u64 {
    let mut random = [0; size_of::<u64>()];
    // Without randomness the clock tells processes apart.
    match getrandom::fill(&mut random) {
        Ok(()) => u64::from_ne_bytes(random),
        Err(_) => unix_seconds(),
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From another implementation (Python's `hmac`).
    #[test]
    fn the_signature_is_an_hmac_of_the_time_and_the_body() {
        let signed = signature_at("sécret".as_bytes(), 1_700_000_000, b"{\"v\":1}").unwrap();
        assert_eq!(
            signed,
            "t=1700000000,v1=c1fb279ab3c6f3d8d7aa69922907df8be2462d00b67107ccc4b190514c46c993"
        );
    }
}
