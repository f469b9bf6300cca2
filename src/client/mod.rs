//! Clients of this server and of others that speak its protocols. Builds on any Unix, without the
//! server.
//!
//! [`protocol`] is the client's half of the wire as a state machine. The command line, the load
//! generator and the tests are thin shells around it: a socket, a clock, a source of random bits.

pub mod protocol;
