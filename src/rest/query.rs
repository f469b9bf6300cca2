//! Query strings of history and presence requests.

use super::refusal::Refusal;
use crate::session::foony::HISTORY_LIMIT_MAX;

/// Default number of messages on a page.
const MESSAGES_PER_PAGE: usize = 100;

/// A query for messages of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryQuery {
    /// 1 to [`HISTORY_LIMIT_MAX`]; a batch counts as one.
    pub limit: usize,
    pub direction: Direction,
}

/// The start of a page, and its direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Newest first, from below a serial.
    Backwards { before: Option<u64> },
    /// Oldest first, from above `after` (0: from the oldest) to below `before`.
    Forwards { after: u64, before: Option<u64> },
}

impl HistoryQuery {
    /// Parses `limit`, `before`, `direction` and, in links of the server, `after`. A serial of 0
    /// means none, as everywhere in the protocol. Unknown names are ignored.
    ///
    /// # Errors
    /// An invalid value.
    pub fn parse(query: Option<&str>) -> Result<Self, Refusal> {
        let (mut limit, mut before, mut after) = (0_u64, 0, 0);
        let mut is_forwards = false;
        for (name, value) in pairs(query) {
            match &*name {
                "limit" => limit = number(&value, "limit")?,
                "before" => before = number(&value, "before")?,
                "after" => after = number(&value, "after")?,
                "direction" => match &*value {
                    "forwards" => is_forwards = true,
                    "backwards" => is_forwards = false,
                    _ => return Err(Refusal::bad("direction must be `backwards` or `forwards`")),
                },
                _ => {}
            }
        }
        let limit = match usize::try_from(limit).unwrap_or(usize::MAX) {
            0 => MESSAGES_PER_PAGE,
            limit => limit.min(HISTORY_LIMIT_MAX),
        };
        let before = (before > 0).then_some(before);
        let direction = match is_forwards {
            true => Direction::Forwards { after, before },
            false => Direction::Backwards { before },
        };
        Ok(HistoryQuery { limit, direction })
    }
}

/// A query for members of a channel; by default all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PresenceQuery {
    pub limit: Option<usize>,
    pub client_id: Option<String>,
    pub connection_id: Option<String>,
}

impl PresenceQuery {
    /// Parses `limit`, `clientId` and `connectionId`. Unknown names are ignored.
    ///
    /// # Errors
    /// An invalid limit.
    pub fn parse(query: Option<&str>) -> Result<Self, Refusal> {
        let mut parsed = PresenceQuery::default();
        for (name, value) in pairs(query) {
            match &*name {
                "limit" => {
                    let limit = number(&value, "limit")?;
                    parsed.limit = usize::try_from(limit).ok().filter(|limit| *limit > 0);
                }
                "clientId" => parsed.client_id = Some(value.into_owned()),
                "connectionId" => parsed.connection_id = Some(value.into_owned()),
                _ => {}
            }
        }
        Ok(parsed)
    }
}

/// Names and values, decoded as `URLSearchParams` and Go's `url.Values` encode them.
fn pairs(query: Option<&str>) -> form_urlencoded::Parse<'_> {
    form_urlencoded::parse(query.unwrap_or_default().as_bytes())
}

fn number(value: &str, name: &str) -> Result<u64, Refusal> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    match value.parse() {
        Ok(number) if digits => Ok(number),
        _ => Err(Refusal::bad(format!("{name} must be a whole number"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEWEST: Direction = Direction::Backwards { before: None };

    fn forwards(after: u64, before: Option<u64>) -> Direction {
        Direction::Forwards { after, before }
    }

    #[test]
    fn history_queries_are_parsed() {
        for (query, limit, direction) in [
            ("", 100, NEWEST),
            ("limit=2", 2, NEWEST),
            ("limit=0", 100, NEWEST),
            ("limit=1000", 1000, NEWEST),
            ("limit=1001", 1000, NEWEST),
            ("limit=18446744073709551615", 1000, NEWEST),
            ("before=7", 100, Direction::Backwards { before: Some(7) }),
            ("before=0", 100, NEWEST),
            ("direction=backwards&before=7&limit=3", 3, Direction::Backwards { before: Some(7) }),
            ("direction=forwards", 100, forwards(0, None)),
            ("direction=forwards&before=7", 100, forwards(0, Some(7))),
            ("direction=forwards&after=3", 100, forwards(3, None)),
            ("after=3", 100, NEWEST),
            ("limit=%32&&x&y=%ff", 2, NEWEST),
        ] {
            let parsed = HistoryQuery::parse(Some(query));
            assert_eq!(parsed, Ok(HistoryQuery { limit, direction }), "{query}");
        }
        assert_eq!(HistoryQuery::parse(None), Ok(HistoryQuery { limit: 100, direction: NEWEST }));
    }

    #[test]
    fn values_that_cannot_be_read_are_refused() {
        for query in [
            "limit=",
            "limit",
            "limit=-1",
            "limit=%2B1",
            "limit=+1",
            "limit=1.5",
            "limit=x",
            "limit=18446744073709551616",
            "before=m1",
            "after=x",
            "direction=",
            "direction=up",
        ] {
            let refusal = HistoryQuery::parse(Some(query)).unwrap_err();
            assert_eq!(refusal.status, 400, "{query}");
        }
        assert_eq!(PresenceQuery::parse(Some("limit=x")).unwrap_err().status, 400);
    }

    #[test]
    fn presence_queries_are_parsed() {
        let parsed = PresenceQuery::parse(Some("clientId=a+b%2Bc%20%C3%A9&connectionId=x&limit=2"));
        let expected = PresenceQuery {
            limit: Some(2),
            client_id: Some("a b+c é".to_string()),
            connection_id: Some("x".to_string()),
        };
        assert_eq!(parsed, Ok(expected));
        assert_eq!(PresenceQuery::parse(Some("limit=0")), Ok(PresenceQuery::default()));
    }
}
