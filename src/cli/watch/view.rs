//! From model to terminal cells.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Paragraph, Row as TableRow, Table};

use super::model::{Entry, Model, Scene, Status};
use super::roster::{Flash, Row};
use crate::channel::ChangeKind;
use crate::cli::place::Place;
use crate::cli::text::{Token, age, clock, count, printable, tokens};

/// Lines of the log, its borders included.
const LOG_HEIGHT: u16 = 9;

/// Screens lower than this have no log.
const LOG_SCREEN_HEIGHT_MIN: u16 = 18;

const COLUMN_SPACING: u16 = 2;
const AGE_WIDTH: u16 = 6;
const USER_WIDTH_MAX: u16 = 24;
const CONNECTION_WIDTH_MAX: u16 = 16;

/// Borders and header of the table.
const TABLE_FRAME_HEIGHT: u16 = 3;

/// The areas of the table, the log and the status line.
fn areas(screen: Rect) -> [Rect; 3] {
    let log_height = if screen.height >= LOG_SCREEN_HEIGHT_MIN { LOG_HEIGHT } else { 0 };
    let heights = [Constraint::Min(0), Constraint::Length(log_height), Constraint::Length(1)];
    Layout::vertical(heights).areas(screen)
}

/// Members that fit on a screen.
pub(super) fn page_rows(screen: Rect) -> usize {
    usize::from(areas(screen)[0].height.saturating_sub(TABLE_FRAME_HEIGHT))
}

pub(super) fn draw(frame: &mut Frame<'_>, place: &Place, model: &Model, now_ms: u64) {
    let [table_area, log_area, status_area] = areas(frame.area());
    let (scene, shown_ms) = model.scene(now_ms);
    frame.render_widget(table(place, model, scene, shown_ms, table_area), table_area);
    frame.render_widget(log(scene, log_area), log_area);
    draw_status(frame, status_area, place, model, now_ms);
}

fn table<'a>(
    place: &Place,
    model: &Model,
    scene: &'a Scene,
    shown_ms: u64,
    area: Rect,
) -> Table<'a> {
    let visible = usize::from(area.height.saturating_sub(TABLE_FRAME_HEIGHT));
    let rows: Vec<&Row> = scene.roster.rows().skip(model.scrolled()).take(visible).collect();
    let columns = Columns::for_rows(&rows, area.width);
    let header = [
        Line::raw("USER"),
        Line::raw("STATE"),
        Line::raw("AGE").right_aligned(),
        Line::raw("CONNECTION"),
    ];
    Table::new(rows.into_iter().map(|row| table_row(row, &columns, shown_ms)), columns.widths())
        .header(TableRow::new(header).dim())
        .column_spacing(COLUMN_SPACING)
        .block(panel(title(place)).title_top(tally(model, scene).right_aligned()))
}

/// Widths of the columns that depend on what is in them.
struct Columns {
    user: u16,
    state: u16,
    connection: u16,
}

impl Columns {
    /// The state takes what the others leave of `width`.
    fn for_rows(rows: &[&Row], width: u16) -> Self {
        let widest = |text: fn(&Row) -> &str, header: &str, max: u16| {
            let widths = rows.iter().map(|row| Line::raw(text(row)).width() as u16);
            widths.max().unwrap_or_default().clamp(header.len() as u16, max)
        };
        let user = widest(|row| &row.user, "USER", USER_WIDTH_MAX);
        let connection = widest(|row| &row.connection, "CONNECTION", CONNECTION_WIDTH_MAX);
        let taken = user + connection + AGE_WIDTH + 3 * COLUMN_SPACING + 2;
        Columns { user, state: width.saturating_sub(taken), connection }
    }

    fn widths(&self) -> [Constraint; 4] {
        [self.user, self.state, AGE_WIDTH, self.connection].map(Constraint::Length)
    }
}

/// As much of a line as fits, with a mark where it was cut.
fn fitted(line: Line<'_>, width: u16) -> Line<'_> {
    let width = usize::from(width);
    if line.width() <= width {
        return line;
    }
    let mut spans = Vec::new();
    let mut taken = 0;
    for grapheme in line.styled_graphemes(Style::new()) {
        let span = Span::styled(grapheme.symbol.to_owned(), grapheme.style);
        taken += span.width();
        if taken >= width {
            break;
        }
        spans.push(span);
    }
    spans.push("…".dim());
    Line::from(spans)
}

fn panel(title: Line<'static>) -> Block<'static> {
    Block::bordered().border_type(BorderType::Rounded).border_style(Color::DarkGray).title(title)
}

fn title(place: &Place) -> Line<'static> {
    let channel = printable(&place.channel).into_owned();
    let app = format!(" app {} ", printable(&place.app()));
    Line::from_iter([" ".into(), channel.bold().cyan(), app.dim()])
}

fn tally(model: &Model, scene: &Scene) -> Line<'static> {
    let mut spans = Vec::new();
    if let Some(events) = model.events_missed() {
        let text = format!(" paused, {} since ", count(events as usize, "event"));
        spans.push(text.black().on_yellow());
    }
    spans.push(format!(" {} ", count(scene.roster.members(), "member")).bold());
    if model.scrolled() > 0 {
        spans.push(format!("from the {}. ", model.scrolled() + 1).dim());
    }
    Line::from(spans)
}

fn table_row<'a>(row: &'a Row, columns: &Columns, shown_ms: u64) -> TableRow<'a> {
    let flash = row.flash.map(|flash| flash_style(flash, shown_ms));
    let (state, connection) = match flash {
        // The colour of the change is the colour of the whole row.
        Some(_) => (Line::raw(row.state.as_str()), Line::raw(row.connection.as_str())),
        None => (coloured(&row.state), Line::raw(row.connection.as_str()).dim()),
    };
    let cells = [
        fitted(Line::raw(row.user.as_str()), columns.user),
        fitted(state, columns.state),
        Line::raw(age(row.age_ms(shown_ms))).right_aligned(),
        fitted(connection, columns.connection),
    ];
    TableRow::new(cells).style(flash.unwrap_or_default())
}

fn name_and_colour(change: ChangeKind) -> (&'static str, Color) {
    match change {
        ChangeKind::Enter => ("enter", Color::Green),
        ChangeKind::Update | ChangeKind::Peer => ("update", Color::Yellow),
        ChangeKind::Leave => ("leave", Color::Red),
    }
}

/// Inverse at first, then bold, then plain.
fn flash_style(flash: Flash, shown_ms: u64) -> Style {
    let (_, colour) = name_and_colour(flash.change);
    match flash.phase(shown_ms) {
        0 => Style::new().fg(Color::Black).bg(colour),
        1 => Style::new().fg(colour).add_modifier(Modifier::BOLD),
        _ if flash.change == ChangeKind::Leave => {
            Style::new().fg(colour).add_modifier(Modifier::DIM)
        }
        _ => Style::new().fg(colour),
    }
}

/// A state with colours for keys, texts and numbers.
fn coloured(state: &str) -> Line<'_> {
    let span = |(kind, token)| match kind {
        Token::Key => Span::styled(token, Color::Blue),
        Token::Text => Span::styled(token, Color::Green),
        Token::Literal => Span::styled(token, Color::Magenta),
        Token::Punctuation => Span::styled(token, Color::DarkGray),
    };
    Line::from_iter(tokens(state).into_iter().map(span))
}

fn log<'a>(scene: &'a Scene, area: Rect) -> Paragraph<'a> {
    let lines = usize::from(area.height.saturating_sub(2));
    let line = |entry| fitted(log_line(entry), area.width.saturating_sub(2));
    let entries: Vec<Line<'a>> = scene.log.iter().take(lines).map(line).collect();
    Paragraph::new(entries).block(panel(Line::from(" latest events (UTC) ".dim())))
}

fn log_line(entry: &Entry) -> Line<'_> {
    let (name, colour) = entry.change.map_or(("stream", Color::Cyan), name_and_colour);
    let times = if entry.times > 1 { format!("×{} ", entry.times) } else { String::new() };
    let mut line = vec![
        format!("{} ", clock(entry.wall_ms)).dim(),
        Span::styled(format!("{name:<6}"), colour),
        Span::raw(" "),
    ];
    if !entry.user.is_empty() {
        line.extend([entry.user.as_str().bold(), Span::raw(" ")]);
    }
    line.extend([Span::styled(times, colour), Span::raw(entry.text.as_str()).dim()]);
    Line::from(line)
}

fn draw_status(frame: &mut Frame<'_>, area: Rect, place: &Place, model: &Model, now_ms: u64) {
    let keys = Line::from(" q quit  j/k scroll  p pause ").dim().right_aligned();
    let widths = [Constraint::Fill(1), Constraint::Length(keys.width() as u16)];
    let [left, right] = Layout::horizontal(widths).areas(area);
    frame.render_widget(status(place, &model.status, now_ms), left);
    frame.render_widget(keys, right);
}

fn status(place: &Place, status: &Status, now_ms: u64) -> Line<'static> {
    match status {
        Status::Live => {
            Line::from(vec![" ● ".green(), format!("live, {}", place.server.admin).into()])
        }
        Status::Joining => {
            Line::from(vec![" ◌ ".yellow(), format!("joining, {}", place.server.admin).into()])
        }
        Status::Lost { retry_at_ms } => {
            let next = match retry_at_ms.saturating_sub(now_ms) {
                0 => "now".to_owned(),
                wait_ms => format!("in {}", age(wait_ms)),
            };
            Line::from(vec![
                " ○ ".red(),
                format!("lost {}, retry {next}", place.server.admin).red(),
            ])
        }
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::buffer::Buffer;

    use super::super::feed::News;
    use super::*;
    use crate::admin::Event;
    use crate::cli::place::tests::place as place_of;
    use crate::ids::Clocks;

    const WIDTH: u16 = 72;
    const HEIGHT: u16 = 20;

    fn place() -> Place {
        place_of(&["doc:1", "--app", "demo", "--admin", "127.0.0.1:7402"])
    }

    fn at(ms: u64) -> Clocks {
        Clocks { mono_ms: ms, wall_ms: 3_600_000 + ms }
    }

    fn apply(model: &mut Model, ms: u64, line: &str) {
        model.apply_item(at(ms), News::Event(Event::parse(line).unwrap()));
    }

    fn event(kind: &str, user: &str, state: &str) -> String {
        let member =
            format!(r#""user":"{user}","connection":"0.1.2","state":{state},"age_ms":500"#);
        format!(r#"{{"event":"{kind}",{member}}}"#)
    }

    fn live(users: &[&str]) -> Model {
        let mut model = Model::default();
        model.apply_item(at(0), News::Opened);
        for user in users {
            apply(&mut model, 0, &event("present", user, r#"{"x":1,"y":"z"}"#));
        }
        apply(&mut model, 0, r#"{"event":"ready","members":0}"#);
        model.set_page(page_rows(Rect::new(0, 0, WIDTH, HEIGHT)));
        model
    }

    fn drawn(model: &Model, now_ms: u64, width: u16, height: u16) -> Buffer {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, &place(), model, now_ms)).unwrap();
        terminal.backend().buffer().clone()
    }

    fn lines(buffer: &Buffer) -> Vec<String> {
        let width = usize::from(buffer.area.width);
        let rows = buffer.content.chunks(width);
        rows.map(|row| row.iter().map(|cell| cell.symbol()).collect()).collect()
    }

    fn screen(model: &Model, now_ms: u64) -> Vec<String> {
        lines(&drawn(model, now_ms, WIDTH, HEIGHT))
    }

    /// Foreground and background of the first cell of the first member.
    fn first_row_colours(model: &Model, now_ms: u64) -> (Color, Color) {
        let buffer = drawn(model, now_ms, WIDTH, HEIGHT);
        let cell = &buffer[(1, 2)];
        (cell.fg, cell.bg)
    }

    #[test]
    fn the_screen_says_where_who_what_since_when_and_how_it_is() {
        let screen = screen(&live(&["alice", "bob"]), 1500);
        assert!(screen[0].contains("doc:1 app demo"), "{}", screen[0]);
        assert!(screen[0].contains("2 members"), "{}", screen[0]);
        for text in ["alice", r#"{"x": 1, "y": "z"}"#, "2.0s", "0.1.2"] {
            assert!(screen[2].contains(text), "{text}: {}", screen[2]);
        }
        assert!(screen[3].contains("bob"), "{}", screen[3]);
        assert!(screen[19].contains("● live, 127.0.0.1:7402"), "{}", screen[19]);
        assert!(screen[19].contains("q quit"), "{}", screen[19]);
    }

    #[test]
    fn changes_have_a_colour_that_fades_and_are_logged() {
        for (kind, user, colour) in [
            ("enter", "alice", Color::Green),
            ("update", "alice", Color::Yellow),
            ("leave", "alice", Color::Red),
        ] {
            let mut model = live(if kind == "enter" { &[] } else { &["alice"] });
            apply(&mut model, 1000, &event(kind, user, "7"));
            assert_eq!(first_row_colours(&model, 1000), (Color::Black, colour), "{kind}");
            assert_eq!(first_row_colours(&model, 1600).0, colour, "{kind}");
            model.tick(3000);
            assert_eq!(first_row_colours(&model, 3000).0, Color::Reset, "{kind}");
            let screen = screen(&model, 3000);
            let entry = format!("01:00:01 {kind:<6} {user} 7");
            assert!(screen[11].contains(&entry), "{entry}: {}", screen[11]);
            assert_eq!(screen[2].contains("alice"), kind != "leave", "{}", screen[2]);
        }
    }

    #[test]
    fn a_lost_server_is_said_with_the_next_attempt() {
        let mut model = live(&["alice"]);
        model.apply_item(at(1000), News::Lost { why: "gone".into(), retry_ms: 2000 });
        let status = &screen(&model, 1500)[19];
        assert!(status.contains("lost 127.0.0.1:7402, retry in 1.5s"), "{status}");
        let screen = screen(&model, 9000);
        assert!(screen[19].contains("retry now"), "{}", screen[19]);
        assert!(screen[11].contains("01:00:01 stream gone"), "{}", screen[11]);
    }

    #[test]
    fn a_pause_is_said() {
        let mut model = live(&["alice"]);
        model.toggle_pause(10);
        apply(&mut model, 11, &event("enter", "bob", "1"));
        let screen = screen(&model, 5000);
        assert!(screen[0].contains("paused, 1 event since"), "{}", screen[0]);
        assert!(screen[2].contains("0.5s"), "{}", screen[2]);
    }

    #[test]
    fn what_is_too_long_is_cut_with_a_mark() {
        let mut model = live(&["a"]);
        let state = format!("\"{}\"", "日".repeat(300));
        apply(&mut model, 0, &event("enter", &"b".repeat(30), &state));
        for now_ms in [0, 3000] {
            model.tick(now_ms);
            let screen = screen(&model, now_ms);
            assert!(screen[3].contains(&format!("{}…  ", "b".repeat(23))), "{}", screen[3]);
            assert!(screen[3].contains("日 …"), "{}", screen[3]);
            assert!(screen[3].contains("0.1.2"), "{}", screen[3]);
            assert!(screen[11].contains("…"), "{}", screen[11]);
        }
    }

    #[test]
    fn scrolling_moves_the_rows() {
        let names: Vec<String> = (0..30).map(|number| format!("user{number:02}")).collect();
        let mut model = live(&names.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(screen(&model, 0)[2].contains("user00"));
        model.scroll(isize::MAX);
        let screen = screen(&model, 0);
        assert!(screen[8].contains("user29"), "{screen:#?}");
        assert!(screen[0].contains("from the 24."), "{}", screen[0]);
    }

    #[test]
    fn peers_cannot_steer_the_terminal() {
        let mut model = live(&[]);
        apply(&mut model, 0, &event("enter", r"\u001b[2J\n", r#""\u009b31m""#));
        let buffer = drawn(&model, 0, WIDTH, HEIGHT);
        let symbols = buffer.content.iter().flat_map(|cell| cell.symbol().chars());
        assert!(!symbols.into_iter().any(char::is_control));
        let screen = lines(&buffer);
        assert!(screen[2].contains(r"\u001b[2J\u000a"), "{}", screen[2]);
        assert!(screen[11].contains(r"\u001b[2J\u000a"), "{}", screen[11]);
    }

    #[test]
    fn any_size_of_screen_is_drawn() {
        let model = live(&["alice", "日本"]);
        for (width, height) in [(1, 1), (3, 2), (10, 5), (40, 18), (500, 100)] {
            drawn(&model, 0, width, height);
        }
    }
}
