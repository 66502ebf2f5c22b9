//! The report as Markdown, with its figures beside it.

use std::fmt::Write;

use super::Report;
use crate::table::Table;

pub fn of(report: &Report, glance: Option<&Table>) -> String {
    let mut text = format!("# {}\n", report.title);
    // Writing to a string cannot fail.
    for paragraph in &report.preface {
        let _ = write!(text, "\n{paragraph}\n");
    }
    if let Some(table) = glance {
        add(&mut text, table);
    }
    for chapter in &report.chapters {
        let _ = write!(text, "\n## {}\n", chapter.title);
        for paragraph in &chapter.text {
            let _ = write!(text, "\n{paragraph}\n");
        }
        for table in chapter.tables.iter().chain(&chapter.findings()) {
            add(&mut text, table);
        }
        for figure in &chapter.figures {
            let (name, title, ending) = (&figure.name, &figure.title, figure.ending());
            let _ = write!(text, "\n![{title}](figures/{name}.{ending})\n\n{}\n", figure.caption);
        }
    }
    add(&mut text, &report.facts());
    text
}

fn add(text: &mut String, table: &Table) {
    let _ = write!(text, "\n### {}\n\n{}", table.title, table.markdown());
    for note in &table.notes {
        let _ = write!(text, "\n{note}\n");
    }
}
