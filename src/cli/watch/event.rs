//! One line of the server's stream.

use serde::Deserialize;

use crate::cli::failure::Failure;
use crate::cli::member::Member;

/// What a line says.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(super) enum Event {
    /// Changes were missed: the present set follows, as at the beginning.
    Reset,
    /// One member of the present set, in join order.
    Present(Member),
    /// The present set is complete.
    Ready {
        members: usize,
    },
    Enter(Member),
    Update(Member),
    Leave(Member),
    /// Something that a newer server says.
    #[serde(other)]
    Unknown,
}

impl Event {
    /// # Errors
    /// When the line is none of a headcount server.
    pub fn parse(line: &str) -> Result<Event, Failure> {
        let unreadable = |error| Failure::request("unreadable line in the stream", error);
        serde_json::from_str(line).map_err(unreadable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_line_is_read() {
        let member = r#""at_ms":5,"user":"a","connection":"0.1.2","state":null,"age_ms":7"#;
        for kind in ["present", "enter", "update", "leave"] {
            let event = Event::parse(&format!(r#"{{"event":"{kind}",{member}}}"#)).unwrap();
            let (Event::Present(member)
            | Event::Enter(member)
            | Event::Update(member)
            | Event::Leave(member)) = event
            else {
                panic!("{event:?}");
            };
            assert_eq!((member.user.as_str(), member.age_ms, member.at_ms), ("a", 7, Some(5)));
            assert_eq!(member.state_text(), "null");
        }
        assert!(matches!(
            Event::parse(r#"{"event":"ready","members":3}"#),
            Ok(Event::Ready { members: 3 })
        ));
        assert!(matches!(Event::parse(r#"{"event":"reset"}"#), Ok(Event::Reset)));
    }

    #[test]
    fn news_of_a_newer_server_is_no_error_and_garbage_is() {
        assert!(matches!(Event::parse(r#"{"event":"moved","x":1}"#), Ok(Event::Unknown)));
        for line in ["", "x", "{}", "[]", r#"{"event":"enter"}"#] {
            assert!(Event::parse(line).is_err(), "{line}");
        }
    }
}
