//! Reads the documentation: its tables, code blocks, links and headings.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::fs;
use std::path::{Path, PathBuf};

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// A file of the repository.
pub struct Page {
    /// Below the root.
    pub path: PathBuf,
    pub text: String,
}

/// A table, under the last heading before it.
#[derive(Debug)]
pub struct Table {
    pub heading: String,
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Cell>>,
}

#[derive(Clone, Debug, Default)]
pub struct Cell {
    pub text: String,
    /// What is set as code.
    pub codes: Vec<String>,
}

/// A fenced block of code.
pub struct Block {
    pub language: String,
    pub text: String,
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A page by its path.
pub fn page(path: &str) -> Page {
    let text = fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    Page { path: path.into(), text }
}

/// The pages in a folder, in the order of their names.
pub fn pages(folder: &str) -> Vec<Page> {
    let entries = fs::read_dir(root().join(folder)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".md")).collect();
    names.sort();
    assert!(!names.is_empty(), "no pages in {folder}");
    names.iter().map(|name| page(&format!("{folder}/{name}"))).collect()
}

impl Page {
    fn events(&self) -> Parser<'_> {
        Parser::new_ext(&self.text, Options::ENABLE_TABLES)
    }

    pub fn tables(&self) -> Vec<Table> {
        let mut tables: Vec<Table> = Vec::new();
        let (mut heading, mut is_heading, mut row) = (String::new(), false, Vec::new());
        for event in self.events() {
            match event {
                Event::Start(Tag::Heading { .. }) => (heading, is_heading) = (String::new(), true),
                Event::End(TagEnd::Heading(_)) => is_heading = false,
                Event::Text(text) | Event::Code(text) if is_heading => heading.push_str(&text),
                Event::Start(Tag::Table(_)) => {
                    let heading = heading.clone();
                    tables.push(Table { heading, columns: Vec::new(), rows: Vec::new() });
                }
                Event::Start(Tag::TableHead | Tag::TableRow) => row = Vec::new(),
                Event::Start(Tag::TableCell) => row.push(Cell::default()),
                Event::End(TagEnd::TableHead) => {
                    let columns = std::mem::take(&mut row).into_iter().map(|cell| cell.text);
                    tables.last_mut().unwrap().columns = columns.collect();
                }
                Event::End(TagEnd::TableRow) => {
                    tables.last_mut().unwrap().rows.push(std::mem::take(&mut row));
                }
                Event::Text(text) => push(&mut row, &text, false),
                Event::Code(text) => push(&mut row, &text, true),
                _ => {}
            }
        }
        tables
    }

    /// The only table under a heading with such a first column.
    pub fn table(&self, heading: &str, first: &str) -> Table {
        let all = self.tables().into_iter();
        let mut found = all.filter(|t| t.heading == heading && t.columns[0] == first);
        let table = found.next().unwrap_or_else(|| panic!("no `{first}` under {heading}"));
        assert!(found.next().is_none(), "{heading}: two tables of `{first}`");
        for row in &table.rows {
            assert_eq!(row.len(), table.columns.len(), "{heading}: {row:?}");
        }
        table
    }

    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut is_open = false;
        for event in self.events() {
            match event {
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
                    let language = language.into_string();
                    blocks.push(Block { language, text: String::new() });
                    is_open = true;
                }
                Event::End(TagEnd::CodeBlock) => is_open = false,
                Event::Text(text) if is_open => blocks.last_mut().unwrap().text.push_str(&text),
                _ => {}
            }
        }
        blocks
    }

    /// What is set as code within text.
    pub fn codes(&self) -> Vec<String> {
        let code = |event| match event {
            Event::Code(text) => Some(text.into_string()),
            _ => None,
        };
        self.events().filter_map(code).collect()
    }

    /// The targets of links.
    pub fn links(&self) -> Vec<String> {
        let target = |event| match event {
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                Some(dest_url.into_string())
            }
            _ => None,
        };
        self.events().filter_map(target).collect()
    }

    /// What links to its headings name: as GitHub makes it.
    pub fn anchors(&self) -> Vec<String> {
        let (mut anchors, mut heading, mut is_heading) = (Vec::new(), String::new(), false);
        for event in self.events() {
            match event {
                Event::Start(Tag::Heading { .. }) => is_heading = true,
                Event::End(TagEnd::Heading(_)) => {
                    anchors.push(anchor(&std::mem::take(&mut heading)));
                    is_heading = false;
                }
                Event::Text(text) | Event::Code(text) if is_heading => heading.push_str(&text),
                _ => {}
            }
        }
        anchors
    }
}

fn push(row: &mut [Cell], text: &str, is_code: bool) {
    let Some(cell) = row.last_mut() else { return };
    cell.text.push_str(text);
    if is_code {
        cell.codes.push(text.to_owned());
    }
}

fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")
}

impl Table {
    /// The cells of a column.
    pub fn column(&self, name: &str) -> Vec<&Cell> {
        let at = self.columns.iter().position(|column| column == name);
        let at = at.unwrap_or_else(|| panic!("no column {name} under {}", self.heading));
        self.rows.iter().map(|row| &row[at]).collect()
    }

    /// The cell of a row, which is named by its first cell.
    pub fn cell(&self, row: &str, column: &str) -> &Cell {
        let at = self.rows.iter().position(|cells| cells[0].text == row);
        let at = at.unwrap_or_else(|| panic!("no row {row} under {}", self.heading));
        self.column(column)[at]
    }

    /// The texts of a column.
    pub fn texts(&self, column: &str) -> Vec<String> {
        self.column(column).into_iter().map(|cell| cell.text.clone()).collect()
    }
}
