//! The protocol of Redis for the load generator of Headcount.

mod resp;

pub use resp::Resp;
