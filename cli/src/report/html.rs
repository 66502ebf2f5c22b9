//! The report as one HTML file: nothing is loaded from anywhere, figures are part of it.

use base64::prelude::{BASE64_STANDARD, Engine};
use kernelet::Error;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{Report, glance};
use crate::charts::Figure;
use crate::study::Chapter;
use crate::study::verdict::Verdict;
use crate::table::{Row, Table};

const STYLE: &str = include_str!("report.css");

pub fn of(report: &Report, at_a_glance: Option<&Table>) -> Result<String, Error> {
    let chapters: Vec<_> = report.chapters.iter().map(chapter).collect::<Result<_, _>>()?;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (report.title) }
                // Without it a browser asks for a picture that is not there.
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { (report.title) }
                    @for paragraph in &report.preface { p { (paragraph) } }
                    nav {
                        @for chapter in &report.chapters {
                            a href={ "#" (chapter.name) } { (chapter.title) }
                            " "
                        }
                        a href="#facts" { "How it was made" }
                    }
                }
                main {
                    @if let Some(table) = at_a_glance {
                        section id="glance" {
                            h2 { (table.title) }
                            (glance_table(report, table))
                        }
                    }
                    @for chapter in &chapters { (chapter) }
                    section id="facts" {
                        h2 { "How it was made" }
                        (grid(&report.facts(), false))
                    }
                }
            }
        }
    };
    Ok(page.into_string())
}

fn chapter(chapter: &Chapter) -> Result<Markup, Error> {
    let figures: Vec<_> = chapter.figures.iter().map(figure).collect::<Result<_, _>>()?;
    Ok(html! {
        section id=(chapter.name) {
            h2 { (chapter.title) }
            @for paragraph in &chapter.text { p { (paragraph) } }
            @for table in chapter.tables.iter().chain(&chapter.findings()) {
                h3 id=(table.name) { (table.title) }
                (grid(table, true))
                @for note in &table.notes { p.note { (note) } }
            }
            @if !figures.is_empty() {
                div.figures { @for figure in &figures { (figure) } }
            }
        }
    })
}

fn figure(figure: &Figure) -> Result<Markup, Error> {
    let drawing = match figure.ending() {
        "svg" => html! {
            div role="img" aria-label=(figure.title) { (PreEscaped(figure.svg()?)) }
        },
        ending => html! {
            img alt=(figure.title)
                src={ "data:image/" (ending) ";base64," (BASE64_STANDARD.encode(figure.png()?)) };
        },
    };
    Ok(html! {
        figure id=(figure.name) {
            (drawing)
            figcaption { (figure.caption) }
        }
    })
}

/// A table that scrolls by itself where the page is too narrow for it.
fn grid(table: &Table, header: bool) -> Markup {
    let side = |index: usize| {
        table.columns.get(index).is_some_and(|column| column.right).then_some("number")
    };
    let verdict = |row: &Row, index: usize| {
        row.verdict.as_ref().filter(|_| index == table.columns.len()).map(Verdict::word)
    };
    html! {
        div.scroll {
            table {
                @if header {
                    thead { tr {
                        @for (index, name) in table.header().enumerate() {
                            th class=[side(index)] { (name) }
                        }
                    } }
                }
                tbody {
                    @for row in &table.rows { tr {
                        @for (index, cell) in table.cells(row).iter().enumerate() {
                            td class=[side(index).or(verdict(row, index))] { (cell) }
                        }
                    } }
                }
            }
        }
    }
}

/// The table at the top, whose items lead to their chapters.
fn glance_table(report: &Report, table: &Table) -> Markup {
    html! {
        div.scroll {
            table {
                thead { tr { @for name in table.header() { th { (name) } } } }
                tbody {
                    @for place in glance::places(&report.chapters) { tr {
                        td { a href={ "#" (place.chapter.name) } { (place.item) } }
                        td { (place.about) }
                        td { (place.summary()) }
                    } }
                }
            }
        }
        @for note in &table.notes { p.note { (note) } }
    }
}
