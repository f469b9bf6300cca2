//! Messages between two peers.

use serde_json::Value;

/// A message that another peer sent to this client alone.
///
/// ```
/// use headcount::client::DirectMessage;
///
/// fn print(message: &DirectMessage) {
///     println!("{} from {}: {}", message.name, message.from_peer_key, message.data);
/// }
/// # let _ = print;
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DirectMessage {
    /// The key of the peer that sent it, as the server says.
    pub from_peer_key: String,
    /// The event name that the sender gave.
    pub name: String,
    /// `Null` if there is none.
    pub data: Value,
}
