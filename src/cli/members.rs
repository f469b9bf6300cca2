//! `members`: the present members of a channel.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use ratatui::text::Line;
use serde::Deserialize;
use serde_json::Value;

use super::failure::Failure;
use super::output;
use super::place::Place;
use super::text::{age, count, printable};
use crate::admin::Member;

/// Maximum width of an aligned column; a wider cell shifts the rest of its row.
const COLUMN_WIDTH_MAX: usize = 60;

const HEADER: [&str; 4] = ["USER", "STATE", "AGE", "CONNECTION"];

/// List who is present in a channel, in the order they joined
///
/// AGE is the time since a member last announced its state, at the time that is shown. An empty or
/// unknown channel has no members; that is no error.
#[derive(Debug, Args)]
#[command(after_help = "Example: headcount members doc:1 --json | jq '.members[].user'")]
pub(super) struct Members {
    #[command(flatten)]
    place: Place,
    /// List who was present at a time: `2026-11-28T19:00:00Z`, Unix milliseconds, or how long ago
    /// (`10m`, `2h 30m`). The namespace of the channel must keep presence history
    #[arg(long, value_name = "TIME", value_parser = time)]
    at: Option<u64>,
    /// Print the server's JSON instead of a table; ages in milliseconds
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Deserialize)]
struct Answer {
    members: Vec<Member>,
}

impl Members {
    pub fn run(&self) -> Result<(), Failure> {
        let question = match self.at {
            Some(at_ms) => format!("members?at={at_ms}"),
            None => "members".to_owned(),
        };
        let answer = self.place.client()?.text(&self.place.path(&question))?;
        let unreadable = |error: serde_json::Error| {
            let what =
                format!("the answer of {} is not a list of members", self.place.server.admin);
            Failure::request(what, error)
        };
        if self.json {
            let value: Value = serde_json::from_str(&answer).map_err(unreadable)?;
            return output::print(&format!("{}\n", printable(&value.to_string())));
        }
        let answer: Answer = serde_json::from_str(&answer).map_err(unreadable)?;
        output::print(&page(&self.place, &answer.members))
    }
}

/// Milliseconds since the Unix epoch.
fn time(text: &str) -> Result<u64, String> {
    if let Ok(at_ms) = text.parse() {
        return Ok(at_ms);
    }
    let since_epoch = |time: SystemTime| {
        let since = time.duration_since(UNIX_EPOCH).map_err(|error| error.to_string())?;
        u64::try_from(since.as_millis()).map_err(|error| error.to_string())
    };
    if let Ok(time) = humantime::parse_rfc3339_weak(text) {
        return since_epoch(time);
    }
    let ago = humantime::parse_duration(text).map_err(
        |_| "write a time as 2026-11-28T19:00:00Z, in Unix milliseconds, or how long ago as 10m",
    )?;
    since_epoch(SystemTime::now().checked_sub(ago).ok_or("that is before 1970")?)
}

fn page(place: &Place, members: &[Member]) -> String {
    let app = place.app();
    let (channel, app) = (printable(&place.channel), printable(&app));
    let summary = format!("{} in {channel} (app {app})\n", count(members.len(), "member"));
    if members.is_empty() {
        return summary;
    }
    let rows = members.iter().map(row);
    table(&std::iter::once(HEADER.map(str::to_owned)).chain(rows).collect::<Vec<_>>()) + &summary
}

fn row(member: &Member) -> [String; 4] {
    let lost = if member.lingering == Some(true) { " (lost, in its grace)" } else { "" };
    let connection = format!("{}{lost}", printable(&member.connection));
    [member.user_text(), member.state_text(), age(member.age_ms), connection]
}

/// One line per row, columns aligned, two spaces between them.
fn table(rows: &[[String; 4]]) -> String {
    let width = |column: usize| {
        let widths = rows.iter().map(|row| cell_width(&row[column]).min(COLUMN_WIDTH_MAX));
        widths.max().unwrap_or_default()
    };
    let widths = [width(0), width(1), width(2)];
    let mut text = String::new();
    for row in rows {
        for (cell, width) in row.iter().zip(widths) {
            let padding = width.saturating_sub(cell_width(cell)) + 2;
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', padding));
        }
        text.push_str(&row[3]);
        text.push('\n');
    }
    text
}

/// Terminal cells that a text takes.
fn cell_width(text: &str) -> usize {
    Line::raw(text).width()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::place::tests::place as place_of;

    fn place() -> Place {
        place_of(&["doc:1", "--app", "demo", "--admin", "127.0.0.1:7402"])
    }

    fn members(json: &str) -> Vec<Member> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_time_is_a_date_a_number_or_how_long_ago() {
        assert_eq!(time("1700000000000"), Ok(1_700_000_000_000));
        assert_eq!(time("2023-11-14T22:13:20Z"), Ok(1_700_000_000_000));
        assert_eq!(time("2023-11-14 22:13:20"), Ok(1_700_000_000_000));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        let ago = time("10m").unwrap();
        assert!((now - 601_000..=now - 599_000).contains(&ago), "{ago}");
        for text in ["yesterday", "", "-5"] {
            assert!(time(text).is_err_and(|why| why.contains("write a time")), "{text}");
        }
    }

    #[test]
    fn columns_are_aligned_by_what_the_terminal_shows() {
        let members = members(
            r#"[{"user":"日本","connection":"0.1.2","state":{"x":1},"age_ms":1234},
                {"user":"bob","connection":"1.0.1","state_base64":"wf8A","age_ms":65000,
                 "lingering":true}]"#,
        );
        let expected = "\
USER  STATE        AGE    CONNECTION
日本  {\"x\": 1}     1.2s   0.1.2
bob   base64:wf8A  1m05s  1.0.1 (lost, in its grace)
2 members in doc:1 (app demo)
";
        assert_eq!(page(&place(), &members), expected);
    }

    #[test]
    fn a_huge_state_pushes_only_its_own_row() {
        let long = "x".repeat(200);
        let json = format!(
            r#"[{{"user":"a","connection":"0.0.1","state":"{long}"}},
                {{"user":"b","connection":"0.0.2","state":1}}]"#
        );
        let page = page(&place(), &members(&json));
        let short = page.lines().nth(2).unwrap();
        assert!(short.len() < 90, "{short}");
        assert!(page.lines().nth(1).unwrap().contains(&long));
    }

    #[test]
    fn an_empty_channel_is_one_line() {
        assert_eq!(page(&place(), &[]), "0 members in doc:1 (app demo)\n");
    }

    #[test]
    fn names_cannot_steer_the_terminal() {
        let members =
            members(r#"[{"user":"\u001b[31m\n","connection":"\u0007","state":"\u009b"}]"#);
        let page = page(&place(), &members);
        assert_eq!(page.lines().count(), 3, "{page}");
        assert!(page.chars().all(|character| character == '\n' || !character.is_control()));
    }
}
