//! The report of a study: for the terminal, as HTML, as Markdown, and its tables and figures as
//! files for other programs.

mod glance;
mod html;
mod markdown;

use std::fmt::Write;
use std::path::{Path, PathBuf};

use kernelet::Error;
use kernelet::data::npz::write_atomically;
use serde_json::{Value, json};

use crate::files;
use crate::study::Chapter;
use crate::table::{Column, Table};

/// Everything that came of a study.
pub struct Report {
    pub title: String,
    /// What the reader should know before anything else.
    pub preface: Vec<String>,
    /// The settings, the machine and the versions.
    pub facts: Vec<(&'static str, String)>,
    pub chapters: Vec<Chapter>,
}

/// The files and folders of a report.
const FILES: [&str; 3] = ["report.html", "report.md", "report.json"];
const TABLES: &str = "tables";
const FIGURES: &str = "figures";
/// Filled by whoever has made the runs.
pub const HISTORIES: &str = "histories";

impl Report {
    /// Makes sure, before anything is run, that a report can be written into `folder`, and that it
    /// does not take the place of the `data`.
    pub fn check(folder: &Path, data: Option<&Path>) -> Result<(), Error> {
        let folders = [TABLES, FIGURES, HISTORIES].map(|name| folder.join(name).join(FILES[0]));
        let paths = FILES.map(|name| folder.join(name));
        files::check(paths.iter().chain(&folders).map(PathBuf::as_path), data)
    }

    /// For the terminal: in short, what became of the study's tables and figures.
    pub fn summary(&self) -> String {
        glance::table(&self.chapters)
            .map_or_else(String::new, |table| format!("\n{}", table.text()))
    }

    /// For the terminal: every table.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for chapter in &self.chapters {
            for table in chapter.tables.iter().chain(&chapter.findings()) {
                // Writing to a string cannot fail.
                let _ = write!(text, "\n{}", table.text());
            }
        }
        text
    }

    /// For scripts.
    pub fn json(&self) -> Value {
        let facts: serde_json::Map<_, _> =
            self.facts.iter().map(|(name, fact)| ((*name).into(), json!(fact))).collect();
        let chapters = self.chapters.iter().map(|chapter| {
            let figures = chapter.figures.iter();
            json!({
                "name": chapter.name,
                "title": chapter.title,
                "tables": chapter.tables,
                "findings": chapter.findings,
                "figures": figures.map(|f| json!({
                    "name": f.name, "title": f.title, "caption": f.caption,
                    "file": format!("figures/{}.{}", f.name, f.ending()),
                })).collect::<Vec<_>>(),
            })
        });
        json!({
            "title": self.title,
            "preface": self.preface,
            "facts": facts,
            "chapters": chapters.collect::<Vec<_>>(),
        })
    }

    /// Writes `report.html`, `report.md`, `report.json`, every table into `tables` and every
    /// figure into `figures`. Returns what there is to look at first.
    pub fn write(&self, folder: &Path) -> Result<Vec<PathBuf>, Error> {
        let (tables, figures) = (folder.join(TABLES), folder.join(FIGURES));
        let glance = glance::table(&self.chapters);
        if let Some(table) = &glance {
            table.write(&tables)?;
        }
        for chapter in &self.chapters {
            for table in chapter.tables.iter().chain(&chapter.findings()) {
                table.write(&tables)?;
            }
            for figure in &chapter.figures {
                figure.write(&figures)?;
            }
        }
        let json = self.json();
        let [html, markdown, for_scripts] = FILES.map(|name| folder.join(name));
        write_atomically(&for_scripts, |to| {
            serde_json::to_writer_pretty(&mut *to, &json)?;
            to.write_all(b"\n")
        })?;
        let text = markdown::of(self, glance.as_ref());
        write_atomically(&markdown, |to| to.write_all(text.as_bytes()))?;
        let text = html::of(self, glance.as_ref())?;
        write_atomically(&html, |to| to.write_all(text.as_bytes()))?;
        Ok(vec![html, markdown, for_scripts, tables, figures])
    }

    /// The facts as a table.
    fn facts(&self) -> Table {
        let mut table = Table::new("facts", "How it was made", ["", ""].map(Column::left));
        for (name, fact) in &self.facts {
            table.row([(*name).into(), fact.clone()]);
        }
        table
    }
}
