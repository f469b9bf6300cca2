//! Names of connections that can be recognised later, by any shard, without a table.
//!
//! ```text
//! 8 digits: the process | 16 digits: the connection | 16 digits: proof for (app, client, name)
//! ```

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

/// All digits are hexadecimal.
const PROCESS_DIGITS: usize = 8;
const NAME_DIGITS: usize = 16;
const PROOF_DIGITS: usize = 16;

/// Who made a connection id, as seen by the one whom a client shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This process, for the same app and client.
    Ours,
    /// Another process of this server, or this one before it was started again.
    OtherProcess,
    /// Anybody else, or this process for another client.
    Unknown,
}

/// An id for a connection named `name`, which has 16 digits.
pub fn make(key: (u64, u64), app: &str, client: &str, name: &str) -> String {
    format!("{:08x}{name}{:016x}", process(key), proof(key, app, client, name))
}

/// A number that nobody outside can guess, for whatever has that name.
pub fn secret(key: (u64, u64), name: &str) -> u64 {
    proof(key, "", "secret", name)
}

/// Judges an id that a client shows.
pub fn origin(key: (u64, u64), app: &str, client: &str, id: &str) -> Origin {
    let is_hexadecimal = id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if id.len() != PROCESS_DIGITS + NAME_DIGITS + PROOF_DIGITS || !is_hexadecimal {
        return Origin::Unknown;
    }
    let name = &id[PROCESS_DIGITS..PROCESS_DIGITS + NAME_DIGITS];
    if id == make(key, app, client, name) {
        Origin::Ours
    } else if id.starts_with(&format!("{:08x}", process(key))) {
        Origin::Unknown
    } else {
        Origin::OtherProcess
    }
}

fn process(key: (u64, u64)) -> u32 {
    (SipHasher13::new_with_keys(key.0, key.1).finish() >> 32) as u32
}

fn proof(key: (u64, u64), app: &str, client: &str, name: &str) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(key.0, key.1);
    for text in [app, client, name] {
        hasher.write_u64(text.len() as u64);
        hasher.write(text.as_bytes());
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_good_for_the_client_that_it_was_made_for() {
        let name = "0123456789abcdef";
        let id = make((1, 2), "demo", "alice", name);
        for (key, app, client, shown, expected) in [
            ((1, 2), "demo", "alice", &*id, Origin::Ours),
            ((1, 2), "demo", "bob", &id, Origin::Unknown),
            ((1, 2), "other", "alice", &id, Origin::Unknown),
            ((1, 2), "dem", "oalice", &id, Origin::Unknown),
            ((3, 4), "demo", "alice", &id, Origin::OtherProcess),
            ((1, 2), "demo", "alice", "conn-1", Origin::Unknown),
            ((1, 2), "demo", "alice", &id.to_uppercase(), Origin::Unknown),
            ((1, 2), "demo", "alice", "", Origin::Unknown),
        ] {
            assert_eq!(origin(key, app, client, shown), expected, "{shown} for {app}/{client}");
        }
    }
}
