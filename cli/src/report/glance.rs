//! Every table and figure of the study by its number, with what became of it.

use crate::study::Chapter;
use crate::study::verdict::Verdict;
use crate::table::{Column, Table};

/// The study's tables and figures, with what each is about.
const ITEMS: [(&str, &str); 20] = [
    ("Table 1", "the perceptron after its last epoch"),
    ("Table 2", "hidden units"),
    ("Table 3", "early stopping"),
    ("Table 4", "L2 regularisation"),
    ("Table 5", "dropout"),
    ("Figure 1", "relu (code)"),
    ("Figure 2", "softmax (code)"),
    ("Figure 3", "computeLayer (code)"),
    ("Figure 4", "CE (code)"),
    ("Figure 5", "gradCE (code)"),
    ("Figure 6", "accuracy of the perceptron"),
    ("Figure 7", "loss of the perceptron"),
    ("Figure 8", "loss by hidden units"),
    ("Figure 9", "buildGraph (code)"),
    ("Figure 10", "loss of the convolutional network"),
    ("Figure 11", "accuracy of the convolutional network"),
    ("Figure 12", "accuracy by \u{3bb}"),
    ("Figure 13", "dropout, p = 0.9"),
    ("Figure 14", "dropout, p = 0.75"),
    ("Figure 15", "dropout, p = 0.5"),
];

/// The chapter where an item stands, and its rows' and findings' verdicts.
pub struct Place<'a> {
    pub item: &'static str,
    pub about: &'static str,
    pub chapter: &'a Chapter,
    pub verdicts: Vec<&'a Verdict>,
}

impl Place<'_> {
    /// `3 agree, 1 differs`
    pub fn summary(&self) -> String {
        let count = |word: &str| self.verdicts.iter().filter(|v| v.word() == word).count();
        let part = |n: usize, one: &str, many: &str| match n {
            0 => None,
            1 => Some(format!("1 {one}")),
            _ => Some(format!("{n} {many}")),
        };
        let parts = [
            part(count("agrees"), "agrees", "agree"),
            part(count("differs"), "differs", "differ"),
            part(count("open"), "open", "open"),
        ];
        let text = parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
        if text.is_empty() { "nothing to compare with in words or numbers".into() } else { text }
    }
}

/// Those of the study's items that the chapters have.
pub fn places(chapters: &[Chapter]) -> Vec<Place<'_>> {
    let place = |&(item, about): &(&'static str, &'static str)| {
        let name = item.to_lowercase().replace(' ', "-");
        let chapter = chapters.iter().find(|chapter| {
            chapter.tables.iter().any(|table| table.name == name)
                || chapter.figures.iter().any(|figure| figure.name == name)
                || chapter.findings.iter().any(|finding| finding.place == item)
        })?;
        let rows = chapter.tables.iter().filter(|table| table.name == name);
        let rows = rows.flat_map(|table| table.rows.iter().filter_map(|row| row.verdict.as_ref()));
        let findings = chapters.iter().flat_map(|chapter| &chapter.findings);
        let findings = findings.filter(|finding| finding.place == item).map(|f| &f.verdict);
        Some(Place { item, about, chapter, verdicts: rows.chain(findings).collect() })
    };
    ITEMS.iter().filter_map(place).collect()
}

/// The places as a table, if there are any.
pub fn table(chapters: &[Chapter]) -> Option<Table> {
    let places = places(chapters);
    let columns = ["", "about", "figures and claims beside the study's"].map(Column::left);
    let mut table = Table::new("glance", "The study at a glance", columns);
    for place in &places {
        table.row([place.item.into(), place.about.into(), place.summary()]);
    }
    table.notes.push(
        "agrees: of an accuracy, that it differs by no more than twice the standard error that the \
         choice of so many images alone gives such a difference; of a claim, that it holds in the \
         sense that stands beside it. open: there is nothing to judge by, for the reason given."
            .into(),
    );
    (!places.is_empty()).then_some(table)
}
