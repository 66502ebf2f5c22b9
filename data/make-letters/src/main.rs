//! Renders `letters.npz`, the letters A to J that kernelet embeds, from the fonts below a folder.
//!
//! The same fonts give the same bytes: the faces are taken in the order of their paths, every
//! random choice comes from a fixed seed, and the arithmetic is chosen not to depend on the
//! processor.

#![forbid(unsafe_code)]

mod dataset;
mod faces;
mod judge;
mod render;
mod sheet;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use anyhow::{Context, Result};
use clap::Parser;

use faces::Reason;

/// Renders the letters A to J of all the Latin fonts below a folder into an .npz archive.
#[derive(Parser)]
struct Arguments {
    /// Folder with one unpacked package per subfolder
    fonts: PathBuf,
    /// The archive to write
    out: PathBuf,
    /// Write a picture of 400 random images, 40 of each letter, and beside it a .txt that names
    /// their faces
    #[arg(long)]
    contact_sheet: Option<PathBuf>,
    /// Choose other images for the contact sheet
    #[arg(long, default_value_t = 1)]
    sheet_seed: u64,
    /// Write pictures of all the faces judged, the most doubtful first: this name with -00, -01
    /// and so on
    #[arg(long)]
    judge_sheet: Option<PathBuf>,
    /// Write a table of all the faces with what became of them
    #[arg(long)]
    list: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let hand_list = faces::parse_hand_list(include_str!("../dropped.txt"))?;
    let found = faces::find(&arguments.fonts, &hand_list)?;
    let verdicts = judge::judge(&found.faces);

    let mut order: Vec<usize> = (0..found.faces.len()).collect();
    order.sort_by_key(|&f| verdicts[f].score());
    if let Some(path) = &arguments.judge_sheet {
        sheet::judged(&verdicts, &order, path)?;
    }

    let samples = dataset::render(&found.faces, &verdicts)?;
    dataset::write(&samples, &arguments.out)?;
    if let Some(path) = &arguments.contact_sheet {
        sheet::contact(&samples, &found.faces, arguments.sheet_seed, path)?;
    }

    let used: BTreeSet<usize> = samples.iter().map(|s| s.face).collect();
    if let Some(path) = &arguments.list {
        let mut list = String::new();
        for (place, &f) in order.iter().enumerate() {
            let face = &found.faces[f];
            let fate = match (verdicts[f].keeps(), used.contains(&f)) {
                (false, _) => "unlike",
                (true, false) => "spare",
                (true, true) => "used",
            };
            let (votes, score) = (verdicts[f].votes, verdicts[f].confirmed());
            list +=
                &format!("{place}\t{fate}\t{score}\t{votes:?}\t{}\t{}\n", face.family, face.path);
        }
        for (face, reason) in &found.dropped {
            list += &format!("-\t{}\t-\t-\t-\t{face}\n", reason.text());
        }
        fs::write(path, list).with_context(|| format!("cannot write {}", path.display()))?;
    }
    report(&found, &verdicts, &used);
    Ok(())
}

/// Prints how many faces there were and what became of them.
fn report(found: &faces::Found, verdicts: &[judge::Verdict], used: &BTreeSet<usize>) {
    let mut reasons: BTreeMap<Reason, usize> = BTreeMap::new();
    for (_, reason) in &found.dropped {
        *reasons.entry(*reason).or_default() += 1;
    }
    let unlike = verdicts.iter().filter(|v| !v.keeps()).count();
    reasons.insert(Reason::Consensus, unlike);
    println!("{:5} faces found", found.faces.len() + found.dropped.len());
    for (reason, count) in &reasons {
        println!("{count:5} dropped: {}", reason.text());
    }
    let lone: usize = verdicts
        .iter()
        .filter(|v| v.keeps())
        .map(|v| (0..10).filter(|&l| !v.keeps_letter(l)).count())
        .sum();
    println!("{lone:5} single letters dropped from the faces kept");
    let families: BTreeSet<&str> = used.iter().map(|&f| found.faces[f].family.as_str()).collect();
    println!("{:5} faces kept", found.faces.len() - unlike);
    println!("{:5} faces of {} families used", used.len(), families.len());
}
