//! The rows of the table: members in join order, and for a short time members that left.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use crate::admin::Member;
use crate::channel::ChangeKind;
use crate::cli::text::{clipped, printable};

/// How long a change is highlighted.
pub(super) const FLASH_MS: u64 = 1500;

/// Rows of members that left; above this number the earliest are removed.
const LEFT_ROWS_MAX: usize = 50;

/// A change that is highlighted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flash {
    pub change: ChangeKind,
    pub since_ms: u64,
}

impl Flash {
    /// 0, 1 or 2: the third of its time.
    pub fn phase(&self, now_ms: u64) -> u64 {
        (now_ms.saturating_sub(self.since_ms) * 3 / FLASH_MS).min(2)
    }

    fn is_over(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.since_ms) >= FLASH_MS
    }
}

/// One row; its texts are safe to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub user: String,
    pub state: String,
    pub connection: String,
    pub flash: Option<Flash>,
    age_ms: u64,
    received_ms: u64,
}

impl Row {
    fn new(now_ms: u64, member: &Member, flash: Option<Flash>) -> Self {
        Row {
            user: member.user_text(),
            state: clipped(member.state_text()),
            connection: printable(&member.connection).into_owned(),
            flash,
            age_ms: member.age_ms,
            received_ms: now_ms,
        }
    }

    /// Since the state was announced; stops when the member leaves.
    pub fn age_ms(&self, now_ms: u64) -> u64 {
        let until_ms = match self.flash {
            Some(Flash { change: ChangeKind::Leave, since_ms }) => since_ms,
            _ => now_ms,
        };
        self.age_ms.saturating_add(until_ms.saturating_sub(self.received_ms))
    }
}

/// User and connection.
type Key = (Arc<str>, String);

/// Rows by join number. Each row is either in `members` or in `left`.
#[derive(Clone, Debug, Default)]
pub(super) struct Roster {
    rows: BTreeMap<u64, Row>,
    members: HashMap<Key, u64>,
    /// Rows of members that left, earliest first.
    left: VecDeque<u64>,
    joined: u64,
}

/// How one present set differs from the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub arrived: usize,
    pub gone: usize,
}

fn key(member: &Member) -> Key {
    (member.user.clone(), member.connection.clone())
}

impl Roster {
    pub fn members(&self) -> usize {
        self.members.len()
    }

    /// Rows in join order, with those of members that left.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.values()
    }

    pub fn row_count(&self) -> usize {
        self.rows.len()
    }

    /// Whether a change is highlighted.
    pub fn is_flashing(&self) -> bool {
        self.rows.values().any(|row| row.flash.is_some())
    }

    /// A member of a present set.
    pub fn present(&mut self, now_ms: u64, member: &Member) {
        self.put(member, Row::new(now_ms, member, None));
    }

    /// A member entered, updated its state, or left.
    pub fn change(&mut self, now_ms: u64, member: &Member, change: ChangeKind) {
        if change == ChangeKind::Leave {
            return self.leave(now_ms, member);
        }
        let flash = Flash { change, since_ms: now_ms };
        self.put(member, Row::new(now_ms, member, Some(flash)));
    }

    /// The row of the member stays for a moment. Nothing changes when it was not there.
    fn leave(&mut self, now_ms: u64, member: &Member) {
        let Some(place) = self.members.remove(&key(member)) else { return };
        if let Some(row) = self.rows.get_mut(&place) {
            row.flash = Some(Flash { change: ChangeKind::Leave, since_ms: now_ms });
        }
        self.left.push_back(place);
        if self.left.len() > LEFT_ROWS_MAX {
            self.forget_first_left();
        }
    }

    fn forget_first_left(&mut self) {
        if let Some(place) = self.left.pop_front() {
            self.rows.remove(&place);
        }
    }

    /// Highlights members that are not in `before`, and counts the difference.
    pub fn compare(&mut self, now_ms: u64, before: &Roster) -> Difference {
        let gone = before.members.keys().filter(|key| !self.members.contains_key(*key)).count();
        let mut arrived = 0;
        for (key, place) in &self.members {
            if !before.members.contains_key(key) {
                arrived += 1;
                if let Some(row) = self.rows.get_mut(place) {
                    row.flash = Some(Flash { change: ChangeKind::Enter, since_ms: now_ms });
                }
            }
        }
        Difference { arrived, gone }
    }

    /// Removes highlights and rows whose time is over.
    pub fn tick(&mut self, now_ms: u64) {
        let is_over = |row: &Row| row.flash.is_some_and(|flash| flash.is_over(now_ms));
        while self.left.front().is_some_and(|place| is_over(&self.rows[place])) {
            self.forget_first_left();
        }
        for row in self.rows.values_mut().filter(|row| is_over(row)) {
            row.flash = None;
        }
    }

    /// A known member keeps its place.
    fn put(&mut self, member: &Member, row: Row) {
        let place = *self.members.entry(key(member)).or_insert_with(|| {
            self.joined += 1;
            self.joined
        });
        self.rows.insert(place, row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(user: &str) -> Member {
        let json = format!(r#"{{"user":"{user}","connection":"0.0.1","age_ms":100}}"#);
        serde_json::from_str(&json).unwrap()
    }

    fn users(roster: &Roster) -> Vec<&str> {
        roster.rows().map(|row| row.user.as_str()).collect()
    }

    fn roster(users: &[&str]) -> Roster {
        let mut roster = Roster::default();
        for user in users {
            roster.present(0, &member(user));
        }
        roster
    }

    #[test]
    fn rows_are_in_join_order_whatever_changes_after() {
        let mut roster = roster(&["b", "a"]);
        roster.change(1, &member("c"), ChangeKind::Enter);
        roster.change(2, &member("b"), ChangeKind::Update);
        assert_eq!(users(&roster), ["b", "a", "c"]);
    }

    #[test]
    fn ages_go_on_until_the_member_leaves() {
        let mut roster = roster(&["a"]);
        assert_eq!(roster.rows().next().unwrap().age_ms(900), 1000);
        roster.leave(1000, &member("a"));
        assert_eq!(roster.rows().next().unwrap().age_ms(1400), 1100);
    }

    #[test]
    fn who_left_is_seen_for_a_moment_and_is_no_member() {
        let mut roster = roster(&["a", "b"]);
        roster.leave(0, &member("a"));
        assert_eq!((roster.members(), roster.row_count()), (1, 2));
        roster.tick(FLASH_MS - 1);
        assert_eq!(users(&roster), ["a", "b"]);
        roster.tick(FLASH_MS);
        assert_eq!(users(&roster), ["b"]);
    }

    #[test]
    fn who_comes_back_joins_at_the_end() {
        let mut roster = roster(&["a", "b"]);
        roster.leave(0, &member("a"));
        roster.change(1, &member("a"), ChangeKind::Enter);
        assert_eq!(users(&roster), ["a", "b", "a"]);
        roster.tick(FLASH_MS);
        assert_eq!(users(&roster), ["b", "a"]);
        assert!(roster.is_flashing());
    }

    #[test]
    fn changes_flash_and_fade() {
        let mut roster = roster(&["a"]);
        assert!(!roster.is_flashing());
        roster.change(10, &member("a"), ChangeKind::Update);
        let flash = roster.rows().next().unwrap().flash.unwrap();
        assert_eq!([10, 510, 1010, 9999].map(|now_ms| flash.phase(now_ms)), [0, 1, 2, 2]);
        roster.tick(10 + FLASH_MS);
        assert!(!roster.is_flashing());
    }

    #[test]
    fn a_crowd_that_leaves_keeps_few_rows() {
        let names: Vec<String> = (0..200).map(|number| format!("user{number}")).collect();
        let mut roster = roster(&names.iter().map(String::as_str).collect::<Vec<_>>());
        for name in &names {
            roster.leave(1, &member(name));
        }
        assert_eq!((roster.members(), roster.row_count()), (0, LEFT_ROWS_MAX));
    }

    #[test]
    fn a_new_set_is_compared_with_the_one_before() {
        let before = roster(&["a", "b", "c"]);
        let mut after = roster(&["c", "d"]);
        assert_eq!(after.compare(5, &before), Difference { arrived: 1, gone: 2 });
        let flashing: Vec<bool> = after.rows().map(|row| row.flash.is_some()).collect();
        assert_eq!(flashing, [false, true]);
    }

    #[test]
    fn leaving_without_having_been_there_is_nothing() {
        let mut roster = roster(&["a"]);
        roster.leave(0, &member("b"));
        assert_eq!((roster.members(), roster.row_count()), (1, 1));
    }
}
