//! JSON frames (`protocols/foony.md` section 2): SDK 0.0.1 to 0.12.0, one object per text message.
//!
//! The fields of all these versions are accepted. Clients ignore unknown fields, so all versions
//! are sent the same. Fields are matched by name, in any order; unknown ones are skipped, the last
//! one of duplicates counts, and `null` means absent except for a payload.

mod event;
mod object;
mod request;
mod write;

pub use event::append_event;
pub use request::decode_request;
