//! Names of connections that can be recognised later, by any shard, without a table.
//!
//! ```text
//! 16 digits: the connection | 16 digits: proof for (app, client, name)
//! ```

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

/// All digits are hexadecimal.
const NAME_DIGITS: usize = 16;
const PROOF_DIGITS: usize = 16;

/// An id for a connection named `name`, which has 16 digits.
pub fn make(key: (u64, u64), app: &str, client: &str, name: &str) -> String {
    format!("{name}{:016x}", proof(key, app, client, name))
}

/// The name of the connection in an id that has the right shape.
pub fn name_in(id: &str) -> Option<&str> {
    let is_shaped = id.is_ascii() && id.len() == NAME_DIGITS + PROOF_DIGITS;
    is_shaped.then(|| &id[..NAME_DIGITS])
}

/// A number for this name that clients cannot guess.
pub fn secret(key: (u64, u64), name: &str) -> u64 {
    proof(key, "", "secret", name)
}

/// Did this process make the id, for the same app and client?
pub fn is_ours(key: (u64, u64), app: &str, client: &str, id: &str) -> bool {
    name_in(id).is_some_and(|name| make(key, app, client, name) == id)
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
            ((1, 2), "demo", "alice", &*id, true),
            ((1, 2), "demo", "bob", &id, false),
            ((1, 2), "other", "alice", &id, false),
            ((1, 2), "dem", "oalice", &id, false),
            ((3, 4), "demo", "alice", &id, false),
            ((1, 2), "demo", "alice", "conn-1", false),
            ((1, 2), "demo", "alice", &id.to_uppercase(), false),
            ((1, 2), "demo", "alice", "", false),
        ] {
            assert_eq!(is_ours(key, app, client, shown), expected, "{shown} for {app}/{client}");
        }
    }
}
