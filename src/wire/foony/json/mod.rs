//! JSON frames (`protocols/foony.md` section 2): SDK 0.0.1 to 0.12.0, one object per text message.
//!
//! Fields of all these versions are read. What a version does not know it ignores, so all of them
//! are sent the same. Fields are found by name, whatever their order; unknown ones are skipped, of
//! a field that comes twice the last one counts, and `null` is absent except as a payload.

mod event;
mod object;
mod request;
mod write;

pub use event::{append_event, decode_event};
pub use request::{append_request, decode_request};
