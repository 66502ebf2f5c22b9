//! `splice`: puts the newest records into BENCHMARKS.md, as tables and pictures.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::bars;
use crate::compare::{contestants, duration, threads};
use crate::picture::{self, Line};
use crate::record::{self, Row};
use crate::statistics::{Spread, median};
use crate::works::{self, Family, Work};

/// What to do with BENCHMARKS.md.
#[derive(Args)]
pub struct Options {
    /// Writes nothing, and fails if something would change
    #[arg(long)]
    check: bool,
}

/// Writes tables and pictures, or says what it would write.
pub fn run(options: &Options) -> Result<ExitCode> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let machines = machines(&root.join("benches/record"))?;
    let mut blocks = BTreeMap::new();
    // What is to be written, by its place in the repository.
    let mut files = BTreeMap::new();
    for (name, family) in FAMILIES {
        let mut block = vec![];
        for machine in &machines {
            let Some(table) = machine.table(family) else { continue };
            let file = format!("docs/benchmarks/{}-{name}.svg", machine.name);
            let title = format!("time of kernelet / time of the peer: {name}");
            let about = &machine.about;
            files.insert(file.clone(), picture::draw(&title, &machine.lines(family), &peers())?);
            block.push(format!("{about}\n\n{table}\n![{title}]({file})\n"));
        }
        blocks.insert(name, block.join("\n"));
    }
    let of_all = |text: fn(&Machine) -> Option<String>| {
        let texts = machines.iter().filter_map(|machine| Some((&machine.about, text(machine)?)));
        texts.map(|(about, text)| format!("{about}\n\n{text}")).collect::<Vec<_>>().join("\n")
    };
    blocks.insert("memory", of_all(Machine::memory));
    blocks.insert("contestants", of_all(Machine::contestants));
    let page = fs::read_to_string(root.join("BENCHMARKS.md")).context("no BENCHMARKS.md")?;
    files.insert("BENCHMARKS.md".into(), splice(&page, &blocks)?);

    let mut stale = vec![];
    for (file, content) in files {
        let path = root.join(&file);
        if fs::read_to_string(&path).is_ok_and(|old| old == content) {
            continue;
        }
        stale.push(file);
        if !options.check {
            fs::create_dir_all(path.parent().unwrap_or(&root))?;
            record::replace(&path, content.as_bytes())?;
        }
    }
    for file in &stale {
        println!("{} {file}", if options.check { "stale:" } else { "written:" });
    }
    if options.check && !stale.is_empty() {
        eprintln!("error: not what benches/record has: run `kernelet-peers splice`");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Names of the tables of ratios.
const FAMILIES: [(&str, Family); 3] =
    [("products", Family::Products), ("kernels", Family::Kernels), ("training", Family::Training)];

/// A page whose parts between `<!-- record: NAME -->` and `<!-- end -->` are those of `blocks`.
fn splice(page: &str, blocks: &BTreeMap<&str, String>) -> Result<String> {
    let mut spliced = String::new();
    let mut lines = page.lines();
    let mut found = false;
    while let Some(line) = lines.next() {
        spliced += line;
        spliced.push('\n');
        let name = line.strip_prefix("<!-- record: ").and_then(|rest| rest.strip_suffix(" -->"));
        let Some(name) = name else { continue };
        found = true;
        let Some(block) = blocks.get(name) else {
            let names: Vec<_> = blocks.keys().copied().collect();
            bail!("BENCHMARKS.md asks for {name:?}; there are {}", names.join(", "));
        };
        ensure!(lines.any(|line| line == "<!-- end -->"), "the part {name:?} has no end");
        spliced += &format!("\n{}\n\n<!-- end -->\n", block.trim());
    }
    ensure!(found, "BENCHMARKS.md has no line <!-- record: NAME -->");
    Ok(spliced)
}

/// What a machine's newest records have.
struct Machine {
    /// Its folder's name.
    name: String,
    /// A line about it.
    about: String,
    /// What contestants said of themselves: name and version.
    versions: Vec<(String, String)>,
    measured: Vec<Measured>,
}

/// A work with a number of threads.
struct Measured {
    work: Work,
    threads: usize,
    /// Each contestant's median of every round.
    seconds: Vec<(String, Vec<f64>)>,
}

impl Measured {
    fn of(&self, name: &str) -> Option<&[f64]> {
        self.seconds.iter().find(|(contestant, _)| contestant == name).map(|(_, times)| &times[..])
    }

    /// kernelet's time over a peer's, round by round.
    fn ratio(&self, peer: &str) -> Option<f64> {
        Some(Spread::of_ratios(self.of("kernelet")?, self.of(peer)?)?.median)
    }

    /// What a ratio is to be at most, if a bar is about this peer: alone, or as the fastest.
    fn bar(&self, peer: &str) -> Option<f64> {
        let time = |peer: &&&str| self.of(peer).map_or(f64::INFINITY, median);
        let counts = |peers: &[&str]| {
            peers
                .iter()
                .min_by(|a, b| time(a).total_cmp(&time(b)))
                .is_some_and(|&name| name == peer)
        };
        bars::of(&self.work).into_iter().find(|bar| counts(bar.peers)).map(|bar| bar.at_most)
    }
}

impl Machine {
    fn family(&self, family: Family) -> impl Iterator<Item = &Measured> {
        self.measured.iter().filter(move |measured| measured.work.family() == family)
    }

    /// Peers that a family's works have times of.
    fn peers(&self, family: Family) -> Vec<String> {
        let mut peers = peers();
        peers.retain(|peer| self.family(family).any(|measured| measured.of(peer).is_some()));
        peers
    }

    /// Ratios of all works of a family.
    fn table(&self, family: Family) -> Option<String> {
        let peers = self.peers(family);
        let mut table = format!("| work | threads | kernelet | {} |\n", peers.join(" | "));
        table += &format!("|---|--:|--:|{}\n", "--:|".repeat(peers.len()));
        let mut empty = true;
        for measured in self.family(family) {
            let time = duration(median(measured.of("kernelet")?));
            let rate = measured.work.flops().map_or(String::new(), |flops| {
                format!(
                    ", {:.0} GFLOP/s",
                    flops / median(measured.of("kernelet").unwrap_or(&[])) * 1e-9
                )
            });
            table += &format!("| {} | {} | {time}{rate} |", measured.work, measured.threads);
            for peer in &peers {
                let cell = match (measured.ratio(peer), measured.bar(peer)) {
                    (None, _) => String::new(),
                    (Some(ratio), None) => digits(ratio),
                    (Some(ratio), Some(bar)) => judged(ratio, ratio <= bar, '≤', bar),
                };
                table += &format!(" {cell} |");
            }
            table.push('\n');
            empty = false;
        }
        (!empty).then_some(table)
    }

    /// The bandwidth of memory-bound works as a share of a copy's.
    fn memory(&self) -> Option<String> {
        let mut table = String::from("| work | threads | kernelet GB/s | copy GB/s | share |\n");
        table += "|---|--:|--:|--:|--:|\n";
        let mut empty = true;
        for measured in &self.measured {
            let Measured { work, threads, .. } = measured;
            let copy = measured.of("kernelet").zip(measured.of("memcpy"));
            let Some(((ours, copy), traffic)) = copy.zip(work.traffic()) else { continue };
            let Some(spread) = Spread::of_ratios(copy, ours) else { continue };
            let share = traffic.moved / traffic.arrays * spread.median;
            let least = bars::COPY_SHARE;
            table += &format!(
                "| {work} | {threads} | {:.0} | {:.0} | {} |\n",
                traffic.moved / median(ours) * 1e-9,
                traffic.arrays / median(copy) * 1e-9,
                judged(share, share >= least, '≥', least),
            );
            empty = false;
        }
        (!empty).then_some(table)
    }

    fn contestants(&self) -> Option<String> {
        let line = |(name, version): &(String, String)| format!("| {name} | {version} |\n");
        let lines: String = self.versions.iter().map(line).collect();
        (!lines.is_empty()).then(|| format!("| contestant | version |\n|---|---|\n{lines}"))
    }

    /// What there is to draw of a family.
    fn lines(&self, family: Family) -> Vec<Line> {
        let peers = self.peers(family);
        let line = |measured: &Measured| Line {
            name: format!("{}, {}", measured.work, threads(measured.threads)),
            points: peers
                .iter()
                .filter_map(|peer| Some((peer.clone(), measured.ratio(peer)?)))
                .collect(),
        };
        self.family(family).map(line).collect()
    }
}

/// All contestants that are libraries other than kernelet.
fn peers() -> Vec<String> {
    let mut peers = contestants();
    peers.retain(|name| !matches!(name.as_str(), "kernelet" | "memcpy" | "naive"));
    peers
}

/// A ratio with two digits.
fn digits(ratio: f64) -> String {
    if ratio < 0.005 { "< 0.01".into() } else { format!("{ratio:.2}") }
}

/// A number beside its bar, bold where it is met; with a third digit where two would be the bar's, and it is not.
fn judged(number: f64, met: bool, sign: char, bar: f64) -> String {
    let (two, of_bar) = (digits(number), format!("{bar:.2}"));
    if met {
        format!("**{two}** {sign} {of_bar}")
    } else if two == of_bar {
        format!("{number:.3} {sign} {of_bar}")
    } else {
        format!("{two} {sign} {of_bar}")
    }
}

/// All machines that have a record.
fn machines(folder: &Path) -> Result<Vec<Machine>> {
    let paths = |folder: &Path| -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(folder).with_context(|| format!("no {}", folder.display()))?;
        let mut paths: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        paths.sort();
        Ok(paths)
    };
    let mut machines = vec![];
    for folder in paths(folder)?.into_iter().filter(|path| path.is_dir()) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // The newest last.
        let mut records = paths(&folder)?;
        records.retain(|path| path.extension().is_some_and(|kind| kind == "csv"));
        if records.is_empty() {
            continue;
        }
        let (mut rows, mut texts, mut sittings) = (vec![], vec![], vec![]);
        for path in records.iter().rev() {
            let all = record::merge(record::read(path)?, &rows);
            if all.len() == rows.len() {
                // Everything in it has been measured anew.
                continue;
            }
            rows = all;
            let text = fs::read_to_string(path.with_extension("txt")).unwrap_or_default();
            let date = path.file_stem().unwrap_or_default().to_string_lossy();
            // The day's newest first, and those before it for what it did not measure anew.
            let revisions = text.lines().filter_map(|line| line.strip_prefix("revision: "));
            let revisions = revisions.collect::<Vec<_>>().join(", before that ");
            sittings.push(format!("{date}, revision {revisions}"));
            texts.push(text);
        }
        machines.push(machine(
            name,
            &sittings.join("; before, where not measured again, "),
            &texts.concat(),
            &rows,
        ));
    }
    ensure!(!machines.is_empty(), "{} has no record", folder.display());
    Ok(machines)
}

/// What the text of an environment has behind a key, the last comparison's, which comes first.
fn value<'a>(text: &'a str, key: &str) -> &'a str {
    text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("unknown")
}

/// A machine, from when it was measured, its environments' texts, the newest first, and the newest rows of
/// every work.
fn machine(name: String, sittings: &str, text: &str, rows: &[Row]) -> Machine {
    let about = format!("{}; {sittings}:", value(text, "processor: "));
    let mut versions: Vec<(String, String)> = vec![];
    for (name, version) in text.lines().filter_map(|line| line.strip_prefix("  ")?.split_once(": "))
    {
        if !versions.iter().any(|(known, _)| known == name) {
            versions.push((name.into(), version.into()));
        }
    }
    let mut measured = vec![];
    for work in works::all() {
        let name = work.to_string();
        let mut by_threads = BTreeMap::<usize, Vec<(String, Vec<f64>)>>::new();
        for row in rows.iter().filter(|row| row.work == name) {
            let contestants = by_threads.entry(row.threads).or_default();
            match contestants.iter_mut().find(|(name, _)| *name == row.contestant) {
                Some((_, seconds)) => seconds.push(row.seconds),
                None => contestants.push((row.contestant.clone(), vec![row.seconds])),
            }
        }
        for (threads, seconds) in by_threads {
            measured.push(Measured { work, threads, seconds });
        }
    }
    Machine { name, about, versions, measured }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{digits, judged, machine, splice};
    use crate::record::Row;
    use crate::works::Family;

    #[test]
    fn parts_are_replaced_and_the_rest_stays() {
        let blocks = BTreeMap::from([("a", "new\n".to_owned())]);
        let page = "# Title\n<!-- record: a -->\nold\n<!-- end -->\nrest\n<!-- end -->\n";
        let spliced = splice(page, &blocks).expect("a page");
        let expected = "# Title\n<!-- record: a -->\n\nnew\n\n<!-- end -->\nrest\n<!-- end -->\n";
        assert_eq!(spliced, expected, "the page");
        assert_eq!(splice(&spliced, &blocks).expect("a page"), spliced, "again");
    }

    #[test]
    fn a_page_must_be_in_order() {
        let blocks = BTreeMap::from([("a", String::new())]);
        let error = |page| splice(page, &blocks).expect_err("a broken page").to_string();
        assert!(error("<!-- record: a -->\n").contains("no end"), "without an end");
        assert!(error("<!-- record: b -->\n<!-- end -->\n").contains("asks for"), "unknown");
        assert!(error("text\n").contains("no line"), "without a part");
    }

    fn row(work: &str, contestant: &str, seconds: f64) -> Row {
        Row { work: work.into(), threads: 2, contestant: contestant.into(), round: 1, seconds }
    }

    #[test]
    fn rounding_hides_neither_a_ratio_nor_a_verdict() {
        assert_eq!([0.004, 0.006, 1.234].map(digits), ["< 0.01", "0.01", "1.23"], "ratios");
        let judge = |number| judged(number, number <= 0.8, '≤', 0.8);
        let judged = [0.8, 0.801, 0.81].map(judge);
        assert_eq!(judged, ["**0.80** ≤ 0.80", "0.801 ≤ 0.80", "0.81 ≤ 0.80"], "beside a bar");
    }

    #[test]
    fn bars_are_for_the_fastest_and_met_ones_bold() {
        let rows = [
            row("conv_block 32", "kernelet", 1.0),
            row("conv_block 32", "candle", 1.1),
            row("conv_block 32", "torch-eager", 5.0),
            row("conv_block 32", "torch-channels-last", 10.0),
            row("relu 10000000", "kernelet", 1.0),
            row("relu 10000000", "memcpy", 0.9),
        ];
        let machine = machine("m".into(), "2026-01-01", "processor: p\n", &rows);
        let table = machine.table(Family::Kernels).expect("a table");
        let line = table.lines().find(|line| line.contains("conv_block")).expect("a line");
        let cells = "| 1.00 s | 0.20 ≤ 0.12 | 0.10 | 0.91 ≤ 0.80 |";
        assert!(line.ends_with(cells), "{line}");
        let memory = machine.memory().expect("a table");
        assert!(memory.contains("| **0.90** ≥ 0.85 |"), "{memory}");
        assert_eq!(machine.table(Family::Training), None, "nothing trained");
    }
}
