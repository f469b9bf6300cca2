//! UTF-8 validation of text messages, unfragmented or in fragments (RFC 6455 section 8.1).

use crate::error::FrameError;

/// Checks that the bytes are complete UTF-8.
///
/// # Errors
/// [`FrameError::Utf8`].
pub(super) fn complete(bytes: &[u8]) -> Result<&str, FrameError> {
    simdutf8::basic::from_utf8(bytes).map_err(|_| FrameError::Utf8)
}

/// Length of the prefix of complete characters, if the rest may be the start of another one. The
/// rest is at most three bytes, so validating it again is cheap.
///
/// # Errors
/// [`FrameError::Utf8`] if no further bytes can make this valid.
pub(super) fn whole_characters(bytes: &[u8]) -> Result<usize, FrameError> {
    match simdutf8::compat::from_utf8(bytes) {
        Ok(text) => Ok(text.len()),
        Err(error) if error.error_len().is_none() => Ok(error.valid_up_to()),
        Err(_) => Err(FrameError::Utf8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_character_is_held_back_and_a_broken_one_is_refused_at_once() {
        let table: [(&[u8], Result<usize, FrameError>); 11] = [
            (b"", Ok(0)),
            (b"abc", Ok(3)),
            ("aé".as_bytes(), Ok(3)),
            (b"a\xc3", Ok(1)),
            (b"a\xf0\x9f\x98", Ok(1)),
            (b"a\xf4\x8f", Ok(1)),
            (b"a\xf4\x90", Err(FrameError::Utf8)),
            (b"a\xe0\x80", Err(FrameError::Utf8)),
            (b"a\xed\xa0", Err(FrameError::Utf8)),
            (b"a\xc0", Err(FrameError::Utf8)),
            (b"a\x80", Err(FrameError::Utf8)),
        ];
        for (bytes, expected) in table {
            assert_eq!(whole_characters(bytes), expected, "{bytes:02x?}");
        }
    }

    #[test]
    fn complete_text_may_not_end_inside_a_character() {
        assert_eq!(complete("κόσμε".as_bytes()), Ok("κόσμε"));
        assert_eq!(complete(b"\xce"), Err(FrameError::Utf8));
    }
}
