//! Messages and presence as lines of JSON.

use serde_json::Value;

use crate::cli::text::printable;
use crate::wire::foony::{Content, Delivery, Member, Message};

/// One line, its end included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Message(String),
    Presence(String),
}

impl Line {
    pub fn text(&self) -> &str {
        match self {
            Line::Message(text) | Line::Presence(text) => text,
        }
    }
}

/// The lines of a delivery: one, or one per message of a batch, whose ids are those that the SDKs
/// show (`protocols/foony.md` section 3.2).
pub(super) fn message_lines(delivery: &Delivery<'_>) -> Vec<Line> {
    let is_batch = matches!(delivery.content, Content::Batch(_));
    let line = |(index, message): (usize, &Message<'_>)| {
        let id = &*delivery.message_id;
        let mut fields = Fields::new(&delivery.channel);
        fields.push("serial", (delivery.serial > 0).then_some(delivery.serial));
        fields.push("timestamp", delivery.timestamp_ms);
        fields.push("clientId", &*delivery.client_id);
        fields.push("name", &*message.name);
        fields.push("id", if is_batch { format!("{id}:{index}") } else { id.to_owned() });
        fields.push_payload(message.data, &message.encoding);
        Line::Message(fields.end())
    };
    delivery.content.messages().iter().enumerate().map(line).collect()
}

pub(super) fn member_line(member: &Member<'_>) -> Line {
    let mut fields = Fields::new(&member.channel);
    fields.push("action", <&str>::from(member.action));
    fields.push("timestamp", member.timestamp_ms);
    fields.push("clientId", &*member.client_id);
    fields.push("connectionId", &*member.connection_id);
    fields.push_payload(member.data, &member.encoding);
    Line::Presence(fields.end())
}

/// Presence events were missed; the present members follow.
pub(super) fn reset_line(channel: &str) -> Line {
    let mut fields = Fields::new(channel);
    fields.push("action", "reset");
    Line::Presence(fields.end())
}

/// The text of an object without its last brace.
struct Fields(String);

impl Fields {
    fn new(channel: &str) -> Self {
        Fields(format!("{{\"channel\":{}", Value::from(channel)))
    }

    fn push(&mut self, name: &str, value: impl Into<Value>) {
        self.push_json(name, &value.into().to_string());
    }

    fn push_json(&mut self, name: &str, json: &str) {
        self.0.extend([",\"", name, "\":", json]);
    }

    /// Data as its publisher wrote it, but for the line breaks between its tokens.
    fn push_payload(&mut self, data: &[u8], encoding: &str) {
        let data = String::from_utf8_lossy(data).replace(['\n', '\r', '\t'], " ");
        self.push_json("data", if data.is_empty() { "null" } else { &data });
        if !encoding.is_empty() {
            self.push("encoding", encoding);
        }
    }

    fn end(self) -> String {
        format!("{}}}\n", printable(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::foony::Action;

    fn delivery(content: Content<'_>) -> Delivery<'_> {
        Delivery {
            channel: "chat:1".into(),
            message_id: "m-1".into(),
            client_id: "a\"b".into(),
            timestamp_ms: 1_700_000_000_000,
            serial: 7,
            ephemeral: false,
            content,
        }
    }

    fn message(data: &str) -> Message<'_> {
        Message { name: "chat".into(), data: data.as_bytes(), encoding: "".into() }
    }

    fn texts(delivery: &Delivery<'_>) -> Vec<String> {
        message_lines(delivery).iter().map(|line| line.text().to_owned()).collect()
    }

    #[test]
    fn a_message_is_one_line_with_its_data_as_it_was_written() {
        let one = delivery(Content::One(message("{\"x\": 1.0}")));
        let expected = concat!(
            r#"{"channel":"chat:1","serial":7,"timestamp":1700000000000,"clientId":"a\"b","#,
            r#""name":"chat","id":"m-1","data":{"x": 1.0}}"#,
            "\n"
        );
        assert_eq!(texts(&one), [expected]);
    }

    #[test]
    fn a_batch_is_a_line_per_message() {
        let batch = delivery(Content::Batch(vec![message("1"), message("2")]));
        let lines = texts(&batch);
        assert!(lines[0].contains(r#""id":"m-1:0","data":1}"#), "{lines:?}");
        assert!(
            lines[1].contains(r#""serial":7"#) && lines[1].contains(r#""id":"m-1:1","data":2}"#)
        );
    }

    #[test]
    fn what_is_absent_is_null_and_an_encoding_is_shown_when_there_is_one() {
        let mut secret = message("\"abc\"");
        secret.encoding = "cipher".into();
        let mut unstored = delivery(Content::Batch(vec![message(""), secret]));
        unstored.serial = 0;
        let lines = texts(&unstored);
        assert!(lines[0].contains(r#""serial":null"#), "{lines:?}");
        assert!(lines[0].ends_with("\"data\":null}\n"), "{lines:?}");
        assert!(lines[1].ends_with("\"data\":\"abc\",\"encoding\":\"cipher\"}\n"), "{lines:?}");
    }

    #[test]
    fn whatever_is_published_is_one_line_of_json_that_steers_no_terminal() {
        let data = "{\r\n\t\"a\":\"\u{9b}\u{202e}\"\n}";
        let mut odd = delivery(Content::One(message(data)));
        odd.client_id = "\x1b[2J\n".into();
        let line = texts(&odd).remove(0);
        assert!(line.trim_end().chars().all(|c| !c.is_control() && c != '\u{202e}'), "{line:?}");
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["data"], serde_json::from_str::<Value>(data).unwrap());
        assert_eq!(value["clientId"], "\x1b[2J\n");
    }

    #[test]
    fn presence_has_an_action() {
        let member = Member {
            action: Action::Leave,
            timestamp_ms: 5,
            channel: "c".into(),
            client_id: "alice".into(),
            connection_id: "0.1.2".into(),
            data: b"",
            encoding: "".into(),
        };
        let expected = concat!(
            r#"{"channel":"c","action":"leave","timestamp":5,"clientId":"alice","#,
            r#""connectionId":"0.1.2","data":null}"#,
            "\n"
        );
        assert_eq!(member_line(&member).text(), expected);
        assert_eq!(reset_line("c").text(), "{\"channel\":\"c\",\"action\":\"reset\"}\n");
    }
}
