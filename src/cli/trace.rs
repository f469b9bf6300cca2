//! `trace`: what happens to a channel.

use clap::Args;
use serde_json::Value;

use super::ending;
use super::failure::Failure;
use super::output;
use super::place::Place;
use super::text::{clock, printable};

/// Show live what reaches a channel and what leaves it, at the shard that owns it
///
/// One line for each command (subscribe, publish, announce, ...) with its author, for each refusal,
/// and for each batch that is sent to the shards with subscribers. Lines with the same turn are of
/// the same moment. Nobody else notices; a busy channel loses lines, which is said. Clock times are
/// UTC.
#[derive(Debug, Args)]
#[command(after_help = "Example: headcount trace chat:lobby\n\
                        Example: headcount trace chat:lobby --json | jq .command")]
pub(super) struct Trace {
    #[command(flatten)]
    place: Place,
    /// Print the server's lines of JSON; times in milliseconds
    #[arg(long)]
    json: bool,
}

impl Trace {
    pub fn run(&self) -> Result<(), Failure> {
        ending::exit_with_output()?;
        let mut lines = self.place.client()?.lines(&self.place.path("trace"))?;
        loop {
            let line = lines.next()?;
            let unreadable = |error| Failure::request("unreadable line in the stream", error);
            let value: Value = serde_json::from_str(&line).map_err(unreadable)?;
            match self.json {
                true => output::print(&format!("{}\n", printable(&value.to_string())))?,
                false => output::print(&text(&value))?,
            }
        }
    }
}

/// A line as text: when, in which turn, what, and its fields.
fn text(line: &Value) -> String {
    let time = line["at_ms"].as_u64().map_or_else(|| "--:--:--".to_owned(), clock);
    let event = line["event"].as_str().unwrap_or("?");
    let fields = line.as_object().into_iter().flatten();
    let fields = fields.filter(|(name, _)| !matches!(&***name, "event" | "at_ms"));
    let fields: Vec<String> = fields
        .map(|(name, value)| match (&**name, value) {
            ("command", Value::String(text)) => text.clone(),
            (name, Value::String(text)) => format!("{name}={text:?}"),
            (name, value) => format!("{name}={value}"),
        })
        .collect();
    printable(&format!("{time} {event:<7} {}", fields.join(" "))).into_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_has_its_time_and_everything_that_the_server_said() {
        let line = json!({ "event": "command", "at_ms": 3_661_000, "turn": 7, "from_shard": 1,
                           "command": "publish http client=\"a\u{1b}b\"" });
        assert_eq!(
            text(&line),
            "01:01:01 command turn=7 from_shard=1 publish http client=\"a\\u001bb\"\n"
        );
        assert_eq!(text(&json!({ "event": "lost", "count": 3 })), "--:--:-- lost    count=3\n");
    }
}
