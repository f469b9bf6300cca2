//! Clients of the Foony protocol that behave as the SDK does (`protocols/foony.md` section 5), and
//! a naive model of what each of them must have been told when everything has come to rest.

pub mod act;
pub mod check;
pub mod client;
pub mod ghost;
pub mod hear;
pub mod line;
pub mod link;
pub mod peer;
pub mod profile;
pub mod run;
pub mod sync_member;
