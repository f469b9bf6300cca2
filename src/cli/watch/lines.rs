//! The stream for programs and files: one line per event, each written at once.

use serde_json::Value;

use crate::admin::{Event, Member};
use crate::cli::admin_client::Lines;
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::cli::text::{age, clock, count, printable};

/// Prints the lines of the stream in the form that `format` makes of each, if any.
pub(super) fn print(
    mut lines: Lines,
    format: fn(&str) -> Result<Option<String>, Failure>,
) -> Result<(), Failure> {
    loop {
        if let Some(line) = format(&lines.next()?)? {
            output::print(&line)?;
        }
    }
}

/// An event as JSON; `ready`, which only ends the present set, is left out.
pub(super) fn json(line: &str) -> Result<Option<String>, Failure> {
    let unreadable = |error| Failure::request("unreadable line in the stream", error);
    let value: Value = serde_json::from_str(line).map_err(unreadable)?;
    Ok((value["event"] != "ready").then(|| format!("{}\n", printable(&value.to_string()))))
}

/// An event as text.
pub(super) fn text(line: &str) -> Result<Option<String>, Failure> {
    let event = Event::parse(line)?;
    let (kind, member) = match &event {
        Event::Present(member) => ("present", member),
        Event::Enter(member) => ("enter", member),
        Event::Update(member) => ("update", member),
        Event::Leave(member) => ("leave", member),
        Event::Ready { members } => {
            return Ok(Some(format!("{}\n", count(*members, "member"))));
        }
        Event::Reset => return Ok(Some("events were missed; who is present:\n".to_owned())),
        Event::Unknown => return Ok(None),
    };
    Ok(Some(member_line(kind, member)))
}

fn member_line(kind: &str, member: &Member) -> String {
    let time = member.at_ms.map_or_else(|| "--:--:--".to_owned(), clock);
    let (user, state) = (member.user_text(), member.state_text());
    let (age, connection) = (age(member.age_ms), printable(&member.connection));
    format!("{time} {kind:<7} {user} {state} (age {age}, connection {connection})\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTER: &str = concat!(
        r#"{"event":"enter","at_ms":3661000,"user":"bo\u001bb","#,
        r#""connection":"0.1.2","state":{"x":1},"age_ms":1200}"#
    );

    #[test]
    fn json_lines_are_passed_on_without_ready() {
        assert_eq!(json(ENTER).unwrap().unwrap(), format!("{ENTER}\n"));
        assert_eq!(json(r#"{"event":"ready","members":1}"#).unwrap(), None);
        assert_eq!(json(r#"{"event":"reset"}"#).unwrap().unwrap(), "{\"event\":\"reset\"}\n");
        assert!(json("<html>").is_err());
    }

    #[test]
    fn text_lines_say_when_who_and_what() {
        let line = text(ENTER).unwrap().unwrap();
        let expected = "01:01:01 enter   bo\\u001bb {\"x\": 1} (age 1.2s, connection 0.1.2)\n";
        assert_eq!(line, expected);
        assert_eq!(text(r#"{"event":"ready","members":1}"#).unwrap().unwrap(), "1 member\n");
    }
}
