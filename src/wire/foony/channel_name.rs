//! Validation of channel names (`protocols/foony.md` sections 2.1 and 5.1).

use crate::error::Reject;
use crate::limits::CHANNEL_NAME_BYTES_MAX;

/// The set of valid names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grammar {
    /// Binary clients and REST: letters, digits, `:-_`, not beginning with a colon.
    Colons,
    /// JSON clients: that, or letters, digits, `._-`, neither beginning nor ending with a dot.
    ColonsOrDots,
}

/// Validates a channel name. `bytes_max`: the configured limit; that of the protocol also applies.
///
/// # Errors
/// [`Reject::ChannelName`].
pub fn check_channel_name(name: &str, grammar: Grammar, bytes_max: usize) -> Result<(), Reject> {
    let valid = match grammar {
        Grammar::Colons => is_name_with_colons(name),
        Grammar::ColonsOrDots => is_name_with_colons(name) || is_name_with_dots(name),
    };
    if valid && (1..=CHANNEL_NAME_BYTES_MAX.min(bytes_max)).contains(&name.len()) {
        Ok(())
    } else {
        Err(Reject::ChannelName)
    }
}

fn is_name_with_colons(name: &str) -> bool {
    !name.starts_with(':') && consists_of(name, b':')
}

fn is_name_with_dots(name: &str) -> bool {
    !name.starts_with('.') && !name.ends_with('.') && consists_of(name, b'.')
}

fn consists_of(name: &str, separator: u8) -> bool {
    name.bytes().all(|byte| {
        byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' || byte == separator
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_grammar_accepts_its_names() {
        let longest = "a".repeat(CHANNEL_NAME_BYTES_MAX);
        let too_long = "a".repeat(CHANNEL_NAME_BYTES_MAX + 1);
        for (name, colons, either) in [
            ("a", true, true),
            ("chat:room-1", true, true),
            ("a:", true, true),
            ("a::b", true, true),
            ("-_", true, true),
            (&longest, true, true),
            ("a.b", false, true),
            ("a..b", false, true),
            ("", false, false),
            (":a", false, false),
            (".a", false, false),
            ("a.", false, false),
            ("a.b:c", false, false),
            ("a/b", false, false),
            ("a b", false, false),
            ("ä", false, false),
            (&too_long, false, false),
        ] {
            let most = CHANNEL_NAME_BYTES_MAX;
            let is_ok = |grammar| check_channel_name(name, grammar, most).is_ok();
            assert_eq!(is_ok(Grammar::Colons), colons, "{name}");
            assert_eq!(is_ok(Grammar::ColonsOrDots), either, "{name}");
        }
        assert!(check_channel_name("abc", Grammar::Colons, 3).is_ok());
        assert!(check_channel_name("abcd", Grammar::Colons, 3).is_err());
    }
}
