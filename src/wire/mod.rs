//! Bytes <=> messages.
