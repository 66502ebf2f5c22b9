//! The study's playGame: letters, and what both networks take them for.

use kernelet::data::Split;
use kernelet::{Cpu, Error};

use super::Chapter;
use crate::charts::{Chart, Figure};
use crate::model::{Model, NormalizeWith};
use crate::play::{Scores, Shown, sheet};
use crate::table::{Column, Table};

/// Letters of a sheet.
const SHOWN: usize = 40;

/// `None` without a test set to show letters of.
pub fn chapter(
    cpu: &Cpu,
    split: &Split,
    networks: &[(&str, Model)],
) -> Result<Option<Chapter>, Error> {
    if split.test.is_empty() {
        return Ok(None);
    }
    let columns = [Column::left("network"), Column::right("right"), Column::right("accuracy")];
    let mut table = Table::new("letters", "Letters of the test set", columns);
    let mut figures = Vec::new();
    for (name, model) in networks {
        let scores = Scores::new(cpu, model, NormalizeWith::Images, &split.test);
        let right = format!("{} of {}", scores.right(), scores.len());
        table.row([(*name).into(), right, format!("{:.2} %", scores.accuracy())]);
        let file = name.replace(' ', "-");
        let sheets = [
            (
                format!("letters-{file}"),
                format!("What the {name} says of letters at random"),
                false,
            ),
            (format!("wrong-{file}"), format!("What the {name} takes for others"), true),
        ];
        for (file, title, only_wrong) in sheets {
            let shown = scores.pick(SHOWN, 1, only_wrong);
            figures.extend(picture(file, title, &shown)?);
        }
    }
    Ok(Some(Chapter {
        name: "letters",
        title: "Letters and guesses",
        text: vec![
            "As the study's playGame shows them: truth, guess and its probability, wrong ones in a \
             red frame. kernelet play shows more of them."
                .into(),
        ],
        tables: vec![table],
        findings: Vec::new(),
        figures,
    }))
}

fn picture(name: String, title: String, letters: &[Shown]) -> Result<Option<Figure>, Error> {
    if letters.is_empty() {
        return Ok(None); // no letter is wrong
    }
    let caption = format!("{title}: truth, guess and its probability.");
    Ok(Some(Figure { name, title, caption, chart: Chart::Picture(sheet(letters)?) }))
}
