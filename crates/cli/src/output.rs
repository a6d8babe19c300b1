//! What the command prints: tables and key-value blocks for people, JSON and YAML for programs.
//!
//! Programs get the API's own types, so that `-o json` and the API never differ. Results go to stdout,
//! everything else (progress, questions, errors) to stderr.

use std::io::{IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table as Layout, presets};
use serde::Serialize;

use crate::failure::Failure;

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// Aligned columns, for people.
    #[default]
    Table,
    /// For programs; the API's own types.
    Json,
    /// The same as JSON, easier on the eyes.
    Yaml,
}

/// What a word in a table tells at a glance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Good,
    /// Under way, or worth a look.
    Busy,
    Bad,
}

impl Tone {
    fn sgr(self) -> Option<&'static str> {
        match self {
            Tone::Plain => None,
            Tone::Good => Some("32"),
            Tone::Busy => Some("33"),
            Tone::Bad => Some("31"),
        }
    }
}

/// One field of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub fn new(text: impl ToString, tone: Tone) -> Self {
        Self { text: text.to_string(), tone }
    }

    /// A field that may have nothing to say.
    pub fn maybe(text: Option<impl ToString>) -> Self {
        Self::new(text.map_or_else(|| "-".to_owned(), |text| text.to_string()), Tone::Plain)
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Tone::Plain)
    }
}

/// Builds one row from fields of any kind.
#[macro_export]
macro_rules! row {
    ($($field:expr),+ $(,)?) => { vec![$($crate::output::Cell::from($field)),+] };
}

/// Blanks between two columns.
const GAP: u16 = 2;

/// Aligned columns without borders. Lines are not wrapped, so that `grep` and `awk` work on them.
#[derive(Debug)]
pub struct Table {
    layout: Layout,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub fn new(head: &[&str]) -> Self {
        let mut layout = Layout::new();
        layout.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        layout.set_header(head.iter().copied());
        for column in layout.column_iter_mut() {
            column.set_padding((0, GAP));
        }
        Self { layout, rows: Vec::new() }
    }

    pub fn add(&mut self, row: Vec<Cell>) {
        self.layout.add_row(row.iter().map(|cell| one_line(&cell.text)));
        self.rows.push(row);
    }

    /// The table as text, a line break at the end.
    pub fn render(&self, coloured: bool) -> String {
        let starts: Vec<usize> = self
            .layout
            .column_max_content_widths()
            .into_iter()
            .scan(0, |start, width| {
                let here = *start;
                *start += usize::from(width + GAP);
                Some(here)
            })
            .collect();
        let mut text = String::new();
        for (index, line) in self.layout.lines().enumerate() {
            let line = line.trim_end();
            match index.checked_sub(1).and_then(|row| self.rows.get(row)) {
                Some(row) if coloured => text.push_str(&paint_row(line, row, &starts)),
                Some(_) => text.push_str(line),
                None if coloured => text.push_str(&format!("\x1b[1m{line}\x1b[0m")),
                None => text.push_str(line),
            }
            text.push('\n');
        }
        text
    }
}

/// Colours the cells of a line that has been laid out. A cell that does not stand where it should (a wide
/// character before it) stays as it is.
fn paint_row(line: &str, row: &[Cell], starts: &[usize]) -> String {
    let mut text = line.to_owned();
    for (cell, start) in row.iter().zip(starts).rev() {
        let Some(sgr) = cell.tone.sgr() else { continue };
        let end = start + cell.text.len();
        if text.get(*start..end) == Some(cell.text.as_str()) {
            text.replace_range(*start..end, &format!("\x1b[{sgr}m{}\x1b[0m", cell.text));
        }
    }
    text
}

/// A line break inside a field would break the table, and so would a control character of a guest's making.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A block of `key: value` lines, aligned, as `show` prints it.
#[derive(Debug, Default)]
pub struct Block {
    lines: Vec<(String, Cell)>,
}

impl Block {
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn line(mut self, key: &str, value: impl Into<Cell>) -> Self {
        self.lines.push((key.to_owned(), value.into()));
        self
    }

    /// A line that is left out when there is nothing to say.
    #[must_use]
    pub fn maybe(self, key: &str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.line(key, value.to_string()),
            None => self,
        }
    }

    /// One line for each value; the key stands before the first.
    #[must_use]
    pub fn each(mut self, key: &str, values: impl IntoIterator<Item = impl ToString>) -> Self {
        for (index, value) in values.into_iter().enumerate() {
            let key = if index == 0 { key.to_owned() } else { String::new() };
            self.lines.push((key, Cell::from(value)));
        }
        self
    }

    pub fn render(&self, coloured: bool) -> String {
        let width = self.lines.iter().map(|(key, _)| key.chars().count() + 1).max().unwrap_or(0);
        let mut text = String::new();
        for (key, value) in &self.lines {
            let key = if key.is_empty() { String::new() } else { format!("{key}:") };
            let value_text = one_line(&value.text);
            let value_text = match value.tone.sgr() {
                Some(sgr) if coloured => format!("\x1b[{sgr}m{value_text}\x1b[0m"),
                Some(_) | None => value_text,
            };
            text.push_str(format!("{key:width$} {value_text}").trim_end());
            text.push('\n');
        }
        text
    }
}

/// Whether somebody who can see colours looks at stdout, and wants them.
pub fn stdout_is_coloured() -> bool {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let capable = std::env::var_os("TERM").is_none_or(|term| term != "dumb");
    wanted && capable && std::io::stdout().is_terminal()
}

/// Where results go, and how.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    pub format: Format,
    pub coloured: bool,
}

impl Output {
    pub fn new(format: Format) -> Self {
        Self { format, coloured: stdout_is_coloured() }
    }

    /// Writes a result: `text` makes what people see.
    pub fn result<T: Serialize>(self, value: &T, text: impl FnOnce(bool) -> String) -> Result<(), Failure> {
        match self.format {
            Format::Table => say(&text(self.coloured)),
            Format::Json => say(&(json(value, true)? + "\n")),
            Format::Yaml => say(&yaml(value)?),
        }
    }

    /// Writes one result of several that follow each other: JSON on one line each, YAML documents.
    pub fn next<T: Serialize>(self, value: &T, text: impl FnOnce(bool) -> String) -> Result<(), Failure> {
        match self.format {
            Format::Table => say(&text(self.coloured)),
            Format::Json => say(&(json(value, false)? + "\n")),
            Format::Yaml => say(&format!("---\n{}", yaml(value)?)),
        }
    }
}

fn json<T: Serialize>(value: &T, pretty: bool) -> Result<String, Failure> {
    let text = if pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
    text.map_err(|error| Failure::refused("write the answer as JSON", error, "use another format with -o"))
}

fn yaml<T: Serialize>(value: &T) -> Result<String, Failure> {
    serde_saphyr::to_string(value)
        .map_err(|error| Failure::refused("write the answer as YAML", error, "use another format with -o"))
}

/// Writes to stdout. When its reader has gone (`kennel guest list | head -1`) the command is done.
pub fn say(text: &str) -> Result<(), Failure> {
    write_stdout(text.as_bytes())
}

/// The same for bytes that need not be text.
pub fn write_stdout(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure::Status(0)),
        Err(error) => Err(Failure::refused("write to stdout", error, "check where the output goes")),
    }
}

/// Tells a person something that is not the result.
pub fn note(text: &str) {
    // A closed stderr is no reason to stop.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rows: &[[&str; 3]], expected: &str) {
        let mut table = Table::new(&["NAME", "PHASE", "MESSAGE"]);
        for row in rows {
            table.add(row!(row[0], row[1], row[2]));
        }
        assert_eq!(table.render(false), expected);
    }

    #[test]
    fn columns_line_up_and_lines_have_no_tail() {
        check(
            &[["web1", "running", "-"], ["database-main", "waiting", "no host has room"]],
            "NAME           PHASE    MESSAGE\n\
             web1           running  -\n\
             database-main  waiting  no host has room\n",
        );
    }

    #[test]
    fn a_table_of_nothing_is_its_head() {
        check(&[], "NAME  PHASE  MESSAGE\n");
    }

    #[test]
    fn a_field_cannot_break_its_line() {
        check(&[["a", "b", "one\ntwo\x1b[2J"]], "NAME  PHASE  MESSAGE\na     b      one two [2J\n");
    }

    #[test]
    fn colours_change_no_alignment() {
        let mut table = Table::new(&["NAME", "PHASE", "HOST"]);
        table.add(vec![Cell::from("web1"), Cell::new("running", Tone::Good), Cell::from("host1")]);
        table.add(vec![Cell::from("db"), Cell::new("failed", Tone::Bad), Cell::from("host2")]);
        let coloured = table.render(true);
        assert!(coloured.contains("web1  \x1b[32mrunning\x1b[0m  host1\n"), "{coloured:?}");
        assert!(coloured.contains("db    \x1b[31mfailed\x1b[0m   host2\n"), "{coloured:?}");
    }

    #[test]
    fn a_block_aligns_its_values() {
        let block =
            Block::new().line("Name", "web1").maybe("Message", None::<&str>).each("Volumes", ["one", "two"]);
        assert_eq!(block.render(false), "Name:    web1\nVolumes: one\n         two\n");
    }
}
