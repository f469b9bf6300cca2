//! One line of the server's stream.

use crate::admin::{Event, Member};
use crate::channel::ChangeKind;
use crate::cli::failure::Failure;

impl Event {
    /// # Errors
    /// The line is not an event of a headcount server.
    pub(in crate::cli) fn parse(line: &str) -> Result<Event, Failure> {
        let unreadable = |error| Failure::request("unreadable line in the stream", error);
        serde_json::from_str(line).map_err(unreadable)
    }

    /// The change of a member, if the event is one.
    pub(in crate::cli) fn change(&self) -> Option<(ChangeKind, &Member)> {
        match self {
            Event::Enter(member) => Some((ChangeKind::Enter, member)),
            Event::Update(member) => Some((ChangeKind::Update, member)),
            Event::Leave(member) => Some((ChangeKind::Leave, member)),
            Event::Reset | Event::Present(_) | Event::Ready { .. } | Event::Unknown => None,
        }
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
            assert_eq!((&*member.user, member.age_ms, member.at_ms), ("a", 7, Some(5)));
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
