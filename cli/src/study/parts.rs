//! Finished parts of a long run, kept in files: what was interrupted goes on where it stopped.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use kernelet::data::npz::write_atomically;
use kernelet::{Cpu, Error};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::info;

/// A folder of finished parts, or none: then nothing is kept and nothing found.
pub struct Parts {
    folder: Option<PathBuf>,
    /// Whether what earlier runs have kept counts.
    resume: bool,
}

/// What tells a part from others: its name, for people, and everything that decides its result.
pub struct Part {
    name: String,
    key: Value,
}

impl Part {
    pub fn new(name: &str, key: Value) -> Self {
        Self { name: name.into(), key }
    }

    /// Of its files: another key is another file, so that runs with other settings, from other data
    /// or on another machine find their own parts and leave these alone.
    fn stem(&self) -> String {
        let hash = Sha256::digest(self.key.to_string());
        let hash: String = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        format!("{}-{hash}", self.name)
    }
}

/// What a file of the folder holds.
#[derive(Serialize, Deserialize)]
struct Kept<T> {
    key: Value,
    made: Made,
    result: T,
}

/// When, by what and on what a part was computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Made {
    /// The time it was finished, UTC.
    pub at: String,
    pub commit: String,
    pub processor: String,
    pub instruction_set: String,
    pub threads: usize,
}

impl Made {
    pub fn now(cpu: &Cpu) -> Self {
        Self {
            at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            commit: env!("KERNELET_COMMIT").to_owned(),
            processor: info::processor(),
            instruction_set: cpu.isa().to_string(),
            threads: cpu.threads(),
        }
    }
}

impl Parts {
    /// Parts in `folder`, which is made if it is not there.
    pub fn new(folder: Option<&Path>, resume: bool) -> Result<Self, Error> {
        if let Some(folder) = folder {
            fs::create_dir_all(folder)
                .map_err(|source| Error::Io { path: folder.into(), source })?;
        }
        Ok(Self { folder: folder.map(Into::into), resume })
    }

    /// Where a part's file of this ending is.
    pub fn path(&self, part: &Part, ending: &str) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join(format!("{}.{ending}", part.stem())))
    }

    /// What an earlier run has kept of this part. A file that cannot be read, or is of another
    /// part, is as good as none: it will be replaced. (So is one of a run that diverged: JSON has
    /// no NaN.)
    pub fn find<T: DeserializeOwned>(&self, part: &Part) -> Option<(T, Made)> {
        let path = self.path(part, "json").filter(|_| self.resume)?;
        let kept: Kept<T> = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        (kept.key == part.key).then_some((kept.result, kept.made))
    }

    /// Keeps a finished part.
    pub fn keep<T: Serialize>(&self, part: &Part, made: &Made, result: &T) -> Result<(), Error> {
        let Some(path) = self.path(part, "json") else { return Ok(()) };
        let kept = Kept { key: part.key.clone(), made: made.clone(), result };
        write_atomically(&path, |to| {
            serde_json::to_writer_pretty(&mut *to, &kept)?;
            to.write_all(b"\n")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_part_is_found_again_under_its_key_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let made = Made::now(&Cpu::detect().expect("a processor"));
        let parts = Parts::new(Some(folder.path()), true).expect("the folder can be written");
        let part = |name, seed| Part::new(name, json!({ "seed": seed }));
        // A number that parsing rounds wrongly unless it takes care.
        let result = vec![f64::from(1e-5_f32), 0.1 + 0.2, 1.115_072_865_681_324_7e-7];
        let other = vec![3.0];
        parts.keep(&part("a", 1), &made, &result).expect("it is kept");
        parts.keep(&part("a", 2), &made, &other).expect("another is kept");
        assert_eq!(parts.find(&part("a", 1)), Some((result, made.clone())), "the same part");
        assert_eq!(parts.find(&part("a", 2)), Some((other, made)), "the other seed's");
        assert_eq!(parts.find::<Vec<f64>>(&part("a", 3)), None, "a third seed");
        assert_eq!(parts.find::<Vec<f64>>(&part("b", 1)), None, "another name");
        let fresh = Parts::new(Some(folder.path()), false).expect("the folder can be written");
        assert_eq!(fresh.find::<Vec<f64>>(&part("a", 1)), None, "all anew");
    }

    #[test]
    fn a_damaged_part_is_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let parts = Parts::new(Some(folder.path()), true).expect("the folder can be written");
        let part = Part::new("a", json!(1));
        let path = parts.path(&part, "json").expect("a path");
        for text in ["", "{", "[]", "{\"key\": 1, \"result\": []}"] {
            fs::write(&path, text).expect("the file is written");
            assert_eq!(parts.find::<Vec<f64>>(&part), None, "{text:?} is no part");
        }
    }
}
