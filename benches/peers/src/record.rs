//! What a comparison leaves behind: a table of times, and what they were measured with.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// A contestant's median in a round.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Row {
    /// The work's name.
    pub work: String,
    /// Threads that each contestant had.
    pub threads: usize,
    /// Whose time it is.
    pub contestant: String,
    /// Counted from 1.
    pub round: usize,
    /// The median of the round.
    pub seconds: f64,
}

/// What a comparison is measured with.
#[derive(Clone, Debug)]
pub struct Environment {
    /// A folder's name for the machine.
    pub machine: String,
    /// The day and the time.
    time: String,
    /// Lines about machine and program.
    about: Vec<(&'static str, String)>,
    /// What contestants say of themselves.
    pub versions: BTreeMap<String, String>,
}

impl Environment {
    /// Looks around.
    pub fn of_this_machine() -> Result<Self> {
        let isa = kernelet::Cpu::detect()?.isa().to_string();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let processor = processor();
        let arguments = std::env::args().skip(1).map(|argument| without_place(&argument));
        let about = vec![
            ("command", arguments.collect::<Vec<_>>().join(" ")),
            ("revision", output_of("git", &["describe", "--always", "--dirty"])),
            ("processor", format!("{processor}, {cores} cores, {isa}")),
            ("system", system()),
            ("compiler", output_of("rustc", &["-vV"]).replace('\n', "; ")),
        ];
        let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let machine = slug(&processor, &isa, cores);
        Ok(Self { machine, time, about, versions: BTreeMap::new() })
    }

    fn date(&self) -> &str {
        self.time.split('T').next().unwrap_or_default()
    }

    fn text(&self) -> String {
        let mut text = format!("time: {}\n", self.time);
        for (name, value) in &self.about {
            text += &format!("{name}: {value}\n");
        }
        text += "contestants:\n";
        for (name, version) in &self.versions {
            text += &format!("  {name}: {version}\n");
        }
        text
    }
}

/// The files of a day.
pub struct Record {
    csv: PathBuf,
    txt: PathBuf,
    /// What the day's earlier comparisons were measured with.
    earlier: String,
    /// The works, each with its number of threads, that only they have.
    not_anew: HashSet<(String, usize)>,
}

impl Record {
    /// In a folder of the machine's own below `folder`, which is made.
    pub fn new(folder: &Path, environment: &Environment) -> Result<Self> {
        let folder = folder.join(&environment.machine);
        fs::create_dir_all(&folder).context("the record's folder cannot be made")?;
        let file = |kind| folder.join(format!("{}.{kind}", environment.date()));
        let (csv, txt) = (file("csv"), file("txt"));
        let mut record = Self { csv, txt, earlier: String::new(), not_anew: HashSet::new() };
        if let Ok(text) = fs::read_to_string(&record.txt)
            && record.csv.exists()
        {
            record.earlier = format!("\nearlier, for what was not measured anew:\n\n{text}");
            let old = read(&record.csv)?.into_iter();
            record.not_anew = old.map(|row| (row.work, row.threads)).collect();
        }
        Ok(record)
    }

    /// Adds what was measured, in place of what the day already has of the same works with as many
    /// threads.
    pub fn add(&mut self, rows: &[Row], environment: &Environment) -> Result<()> {
        let old = if self.csv.exists() { read(&self.csv)? } else { vec![] };
        let mut writer = csv::Writer::from_writer(vec![]);
        for row in merge(old, rows) {
            writer.serialize(row)?;
        }
        replace(&self.csv, &writer.into_inner().context("the record cannot be written")?)?;
        for row in rows {
            self.not_anew.remove(&(row.work.clone(), row.threads));
        }
        let earlier = if self.not_anew.is_empty() { "" } else { &self.earlier };
        replace(&self.txt, (environment.text() + earlier).as_bytes())
    }
}

/// The old rows without those of works that the new ones have with as many threads, then the new.
pub fn merge(mut old: Vec<Row>, new: &[Row]) -> Vec<Row> {
    let measured: HashSet<_> = new.iter().map(|row| (row.work.as_str(), row.threads)).collect();
    old.retain(|row| !measured.contains(&(row.work.as_str(), row.threads)));
    old.extend_from_slice(new);
    old
}

/// The rows of a record.
pub fn read(path: &Path) -> Result<Vec<Row>> {
    let read = || csv::Reader::from_path(path)?.deserialize().collect::<Result<_, _>>();
    read().with_context(|| format!("{} cannot be read", path.display()))
}

/// Writes a file beside the old one, which it then takes the place of.
pub fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let write = || -> Result<()> {
        let mut file = tempfile::Builder::new()
            .permissions(readable())
            .tempfile_in(folder.unwrap_or(Path::new(".")))?;
        file.write_all(content)?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("{} cannot be written", path.display()))
}

/// What files usually have; temporary ones are their owner's alone.
fn readable() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o644)
}

/// An argument without the folders of this machine.
fn without_place(argument: &str) -> String {
    let (option, value) = match argument.split_once('=') {
        Some((option, value)) => (format!("{option}="), value),
        None => (String::new(), argument),
    };
    let path = Path::new(value);
    match path.file_name() {
        Some(name) if path.is_absolute() => option + &name.to_string_lossy(),
        _ => argument.to_owned(),
    }
}

/// What a program prints; nothing if it cannot.
fn output_of(program: &str, arguments: &[&str]) -> String {
    let output =
        Command::new(program).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let output = output.ok().filter(|output| output.status.success());
    output.map_or("unknown".into(), |output| String::from_utf8_lossy(&output.stdout).trim().into())
}

/// The processor's name, as it says it itself.
fn processor() -> String {
    #[cfg(target_arch = "x86_64")]
    if let Some(brand) = raw_cpuid::CpuId::new().get_processor_brand_string() {
        return brand.as_str().trim().to_owned();
    }
    std::env::consts::ARCH.to_owned()
}

/// The operating system, without what a provider adds to the kernel's version.
fn system() -> String {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let version: Vec<_> = release.split(['.', '-']).take(2).collect();
    let kernel = format!("{} {}", uname.sysname().to_string_lossy(), version.join("."));
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    match release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")) {
        Some(name) => format!("{}, {kernel}", name.trim_matches('"')),
        None => kernel,
    }
}

/// A machine's name for a folder: its processor's without what says nothing.
fn slug(processor: &str, isa: &str, cores: usize) -> String {
    let name = processor.split('@').next().unwrap_or_default().to_lowercase();
    let name = name.replace("(r)", "").replace("(tm)", "");
    let words = name
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
        .filter(|word| !word.is_empty() && !matches!(*word, "processor" | "cpu"))
        .filter(|word| !word.ends_with("-core"));
    let words: Vec<_> = words.chain([isa]).collect();
    format!("{}-{cores}-cores", words.join("-"))
}

#[cfg(test)]
mod tests {
    use super::{Environment, Record, Row, merge, read, slug, without_place};

    fn row(work: &str, threads: usize, seconds: f64) -> Row {
        Row { work: work.into(), threads, contestant: "kernelet".into(), round: 1, seconds }
    }

    #[test]
    fn the_same_work_is_replaced_and_others_stay() {
        let old = vec![row("a", 1, 1.0), row("a", 2, 2.0), row("b", 1, 3.0)];
        let merged = merge(old, &[row("a", 1, 9.0)]);
        assert_eq!(merged, [row("a", 2, 2.0), row("b", 1, 3.0), row("a", 1, 9.0)], "merged");
    }

    #[test]
    fn a_record_grows_in_its_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let environment = Environment::of_this_machine().expect("a machine");
        let mut record = Record::new(folder.path(), &environment).expect("a record");
        record.add(&[row("a", 1, 1.5e-7), row("b", 1, 2.0)], &environment).expect("written");
        let mut again = Record::new(folder.path(), &environment).expect("a record");
        again.add(&[row("b", 1, 3.0)], &environment).expect("written");
        let rows = read(&again.csv).expect("read");
        assert_eq!(rows, [row("a", 1, 1.5e-7), row("b", 1, 3.0)], "rows");
        let text = std::fs::read_to_string(&again.txt).expect("the environment");
        assert_eq!(text.matches("processor: ").count(), 2, "both environments are there");
        again.add(&[row("a", 1, 4.0)], &environment).expect("written");
        let text = std::fs::read_to_string(&again.txt).expect("the environment");
        assert_eq!(text.matches("processor: ").count(), 1, "all was measured anew");
    }

    #[test]
    fn machines_have_short_names() {
        assert_eq!(
            slug("Intel(R) Xeon(R) Processor @ 2.3GHz", "avx512", 2),
            "intel-xeon-avx512-2-cores"
        );
        assert_eq!(
            slug("AMD EPYC 7B13 64-Core Processor", "avx2", 4),
            "amd-epyc-7b13-avx2-4-cores",
            "with a model"
        );
    }

    #[test]
    fn places_are_no_part_of_a_command() {
        assert_eq!(without_place("--python=/some/where/python"), "--python=python", "an option");
        assert_eq!(without_place("/some/where/python"), "python", "a path");
        assert_eq!(without_place("benches/record"), "benches/record", "a path in here");
        assert_eq!(without_place("--rounds=3"), "--rounds=3", "a number");
    }
}
