//! Tables: the same one for the terminal, Markdown, CSV and JSON.

use std::fmt::Write;
use std::path::Path;

use comfy_table::{CellAlignment, ContentArrangement, presets};
use kernelet::Error;
use kernelet::data::npz::write_atomically;
use serde::Serialize;

use crate::study::verdict::Verdict;

/// Columns of the terminal that a table fits, and a wide one.
const WIDTH: u16 = 80;
const WIDE: u16 = 100;

/// What a reader compares row by row.
#[derive(Serialize)]
pub struct Table {
    /// Of its files, without their ending.
    pub name: String,
    pub title: String,
    pub columns: Vec<Column>,
    pub rows: Vec<Row>,
    /// The head of the last column, which has the rows' verdicts, if there is one.
    pub verdict: Option<&'static str>,
    /// What it takes to read it.
    pub notes: Vec<String>,
    /// Whether its words are too long for an ordinary terminal.
    #[serde(skip)]
    pub wide: bool,
}

/// As many cells as there are columns, and what is to be thought of them.
#[derive(Serialize)]
pub struct Row {
    pub cells: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
}

/// The head of a column.
#[derive(Serialize)]
#[serde(transparent)]
pub struct Column {
    pub name: String,
    /// Whether its cells end at the same place, as numbers should.
    #[serde(skip)]
    pub right: bool,
}

impl Column {
    /// Of words.
    pub fn left(name: &str) -> Self {
        Self { name: name.into(), right: false }
    }

    /// Of numbers.
    pub fn right(name: &str) -> Self {
        Self { name: name.into(), right: true }
    }
}

impl Table {
    pub fn new(name: &str, title: &str, columns: impl IntoIterator<Item = Column>) -> Self {
        Self {
            name: name.into(),
            title: title.into(),
            columns: columns.into_iter().collect(),
            rows: Vec::new(),
            verdict: None,
            notes: Vec::new(),
            wide: false,
        }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.judged(cells, None);
    }

    pub fn judged(&mut self, cells: impl IntoIterator<Item = String>, verdict: Option<Verdict>) {
        self.rows.push(Row { cells: cells.into_iter().collect(), verdict });
    }

    /// The heads of all columns, that of the verdicts included.
    pub fn header(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|column| column.name.as_str()).chain(self.verdict)
    }

    /// A row's cells, that of the verdict included.
    pub fn cells(&self, row: &Row) -> Vec<String> {
        let text = |_| row.verdict.as_ref().map_or("-".into(), Verdict::text);
        row.cells.iter().cloned().chain(self.verdict.map(text)).collect()
    }

    /// For the terminal, without title and notes.
    pub fn grid(&self) -> String {
        let mut grid = comfy_table::Table::new();
        grid.load_style(presets::UTF8_FULL_CONDENSED)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(if self.wide { WIDE } else { WIDTH })
            .set_header(self.header());
        for row in &self.rows {
            grid.add_row(self.cells(row).into_iter().map(|cell| broken(&cell)));
        }
        for (of_grid, column) in grid.column_iter_mut().zip(&self.columns) {
            if column.right {
                of_grid.set_cell_alignment(CellAlignment::Right);
            }
        }
        grid.to_string()
    }

    /// For the terminal.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n{}\n", self.title, self.grid());
        for note in &self.notes {
            text.push_str(&textwrap::fill(note, usize::from(WIDTH)));
            text.push('\n');
        }
        text
    }

    /// The rows as Markdown, without title and notes.
    pub fn markdown(&self) -> String {
        // Some renderers close up what stands between bars.
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let escape = |cell: &str| cell.replace('|', "\\|");
        let mut text = line(self.header().map(escape).collect());
        let rule = |right| if right { "---:" } else { "---" }.to_owned();
        let rules = self.columns.iter().map(|column| rule(column.right));
        text += &line(rules.chain(self.verdict.map(|_| rule(false))).collect());
        for row in &self.rows {
            text += &line(self.cells(row).iter().map(|cell| escape(cell)).collect());
        }
        text
    }

    /// Writes the rows as `.csv` and as `.md`, notes included in the latter, into `folder`.
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        write_atomically(&folder.join(format!("{}.csv", self.name)), |to| {
            let mut csv = csv::Writer::from_writer(to);
            csv.write_record(self.header()).map_err(std::io::Error::other)?;
            for row in &self.rows {
                csv.write_record(self.cells(row)).map_err(std::io::Error::other)?;
            }
            csv.flush()
        })?;
        let mut markdown = self.markdown();
        for note in &self.notes {
            // Writing to a string cannot fail.
            let _ = write!(markdown, "\n{note}\n");
        }
        write_atomically(&folder.join(format!("{}.md", self.name)), |to| {
            to.write_all(markdown.as_bytes())
        })
    }
}

/// A long path on two lines: a table would break it anywhere.
fn broken(cell: &str) -> String {
    match cell.split_once("::") {
        Some((module, item)) if cell.len() > 30 && !cell.contains(' ') => {
            format!("{module}::\n  {item}")
        }
        _ => cell.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Column, Table};

    fn table() -> Table {
        let mut table = Table::new("t", "Title", [Column::left("what"), Column::right("n|m")]);
        table.row(["a".into(), "1".into()]);
        table
    }

    #[test]
    fn markdown_escapes_its_bars() {
        let expected = "| what | n\\|m |\n| --- | ---: |\n| a | 1 |\n";
        assert_eq!(table().markdown(), expected, "the Markdown");
    }

    #[test]
    fn a_terminal_s_grid_is_not_too_wide() {
        let mut table = table();
        table.row(["many words ".repeat(20), "2".into()]);
        let widest = table.grid().lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(80), "{widest:?} columns");
    }
}
