//! Ids by which a server recognises a message that it is sent again.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::cli::failure::Failure;

/// Makes message ids as the SDKs do: `<unix ms>-<8 hex>` (`protocols/foony.md` section 5.3).
#[derive(Debug)]
pub(super) struct MessageIds {
    /// The id of the only message, if the user chose it.
    chosen: Option<String>,
    /// Begins by chance and counts from there, so that no two of a run are equal.
    counter: u32,
}

impl MessageIds {
    /// # Errors
    /// When the kernel gives no randomness.
    pub fn new(chosen: Option<String>) -> Result<Self, Failure> {
        let mut random = [0; 4];
        getrandom::fill(&mut random)
            .map_err(|error| Failure::request("cannot make message ids", error))?;
        Ok(MessageIds { chosen, counter: u32::from_be_bytes(random) })
    }

    /// The id of the next message.
    pub fn make(&mut self) -> String {
        if let Some(chosen) = self.chosen.take() {
            return chosen;
        }
        self.counter = self.counter.wrapping_add(1);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        format!("{}-{:08x}", now.as_millis(), self.counter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_a_time_and_eight_digits_and_never_equal() {
        let mut ids = MessageIds::new(None).unwrap();
        let made: std::collections::BTreeSet<String> = (0..1000).map(|_| ids.make()).collect();
        assert_eq!(made.len(), 1000);
        for id in made {
            let (ms, hex) = id.split_once('-').unwrap();
            assert!(ms.parse::<u64>().unwrap() > 1_600_000_000_000, "{id}");
            assert!(hex.len() == 8 && u32::from_str_radix(hex, 16).is_ok(), "{id}");
        }
    }

    #[test]
    fn a_chosen_id_is_used_once() {
        let mut ids = MessageIds::new(Some("mine".to_owned())).unwrap();
        assert_eq!(ids.make(), "mine");
        assert_ne!(ids.make(), "mine");
    }
}
