//! The content of the screen, from stream items, keys and time.

use std::collections::VecDeque;

use super::feed::News;
use super::roster::{Difference, Roster};
use crate::admin::{Event, Member};
use crate::channel::ChangeKind;
use crate::cli::text::{clipped, printable};
use crate::ids::Clocks;

/// Entries of the log; earlier ones are forgotten.
const LOG_ENTRIES_MAX: usize = 200;

/// State of the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Status {
    /// Connected, and the present set is not complete.
    #[default]
    Joining,
    Live,
    Lost {
        retry_at_ms: u64,
    },
}

/// One line of the log, safe to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub wall_ms: u64,
    /// `None` for entries about the stream.
    pub change: Option<ChangeKind>,
    /// Empty for entries about the stream.
    pub user: String,
    pub text: String,
    connection: String,
    /// Updates of the same member in a row are one entry, with the latest state.
    pub times: u64,
}

/// The content that a pause freezes.
#[derive(Clone, Debug, Default)]
pub(super) struct Scene {
    pub roster: Roster,
    /// Latest first.
    pub log: VecDeque<Entry>,
}

#[derive(Debug)]
struct Frozen {
    scene: Scene,
    since_ms: u64,
    events: u64,
}

/// The state of the screen.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub status: Status,
    live: Scene,
    /// A present set that is being received; changes belong to it until it is complete.
    incoming: Option<Roster>,
    /// Whether a present set was complete before.
    had_snapshot: bool,
    /// Why the last attempt failed, to log it once; `None` once live.
    lost_why: Option<String>,
    frozen: Option<Frozen>,
    scrolled: usize,
    page_rows: usize,
}

impl Model {
    /// The shown content, and its time.
    pub fn scene(&self, now_ms: u64) -> (&Scene, u64) {
        self.frozen.as_ref().map_or((&self.live, now_ms), |frozen| (&frozen.scene, frozen.since_ms))
    }

    /// Events since the pause began; `None` while there is none.
    pub fn events_missed(&self) -> Option<u64> {
        self.frozen.as_ref().map(|frozen| frozen.events)
    }

    /// Rows above the first visible one.
    pub fn scrolled(&self) -> usize {
        self.scrolled
    }

    /// Whether the screen changes without events, apart from ages.
    pub fn is_animated(&self) -> bool {
        self.frozen.is_none() && self.live.roster.is_flashing()
    }

    pub fn apply_item(&mut self, now: Clocks, news: News) {
        match news {
            News::Opened => self.begin(),
            News::Event(event) => self.apply(now, &event),
            News::Lost { why, retry_ms } => self.lose(now, why, retry_ms),
        }
    }

    fn apply(&mut self, now: Clocks, event: &Event) {
        if let Some((change, member)) = event.change() {
            self.frozen.iter_mut().for_each(|frozen| frozen.events += 1);
            self.target().change(now.mono_ms, member, change);
            self.log(now, change, member);
        }
        match event {
            Event::Reset => {
                self.note(now, "events were missed, the server sends all members again");
                self.begin();
            }
            Event::Present(member) => self.target().present(now.mono_ms, member),
            Event::Ready { .. } => self.complete(now),
            Event::Enter(_) | Event::Update(_) | Event::Leave(_) | Event::Unknown => {}
        }
    }

    /// Ends highlights, removes rows of members that left, and limits the scroll position.
    pub fn tick(&mut self, now_ms: u64) {
        self.live.roster.tick(now_ms);
        self.scroll_to(self.scrolled);
    }

    /// Rows of the table that fit on the screen.
    pub fn set_page(&mut self, rows: usize) {
        self.page_rows = rows;
    }

    pub fn page_rows(&self) -> isize {
        self.page_rows.max(1) as isize
    }

    /// Moves through the table, down or, for a negative number, up.
    pub fn scroll(&mut self, rows: isize) {
        self.scroll_to(self.scrolled.saturating_add_signed(rows));
    }

    /// Freezes the shown content, or shows the current one again.
    pub fn toggle_pause(&mut self, now_ms: u64) {
        self.frozen = match self.frozen.take() {
            Some(_) => None,
            None => Some(Frozen { scene: self.live.clone(), since_ms: now_ms, events: 0 }),
        };
    }

    fn scroll_to(&mut self, row: usize) {
        let rows = self.scene(0).0.roster.row_count();
        self.scrolled = row.min(rows.saturating_sub(self.page_rows));
    }

    fn begin(&mut self) {
        self.status = Status::Joining;
        self.incoming = Some(Roster::default());
    }

    fn complete(&mut self, now: Clocks) {
        self.status = Status::Live;
        self.lost_why = None;
        let Some(mut roster) = self.incoming.take() else { return };
        if self.had_snapshot {
            let Difference { arrived, gone } = roster.compare(now.mono_ms, &self.live.roster);
            self.note(now, &format!("up to date again: {arrived} came and {gone} left meanwhile"));
        }
        self.had_snapshot = true;
        self.live.roster = roster;
    }

    fn lose(&mut self, now: Clocks, why: String, retry_ms: u64) {
        self.incoming = None;
        if self.lost_why.as_ref() != Some(&why) {
            self.note(now, &why);
        }
        self.lost_why = Some(why);
        self.status = Status::Lost { retry_at_ms: now.mono_ms + retry_ms };
    }

    fn target(&mut self) -> &mut Roster {
        self.incoming.as_mut().unwrap_or(&mut self.live.roster)
    }

    fn note(&mut self, now: Clocks, text: &str) {
        self.push(Entry {
            wall_ms: now.wall_ms,
            text: printable(text).into_owned(),
            times: 1,
            ..Entry::default()
        });
    }

    fn log(&mut self, now: Clocks, change: ChangeKind, member: &Member) {
        self.push(Entry {
            wall_ms: member.at_ms.unwrap_or(now.wall_ms),
            change: Some(change),
            user: member.user_text(),
            text: clipped(member.state_text()),
            connection: member.connection.clone(),
            times: 1,
        });
    }

    fn push(&mut self, mut entry: Entry) {
        let log = &mut self.live.log;
        if log.front().is_some_and(|latest| is_continued(latest, &entry)) {
            entry.times += log.pop_front().map_or(0, |latest| latest.times);
        }
        log.push_front(entry);
        log.truncate(LOG_ENTRIES_MAX);
    }
}

/// Whether both are updates of the same member.
fn is_continued(latest: &Entry, entry: &Entry) -> bool {
    let member = |entry: &Entry| (entry.user.clone(), entry.connection.clone());
    [latest.change, entry.change] == [Some(ChangeKind::Update); 2]
        && member(latest) == member(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::ChangeKind::{Enter, Leave, Update};
    use crate::cli::watch::roster::FLASH_MS;

    fn at(ms: u64) -> Clocks {
        Clocks { mono_ms: ms, wall_ms: 1_000_000 + ms }
    }

    fn event(kind: &str, user: &str, state: u64) -> News {
        let line = format!(
            r#"{{"event":"{kind}","at_ms":5000,"user":"{user}","connection":"0.0.{user}",
                "state":{{"x":{state}}},"age_ms":0}}"#
        );
        News::Event(Event::parse(&line).unwrap())
    }

    fn ready(members: usize) -> News {
        News::Event(Event::Ready { members })
    }

    /// A model with `news` applied, one each millisecond.
    fn model(news: impl IntoIterator<Item = News>) -> Model {
        let mut model = Model::default();
        for (ms, news) in (0..).zip(news) {
            model.apply_item(at(ms), news);
        }
        model
    }

    fn live(users: &[&str]) -> Model {
        let present = users.iter().map(|user| event("present", user, 0));
        model([News::Opened].into_iter().chain(present).chain([ready(users.len())]))
    }

    fn users(model: &Model) -> Vec<&str> {
        model.scene(0).0.roster.rows().map(|row| row.user.as_str()).collect()
    }

    fn log(model: &Model) -> Vec<(Option<ChangeKind>, &str, u64)> {
        let log = model.scene(0).0.log.iter();
        log.map(|entry| (entry.change, entry.user.as_str(), entry.times)).collect()
    }

    #[test]
    fn the_present_set_appears_at_once_when_complete_and_is_no_news() {
        let mut model = model([News::Opened, event("present", "a", 0), event("present", "b", 0)]);
        assert_eq!((users(&model), &model.status), (vec![], &Status::Joining));
        model.apply_item(at(9), ready(2));
        assert_eq!((users(&model), &model.status), (vec!["a", "b"], &Status::Live));
        assert!(!model.is_animated());
        assert_eq!(log(&model), []);
    }

    #[test]
    fn events_change_the_table_and_are_logged_latest_first() {
        let mut model = live(&["a"]);
        for (kind, user) in [("enter", "b"), ("update", "a"), ("leave", "b")] {
            model.apply_item(at(10), event(kind, user, 1));
        }
        assert_eq!(users(&model), ["a", "b"]);
        assert!(model.is_animated());
        let expected = [(Some(Leave), "b", 1), (Some(Update), "a", 1), (Some(Enter), "b", 1)];
        assert_eq!(log(&model), expected);
        model.tick(10 + FLASH_MS);
        assert_eq!(users(&model), ["a"]);
        assert!(!model.is_animated());
    }

    #[test]
    fn updates_in_a_row_are_one_entry_with_the_latest_state() {
        let mut model = live(&["a", "b"]);
        for (user, state) in [("a", 1), ("a", 2), ("a", 3), ("b", 4), ("a", 5)] {
            model.apply_item(at(10), event("update", user, state));
        }
        let expected = [(Some(Update), "a", 1), (Some(Update), "b", 1), (Some(Update), "a", 3)];
        assert_eq!(log(&model), expected);
        assert_eq!(model.scene(0).0.log[2].text, r#"{"x": 3}"#);
    }

    #[test]
    fn the_log_is_bounded() {
        let mut model = live(&[]);
        for user in 0..1000 {
            model.apply_item(at(10), event("enter", &user.to_string(), 0));
        }
        assert_eq!(model.scene(0).0.log.len(), LOG_ENTRIES_MAX);
    }

    #[test]
    fn a_reset_replaces_the_set_without_an_empty_moment() {
        let mut model = live(&["a", "b"]);
        model.apply_item(at(10), News::Event(Event::Reset));
        model.apply_item(at(11), event("present", "b", 0));
        model.apply_item(at(12), event("present", "c", 0));
        assert_eq!(users(&model), ["a", "b"]);
        model.apply_item(at(13), ready(2));
        assert_eq!(users(&model), ["b", "c"]);
        assert!(model.is_animated(), "c is new");
        let text = &model.scene(0).0.log[0].text;
        assert!(text.contains("1 came and 1 left"), "{text}");
    }

    #[test]
    fn a_lost_server_keeps_the_last_picture_and_says_when_it_tries_again() {
        let mut model = live(&["a"]);
        for (ms, retry_ms) in [(100, 250), (400, 500)] {
            model.apply_item(at(ms), News::Lost { why: "gone".into(), retry_ms });
        }
        assert_eq!(model.status, Status::Lost { retry_at_ms: 900 });
        assert_eq!(users(&model), ["a"]);
        assert_eq!(log(&model), [(None, "", 1)]);
        model.apply_item(at(900), News::Opened);
        model.apply_item(at(901), ready(0));
        assert_eq!((users(&model), &model.status), (vec![], &Status::Live));
    }

    #[test]
    fn a_set_cut_short_is_dropped() {
        let mut model = live(&["a"]);
        model.apply_item(at(10), News::Opened);
        model.apply_item(at(11), event("present", "b", 0));
        model.apply_item(at(12), News::Lost { why: "gone".into(), retry_ms: 1 });
        assert_eq!(users(&model), ["a"]);
    }

    #[test]
    fn a_pause_freezes_what_is_shown_and_counts_what_is_missed() {
        let mut model = live(&["a"]);
        model.toggle_pause(50);
        model.apply_item(at(60), event("enter", "b", 0));
        model.apply_item(at(61), event("update", "a", 1));
        assert_eq!((users(&model), model.events_missed()), (vec!["a"], Some(2)));
        assert_eq!(model.scene(99).1, 50);
        assert!(!model.is_animated());
        model.toggle_pause(100);
        assert_eq!((users(&model), model.events_missed()), (vec!["a", "b"], None));
        assert_eq!(model.scene(99).1, 99);
    }

    #[test]
    fn scrolling_stays_within_the_rows() {
        let names: Vec<String> = (0..10).map(|number| number.to_string()).collect();
        let mut model = live(&names.iter().map(String::as_str).collect::<Vec<_>>());
        model.set_page(4);
        let page = model.page_rows();
        let moves = [
            (-1, 0),
            (1, 1),
            (page, 5),
            (page, 6),
            (1, 6),
            (-page, 2),
            (isize::MAX, 6),
            (isize::MIN, 0),
        ];
        for (rows, scrolled) in moves {
            model.scroll(rows);
            assert_eq!(model.scrolled(), scrolled, "{rows}");
        }
        model.scroll(isize::MAX);
        model.apply_item(at(50), News::Opened);
        model.apply_item(at(51), ready(0));
        model.tick(52);
        assert_eq!(model.scrolled(), 0);
    }
}
